"""The trained demo model as it is carried to a machine without PyTorch."""

from __future__ import annotations

import shutil

import pytest

from hvt_deploy.commands.build_trt import build_trt
from hvt_deploy.commands.bundle import bundle
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.digits import write_digits


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, exported):
    """The model, validated with `record` on 60 digits; `elsewhere` is a copy without weights."""
    place = tmp_path_factory.mktemp("place")
    digits = write_digits(place / "digits")
    folder = exported(place / "artifacts", "hvt_demo")
    flags = {"validation.limit": 60, "validation.threads": 1}
    config = with_flags(folder.read().config, flags)
    done = validate(folder, config, digits.validation, None, SilentUi(), record=True)
    elsewhere = place / "elsewhere"
    shutil.copytree(place / "artifacts", elsewhere)
    shutil.rmtree(next((elsewhere / "hvt_demo").glob("pytorch-*")))
    return place, done.results


@pytest.fixture(scope="module")
def packed(recorded):
    """The recorded model with its INT8 graphs and an engine, and its bundle."""
    place, _ = recorded
    folder = ModelFolder(place / "artifacts" / "hvt_demo")
    calibration = {
        "calibration.folder": str(place / "digits" / "calibration"),
        "calibration.images": 16,
        "quantization.calibrator": "max",  # which ranges is another matter
    }
    build_trt(folder, with_flags(folder.read().config, calibration), "int8", SilentUi())
    return place, folder, bundle(folder, place / "hvt_demo.tar", False, SilentUi())
