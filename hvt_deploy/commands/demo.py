"""`demo`: the whole way on a small trained model and images that are in the package."""

from __future__ import annotations

from pathlib import Path

from hvt_deploy.commands.build_trt import build_engine_if_possible
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.commands.validate import Validated, validate
from hvt_deploy.core.errors import unknown_name
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.data.digits import write_digits

DEMO_FAMILIES = ("fdvit", "faster_vit", "dfvt", "hvt")


def run_demo(output: Path, family: str, ui: Ui) -> Validated:
    """Export, quantize, build and validate a small trained model on handwritten digits.

    `family` names the model; everything is written under `output`. Raises BadInput for an unknown
    family.
    """
    if family not in DEMO_FAMILIES:
        raise unknown_name("family", family, DEMO_FAMILIES)
    digits = write_digits(output / "digits")
    ui.say(f"Images: {digits.validation.parent}")
    flags = {
        "calibration.folder": str(digits.calibration),
        "validation.batch_size": 32,
        "validation.margin": 1.0,
    }
    config = with_flags(config_of(f"{family}_demo"), flags)
    folder = open_folder(output / "artifacts", config.model)
    exported = export(folder, config, None, ui)
    if not exported.before:
        ui.say(f"Exported {exported.path}, {exported.nodes} nodes")
    quantize(folder, config, "int8", ui)
    build_engine_if_possible(folder, config, "int8", ui)
    return validate(folder, config, digits.validation, None, ui)
