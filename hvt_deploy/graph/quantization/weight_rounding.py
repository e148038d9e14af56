"""Weights rounded to INT8 so that the errors of a product's result cancel, not each to its nearest.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
2022 (arXiv 2210.17323), sections 2 and 3: the rounding error of an input channel moves into the
weights of the channels that are not rounded yet, as far as these channels agree in the inputs. Here
the scales are those of plain rounding, and every output channel keeps its largest weight, from
which the Q/DQ writer finds the same scales again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.graph.edit import GraphEdit
from hvt_deploy.graph.quantization.channel_sums import ChannelSums
from hvt_deploy.graph.quantization.product_error import Product, find_products, read_weights
from hvt_deploy.graph.quantization.qdq import INT8, find_scales

# Of the mean of the diagonal: as in the paper.
_DAMPING = 0.01
# Channels whose errors are gathered before the rest of the weights takes them over: a matter of
# speed.
_BLOCK = 64
# The work grows with the third power of the channels. Limits of 512, 1024 and 2048, SQNR on images
# that judge and seconds of CPU on top: fdvit_b (121 s) 31.9, 33.1 and 33.4 dB, 2 and 5 s;
# faster_vit_0_224 (41 s) 35.7 each, 1.4 and 4.5 s. All 4096 of fdvit_b: 33.5 dB, over 15 s.
MOST_CHANNELS = 1024


def is_roundable(product: Product, weight: NDArray[np.float32]) -> bool:
    """Whether a product is a Linear or a 1x1 convolution of at most `MOST_CHANNELS` inputs."""
    inputs = weight.shape[1 - product.output_axis]
    return (
        product.groups == 1
        and weight.size == inputs * weight.shape[product.output_axis]
        and (inputs <= MOST_CHANNELS)
    )


def round_weight(
    product: Product, weight: NDArray[np.float32], inputs: ChannelSums
) -> NDArray[np.int8]:
    """The INT8 levels of a weight, in its shape, from the products of its input channels."""
    if inputs.products is None:
        raise ValueError(f"The products of the channels of {product.activation} are missing.")
    weights_IO = np.transpose(product.arrange(weight)[0, :, :, 0])
    scales_O = find_scales(np.abs(weight).max(axis=tuple(_others(product, weight))), INT8)
    levels_IO = _round_channels(weights_IO / scales_O, inputs.products)
    levels = np.transpose(levels_IO) if product.output_axis == 0 else levels_IO
    return np.reshape(levels.astype(np.int8), weight.shape)


def _others(product: Product, weight: NDArray[np.float32]) -> list[int]:
    return [axis for axis in range(weight.ndim) if axis != product.output_axis]


def _round_channels(
    weights_IO: NDArray[np.float32], products: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Round weights in units of their scales; the channels with the largest inputs come first."""
    diagonal = np.diagonal(products)
    order = np.argsort(-diagonal)
    # A channel that is always zero has no say; its weights are rounded to their nearest.
    damping = _DAMPING * float(diagonal.mean()) or 1.0
    backwards = order[::-1]
    hessian = products[np.ix_(backwards, backwards)].astype(np.float64)
    hessian[np.diag_indices_from(hessian)] += damping
    # With M Mᵀ the Hessian and M upper triangular, the weights of channel i make up for the errors
    # of those before it where column i of M sums them up to zero: what the inverse of the Hessian
    # gives in the paper, at a quarter of its time.
    upper = np.linalg.cholesky(hessian)[::-1, ::-1]
    shares: NDArray[np.float32] = np.array(np.transpose(upper / np.diagonal(upper)), np.float32)
    weights_IO, largest = weights_IO[order], float(INT8.largest)
    largest_O = np.abs(weights_IO).argmax(axis=0)
    kept_O = np.sign(weights_IO[largest_O, np.arange(len(largest_O))]) * largest
    wanted_IO: NDArray[np.float32] = np.array(weights_IO)
    levels_IO: NDArray[np.float32] = np.empty_like(wanted_IO)
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        errors_IO = np.empty((stop - start, weights_IO.shape[1]), np.float32)
        for i in range(start, stop):
            level_O = np.minimum(np.maximum(np.rint(wanted_IO[i]), -largest), largest)
            levels_IO[i] = np.where(largest_O == i, kept_O, level_O)
            error_O: NDArray[np.float32] = levels_IO[i] - weights_IO[i]
            wanted_IO[i + 1 : stop] -= shares[i + 1 : stop, i : i + 1] * error_O
            errors_IO[i - start] = error_O
        wanted_IO[stop:] -= shares[stop:, start:stop] @ errors_IO
    restored_IO = np.empty_like(levels_IO)
    restored_IO[order] = levels_IO
    return restored_IO


def set_levels(model: onnx.ModelProto, levels: Mapping[str, NDArray[np.int8]]) -> onnx.ModelProto:
    """`model` with weights that are exactly INT8, of each product (by name) in `levels`."""
    edit = GraphEdit(model)
    products = find_products(model, levels)
    weights = read_weights(model, products)
    nodes = {node.name: node for node in edit.nodes("Conv", "MatMul", "Gemm")}
    for product in products:
        weight = weights[product.name]
        others = tuple(_others(product, weight))
        scales = np.expand_dims(find_scales(np.abs(weight).max(axis=others), INT8), others)
        nodes[product.name].input[1] = edit.add_constant(
            f"{nodes[product.name].input[1]}/{product.name}", levels[product.name] * scales
        )
    return edit.done()
