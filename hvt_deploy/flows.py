"""What takes several steps: each function only calls steps in order."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hvt_deploy.config import Precision, RunConfig, with_flags
from hvt_deploy.errors import MissingEnvironment, unknown_name
from hvt_deploy.rows import RECORDED
from hvt_deploy.steps import build_trt as build_step
from hvt_deploy.steps.bundle import unpack
from hvt_deploy.steps.config import config_of
from hvt_deploy.steps.validate import Validated, validate
from hvt_deploy.ui import Ui
from hvt_deploy.workspace import ModelFolder, is_fresh, open_folder

DEMO_FAMILIES = ("fdvit", "faster_vit", "dfvt", "hvt")


def build_trt(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> build_step.Built:
    """Make the graphs of `precision` where they are not there yet, then build the engine."""
    if precision != "fp32":
        from hvt_deploy.steps.quantize import quantize

        quantize(folder, config, precision, ui)
    return build_step.build_trt(folder, config, precision, ui)


def deploy(bundle: Path, root: Path, precision: Precision | None, data: Path, labels: Path | None, ui: Ui) -> Validated:
    """Unpack a bundle, build the engine of this device, validate against the recorded reference.

    Run again after an interruption it goes on: what was unpacked or built is taken as it is.
    """
    folder = unpack(bundle, root, ui)
    manifest = folder.read()
    wanted = precision or manifest.config.engine.precision
    built = [key for key in manifest.artifacts if key.startswith(f"engine-{wanted}-") and is_fresh(manifest, key)]
    try:
        if built:
            ui.say(f"Built before: {', '.join(built)}")
        else:
            engine = build_step.build_trt(folder, manifest.config, wanted, ui)
            ui.say(f"Built {engine.path}: {engine.audit.kernels} kernels, {engine.audit.int8_layers} INT8 layers")
    except MissingEnvironment as error:
        ui.warn(f"No engine: {error.message} {error.hint}")
    recorded = manifest.artifacts.get(RECORDED)
    sample = cast("dict[str, object]", recorded.facts["sample"]) if recorded else {}
    config = with_flags(manifest.config, {f"validation.{key}": value for key, value in sample.items()})
    return validate(folder, config, data, labels, ui)


def run_demo(output: Path, family: str, ui: Ui) -> Validated:
    """Export, quantize, build and validate a family's small trained model on handwritten digits, under `output`.

    An engine that cannot be built here is said and skipped, as in `validate`.
    """
    from hvt_deploy.digits import write_digits
    from hvt_deploy.steps.export import export

    if family not in DEMO_FAMILIES:
        raise unknown_name("family", family, DEMO_FAMILIES)
    digits = write_digits(output / "digits")
    ui.say(f"Images: {digits.validation.parent}")
    flags = {"calibration.folder": str(digits.calibration), "validation.batch_size": 32, "validation.margin": 1.0}
    config = with_flags(config_of(f"{family}_demo"), flags)
    folder = open_folder(output / "artifacts", config.model)
    exported = export(folder, config, None, ui)
    ui.say(f"Exported {exported.path}, {exported.contract.nodes} nodes")
    try:
        built = build_trt(folder, config, "int8", ui)
        ui.say(f"Built {built.path}: {built.audit.kernels} kernels, {built.audit.int8_layers} INT8 layers")
    except MissingEnvironment as error:
        ui.warn(f"No engine: {error.message} {error.hint}")
    return validate(folder, config, digits.validation, None, ui)
