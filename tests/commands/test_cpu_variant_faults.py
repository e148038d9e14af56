"""A CPU variant that loses too much, or is slower than FP32, is not served."""

from __future__ import annotations

import math

import pytest

from hvt_deploy.commands import cpu_variant_faults
from hvt_deploy.commands.cpu_variant_faults import find_variant_faults
from hvt_deploy.commands.package import package_triton
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.core.manifest import Parity
from hvt_deploy.core.run_config import ValidationConfig, with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.runtime.classifier import Classifier

SLOWER = Interval(0.74, 0.71, 0.77)


def parity(sqnr_db):
    return Parity(0.1, 0.1, sqnr_db, same_argmax=True)


def test_only_a_proven_loss_speaks_against_a_variant():
    assert find_variant_faults(parity(22.1), parity(25.0), None) == ()
    assert find_variant_faults(parity(-5.0), None, None) == ()


@pytest.mark.parametrize("found_db", [21.9, -150.0, math.nan])
def test_logits_more_than_3_db_below_the_engines_numerics_do(found_db):
    (fault,) = find_variant_faults(parity(found_db), parity(25.0), None)
    assert "25.0 dB" in fault
    assert len(find_variant_faults(parity(found_db), parity(25.0), SLOWER)) == 2


def test_a_slow_variant_is_named_everywhere_and_served_nowhere(exported, tmp_path, monkeypatch):
    folder = exported(tmp_path, "hvt_demo")
    flags = {"calibration.images": 32, "quantization.calibrator": "max"}
    flags["calibration.folder"] = str(write_digits(tmp_path / "digits").calibration)
    config = with_flags(folder.read().config, flags)

    monkeypatch.setattr(cpu_variant_faults, "find_slowdown", lambda *calls: SLOWER)
    ui = SilentUi()
    (fault,) = quantize(folder, config, "int8-fp32", ui).faults["int8-cpu"]
    manifest = folder.read()
    assert "0.74 times as fast as FP32 (0.71 to 0.77)" in fault
    assert len(ui.warnings) == 1 and fault in ui.warnings[0]

    (row,) = [
        c.row for c in plan_rows(folder, manifest, ValidationConfig()) if "cpu" in c.row.backend
    ]
    assert fault in row.note

    packed = package_triton(
        folder, tmp_path / "triton", "onnxruntime", allow_untrained=False, ui=ui
    )
    assert "hvt_demo_fp32" in packed.models
    assert "hvt_demo_int8-cpu" not in packed.models
    assert fault in ui.warnings[-1]

    with pytest.warns(UserWarning, match="ort fp32 instead of ort int8 cpu"):
        classifier = Classifier(folder.path, "ort int8 cpu")
    assert classifier.backend == "ort fp32"
    assert fault in classifier.note
