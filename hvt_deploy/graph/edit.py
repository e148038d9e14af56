"""A copy of a graph that is being changed: producers, readers, constants, nodes inserted between
others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hvt_deploy.graph.queries import find_used, map_producers
from hvt_deploy.graph.topological_order import sort_nodes


class GraphEdit:
    """Changes to a copy of `model`; `done` returns it. Nodes that `nodes` and `readers` return may
    be changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = copy_model(model)
        self._tensors = {tensor.name: tensor for tensor in self._model.graph.initializer}

    def nodes(self, *op_types: str) -> list[onnx.NodeProto]:
        """The nodes of these operators, in their order."""
        return [node for node in self._model.graph.node if node.op_type in op_types]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor, as the graph is now."""
        return map_producers(self._model.graph)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read the tensor `name`, as the graph is now."""
        return [node for node in self._model.graph.node if name in node.input]

    def is_output(self, name: str) -> bool:
        """Whether the tensor `name` is an output of the graph."""
        return any(value.name == name for value in self._model.graph.output)

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of an initializer; None for a computed tensor and for external weights."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initializer, or give the one of this name another value; returns `name`."""
        tensor = self._tensors.get(name) or self._model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(value, name))
        self._tensors[name] = tensor
        return name

    def add_node(
        self,
        op_type: str,
        inputs: Sequence[str],
        output: str,
        axis: int | None = None,
        name: str | None = None,
        perm: Sequence[int] | None = None,
    ) -> str:
        """Add a node with one output, which gives the node its name if there is none; returns
        `output`.
        """
        node = helper.make_node(op_type, inputs, [output], name or output, perm=perm)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._model.graph.node.append(node)
        return output

    def add_qdq(
        self, tensor: str, scale: str, zero_point: str, quantized: str, dequantized: str
    ) -> str:
        """Quantize `tensor` and dequantize it again, both named as their outputs; returns
        `dequantized`.
        """
        self.add_node("QuantizeLinear", [tensor, scale, zero_point], quantized)
        return self.add_node("DequantizeLinear", [quantized, scale, zero_point], dequantized)

    def split_weight(self, name: str, parts: Sequence[str]) -> bool:
        """Add an initializer's equal parts along its last axis; a graph input is replaced by them.

        False for any other tensor.
        """
        value = self.constant(name)
        if value is not None:
            for part, columns in zip(parts, np.split(value, len(parts), axis=-1), strict=True):
                self.add_constant(part, np.ascontiguousarray(columns))
            return True
        for whole in [taken for taken in self._model.graph.input if taken.name == name]:
            for part in parts:
                added = self._model.graph.input.add()
                added.CopyFrom(whole)
                added.name = part
                added.type.tensor_type.shape.dim[-1].dim_value //= len(parts)
            self._model.graph.input.remove(whole)
            return True
        return False

    def add_copy(
        self, node: onnx.NodeProto, number: int, inputs: Sequence[str], output: str = ""
    ) -> str:
        """Add a copy of a node with one output that reads `inputs`; returns its output.

        Its name and its output's, where none is given, end with ".NUMBER".
        """
        copied = self._model.graph.node.add()
        copied.CopyFrom(node)
        copied.name = f"{node.name}.{number}"
        copied.input[:] = inputs
        copied.output[:] = [output or f"{node.output[0]}.{number}"]
        return copied.output[0]

    def forget_type(self, name: str) -> None:
        """Drop the recorded type and shape of a tensor that a change invalidates."""
        for value in [v for v in self._model.graph.value_info if v.name == name]:
            self._model.graph.value_info.remove(value)

    def done(self) -> onnx.ModelProto:
        """The changed model: nodes sorted, and unused nodes, initializers and recorded shapes
        removed.

        Raises ToolFailure if the changes made a cycle.
        """
        graph = self._model.graph
        used = {value.name for value in graph.output}
        kept: list[onnx.NodeProto] = []
        sort_nodes(graph)
        for node in reversed(graph.node):
            if not used.isdisjoint(node.output):
                used.update(node.input)
                kept.append(node)
        del graph.node[:]
        graph.node.extend(reversed(kept))
        made = map_producers(graph)
        for value in [v for v in graph.value_info if v.name not in made]:
            graph.value_info.remove(value)
        drop_unused_initializers(graph)
        return self._model


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that can be changed without changing `model`; external weights stay in their file."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def add_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy that also gives the FP32 tensors `names`, but for its inputs and outputs."""
    probed = copy_model(model)
    there = {value.name for value in (*model.graph.input, *model.graph.output)}
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in there
    )
    return probed


def drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """Remove, in place, the initializers that no node reads and that are no output."""
    used = find_used(graph)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
    """Let `node` read `new` where it reads `old`."""
    for i, name in enumerate(node.input):
        if name == old:
            node.input[i] = new
