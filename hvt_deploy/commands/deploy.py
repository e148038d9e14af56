"""`deploy`: a bundle -> the engine of this device, validated against the recorded reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hvt_deploy.commands.build_trt import build_engine_if_possible
from hvt_deploy.commands.unpack import unpack
from hvt_deploy.commands.validate import validate
from hvt_deploy.commands.validated import Validated
from hvt_deploy.core.manifest import RECORDED, RecordedFacts
from hvt_deploy.core.types import Precision
from hvt_deploy.core.ui import Ui


def deploy(
    bundle: Path, root: Path, precision: Precision | None, data: Path, labels: Path | None, ui: Ui
) -> Validated:
    """Unpack a bundle, build the engine of this device, validate against the recorded reference.

    Run again after an interruption it goes on: what was unpacked or built is taken as it is.
    """
    folder = unpack(bundle, root, ui)
    manifest = folder.read()
    wanted = precision or manifest.config.engine.precision
    build_engine_if_possible(folder, manifest.config, wanted, ui)
    config, recorded = manifest.config, manifest.facts(RECORDED, RecordedFacts)
    if recorded is not None:
        validation = replace(
            config.validation,
            limit=recorded.limit,
            seed=recorded.seed,
            subset=recorded.subset,
        )
        config = replace(config, validation=validation)
    return validate(folder, config, data, labels, ui)
