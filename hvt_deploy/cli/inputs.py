"""From flags to values: the exported model with its configuration, precisions, sizes, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.types import PRECISIONS, Precision

if TYPE_CHECKING:
    from hvt_deploy.core.run_config import RunConfig
    from hvt_deploy.core.ui import Ui
    from hvt_deploy.core.workspace import ModelFolder


def find_exported(
    workspace: Path,
    model: str | None,
    config_file: Path | None,
    settings: Mapping[str, object],
    ui: Ui,
) -> tuple[ModelFolder, RunConfig]:
    """The exported model and its configuration: that of the export, or of --config, plus flags.

    `settings` holds the flags by configuration key (`validation.limit`); None means not given.
    """
    from hvt_deploy.core.run_config import check_model, load_config, with_flags
    from hvt_deploy.core.workspace import find_model

    folder = find_model(workspace, model)
    if model is None:
        ui.say(f"Model: {folder.slug}, the newest export in {workspace}")
    config = folder.read().config
    if config_file:
        exported, config = config.model, load_config(config_file)
        check_model(config, exported, config_file)
    return folder, with_flags(config, settings)


def choose_precision(asked: Precision | None, fp16: bool, int8: bool) -> Precision | None:
    """The precision of --precision, --fp16 or --int8. Raises BadInput if several are given."""
    given: list[Precision] = [
        *([asked] if asked else []),
        *(["fp16"] if fp16 else []),
        *(["int8"] if int8 else []),
    ]
    if len(given) > 1:
        raise BadInput(
            f"Several precisions were given: {', '.join(given)}.",
            "Give one of --precision, --fp16, --int8.",
        )
    return given[0] if given else None


def check_precisions(names: Sequence[str]) -> list[Precision]:
    """`names` in the order in which graphs build on each other. Raises BadInput if one is unknown.

    Typer has no lists of choices.
    """
    for name in names:
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS)
    return [name for name in PRECISIONS if name in names]


def parse_list(text: str) -> list[str]:
    """`"ort, trt"` as its parts."""
    return [part.strip() for part in text.split(",")]


def parse_image_size(text: str) -> tuple[int, int]:
    """`"576x960"` as (height, width) in pixels. Raises BadInput."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise BadInput(
            f"--image-size {text} is not HEIGHTxWIDTH.",
            "Give height and width in pixels: --image-size 576x960",
        )
    return int(parts[0]), int(parts[1])


def parse_window_sizes(text: str) -> tuple[int, ...]:
    """`"7,7,12,6"` as the window side of each level, in tokens. Raises BadInput."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise BadInput(
            f"--window-size {text} is not a list of window sizes.",
            "Give one per level: --window-size 7,7,12,6",
        )
    return tuple(map(int, parts))
