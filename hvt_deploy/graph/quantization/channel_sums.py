"""Sums over the channels of activations, in FP32 and as rounded to INT8: the local errors of
products and the rounding of their weights follow from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import Calibrator
from hvt_deploy.graph.edit import add_outputs
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.qdq import INT8, find_scales

# So many numbers at a time stay in a core's nearest cache.
_CACHED = 2**13
_Sums = NDArray[np.float64]


@dataclass
class ChannelSums:
    """Sums over all positions (rows) of an activation."""

    values: _Sums
    """Of the values of each channel (C,)."""
    squares: _Sums
    """Of their squares (C,)."""
    rows: int = 0
    """How many positions there were."""
    errors: dict[float, _Sums] = field(default_factory=dict[float, _Sums])
    """Of the errors of INT8 (C,), by threshold."""
    error_squares: dict[float, _Sums] = field(default_factory=dict[float, _Sums])
    """Of their squares (C,)."""
    products: NDArray[np.float32] | None = None
    """Of the products of two channels (C, C); None where they were not asked for."""

    def add(self, rows_NC: NDArray[np.float32]) -> None:
        """Add some rows (N, C)."""
        self.rows += len(rows_NC)
        if self.products is not None:
            self.products += np.transpose(rows_NC) @ rows_NC
        step = max(1, _CACHED // rows_NC.shape[1])
        ones_N = np.ones(step, np.float32)
        scratch = np.empty((2, step, rows_NC.shape[1]), np.float32)
        for start in range(0, len(rows_NC), step):
            some_NC = rows_NC[start : start + step]
            levels_NC, errors_NC = scratch[:, : len(some_NC)]
            ones = ones_N[: len(some_NC)]
            self.values += ones @ some_NC
            self.squares += ones @ np.multiply(some_NC, some_NC, out=errors_NC)
            for threshold in self.errors:
                scale = find_scales(np.array(threshold, np.float32), INT8)[()]
                np.multiply(some_NC, 1 / scale, out=levels_NC)
                np.rint(levels_NC, out=errors_NC)
                np.minimum(errors_NC, INT8.largest, out=errors_NC)
                np.maximum(errors_NC, -INT8.largest, out=errors_NC)
                errors_NC -= levels_NC
                self.errors[threshold] += scale * (ones @ errors_NC)
                np.multiply(errors_NC, errors_NC, out=errors_NC)
                self.error_squares[threshold] += scale**2 * (ones @ errors_NC)


def collect_channel_sums(
    model: onnx.ModelProto,
    axes: Mapping[str, int],
    thresholds: Mapping[str, Mapping[Calibrator, float]],
    paired: Collection[str],
    batches: Iterable[ImagesNCHW],
    threads: int,
) -> dict[str, ChannelSums]:
    """The sums of each tensor in `axes`, which names the axis of its channels, with the errors at
    its `thresholds`; of those in `paired` also the products of two channels.

    Each batch is (N, 3, H, W); memory does not grow with their number.
    """
    run = open_graph(add_outputs(model, axes), threads)
    sums = dict[str, ChannelSums]()
    for found in run(list(axes), batches):
        for (name, axis), values in zip(axes.items(), found, strict=True):
            channels_last = np.moveaxis(values, axis, -1)
            rows_NC = np.reshape(channels_last, (-1, channels_last.shape[-1]))
            if name not in sums:
                levels = {*thresholds.get(name, {}).values()}
                sums[name] = _make_sums(rows_NC.shape[1], levels, name in paired)
            sums[name].add(np.ascontiguousarray(rows_NC))
    return sums


def _make_sums(channels: int, thresholds: Collection[float], paired: bool) -> ChannelSums:
    def zeros() -> _Sums:
        return np.zeros(channels)

    return ChannelSums(
        zeros(),
        zeros(),
        errors={threshold: zeros() for threshold in thresholds},
        error_squares={threshold: zeros() for threshold in thresholds},
        products=np.zeros((channels, channels), np.float32) if paired else None,
    )
