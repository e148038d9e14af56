"""`demo`: the whole way on a small trained model and images that install by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.commands.build_trt import build_engine_if_possible
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.commands.train_demo import train_on_elpv
from hvt_deploy.commands.validate import validate
from hvt_deploy.commands.validated import Validated
from hvt_deploy.core.errors import unknown_name
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.elpv import ELPV_NOTICE, write_elpv

DEMO_FAMILIES = ("fdvit", "faster_vit", "dfvt", "hvt")


@dataclass(frozen=True)
class _DemoImages:
    calibration: Path
    """Images to calibrate on."""
    validation: Path
    """Others to validate on."""
    model: str
    """Name of the model that was trained on neither."""


def run_demo(output: Path, family: str, data: str, ui: Ui) -> Validated:
    """Export, quantize, build and validate a small trained model on `data`: digits or elpv.

    `family` names the model; everything but trained weights is written under `output`. Raises
    BadInput for an unknown family or unknown data, MissingEnvironment where its package lacks.
    """
    if family not in DEMO_FAMILIES:
        raise unknown_name("family", family, DEMO_FAMILIES)
    if data not in _PREPARE:
        raise unknown_name("data set", data, tuple(_PREPARE))
    images = _PREPARE[data](output, family, ui)
    ui.say(f"Images, some to calibrate on and others to validate on: {images.validation.parent}")
    flags = {
        "calibration.folder": str(images.calibration),
        "validation.batch_size": 32,
        "validation.margin": 1.0,
    }
    config = with_flags(config_of(images.model), flags)
    folder = open_folder(output / "artifacts", config.model)
    exported = export(folder, config, None, ui)
    if not exported.before:
        ui.say(f"Exported the FP32 graph, equal to PyTorch: {exported.path}")
    quantize(folder, config, "int8", ui)
    build_engine_if_possible(folder, config, "int8", ui)
    return validate(folder, config, images.validation, None, ui)


def _prepare_digits(output: Path, family: str, _: Ui) -> _DemoImages:
    digits = write_digits(output / "digits")
    return _DemoImages(digits.calibration, digits.validation, f"{family}_demo")


def _prepare_elpv(output: Path, family: str, ui: Ui) -> _DemoImages:
    ui.say(ELPV_NOTICE)
    cells, model = write_elpv(output / "elpv"), f"{family}_elpv"
    train_on_elpv(model, cells, ui)
    return _DemoImages(cells.calibration, cells.test, model)


_PREPARE: Mapping[str, Callable[[Path, str, Ui], _DemoImages]] = {
    "digits": _prepare_digits,
    "elpv": _prepare_elpv,
}
