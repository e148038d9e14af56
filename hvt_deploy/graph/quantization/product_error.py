"""Every quantized product beside itself in FP32, fed with the same activations: its own error, not
its inputs'.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

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
from hvt_deploy.graph.quantization.qdq import QUANTIZED_OPS
from hvt_deploy.graph.quantization.ranges import open_graph
from hvt_deploy.graph.storage import load_onnx

_BESIDE = "/int8"
# From this opset on ReduceMean takes its axes as an input.
_AXES_INPUT_OPSET = 18


@dataclass(frozen=True)
class ProductError:
    """Sums of squares of a product's FP32 result and of what INT8 changes in it; `shift` (C): that
    change's mean.
    """

    signal: float
    noise: float
    shift: NDArray[np.float64]

    @property
    def relative_noise(self) -> float:
        """Noise over signal."""
        return self.noise / max(self.signal, 1e-30)


def measure_products(
    fp32: Path, quantized: onnx.ModelProto, batches: Iterable[ImagesNCHW], threads: int
) -> Mapping[str, ProductError]:
    """The error of each product (by node name) of `quantized`, which was made from the file `fp32`.

    Both must have the same opset. Memory does not grow with the number of batches.
    """
    model = load_onnx(fp32, weights=False)
    names = _put_beside(model, quantized)
    run = open_graph(model, fp32.parent, threads)
    wanted = [f"{name}/{what}" for name in names for what in ("signal", "noise", "shift")]
    sums: list[NDArray[np.float64]] = [np.zeros(())] * len(wanted)
    images = 0
    for images_NCHW in batches:
        images += len(images_NCHW)
        for i, value in enumerate(run(wanted, images_NCHW)):
            # A mean over the batch counts as often as it has images.
            weight = len(images_NCHW) if wanted[i].endswith("/shift") else 1
            sums[i] = sums[i] + value.astype(np.float64) * weight
    return {
        name: ProductError(
            float(sums[3 * i]), float(sums[3 * i + 1]), sums[3 * i + 2] / max(images, 1)
        )
        for i, name in enumerate(names)
    }


def _put_beside(model: onnx.ModelProto, quantized: onnx.ModelProto) -> list[str]:
    """Add to FP32 `model` a copy of each quantized product with its Q/DQ, and what compares the
    two; their names.
    """
    makers = {out: node for node in quantized.graph.node for out in node.output}
    originals = {node.name: node for node in model.graph.node}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    rows = numpy_helper.from_array(np.array([0]), "compare/rows")
    model.graph.initializer.append(rows)
    names: list[str] = []
    for node in quantized.graph.node:
        original = originals.get(node.name)
        if (
            original is None
            or node.op_type not in QUANTIZED_OPS
            or original.input[1] not in weights
        ):
            continue
        dequantizer = makers.get(node.input[0])
        if dequantizer is None or dequantizer.op_type != "DequantizeLinear":
            continue
        names.append(node.name)
        quantizer, weight = makers[dequantizer.input[0]], makers[node.input[1]]
        beside = f"{node.name}{_BESIDE}"
        for copied, inputs in (
            (quantizer, quantizer.input),
            (dequantizer, (f"{beside}/{quantizer.name}", *dequantizer.input[1:])),
            (weight, weight.input),
            (
                node,
                (
                    f"{node.name}{_BESIDE}/{dequantizer.name}",
                    f"{node.name}{_BESIDE}/{weight.name}",
                    *node.input[2:],
                ),
            ),
        ):
            name = f"{beside}/{copied.name}"
            copy = helper.make_node(copied.op_type, list(inputs), [name], name)
            copy.attribute.extend(copied.attribute)
            model.graph.node.append(copy)
        _compare(model, node.name, original, f"{beside}/{node.name}", weights[original.input[1]])
    used = {name for node in model.graph.node for name in node.input} - weights.keys()
    model.graph.initializer.extend(
        tensor for tensor in quantized.graph.initializer if tensor.name in used
    )
    return names


def _compare(
    model: onnx.ModelProto,
    name: str,
    original: onnx.NodeProto,
    result: str,
    weight_dims: Sequence[int],
) -> None:
    """Outputs `<name>/signal`, `/noise` and `/shift` of the graph: `original` against `result`."""
    graph, convolution = model.graph, original.op_type == "Conv"
    transposed = any(a.name == "transB" and a.i for a in original.attribute)
    channels = weight_dims[0 if convolution or transposed else 1]
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
    for what in ("signal", "noise", "shift"):
        graph.output.append(
            helper.make_tensor_value_info(f"{name}/{what}", TensorProto.FLOAT, None)
        )
