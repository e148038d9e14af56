"""Ranges and histograms of activations on real images: FP16 and INT8 are decided by these."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.records import parse_json
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.graph.edit import add_outputs
from hvt_deploy.graph.quantization.calibrators import BINS, Histogram
from hvt_deploy.graph.quantization.extremes import add_extremes
from hvt_deploy.graph.quantization.ort_session import NO_FOLDER, open_graph
from hvt_deploy.graph.weights_in_file import load_without_weights, read_weight

# Operators whose result has the values of their first input.
LAYOUT_OPS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_Function: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
# Functions that never fall, and those with a constant, which rise or fall everywhere.
_MONOTONE: Mapping[str, _Function] = {
    "Relu": lambda ends: np.maximum(ends, 0),
    "Erf": np.vectorize(math.erf, otypes=[np.float32]),
}
_ARITHMETIC: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "Add": lambda constant, ends: ends + constant,
    "Sub": lambda constant, ends: ends - constant,
    "Mul": lambda constant, ends: ends * constant,
    "Div": lambda constant, ends: ends / constant,
}
_COMMUTE = ("Add", "Mul")
# The mantissa of every power of two.
_POWER_OF_TWO = 0.5
# So many numbers at a time stay in a core's cache while they are counted.
_CACHED = 2**16


@dataclass(frozen=True)
class Ranges:
    """The ranges of the float tensors of a graph."""

    tensors: Mapping[str, tuple[float, float]]
    """The smallest and the largest value of each tensor over all images, by name; 0 is the smallest
    of a softmax."""
    channels: Mapping[str, tuple[tuple[float, float], ...]] = field(
        default_factory=dict[str, tuple[tuple[float, float], ...]]
    )
    """The same of each channel, of the results of layer normalizations and Linears."""

    def largest(self, name: str) -> float:
        """The largest magnitude of a tensor; 0 if it was not measured, as for a constant."""
        return max(map(abs, self.tensors.get(name, (0.0, 0.0))))

    def clip(self, thresholds: Mapping[str, float]) -> Ranges:
        """The ranges, with (-threshold, threshold) for the tensors in `thresholds`."""
        clipped = {name: (-t, t) for name, t in thresholds.items()}
        return replace(self, tensors={**self.tensors, **clipped})

    def write(self, path: Path) -> None:
        """Write as JSON."""
        plain = {"tensors": dict(self.tensors), "channels": dict(self.channels)}
        path.write_text(json.dumps(plain), encoding="utf-8")


def read_ranges(path: Path) -> Ranges:
    """Read what `Ranges.write` wrote. Raises BadInput if it is not that."""
    try:
        data = cast("Any", parse_json(path.read_bytes()))
        return Ranges(
            {name: (float(low), float(high)) for name, (low, high) in data["tensors"].items()},
            {
                name: tuple((float(low), float(high)) for low, high in channels)
                for name, channels in data["channels"].items()
            },
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{path} does not hold ranges: {error}.", "Calibrate again: hvt-deploy quantize"
        ) from None


def collect_histograms(
    model: onnx.ModelProto,
    ranges: Ranges,
    tensors: Sequence[str],
    batches: Iterable[ImagesNCHW],
    threads: int,
    folder: Path = NO_FOLDER,
) -> Mapping[str, Histogram]:
    """The histogram of the magnitudes of each tensor, from 0 to the largest of its range.

    Each batch is (N, 3, H, W). External weights of `model` are in `folder`.
    """
    run = open_graph(add_outputs(model, tensors), threads, folder)
    histograms = {name: np.zeros(BINS, np.int64) for name in tensors}
    for found in run(tensors, batches):
        for name, values in zip(tensors, found, strict=True):
            histograms[name] += _count_magnitudes(values, ranges.largest(name))
    return histograms


def _count_magnitudes(values: NDArray[np.float32], largest: float) -> Histogram:
    flat, scale = values.ravel(), np.float32(BINS / max(largest, 1e-30))
    counts = np.zeros(BINS + 1, np.int64)  # the largest value itself is at the end of the last bin
    for start in range(0, flat.size, _CACHED):
        magnitudes = np.abs(flat[start : start + _CACHED])
        bins = np.minimum(np.multiply(magnitudes, scale, out=magnitudes), BINS)
        counts += np.bincount(bins.astype(np.int64), minlength=BINS + 1)
    counts[-2] += counts[-1]
    return counts[:-1]


def collect_ranges(onnx_path: Path, batches: Iterable[ImagesNCHW], threads: int) -> Ranges:
    """The ranges over all batches (N, 3, H, W), as `collect_ranges_and_logits`."""
    return collect_ranges_and_logits(onnx_path, batches, threads)[0]


def collect_ranges_and_logits(
    onnx_path: Path, batches: Iterable[ImagesNCHW], threads: int
) -> tuple[Ranges, LogitsNK]:
    """The ranges over all batches (N, 3, H, W), and their logits, by ONNX Runtime on the CPU.

    Memory does not grow with the number of batches. Raises BadInput if there is no image,
    ToolFailure naming a tensor that is not finite.
    """
    model = load_without_weights(onnx_path)
    names, by_channel = find_float_tensors(model), _channel_tensors(model)
    derived = _derive_ranges(model, onnx_path.parent, names, by_channel)
    measured = [name for name in names if name not in derived]
    add_extremes(model, measured, by_channel)
    run = open_graph(model, threads, onnx_path.parent)
    wanted = [f"{name}/{end}" for name in measured for end in ("min", "max")]
    extremes: list[tuple[NDArray[Any], NDArray[Any]]] = []
    logits: list[LogitsNK] = []
    for *found, logits_NK in run([*wanted, model.graph.output[0].name], batches):
        logits.append(logits_NK)
        pairs = zip(found[0::2], found[1::2], strict=True)
        before = extremes or [(np.inf, -np.inf)] * len(measured)
        extremes = [
            (np.minimum(low, a), np.maximum(high, b))
            for (low, high), (a, b) in zip(before, pairs, strict=True)
        ]
        if not np.isfinite(logits_NK).all():
            break
    if not extremes:
        raise BadInput(
            "There was no image to calibrate on.", "Give a folder of images with --calib DIR."
        )
    by_name = dict(zip(measured, extremes, strict=True))
    for name, (source, function) in derived.items():
        ends = [function(end) for end in by_name[source]]
        by_name[name] = (np.minimum(*ends), np.maximum(*ends))
    _refuse_not_finite(by_name)
    ranges = Ranges(
        {name: (float(by_name[name][0].min()), float(by_name[name][1].max())) for name in names},
        {
            name: tuple(zip(by_name[name][0].tolist(), by_name[name][1].tolist(), strict=True))
            for name in by_channel
        },
    )
    return ranges, np.concatenate(logits)


def _refuse_not_finite(extremes: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> None:
    for name, (low, high) in extremes.items():
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ToolFailure(
                f"Tensor {name} is not finite in FP32: from {low.min()} to {high.max()}.",
                "Check the weights: some are too large or not finite.",
            )


def find_float_tensors(model: onnx.ModelProto) -> list[str]:
    """The float32 tensors that nodes make; the last is the graph's input."""
    inferred = onnx.shape_inference.infer_shapes(model) if not model.graph.value_info else model
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    outputs = [name for node in model.graph.node for name in node.output if name in floats]
    return [*outputs, model.graph.input[0].name]


def _derive_ranges(
    model: onnx.ModelProto, folder: Path, names: Collection[str], by_channel: Collection[str]
) -> dict[str, tuple[str, _Function]]:
    """The tensors that need no measuring, in the order of the graph, each with the tensor and the
    monotone function of its elements that give it, so the function of its extremes, too (but for
    the last bit of erf).

    They are many in a transformer: a bias is added, GELU divides and takes erf.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    derived: dict[str, tuple[str, _Function]] = {}
    made, channels = set(names), set(by_channel)
    for node in model.graph.node:
        sources = [name for name in node.input if name in made]
        if len(sources) != 1 or node.output[0] not in made:
            continue
        (source,), function = sources, None
        if node.op_type in LAYOUT_OPS:
            function = np.asarray
        elif node.op_type in _MONOTONE:
            function = _MONOTONE[node.op_type]
        elif node.op_type in _ARITHMETIC and (node.op_type in _COMMUTE or node.input[0] == source):
            tensor = constants.get(next(name for name in node.input if name != source))
            if tensor and (
                math.prod(tensor.dims) == 1 or (len(tensor.dims) == 1 and source in channels)
            ):
                constant = np.ravel(read_weight(tensor, folder))
                function = partial(_ARITHMETIC[node.op_type], constant)
        if function:
            derived[node.output[0]] = (source, function)
            if source in channels and node.op_type not in LAYOUT_OPS:
                channels.add(node.output[0])
    return _measure_gelu_behind(model, folder, derived)


def _measure_gelu_behind(
    model: onnx.ModelProto, folder: Path, derived: dict[str, tuple[str, _Function]]
) -> dict[str, tuple[str, _Function]]:
    """The same, with the product inside of a GELU derived from the half of it that is its result,
    exactly: ONNX Runtime runs a GELU as one kernel unless a tensor inside is an output.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    products = {node.output[0] for node in model.graph.node if node.op_type == "Mul"}
    for node in model.graph.node:
        (result,) = node.output[:1]
        source, function = derived.get(result, ("", None))
        if node.op_type != "Mul" or function is None or source not in products - {*derived}:
            continue
        tensor = constants[next(name for name in node.input if name != source)]
        factor = read_weight(tensor, folder).ravel()
        if factor.size == 1 and abs(np.frexp(factor[0])[0]) == _POWER_OF_TWO:
            del derived[result]
            # What is derived from `source` comes after it.
            derived = {source: (result, partial(np.multiply, 1 / factor)), **derived}
    return derived


def _channel_tensors(model: onnx.ModelProto) -> list[str]:
    """The results whose last axis are channels: of normalizations over it and of Linears."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [
        node.output[0]
        for node in model.graph.node
        if (
            node.op_type == "LayerNormalization"
            and all(a.i == -1 for a in node.attribute if a.name == "axis")
        )
        or (node.op_type == "MatMul" and node.input[1] in weights)
    ]
