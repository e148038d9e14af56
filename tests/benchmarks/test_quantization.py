"""The comparison of quantizers: which rows miss a goal, and what counts as INT8."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from onnx import parser

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.other_quantizers import ORT
from benchmarks.quantization import measure_int8_share
from benchmarks.quantization_table import CPU_VARIANT, NUMERICS, list_misses
from hvt_deploy.graph.storage import save_onnx


def row(sqnr_db, right, times=2.5):
    top1 = {"estimate": 100 * right.count("1") / len(right)}
    return {"sqnr_db": sqnr_db, "right": right, "top1": top1, "speedup": {"estimate": times}}


GOOD, BAD = "1" * 100, "1" * 90 + "0" * 10


@pytest.mark.parametrize(
    ("model", "ours", "said"),
    [
        ("fdvit_demo", row(29.6, GOOD), []),
        ("fdvit_demo", row(29.4, GOOD), ["SQNR", "SQNR"]),
        ("fdvit_demo", row(31, BAD), ["top-1", "top-1"]),
        ("fdvit_b", row(31, GOOD, times=1.9), ["1.90 times"]),
        ("fdvit_demo", row(31, GOOD, times=1.9), []),
    ],
    ids=[
        "within half a decibel",
        "beyond it",
        "significantly worse",
        "too slow",
        "no goal of speed",
    ],
)
def test_goals_that_are_missed_are_told(model, ours, said):
    record = {
        "model": model,
        "labelled": True,
        "rows": {NUMERICS: ours, CPU_VARIANT: ours, ORT: row(30, GOOD)},
    }
    found = list_misses(record, vnni=True)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_without_vnni_there_is_no_goal_of_speed():
    ours = row(31, GOOD, times=0.5)
    assert (
        list_misses(
            {"model": "fdvit_b", "labelled": True, "rows": {NUMERICS: ours, CPU_VARIANT: ours}},
            vnni=False,
        )
        == []
    )


def test_the_int8_share_counts_products_of_two_dequantized_factors(tmp_path):
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 2] images) => (float[N, 6] logits)
        <float s = {1}, int8 z = {0}, int8[2, 6] a = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3},
         float[6, 2] b = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3},
         float[2, 6] c = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}> {
        q = QuantizeLinear (images, s, z) d = DequantizeLinear (q, s, z)
        w = DequantizeLinear (a, s, z)
        [one] x = MatMul (d, w) [two] y = MatMul (x, b) [three] logits = MatMul (y, c) }"""
    )
    save_onnx(model, tmp_path / "m.onnx")
    assert measure_int8_share(tmp_path / "m.onnx") == pytest.approx(1 / 3)
