"""Gates pass only when the end of an interval proves it, and say how many images would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hvt_deploy.config import ValidationConfig
from hvt_deploy.measure.accuracy import AccuracyMeter
from hvt_deploy.results import Interval, Latency, Row
from hvt_deploy.verdict import Judged, judge, write_verdict


def judged(images, flipped, classes=10, right=0.9):
    """A reference that is right on a share of the images, and a candidate that loses `flipped` of those."""
    labels = np.arange(images) % classes
    answers = np.where(np.arange(images) < right * images, labels, (labels + 1) % classes)
    worse = answers.copy()
    worse[:flipped] = (labels[:flipped] + 1) % classes
    meter = AccuracyMeter("pytorch fp32", ["ort int8"], classes)
    one_hot = np.eye(classes, dtype=np.float32)
    meter.update({"pytorch fp32": one_hot[answers], "ort int8": one_hot[worse]}, labels)
    numbers = meter.summarize()
    reference = Row("m", "pytorch fp32", "cpu", "fp32", None, images)
    candidate = Row("m", "ort int8", "cpu", "int8", None, images)
    return Judged(reference, numbers["pytorch fp32"]), Judged(candidate, numbers["ort int8"])


def gate(images, flipped, limit, **options):
    reference, candidate = judged(images, flipped)
    (found,) = judge(reference, [candidate], ValidationConfig(max_top1_drop=limit), options.get("untrained", False))
    return found


def test_a_drop_that_is_proven_small_passes():
    assert gate(5000, 5, 0.5).status == "passed"


def test_a_drop_that_is_proven_large_fails():
    assert gate(5000, 100, 0.5).status == "failed"


def test_too_few_images_prove_nothing_and_the_number_needed_does():
    found = gate(200, 0, 0.5)
    assert found.status == "not proven"
    needed = int("".join(c for c in found.sentence.split("; ")[1] if c.isdigit()))
    assert gate(needed, 0, 0.5).status == "passed"
    assert gate(needed - 1, 0, 0.5).status == "not proven"


def test_untrained_weights_never_pass():
    assert gate(5000, 0, 5.0, untrained=True).status == "not proven"


def test_a_reference_at_chance_never_passes():
    reference, candidate = judged(5000, 0, right=0.1)
    (found,) = judge(reference, [candidate], ValidationConfig(max_top1_drop=5.0), untrained=False)
    assert found.status == "not proven"
    assert "chance" in found.sentence
    assert "No verdict" in write_verdict(reference, [candidate], 0.5, untrained=False)


@pytest.mark.parametrize(
    ("low", "high", "status"), [(2.1, 2.4, "passed"), (1.1, 1.4, "failed"), (1.9, 2.2, "not proven")]
)
def test_speed_is_judged_by_the_end_of_its_interval(low, high, status):
    reference, candidate = judged(100, 0)
    row = replace(candidate.row, latency_ms=Latency(1, 1, 1, 1, 1), speedup=Interval((low + high) / 2, low, high))
    (found,) = judge(reference, [Judged(row)], ValidationConfig(min_speedup=2.0), untrained=False)
    assert found.status == status


def test_latency_is_judged_by_the_interval_of_its_median():
    reference, candidate = judged(100, 0)
    windows = tuple(np.linspace(4.8, 5.2, 20))
    row = replace(candidate.row, latency_ms=Latency(1, 4, 5, 6, 7, windows_ms=windows))
    for limit, status in ((6.0, "passed"), (4.0, "failed"), (5.0, "not proven")):
        (found,) = judge(reference, [Judged(row)], ValidationConfig(max_latency_ms=limit), untrained=False)
        assert found.status == status


def test_a_named_backend_that_did_not_run_is_skipped_not_passed():
    reference, candidate = judged(5000, 0)
    absent = Judged(Row("m", "trt int8", "cuda", "int8", None, skipped="no GPU"), named=True)
    found = judge(reference, [candidate, absent], ValidationConfig(max_top1_drop=1.0), untrained=False)
    assert {g.backend: g.status for g in found} == {"ort int8": "passed", "trt int8": "skipped"}


def test_the_verdict_says_equal_worse_or_not_proven_in_words():
    reference, candidate = judged(5000, 2)
    assert "equal to pytorch fp32 within ±0.5 points" in write_verdict(reference, [candidate], 0.5, untrained=False)
    reference, candidate = judged(5000, 100)
    assert "worse than pytorch fp32 by" in write_verdict(reference, [candidate], 0.5, untrained=False)
    reference, candidate = judged(100, 0)
    assert "images needed" in write_verdict(reference, [candidate], 0.5, untrained=False)
