"""The roles of a network that was not written here, from the shape of its graph.

An attention is a softmax between two products of activations: what they read comes from the
Linears of q, k and v, what they give goes to `proj`. Two Linears around an activation are an MLP,
the convolution that reads the images is the stem, the product that the output comes from the head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from hvt_deploy.graph.analysis.roles import Role, find_role, stage_of
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.module_graph import ROOT_PATH, read_module_path
from hvt_deploy.graph.node_names import write_names
from hvt_deploy.graph.queries import map_producers, map_readers

_MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity"),
        *("Cast", "Flatten", "Expand", "Concat", "Pad"),
    }
)
_SCALES = frozenset({"Mul", "Div", "Sub", "Sqrt", "Where", "Pow", "Clip"})
_AVERAGES = frozenset({"ReduceMean", "GlobalAveragePool"})
_NORMS = frozenset({"LayerNormalization", "ReduceL2"}) | _AVERAGES
_ACTIVATIONS = frozenset(
    {
        *("Gelu", "Erf", "Relu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Mish"),
        *("LeakyRelu", "Clip", "Softplus", "Swish"),
    }
)
_GATES = ("Sigmoid", "HardSigmoid")
# The last part of the path of a node with this role, by which `find_role` knows it.
_TOKENS: dict[Role, str] = {
    "stem": "stem",
    "downsample": "downsample",
    "qkv": "qkv",
    "attention score": "score",
    "attention value": "value",
    "proj": "proj",
    "fc1": "fc1",
    "fc2": "fc2",
    "squeeze excite": "se",
    "head": "head",
    "residual add": "residual",
    "position bias": "position_bias",
}
_OF_LINEARS: tuple[Role, ...] = ("qkv", "proj", "fc1", "fc2", "squeeze excite", "head")
_IN_BLOCKS: tuple[Role, ...] = (
    *("qkv", "attention score", "attention value", "proj", "fc1", "fc2", "residual add"),
    "position bias",
)


def name_linears(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, in whose names `find_role` reads the roles of Linears that the names of their
    modules do not tell (`mlp.ln1`); other nodes keep their names.
    """
    named = copy_model(model)
    roles = _Patterns(named.graph).find_roles()
    constants = {tensor.name for tensor in named.graph.initializer}
    paths: list[str] = []
    for node in named.graph.node:
        path, role = read_module_path(node.name), roles.get(node.output[0])
        if role in _OF_LINEARS and find_role(node, constants) == "other":
            path = f"{path}.{_TOKENS[role]}"
        paths.append(path)
    write_names(named, paths)
    return named


def name_roles(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, in whose names `find_role` and `stage_of` read roles and stages.

    Nodes are named `<module path>/<op>`; the path of one whose role its graph shows and its name
    does not ends with the role. Blocks of unnamed modules are numbered.
    """
    named = copy_model(model)
    roles = _Patterns(named.graph).find_roles()
    constants = {tensor.name for tensor in named.graph.initializer}
    paths: list[str] = []
    block, before = -1, ""
    for node in named.graph.node:
        path, role = read_module_path(node.name), roles.get(node.output[0])
        if role is not None:
            block += role == "qkv" and before != "qkv" and node.op_type != "Add"
            before = before if node.op_type == "Add" else role
            unnumbered = role in _IN_BLOCKS and stage_of(node.name) in ("stem", "head")
            if unnumbered and path == ROOT_PATH:
                path = f"blocks.{max(block, 0)}"
            if find_role(_renamed(node, path), constants) != role:
                token = _TOKENS[role]
                path = token if path == ROOT_PATH else f"{path}.{token}"
        paths.append(path)
    write_names(named, paths)
    return named


def _renamed(node: onnx.NodeProto, path: str) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.name = f"{path}/{node.op_type}"
    return copied


class _Patterns:
    """The roles of a graph, by the first output of each node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._producers, self._readers = map_producers(graph), map_readers(graph)
        self._ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        self._roles: dict[str, Role] = {}

    def find_roles(self) -> dict[str, Role]:
        """Every role that a pattern shows."""
        self._find_head()
        for node in self._graph.node:
            if node.op_type == "Softmax":
                self._find_attention(node)
        for node in self._graph.node:
            if self._is_weighted(node):
                self._find_mlp(node)
        for node in self._graph.node:
            self._find_rest(node)
        self._extend_to_biases()
        return self._roles

    def _give(self, node: onnx.NodeProto, role: Role) -> None:
        self._roles.setdefault(node.output[0], role)

    def _find_head(self) -> None:
        # Two heads whose logits are averaged are two.
        through = _MOVES | _ACTIVATIONS | _SCALES | _AVERAGES | {"Softmax"}
        for node in self._behind(self._graph.output[0].name, through, adds=True):
            if self._is_weighted(node):
                self._give(node, "head")

    def _find_attention(self, softmax: onnx.NodeProto) -> None:
        through = _MOVES | _SCALES
        values = [n for n in self._after(softmax.output[0], through) if self._is_attention(n)]
        path = [*self._behind(softmax.input[0], through | {"Add"}, adds=True)]
        scores = [node for node in path if self._is_attention(node)]
        if not values or not scores:
            return
        self._give(scores[0], "attention score")
        self._give(values[0], "attention value")
        for node in path:
            if node.op_type == "Add":
                self._give(node, "position bias")
        for tensor in (*scores[0].input, *values[0].input):
            for node in self._behind(tensor, _MOVES | _SCALES | _NORMS):
                if self._is_weighted(node):
                    self._give(node, "qkv")
        for node in self._after(values[0].output[0], _MOVES | _NORMS | _ACTIVATIONS):
            if self._is_weighted(node):
                self._give(node, "proj")

    def _find_mlp(self, first: onnx.NodeProto) -> None:
        """Two Linears of which the second reads an activation of the first alone; two products, of
        an average over the image and before a gate, weigh channels.
        """
        if first.output[0] in self._roles:
            return
        through = _ACTIVATIONS | _SCALES | {"Cast", "Identity", "Reshape", "Flatten"}
        found = [*self._after(first.output[0], through)]
        second = next((n for n in found if self._is_weighted(n)), None)
        activated = any(node.op_type in _ACTIVATIONS for node in found)
        if second is None or not activated or second.output[0] in self._roles:
            return
        gates = [n for n in self._after(second.output[0], {"Add"}) if n.op_type in _GATES]
        averaged = [n for n in self._behind(first.input[0], _MOVES) if n.op_type in _AVERAGES]
        linears = self._is_linear(first) and self._is_linear(second)
        if gates and (linears or averaged):
            self._give(first, "squeeze excite")
            self._give(second, "squeeze excite")
        elif linears:
            self._give(first, "fc1")
            self._give(second, "fc2")

    def _find_rest(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Add" and not self._constants(node):
            self._give(node, "residual add")
        elif node.op_type == "Add" and max(self._ranks[n] for n in self._constants(node)) > 1:
            self._give(node, "position bias")
        elif node.op_type == "Conv" and not self._is_grouped(node):
            images = {value.name for value in self._graph.input}
            through = _MOVES | _SCALES | {"Add"}  # a file's own preprocessing
            before = self._behind(node.input[0], through)
            behind = [node.input[0], *(n.input[0] for n in before if n.op_type in through)]
            if images.intersection(behind):
                self._give(node, "stem")
            elif any(a.name == "strides" and max(a.ints) > 1 for a in node.attribute):
                self._give(node, "downsample")
        elif self._is_linear(node):
            merged = self._behind(node.input[0], _MOVES | _NORMS | _SCALES)
            if any(n.op_type == "Concat" for n in merged):
                self._give(node, "downsample")

    def _extend_to_biases(self) -> None:
        """The Add of a Linear's bias has the role of its product."""
        for node in self._graph.node:
            role = self._roles.get(node.output[0])
            if role is None or not self._is_weighted(node):
                continue
            for reader in self._readers.get(node.output[0], []):
                if reader.op_type == "Add" and self._constants(reader):
                    self._roles[reader.output[0]] = role

    def _behind(
        self, tensor: str, through: Collection[str], *, adds: bool = False
    ) -> Iterator[onnx.NodeProto]:
        """The nodes that a tensor comes from, nearest first, seen through operators, the Add of a
        constant, and with `adds` any other; the nodes that stop the look are the last.
        """
        waiting, seen = [tensor], set[str]()
        while waiting:
            node = self._producers.get(waiting.pop(0))
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            yield node
            passed = node.op_type in through and node.op_type != "Add"
            if passed or (node.op_type == "Add" and (adds or self._constants(node))):
                waiting += node.input

    def _after(self, tensor: str, through: Collection[str]) -> Iterator[onnx.NodeProto]:
        """The nodes that read a tensor, nearest first, seen through operators and the Add of a
        constant.
        """
        waiting, seen = [tensor], set[str]()
        while waiting:
            for node in self._readers.get(waiting.pop(0), []):
                if node.output[0] in seen:
                    continue
                seen.add(node.output[0])
                yield node
                bias = node.op_type == "Add" and self._constants(node)
                if (node.op_type in through and node.op_type != "Add") or bias:
                    waiting += node.output

    def _constants(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name in self._ranks]

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        return node.op_type in ("MatMul", "Gemm") and bool(self._constants(node))

    def _is_weighted(self, node: onnx.NodeProto) -> bool:
        return self._is_linear(node) or (node.op_type == "Conv" and not self._is_grouped(node))

    def _is_attention(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMul" and not self._constants(node)

    @staticmethod
    def _is_grouped(node: onnx.NodeProto) -> bool:
        return any(a.name == "group" and a.i > 1 for a in node.attribute)
