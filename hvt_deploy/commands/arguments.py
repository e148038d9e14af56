"""Arguments of the Python API, checked: a wrong one is BadInput that names it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.model_options import ModelOptions
from hvt_deploy.core.paths import as_path, as_text
from hvt_deploy.core.run_config import QuantizationConfig, load_recipe
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.types import (
    RECOVERIES,
    CalibratorChoice,
    FlavourChoice,
    Preprocessing,
    Recovery,
    StrPath,
)
from hvt_deploy.core.ui import ProgramUi, StepProgress, Ui

# True: bars and messages on stderr; False: none; None: those of True on a terminal, so none in a
# notebook; a function is called with (step, done, total).
ProgressChoice: TypeAlias = bool | StepProgress | Ui | None
Choice = TypeVar("Choice", bound=str)


def check_choice(option: str, value: Choice, choices: Sequence[Choice]) -> Choice:
    """One of `choices`. Raises BadInput for another value."""
    if value not in choices:
        raise unknown_name(option, str(value), choices)
    return value


def check_image_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) in pixels. Raises BadInput for values of another type or out of range."""
    if size is None:
        return None
    return from_plain(Preprocessing, {"image_size": size}, "options").image_size


def check_options(
    window_size: Sequence[int] | None, carrier_token_size: int | None
) -> ModelOptions:
    """The options of a model. Raises BadInput for values of another type or out of range."""
    sizes = {"window_size": window_size, "carrier_token_size": carrier_token_size}
    return from_plain(ModelOptions, sizes, "options")


def calibration_settings(calib: StrPath | None, images: int | None) -> dict[str, object]:
    """The images of a calibration, by key of the configuration."""
    return {"calibration.folder": as_text("calib", calib), "calibration.images": images}


def quantization_settings(
    recipe: StrPath | None,
    calibrator: CalibratorChoice | None,
    wanted: Mapping[Recovery, bool | None],
    own: QuantizationConfig,
) -> dict[str, object]:
    """A recipe and what is changed in it, by key of the configuration: of the recovery passes those
    that are `wanted`; None leaves one as the recipe has it, or the model's `own`.

    Raises BadInput for a recipe that cannot be read.
    """
    file = as_path("recipe", recipe)
    loaded = load_recipe(file) if file else None
    before = (loaded or own).recovery
    asked = {name: on for name, on in wanted.items() if on is not None}
    return {
        "quantization": loaded,
        "quantization.calibrator": calibrator,
        "quantization.recovery": [name for name in RECOVERIES if asked.get(name, name in before)],
    }


def engine_settings(
    flavour: FlavourChoice | None,
    compute_capabilities: Sequence[str] | None,
    profiles: Sequence[tuple[int, int, int]] | None,
) -> dict[str, object]:
    """The target of an engine, by key of the configuration."""
    return {
        "engine.flavour": flavour,
        "engine.compute_capabilities": compute_capabilities,
        "engine.profiles": profiles,
    }


def choose_ui(progress: ProgressChoice) -> Ui:
    """Where messages and progress go. Raises BadInput for what is no such choice."""
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    if progress is True:
        from hvt_deploy.evaluation.report.console import TerminalUi, open_console

        return TerminalUi(open_console(stderr=True))
    if progress is False:
        return ProgramUi()
    if isinstance(progress, Ui):
        return progress
    if callable(progress):
        return ProgramUi(progress)
    raise BadInput(
        f"progress is {progress!r:.80}.",
        "Give True, False, or a function that is called with (step, done, total).",
    )
