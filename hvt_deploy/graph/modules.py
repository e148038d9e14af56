"""An ONNX graph by module path: which tensor is a module's output, and the part between some
tensors and another.

Nodes are named `<module path>/<op>` (graph/names.py).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import onnx
from onnx import helper

from hvt_deploy.core.errors import BadInput

# The path of what belongs to no module in particular; as a module it is the whole model.
ROOT = "model"
# Precision passes put these between a module and its consumers: they belong to neither.
_TRANSPARENT = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})


def path_of(node_name: str) -> str:
    """The module path in a node name: "blocks.0.attn.qkv" of "blocks.0.attn.qkv/MatMul"."""
    return node_name.rpartition("/")[0] or ROOT


class ModuleGraph:
    """The graph of the ONNX file `path`. Weights in a file beside it stay there.

    Raises BadInput for a file that is missing or is not ONNX.
    """

    def __init__(self, path: Path) -> None:
        try:
            model = onnx.load_model(path, load_external_data=False)
        except Exception as error:  # protobuf's error has no stable home
            raise BadInput(
                f"{path} cannot be read as an ONNX file: {type(error).__name__}."
            ) from error
        self.folder = path.parent
        self.model = model if model.graph.value_info else onnx.shape_inference.infer_shapes(model)
        graph = self.model.graph
        self._position = {
            name: i for i, node in enumerate(graph.node) for name in node.output if name
        }
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._values = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The output tensor of each module that has exactly one, in the order of the graph;
        containers come after what they contain. The last is that of the whole model, under ROOT.

        A module's output is a tensor that one of its nodes makes and a node of another module
        takes.
        """
        leaving: dict[str, list[str]] = defaultdict(list)
        for node in self.model.graph.node:
            path = path_of(node.name)
            if path == ROOT or node.op_type in _TRANSPARENT:
                continue
            for module in _ancestors(path):
                for name in node.output:
                    if any(
                        not f"{taker}.".startswith(f"{module}.") for taker in self._takers[name]
                    ):
                        leaving[module].append(name)
        single = {module: tensors[0] for module, tensors in leaving.items() if len(tensors) == 1}
        ordered = sorted(
            single.items(), key=lambda item: (self._position[item[1]], -item[0].count("."))
        )
        return {**dict(ordered), ROOT: self.model.graph.output[0].name}

    def element_type(self, tensor: str) -> int:
        """The ONNX element type of a tensor. Raises BadInput where shape inference did not find it."""
        if tensor not in self._values:
            raise BadInput(
                f"The type of tensor {tensor} is not known.",
                "Infer the shapes of this graph first.",
            )
        return self._values[tensor].type.tensor_type.elem_type

    def nodes_between(self, given: Collection[str], wanted: Sequence[str]) -> list[onnx.NodeProto]:
        """The nodes that compute the tensors `wanted` from the tensors `given` and the graph's
        inputs.
        """
        needed: set[int] = set()
        waiting = [self._position[name] for name in wanted]
        while waiting:
            i = waiting.pop()
            if i not in needed:
                needed.add(i)
                inputs = self.model.graph.node[i].input
                waiting += [
                    self._position[n] for n in inputs if n in self._position and n not in given
                ]
        return [self.model.graph.node[i] for i in sorted(needed)]

    def cut(self, given: Collection[str], wanted: Sequence[str]) -> onnx.ModelProto:
        """A model of its own that computes `wanted` from those of `given`, and of the graph's
        inputs, that it needs.

        Weights in a file beside the graph stay there.
        """
        nodes = self.nodes_between(given, wanted)
        made = {name for node in nodes for name in node.output}
        taken = dict.fromkeys(
            name for node in nodes for name in node.input if name and name not in made
        )
        values = [self._value(name) for name in taken if name not in self._weights]
        graph = helper.make_graph(nodes, "part", values, [self._value(name) for name in wanted])
        for name in taken:
            if name in self._weights:
                graph.initializer.append(self._weights[name])
        opsets, version = self.model.opset_import, self.model.ir_version
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=version, functions=self.model.functions
        )

    def _value(self, name: str) -> onnx.ValueInfoProto:
        """A tensor as an input or output: its type, and its rank with all sizes free."""
        found = onnx.ValueInfoProto()
        found.name = name
        found.type.tensor_type.elem_type = self.element_type(name)
        known = self._values[name].type.tensor_type
        if known.HasField("shape"):
            found.type.tensor_type.shape.dim.extend(
                onnx.TensorShapeProto.Dimension() for _ in known.shape.dim
            )
        return found

    @cached_property
    def _takers(self) -> dict[str, set[str]]:
        """The modules that take each tensor, seen through what belongs to none; "" for whoever
        takes the output.
        """
        takers: dict[str, set[str]] = defaultdict(set)
        for value in self.model.graph.output:
            takers[value.name].add("")
        for node in reversed(self.model.graph.node):
            path = path_of(node.name)
            passed_on = node.op_type in _TRANSPARENT or path == ROOT
            by = {taker for name in node.output for taker in takers[name]} if passed_on else {path}
            for name in node.input:
                takers[name] |= by
        return takers


def _ancestors(path: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while path:
        yield path
        path = path.rpartition(".")[0]
