"""Precision for models whose weights lie in a file beside the graph: passes work on its outline.

In an outline the weights of nodes to quantize are as small as their scales: one number per output
channel, the largest. So ONNX Runtime's quantizer finds the scales that the weights would have given
it. Other large weights are inputs. `fill` puts the real ones in, one at a time, in the type that
the passes decided on.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hvt_deploy.graph.large import is_large

QUANTIZED_SUFFIX, SCALE_SUFFIX = "_quantized", "_scale"
_INT8_MAX = 127


@dataclass(frozen=True)
class Outline:
    """`model` without its large weights; they are `external` tensors of files in `folder`.

    `channel_axes` maps weights that stand as their largest values to the axis of their output
    channels.
    """

    model: onnx.ModelProto
    folder: Path
    external: Mapping[str, onnx.TensorProto]
    channel_axes: Mapping[str, int]

    def fill(self, made: onnx.ModelProto, quantized: onnx.ModelProto) -> onnx.ModelProto:
        """`made` by passes from `model`, changed in place: with the real weights, in its own types.

        `quantized` is the graph whose scales the quantizer wrote: FP16 has rounded those of `made`.
        """
        graph = made.graph
        scales = {t.name: t for t in quantized.graph.initializer if t.name.endswith(SCALE_SUFFIX)}
        types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        for value in [value for value in graph.input if value.name in self.external]:
            graph.input.remove(value)
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        for name, tensor in self.external.items():
            if name in types:
                dtype = helper.tensor_dtype_to_np_dtype(types[name])
                graph.initializer.append(
                    numpy_helper.from_array(self._read(tensor).astype(dtype), name)
                )
            stand_in = initializers.get(f"{name}{QUANTIZED_SUFFIX}")
            if stand_in is not None:
                scale = numpy_helper.to_array(scales[f"{name}{SCALE_SUFFIX}"])
                real = _quantized(self._read(tensor), scale, self.channel_axes[name])
                stand_in.CopyFrom(numpy_helper.from_array(real, stand_in.name))
        if self.external:
            del graph.value_info[:]  # shapes that were inferred from stand-ins
        return made

    def _read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        return numpy_helper.to_array(tensor, str(self.folder))


def outline(model: onnx.ModelProto, folder: Path, quantized: Collection[str]) -> Outline:
    """The outline of `model`, whose weights are in files in `folder`; `quantized` names the nodes
    to quantize.

    A model that holds its weights itself is its own outline.
    """
    outlined = onnx.ModelProto()
    outlined.CopyFrom(model)
    graph = outlined.graph
    axes = {node.input[1]: _channel_axis(node) for node in graph.node if node.name in quantized}
    external: dict[str, onnx.TensorProto] = {}
    tensors = list(graph.initializer)
    del graph.initializer[:]
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif not is_large(tensor):
            graph.initializer.append(
                numpy_helper.from_array(numpy_helper.to_array(tensor, str(folder)), tensor.name)
            )
        else:
            external[tensor.name] = tensor
            if tensor.name in axes:
                largest = _largest(numpy_helper.to_array(tensor, str(folder)), axes[tensor.name])
                graph.initializer.append(numpy_helper.from_array(largest, tensor.name))
            else:
                graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
    return Outline(
        outlined, folder, external, {name: axis for name, axis in axes.items() if name in external}
    )


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the output channels in the weight of a Conv, MatMul or Gemm."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _largest(weight: NDArray[Any], axis: int) -> NDArray[Any]:
    """The largest magnitude of each channel, with the weight's number of dimensions."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return np.abs(weight).max(axis=others, keepdims=True)


def _quantized(weight: NDArray[Any], scale: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Symmetric INT8 per channel, rounded half to even, as ONNX's QuantizeLinear does."""
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.clip(np.rint(weight / scale.reshape(shape)), -_INT8_MAX, _INT8_MAX).astype(np.int8)
