"""`quantize` on the small trained models: its warnings and checks."""

from __future__ import annotations

import pytest

from hvt_deploy.commands.quantize import quantize
from hvt_deploy.core.manifest import INT8_CALIBRATION, Int8CalibrationFacts
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.digits import write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def settings(folder, digits, **quantization):
    flags = {"calibration.folder": str(digits.calibration), "calibration.images": 16}
    flags |= {f"quantization.{name}": value for name, value in quantization.items()}
    return with_flags(folder.read().config, flags)


def test_a_named_calibrator_that_loses_is_used_and_said(exported, digits, tmp_path):
    folder = exported(tmp_path, "hvt_demo")
    config = settings(folder, digits, calibrator="entropy", recovery=())
    for _ in ("calibrated", "taken from the cache"):
        ui = SilentUi()
        manifest = quantize(folder, config, "int8-fp32", ui)
        facts = manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts)
        assert facts.effects["calibrator entropy"].endswith("dB, used although it loses")
        (warning,) = ui.warnings
        assert "calibrator entropy loses" in warning and "\n" not in warning
