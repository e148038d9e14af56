"""Calibrators: the threshold at which INT8 clips an activation, from a histogram of magnitudes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.types import Calibrator

# Counts of |x| in equal bins from 0 to the largest magnitude.
Histogram: TypeAlias = NDArray[np.int64]
BINS = 2048
# Levels of a symmetric INT8 on one side of zero.
LEVELS = 127
PERCENTILE = 99.99
# Thresholds are tried at every 16th bin edge, from the first with a bin for each INT8 level.
_CLIP_EDGES = np.arange(128, BINS + 1, 16)
_Floats: TypeAlias = NDArray[np.float64]


def choose_threshold(histogram: Histogram, largest: float, calibrator: Calibrator) -> float:
    """The magnitude of INT8's largest level; at most `largest`, the upper end of the histogram,
    which other values may have set.

    `max` clips nothing, `percentile` the largest 0.01 %, `entropy` loses the least information
    (relative entropy; Migacz, "8-bit Inference with TensorRT", 2017), `mse` has the smallest mean
    squared error of rounding and clipping.
    """
    if not histogram.any():
        return largest
    width = largest / len(histogram)
    if calibrator == "max":
        return float(np.flatnonzero(histogram)[-1] + 1) * width
    if calibrator == "percentile":
        wanted = int(histogram.sum()) * PERCENTILE / 100
        inside = int(np.searchsorted(np.cumsum(histogram), wanted))
        return min(inside + 1, len(histogram)) * width
    loss = _relative_entropy if calibrator == "entropy" else _squared_error
    losses = [loss(histogram.astype(np.float64), int(edge)) for edge in _CLIP_EDGES]
    return float(_CLIP_EDGES[int(np.argmin(losses))] * width)


def _squared_error(histogram: _Floats, edge: int) -> float:
    """The squared error of INT8 whose largest level is at bin edge `edge`, in bins²."""
    values = np.arange(len(histogram)) + 0.5
    scale = edge / LEVELS
    rounded = np.minimum(np.rint(values / scale), LEVELS) * scale
    return float((histogram * (values - rounded) ** 2).sum())


def _relative_entropy(histogram: _Floats, edge: int) -> float:
    """Kullback-Leibler divergence of the histogram clipped at bin `edge` from its INT8 form.

    A bin counts no more than the larger of its neighbours: one value that many elements share (the
    zeros behind a ReLU, the background of images) costs the same at any threshold, and would
    outweigh all that clipping costs.
    """
    neighbours = np.pad(histogram, 1, mode="reflect")
    ordinary = np.minimum(histogram, np.maximum(np.maximum(neighbours[:-2], neighbours[2:]), 1))
    clipped: _Floats = np.array(ordinary[:edge])
    coarse = np.arange(edge) * LEVELS // edge
    occupied = clipped > 0
    counts = np.bincount(coarse[occupied], minlength=LEVELS)
    means = np.bincount(coarse, weights=clipped, minlength=LEVELS) / np.maximum(counts, 1)
    quantized = np.where(occupied, means[coarse], 0.0)
    clipped[-1] += histogram[edge:].sum()
    # A last bin that only clipping fills is empty in the INT8 form: a little mass there keeps the
    # divergence finite.
    quantized[-1] = max(quantized[-1], 1e-9)
    p: _Floats = clipped / np.sum(clipped)
    q: _Floats = quantized / np.sum(quantized)
    terms: _Floats = p[p > 0] * np.log(p[p > 0] / q[p > 0])
    return float(np.sum(terms))
