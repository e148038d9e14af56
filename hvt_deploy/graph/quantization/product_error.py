"""The local error of each quantized product: against its FP32 form on the same FP32 activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.graph.opset import read_opset
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.queries import PRODUCT_OPS, find_output_channel_axis, map_producers
from hvt_deploy.graph.storage import load_onnx

_COPY_SUFFIX = "/int8"
# From this opset on ReduceMean takes its axes as an input.
_AXES_INPUT_OPSET = 18
_SUMS = ("signal", "noise", "shift")


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
    fp32: Path, quantized: onnx.ModelProto, batches: Iterable[ImagesNCHW], threads: int
) -> Mapping[str, ProductError]:
    """The local error of each quantized product (by node name) of `quantized`, made from the file
    `fp32`.

    Both must have the same opset. Each batch is (N, 3, H, W); memory does not grow with their
    number.
    """
    model = load_onnx(fp32, weights=False)
    names = _add_quantized_copies(model, quantized)
    run = open_graph(model, fp32.parent, threads)
    wanted = [f"{name}/{sum_}" for name in names for sum_ in _SUMS]
    sums: list[NDArray[np.float64]] = [np.zeros(())] * len(wanted)
    images = 0
    for images_NCHW in batches:
        images += len(images_NCHW)
        for i, value in enumerate(run(wanted, images_NCHW)):
            # The shift is a mean over the batch, to be weighted with its number of images.
            weight = len(images_NCHW) if wanted[i].endswith("/shift") else 1
            sums[i] = sums[i] + value.astype(np.float64) * weight
    return {
        name: ProductError(
            float(sums[3 * i]), float(sums[3 * i + 1]), sums[3 * i + 2] / max(images, 1)
        )
        for i, name in enumerate(names)
    }


def _add_quantized_copies(model: onnx.ModelProto, quantized: onnx.ModelProto) -> list[str]:
    """Add to FP32 `model` a copy of each quantized product with its Q/DQ, and nodes that compare it
    with the original; returns the names of the products.
    """
    producers = map_producers(quantized.graph)
    originals = {node.name: node for node in model.graph.node}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    rows = numpy_helper.from_array(np.array([0]), "compare/rows")
    model.graph.initializer.append(rows)
    names: list[str] = []
    for node in quantized.graph.node:
        original = originals.get(node.name)
        if original is None or node.op_type not in PRODUCT_OPS or original.input[1] not in weights:
            continue
        dequantizer = producers.get(node.input[0])
        if dequantizer is None or dequantizer.op_type != "DequantizeLinear":
            continue
        names.append(node.name)
        quantizer, weight = producers[dequantizer.input[0]], producers[node.input[1]]
        prefix = f"{node.name}{_COPY_SUFFIX}"
        for copied, inputs in (
            (quantizer, quantizer.input),
            (dequantizer, (f"{prefix}/{quantizer.name}", *dequantizer.input[1:])),
            (weight, weight.input),
            (
                node,
                (f"{prefix}/{dequantizer.name}", f"{prefix}/{weight.name}", *node.input[2:]),
            ),
        ):
            name = f"{prefix}/{copied.name}"
            copy = helper.make_node(copied.op_type, list(inputs), [name], name)
            copy.attribute.extend(copied.attribute)
            model.graph.node.append(copy)
        _add_comparison(
            model, node.name, original, f"{prefix}/{node.name}", weights[original.input[1]]
        )
    used = {name for node in model.graph.node for name in node.input} - weights.keys()
    model.graph.initializer.extend(
        tensor for tensor in quantized.graph.initializer if tensor.name in used
    )
    return names


def _add_comparison(
    model: onnx.ModelProto,
    name: str,
    original: onnx.NodeProto,
    result: str,
    weight_dims: Sequence[int],
) -> None:
    """Add the outputs `<name>/signal`, `/noise` and `/shift` of `result` against `original`."""
    graph, convolution = model.graph, original.op_type == "Conv"
    channels = weight_dims[find_output_channel_axis(original)]
    shape = numpy_helper.from_array(np.array([-1, channels]), f"{name}/shape")
    graph.initializer.append(shape)
    error, by_channel = f"{name}/error", f"{name}/error_NC"
    axes_given = read_opset(model) >= _AXES_INPUT_OPSET
    graph.node.extend(
        [
            helper.make_node(
                "ReduceSumSquare", [original.output[0]], [f"{name}/signal"], keepdims=0
            ),
            helper.make_node("Sub", [result, original.output[0]], [error]),
            helper.make_node("ReduceSumSquare", [error], [f"{name}/noise"], keepdims=0),
            *(
                [helper.make_node("Transpose", [error], [f"{error}_NHWC"], perm=[0, 2, 3, 1])]
                if convolution
                else []
            ),
            helper.make_node(
                "Reshape", [f"{error}_NHWC" if convolution else error, shape.name], [by_channel]
            ),
            helper.make_node(
                "ReduceMean", [by_channel, "compare/rows"], [f"{name}/shift"], keepdims=0
            )
            if axes_given
            else helper.make_node(
                "ReduceMean", [by_channel], [f"{name}/shift"], keepdims=0, axes=[0]
            ),
        ]
    )
    for sum_ in _SUMS:
        graph.output.append(
            helper.make_tensor_value_info(f"{name}/{sum_}", TensorProto.FLOAT, None)
        )
