"""Ranges and histograms of activations on real images: FP16 and INT8 are decided by these."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.calibrators import BINS, Histogram
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.storage import load_onnx


@dataclass(frozen=True)
class Ranges:
    """The ranges of the float tensors of a graph."""

    tensors: Mapping[str, tuple[float, float]]
    """The smallest and the largest value of each tensor over all images, by name."""

    def largest(self, name: str) -> float:
        """The largest magnitude of a tensor; 0 if it was not measured, as for a constant."""
        return max(map(abs, self.tensors.get(name, (0.0, 0.0))))

    def clip(self, thresholds: Mapping[str, float]) -> Ranges:
        """The ranges, with (-threshold, threshold) for the tensors in `thresholds`."""
        return Ranges({**self.tensors, **{name: (-t, t) for name, t in thresholds.items()}})

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(dict(self.tensors), indent=1), encoding="utf-8")


def read_ranges(path: Path) -> Ranges:
    """Read what `Ranges.write` wrote. Raises BadInput if it is not that."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Ranges({str(name): (float(low), float(high)) for name, (low, high) in data.items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path} does not hold ranges: {error}.", "Calibrate again: hvt-deploy quantize"
        ) from None


def collect_histograms(
    onnx_path: Path,
    ranges: Ranges,
    tensors: Sequence[str],
    batches: Iterable[ImagesNCHW],
    threads: int,
) -> Mapping[str, Histogram]:
    """The histogram of the magnitudes of each tensor, from 0 to the largest of its range.

    Each batch is (N, 3, H, W); one is in memory at a time.
    """
    model = load_onnx(onnx_path, weights=False)
    inside = [name for name in tensors if name != model.graph.input[0].name]
    for name in inside:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    run = open_graph(model, onnx_path.parent, threads)
    histograms = {name: np.zeros(BINS, np.int64) for name in tensors}
    for images_NCHW in batches:
        values = {
            model.graph.input[0].name: images_NCHW,
            **dict(zip(inside, run(inside, images_NCHW), strict=True)),
        }
        for name in tensors:
            scale = BINS / max(ranges.largest(name), 1e-30)
            bins = np.minimum(np.abs(values[name]).ravel() * np.float32(scale), BINS - 1).astype(
                np.int32
            )
            histograms[name] += np.bincount(bins, minlength=BINS)
    return histograms


def collect_ranges(onnx_path: Path, batches: Iterable[ImagesNCHW], threads: int) -> Ranges:
    """The ranges over all batches (N, 3, H, W), by ONNX Runtime on the CPU.

    Memory does not grow with the number of batches. Raises BadInput if there is no image,
    ToolFailure naming a tensor that is not finite.
    """
    model = load_onnx(onnx_path, weights=False)
    names = _float_tensors(model)
    run = open_graph(_add_extremes(model, names), onnx_path.parent, threads)
    wanted = [f"{name}/{end}" for name in names for end in ("min", "max")]
    low, high = np.full(len(names), math.inf), np.full(len(names), -math.inf)
    for images_NCHW in batches:
        extremes = np.array(run(wanted, images_NCHW), np.float64)
        low, high = np.minimum(low, extremes[0::2]), np.maximum(high, extremes[1::2])
        _refuse_not_finite(names, low, high)
    if not np.isfinite(low).all():
        raise BadInput(
            "There was no image to calibrate on.", "Give a folder of images with --calib DIR."
        )
    return Ranges({name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)})


def _refuse_not_finite(
    names: list[str], low: NDArray[np.float64], high: NDArray[np.float64]
) -> None:
    for name, a, b in zip(names, low, high, strict=True):
        if not (math.isfinite(a) and math.isfinite(b)):
            raise ToolFailure(
                f"Tensor {name} is not finite in FP32: from {a} to {b}.",
                "Check the weights: some are too large or not finite.",
            )


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """The float32 tensors that nodes make; the last is the graph's input."""
    inferred = onnx.shape_inference.infer_shapes(model) if not model.graph.value_info else model
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    outputs = [name for node in model.graph.node for name in node.output if name in floats]
    return [*outputs, model.graph.input[0].name]


def _add_extremes(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    augmented = copy_model(model)
    for name in names:
        for end, op in (("min", "ReduceMin"), ("max", "ReduceMax")):
            augmented.graph.node.append(
                helper.make_node(op, [name], [f"{name}/{end}"], f"{name}/{end}", keepdims=0)
            )
            augmented.graph.output.append(
                helper.make_tensor_value_info(f"{name}/{end}", TensorProto.FLOAT, [])
            )
    return augmented
