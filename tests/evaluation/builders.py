"""Small results to judge: answers of a reference and a candidate, timed rows, rows that ran not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hvt_deploy.core.run_config import ValidationConfig
from hvt_deploy.evaluation.accuracy import measure_accuracy, measure_fidelity
from hvt_deploy.evaluation.image_answers import answer_images, join_answers
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.scores import GpuState, GpuTiming, Interval, Latency, Timing
from hvt_deploy.evaluation.verdict import judge, write_verdict
from hvt_deploy.runtime.base import Launches
from hvt_deploy.runtime.variant import Variant

REFERENCE = Variant("pytorch", "cpu", "fp32")
INT8 = Variant("ort", "cpu", "int8")


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
    one_hot = np.eye(classes, dtype=np.float32)
    found = answered({"pytorch fp32": one_hot[answers], "ort int8": one_hot[changed]}, labels)
    return tuple(row_of(found, v.name, v) for v in (REFERENCE, INT8))


def answered(logits, labels, start=0):
    """The answers of backends to images that are numbered from `start` on."""
    indices = np.arange(start, start + len(labels))
    return answer_images(logits, np.asarray(labels), indices, [str(i) for i in indices])


def row_of(answers, name, variant, model="m"):
    """A row with the accuracy and the fidelity of these answers."""
    accuracy, fidelity = measure_accuracy(answers, name), measure_fidelity(answers, name)
    return Row(model, name, variant, None, len(answers.labels), accuracy, fidelity)


def verdict(images, lost, gained=0, margin=0.5):
    """The verdict on such a candidate."""
    reference, candidate = judged(images, lost, gained)
    return write_verdict(reference, [candidate], margin, untrained=False)


def gates(reference, candidates, **limits):
    """Every gate of these limits, of trained weights."""
    return judge(reference, candidates, ValidationConfig(**limits), untrained=False)


def skipped(named=False):
    """A candidate that did not run."""
    variant = Variant("trt", "cuda", "int8")
    return Row("m", variant.name, variant, None, required=named, skipped="no GPU")


def timed(variant, median, batch=1, seed=0, spread=0.01, speedup=None, over=""):
    """A row with 20 windows of a batch about `median` milliseconds."""
    timing = Timing(windows(median, batch, seed, spread), speedup and Interval(*speedup), over)
    return Row("m", variant.name, variant, None, timings=(timing,))


def windows(median, batch=1, seed=0, spread=0.01):
    """A latency of 20 windows about `median` milliseconds."""
    rng = np.random.default_rng(seed)
    medians = tuple((median * np.exp(rng.normal(0, spread, 20))).tolist())
    return Latency(batch, median, median, median, median, windows_ms=medians)


def on_card(median, clocks, throttling=()):
    """A latency on a GPU whose clock was in this range in its windows."""
    state = GpuState("Some GPU", clocks, clocks[1], (200.0, 210.0), (60, 61), throttling)
    timing = GpuTiming(0.9 * median, (0.9 * median,) * 20, Launches(cuda_graph=True), state)
    return replace(windows(median), clock="CUDA events", gpu=timing)


def on_gpu(precision, target="", runtime="trt"):
    """How a GPU runs a model."""
    return Variant(runtime, "cuda", precision, target=target)


def measured(
    reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray, batch: int = 13
) -> dict[str, Row]:
    """The rows of a reference and a candidate whose logits (N, K) were counted in batches."""
    parts = [
        answered(
            {"pytorch": reference[start : start + batch], "ort": candidate[start : start + batch]},
            labels[start : start + batch],
            start,
        )
        for start in range(0, len(labels), batch)
    ]
    return {name: row_of(join_answers(parts), name, INT8) for name in ("pytorch", "ort")}
