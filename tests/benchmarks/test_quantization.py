"""The comparison of quantizers: which draws miss a goal, and the interval of an SQNR difference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.other_quantizers import ORT
from benchmarks.paired_sqnr import compare_sqnr, sum_by_photograph, worst_sqnr_db
from benchmarks.quantization_table import CPU_VARIANT, FP32, NUMERICS, list_misses, write_all


def row(top1, sqnr_db, against=None):
    interval = {"estimate": top1, "low": top1 - 3, "high": top1 + 3}
    found = {"top1": interval, "agreement": interval, "sqnr_db": sqnr_db, "worst_db": 9.0}
    return found | ({"against": {ORT: against}} if against else {})


def record(top1, p, low, high):
    """A draw in which quantize_static has 80 % and 30 dB."""
    middle = (low + high) / 2
    against = {"p": p, "sqnr_db": {"estimate": middle, "low": low, "high": high}}
    ours = row(top1, 30 + middle, against)
    return {
        "model": "m, draw 0",
        "images": 100,
        "photographs": 50,
        "rows": {FP32: row(81, 150), NUMERICS: ours, CPU_VARIANT: ours, ORT: row(80, 30.0)},
        "missing": {"ModelOpt, max": "not run"},
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (record(81, 0.5, 1, 3), []),
        (record(74, 0.04, 1, 3), ["top-1 of ours, engine numerics is 6.0", "top-1 of ours, CPU"]),
        (record(74, 0.06, 1, 3), []),
        (record(86, 0.01, 1, 3), []),
        (record(81, 0.5, -0.3, 0.5), []),
        (record(81, 0.5, -0.9, -0.1), ["0.5 dB below", "0.5 dB below", "mean SQNR"]),
    ],
    ids=[
        "better",
        "significantly worse",
        "not proven",
        "significantly better",
        "as good",
        "noisier",
    ],
)
def test_goals_that_are_missed_are_told(found, said):
    missed = list_misses({"m, draw 0": found})
    assert len(missed) == len(said)
    assert all(part in line for part, line in zip(said, missed, strict=True))


def test_the_table_has_every_row_and_names_what_did_not_run(tmp_path):
    write_all(tmp_path / "q.json", tmp_path / "q.md", {"m, draw 0": record(81, 0.5, 1, 3)})
    text = (tmp_path / "q.md").read_text()
    assert "## m, draw 0 (100 images of 50 photographs)" in text
    assert "| quantize_static | 80.0 (77.0 to 83.0) |" in text
    assert "+2.0 (+1.0 to +3.0; 0.5)" in text
    assert "ModelOpt, max: not run" in text
    assert "- none" in text


def test_the_difference_of_two_sqnrs_is_paired_and_by_photograph():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(400, 10)).astype(np.float32)
    noise = rng.normal(size=(400, 10)) * np.exp(rng.normal(size=(400, 1)))
    photographs = np.arange(400) // 8
    ours, other = (
        sum_by_photograph(reference, (reference + scale * noise).astype(np.float32), photographs)
        for scale in (0.01, 0.02)
    )
    assert ours.shape == (50,)
    found = compare_sqnr(ours, other)
    assert found.low == pytest.approx(20 * np.log10(2), abs=0.01), "the same noise, twice as large"
    assert found.high == pytest.approx(found.low, abs=0.02)
    apart = compare_sqnr(ours, rng.permutation(ours))
    assert apart.low < 0 < apart.high


def test_the_worst_image_is_the_one_with_the_most_noise():
    reference = np.ones((3, 4), np.float32)
    found = reference + np.array([[0.001], [0.1], [0.01]], np.float32)
    assert worst_sqnr_db(reference, found) == pytest.approx(20, abs=0.01)
