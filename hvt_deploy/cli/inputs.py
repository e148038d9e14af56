"""From flags to values: precisions, sizes, lists."""

from __future__ import annotations

from collections.abc import Sequence

from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.types import PRECISIONS, Precision


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


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """`"576x960"` as (height, width) in pixels. Raises BadInput."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise BadInput(
            f"--image-size {text} is not HEIGHTxWIDTH.",
            "Give height and width in pixels: --image-size 576x960",
        )
    return int(parts[0]), int(parts[1])


def parse_window_sizes(text: str | None) -> tuple[int, ...] | None:
    """`"7,7,12,6"` as the window side of each level, in tokens. Raises BadInput."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise BadInput(
            f"--window-size {text} is not a list of window sizes.",
            "Give one per level: --window-size 7,7,12,6",
        )
    return tuple(map(int, parts))
