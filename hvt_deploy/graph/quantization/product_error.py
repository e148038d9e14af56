"""The local error of each quantized product: against its FP32 form on the same FP32 activations.

A product is linear, so the mean error of its result follows from the mean errors of its activation,
and the noise from their squares, where the errors of different channels are independent. At the
border of a padded convolution fewer elements are summed than is counted here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hvt_deploy.graph.quantization.channel_sums import ChannelSums
from hvt_deploy.graph.quantization.qdq import INT8, find_scales, quantize_weight
from hvt_deploy.graph.queries import find_output_channel_axis

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Product:
    """A Conv, MatMul or Gemm with a constant weight."""

    name: str
    """Of the node."""
    activation: str
    """The tensor that it multiplies."""
    result: str
    """The tensor that it makes."""
    output_axis: int
    """The axis of the output channels in the weight."""
    channel_axis: int
    """The axis of the channels in the activation and in the result."""
    groups: int = 1
    """Of a grouped convolution."""

    def arrange(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """The weight as (groups, output channels, input channels, taps)."""
        outputs_first = np.moveaxis(weight, self.output_axis, 0)
        outputs, inputs = outputs_first.shape[:2]
        return np.reshape(outputs_first, (self.groups, outputs // self.groups, inputs, -1))


@dataclass(frozen=True)
class ProductError:
    """The local error of one product over a set of images."""

    signal: float
    """Mean square of the FP32 result, all its channels together."""
    noise: float
    """The same of the error, INT8 minus FP32."""
    shift: NDArray[np.float64]
    """Mean error of each output channel (C,)."""

    @property
    def relative_noise(self) -> float:
        """Noise over signal."""
        return self.noise / max(self.signal, 1e-30)


def find_products(model: onnx.ModelProto, names: Collection[str]) -> list[Product]:
    """The products among the nodes `names` whose weight has one axis of input channels."""
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found: list[Product] = []
    for node in [node for node in model.graph.node if node.name in names]:
        convolution = node.op_type == "Conv"
        if convolution or len(dims[node.input[1]]) == 2:
            found.append(
                Product(
                    node.name,
                    node.input[0],
                    node.output[0],
                    find_output_channel_axis(node),
                    1 if convolution else -1,
                    next((a.i for a in node.attribute if a.name == "group"), 1),
                )
            )
    return found


def read_weights(
    model: onnx.ModelProto, products: Sequence[Product]
) -> dict[str, NDArray[np.float32]]:
    """The weight of each product (by name) in `model`, in its own shape."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {node.name: node.input[1] for node in model.graph.node if len(node.input) > 1}
    return {p.name: numpy_helper.to_array(tensors[names[p.name]]) for p in products}


@dataclass(frozen=True)
class WeightNorms:
    """What the local errors of a product need of its weight; (G, O, I): groups, output channels,
    input channels.
    """

    shifts_GOI: NDArray[np.float32]  # noqa: N815
    """Sums over taps of the INT8 weight."""
    changes_GOI: NDArray[np.float32]  # noqa: N815
    """Sums over taps of the INT8 weight minus that in FP32."""
    squares_C: _Floats  # noqa: N815
    """Sums of squares of the INT8 weight by input channel, all groups in a row."""
    change_squares_C: _Floats  # noqa: N815
    """The same of INT8 minus FP32."""


def measure_weight(
    product: Product, weight: NDArray[np.float32], levels: NDArray[np.int8] | None = None
) -> WeightNorms:
    """The norms of a weight with these INT8 levels, by default those that are nearest."""
    axis = product.output_axis
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = find_scales(np.abs(weight).max(axis=others), INT8)
    if levels is None:
        levels = quantize_weight(weight, scales, axis)
    int8 = product.arrange(levels * np.expand_dims(scales, others))
    change = int8 - product.arrange(weight)
    return WeightNorms(
        int8.sum(axis=3),
        change.sum(axis=3),
        np.square(int8).sum(axis=(1, 3), dtype=np.float64).ravel(),
        np.square(change).sum(axis=(1, 3), dtype=np.float64).ravel(),
    )


def find_error(
    norms: WeightNorms, activation: ChannelSums, result: ChannelSums, threshold: float
) -> ProductError:
    """The local error of a product from the sums of its activation, with the errors at `threshold`,
    and of its result.
    """
    rows = max(activation.rows, 1)
    noise = norms.squares_C @ activation.error_squares[threshold]
    noise += norms.change_squares_C @ activation.squares
    groups = len(norms.shifts_GOI)

    def apply(weights_GOI: NDArray[np.float32], sums_C: _Floats) -> _Floats:
        sums_GI = np.reshape(sums_C, (groups, -1, 1))
        shifts_GO1: _Floats = np.matmul(weights_GOI.astype(np.float64), sums_GI)
        return np.ravel(shifts_GO1)

    shift = apply(norms.shifts_GOI, activation.errors[threshold])
    shift += apply(norms.changes_GOI, activation.values)
    signal = float(result.squares.sum()) / max(result.rows, 1)
    return ProductError(signal, float(noise) / rows, shift / rows)
