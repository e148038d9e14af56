"""Section `pytorch` on the CPU: a right backend is verified, whichever the model."""

from __future__ import annotations

import pytest

from hvt_deploy.evaluation.verification.check_pytorch import check_pytorch
from hvt_deploy.evaluation.verification.checks import Check, CheckList


@pytest.mark.slow
@pytest.mark.parametrize("model", ["faster_vit_demo", "dfvt_demo", "hvt_demo", "fdvit_ti"])
def test_fp16_that_is_rounded_in_other_places_than_onnx_runtimes_is_right(
    tmp_path, model: str
) -> None:
    done: list[Check] = []
    check_pytorch(CheckList(done.append), model, tmp_path, "cpu")
    assert [(check.name, check.verdict) for check in done] == [
        ("fp32", "verified"),
        ("fp16", "verified"),
    ]
