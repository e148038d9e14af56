"""The local error of each quantized product: against its FP32 form on the same FP32 activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import Calibrator
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.qdq import INT8, find_scales
from hvt_deploy.graph.quantization.ranges import ROWS_AXIS, Ranges, reduce_rows
from hvt_deploy.graph.queries import PRODUCT_OPS, find_output_channel_axis, map_producers

_SUMS, _ZERO = ("noise", "shift"), "compare/zero"


@dataclass(frozen=True)
class ProductError:
    """The local error of one product over a set of images."""

    signal: float
    """Sum of squares of the FP32 result."""
    noise: float
    """Sum of squares of the error, INT8 minus FP32."""
    shift: NDArray[np.float64]
    """Mean error of each output channel (C,)."""

    @property
    def relative_noise(self) -> float:
        """Noise over signal."""
        return self.noise / max(self.signal, 1e-30)


def measure_products(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    ranges: Mapping[Calibrator, Ranges],
    batches: Iterable[ImagesNCHW],
    threads: int,
) -> dict[Calibrator, dict[str, ProductError]]:
    """The local error of each quantized product (by node name) of `quantized`, the INT8 form of
    `model`, with the scales that each calibrator's ranges give its activation.

    Products of two activations are left out. Each batch is (N, 3, H, W); memory does not grow with
    their number.
    """
    measured = copy_model(model)
    names = _add_quantized_copies(measured, quantized, ranges)
    run = open_graph(measured, Path(), threads)
    signals = [f"{name}/signal" for name in names]
    wanted = [f"{name}/{c}/{sum_}" for c in ranges for name in names for sum_ in _SUMS]
    sums, images = dict[str, NDArray[np.float64]](), 0
    counted, batches = tee(batches)
    found_in = run([*signals, *wanted], batches)
    for images_NCHW, found in zip(counted, found_in, strict=True):
        images += len(images_NCHW)
        for output, value in zip((*signals, *wanted), found, strict=True):
            # The shift is a mean over the batch, to be weighted with its number of images.
            weight = len(images_NCHW) if output.endswith("/shift") else 1
            sums[output] = sums.get(output, 0) + value.astype(np.float64) * weight
    return {
        c: {
            name: ProductError(
                float(sums[f"{name}/signal"]),
                float(sums[f"{name}/{c}/noise"]),
                sums[f"{name}/{c}/shift"] / max(images, 1),
            )
            for name in names
        }
        for c in ranges
    }


def _add_quantized_copies(
    model: onnx.ModelProto, quantized: onnx.ModelProto, ranges: Mapping[Calibrator, Ranges]
) -> list[str]:
    """Add to FP32 `model` a copy of each quantized product for each calibrator, and nodes that
    compare it with the original; returns the names of the products.
    """
    graph, producers = model.graph, map_producers(quantized.graph)
    originals = {node.name: node for node in graph.node}
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    graph.initializer.append(ROWS_AXIS)
    added, names = dict[str, onnx.TensorProto](), list[str]()
    for node in quantized.graph.node:
        original = originals.get(node.name)
        if original is None or node.op_type not in PRODUCT_OPS or original.input[1] not in weights:
            continue
        weight, activation = producers.get(node.input[1]), original.input[0]
        if weight is None or weight.op_type != "DequantizeLinear":
            continue
        names.append(node.name)
        added |= {name: constants[name] for name in weight.input}
        _copy(graph, weight, weight.input, f"{node.name}/weight")
        _add_signal(model, original, weights[original.input[1]])
        for calibrator, found in ranges.items():
            prefix, scale = f"{node.name}/{calibrator}", f"{activation}/{calibrator}/scale"
            largest = np.array(found.largest(activation), np.float32)
            added[scale] = numpy_helper.from_array(find_scales(largest, INT8), scale)
            for op, source in (("QuantizeLinear", activation), ("DequantizeLinear", f"{prefix}/Q")):
                name = f"{prefix}/{op[0]}"
                graph.node.append(helper.make_node(op, [source, scale, _ZERO], [name], name))
            _copy(
                graph,
                node,
                (f"{prefix}/D", f"{node.name}/weight", *node.input[2:]),
                f"{prefix}/result",
            )
            _add_comparison(model, original, prefix)
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), _ZERO))
    graph.initializer.extend(added.values())
    return names


def _copy(graph: onnx.GraphProto, node: onnx.NodeProto, inputs: Sequence[str], output: str) -> None:
    copied = helper.make_node(node.op_type, list(inputs), [output], output)
    copied.attribute.extend(node.attribute)
    graph.node.append(copied)


def _add_signal(
    model: onnx.ModelProto, product: onnx.NodeProto, weight_dims: Sequence[int]
) -> None:
    """Add the output `<name>/signal` of a product, and the shape `<name>/shape` of its rows."""
    channels = weight_dims[find_output_channel_axis(product)]
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([-1, channels]), f"{product.name}/shape")
    )
    signal = f"{product.name}/signal"
    model.graph.node.append(
        helper.make_node("ReduceSumSquare", [product.output[0]], [signal], keepdims=0)
    )
    _add_output(model.graph, signal)


def _add_comparison(model: onnx.ModelProto, product: onnx.NodeProto, prefix: str) -> None:
    """Add the outputs `<prefix>/noise` and `/shift` of `<prefix>/result` against the product."""
    graph, error, channels_last = model.graph, f"{prefix}/error", f"{prefix}/error_NHWC"
    convolution = product.op_type == "Conv"
    graph.node.append(helper.make_node("Sub", [f"{prefix}/result", product.output[0]], [error]))
    graph.node.append(helper.make_node("ReduceSumSquare", [error], [f"{prefix}/noise"], keepdims=0))
    if convolution:
        graph.node.append(
            helper.make_node("Transpose", [error], [channels_last], perm=[0, 2, 3, 1])
        )
    rows = [channels_last if convolution else error, f"{product.name}/shape"]
    graph.node.append(helper.make_node("Reshape", rows, [f"{error}_NC"]))
    shift = reduce_rows("ReduceMean", f"{error}_NC", f"{prefix}/shift", read_opset(model))
    graph.node.append(shift)
    for sum_ in _SUMS:
        _add_output(graph, f"{prefix}/{sum_}")


def _add_output(graph: onnx.GraphProto, name: str) -> None:
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
