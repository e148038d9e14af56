"""An ONNX graph by module path: the output tensor of a module, the subgraph between tensors.

Nodes are named `<module path>/<op>` (graph/node_names.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import onnx
from onnx import helper

from hvt_deploy.core.errors import BadInput
from hvt_deploy.graph.storage import load_onnx

# The path of nodes that belong to no module; as a module it is the whole model.
ROOT_PATH = "model"
# Precision passes insert these between a module and its consumers: they belong to neither.
_PRECISION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})


def read_module_path(node_name: str) -> str:
    """The module path in a node name: "blocks.0.attn.qkv" of "blocks.0.attn.qkv/MatMul"."""
    return node_name.rpartition("/")[0] or ROOT_PATH


class ModuleGraph:
    """The graph of the ONNX file `path`; external weights stay in their file.

    Raises BadInput for a file that is missing or is not ONNX.
    """

    def __init__(self, path: Path) -> None:
        model = load_onnx(path, weights=False)
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
        """The output tensor of each module that has exactly one, in the order of the graph.

        A module's output is a tensor that one of its nodes makes and a node of another module
        reads. Containers come after their members; the last entry is the whole model, `ROOT_PATH`.
        """
        leaving: dict[str, list[str]] = defaultdict(list)
        for node in self.model.graph.node:
            path = read_module_path(node.name)
            if path == ROOT_PATH or node.op_type in _PRECISION_OPS:
                continue
            for module in _ancestors(path):
                for name in node.output:
                    if not all(_contains(module, reader) for reader in self._readers[name]):
                        leaving[module].append(name)
        single = {module: tensors[0] for module, tensors in leaving.items() if len(tensors) == 1}
        ordered = sorted(
            single.items(), key=lambda item: (self._position[item[1]], -item[0].count("."))
        )
        return {**dict(ordered), ROOT_PATH: self.model.graph.output[0].name}

    def knows(self, tensor: str) -> bool:
        """Whether a node makes `tensor`, of a type that is known."""
        return tensor in self._position and tensor in self._values

    def element_type(self, tensor: str) -> int:
        """The ONNX element type of a tensor; raises BadInput if shape inference did not find it."""
        if tensor not in self._values:
            raise BadInput(
                f"The type of tensor {tensor} is not known.",
                "Run ONNX shape inference on this graph first.",
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
        """A model that computes `wanted` from the tensors of `given` and the graph inputs it needs.

        External weights stay in their file.
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
        """A tensor as an input or output: its element type, and its rank with all sizes dynamic."""
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
    def _readers(self) -> dict[str, set[str]]:
        """The paths of the modules that read each tensor, seen through nodes that belong to none;
        "" for an output of the graph.
        """
        readers: dict[str, set[str]] = defaultdict(set)
        for value in self.model.graph.output:
            readers[value.name].add("")
        for node in reversed(self.model.graph.node):
            path = read_module_path(node.name)
            passed_on = node.op_type in _PRECISION_OPS or path == ROOT_PATH
            by = {reader for name in node.output for reader in readers[name]}
            for name in node.input:
                readers[name] |= by if passed_on else {path}
        return readers


def _contains(module: str, path: str) -> bool:
    """Whether `path` is the module itself or inside it."""
    return f"{path}.".startswith(f"{module}.")


def _ancestors(path: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while path:
        yield path
        path = path.rpartition(".")[0]
