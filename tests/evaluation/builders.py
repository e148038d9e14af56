"""Small results to judge: answers of a reference and a candidate, timed rows, rows that ran not."""

from __future__ import annotations

import numpy as np

from hvt_deploy.core.config import ValidationConfig
from hvt_deploy.evaluation.accuracy import AccuracyMeter
from hvt_deploy.evaluation.record import Latency, Row
from hvt_deploy.evaluation.verdict import Judged, judge, write_verdict


def judged(images, lost, gained=0, classes=10, right=0.9):
    """A reference that is right on a share of the images, and a candidate that is wrong on `lost`
    of those and right on `gained` of the others.
    """
    labels = np.arange(images) % classes
    is_right = np.arange(images) < right * images
    answers = np.where(is_right, labels, (labels + 1) % classes)
    changed = answers.copy()
    changed[:lost] = (labels[:lost] + 1) % classes
    corrected = np.flatnonzero(~is_right)[:gained]
    changed[corrected] = labels[corrected]
    meter = AccuracyMeter("pytorch fp32", ["ort int8"], classes)
    one_hot = np.eye(classes, dtype=np.float32)
    meter.update({"pytorch fp32": one_hot[answers], "ort int8": one_hot[changed]}, labels)
    numbers = meter.summarize()
    reference = Row("m", "pytorch fp32", "cpu", "fp32", None, images)
    candidate = Row("m", "ort int8", "cpu", "int8", None, images)
    return Judged(reference, numbers["pytorch fp32"]), Judged(candidate, numbers["ort int8"])


def verdict(images, lost, gained=0, margin=0.5):
    """The verdict on such a candidate."""
    reference, candidate = judged(images, lost, gained)
    return write_verdict(reference, [candidate], margin, untrained=False)


def gates(reference, candidates, **limits):
    """Every gate of these limits, of trained weights."""
    return judge(reference, candidates, ValidationConfig(**limits), untrained=False)


def skipped(named=False):
    """A candidate that did not run."""
    return Judged(Row("m", "trt int8", "cuda", "int8", None, skipped="no GPU"), named=named)


def timed(backend, precision, median, batch=1, seed=0, spread=0.01):
    """A row on a GPU with 20 windows about `median` milliseconds."""
    rng = np.random.default_rng(seed)
    windows = tuple((median * np.exp(rng.normal(0, spread, 20))).tolist())
    latency = Latency(batch, median, median, median, median, windows_ms=windows)
    return Row("m", backend, "cuda", precision, None, latency_ms=latency)
