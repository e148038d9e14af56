"""Node names `<module path>/<op>`: written after export, kept through simplification."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx

from hvt_deploy.graph.modules import ROOT, path_of

# Where torch's exporter writes the path of modules a node came from, as a Python list; the last
# entry is the call.
_SCOPES = "pkg.torch.onnx.name_scopes"
_PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node `<module path>/<op>` from the exporter's metadata; repeats get `_1`, `_2`."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    _write(named, [_module_path(node) for node in named.graph.node])
    return named


def restore_names(simplified: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Name the nodes of a simplified graph by the modules of the graph it came from.

    A product that swallowed a scale or a normalization behind it keeps its own path. Other nodes
    keep theirs if their name or output was kept; a fused node gets that of its weight, else that of
    the node before it.
    """
    makers = {out: node for node in original.graph.node for out in node.output if out}
    by_name = {node.name: path_of(node.name) for node in original.graph.node}
    by_output = {out: path_of(node.name) for out, node in makers.items()}
    weights = {tensor.name for tensor in original.graph.initializer}
    by_weight = {
        i: path_of(node.name) for node in original.graph.node for i in node.input if i in weights
    }
    restored = onnx.ModelProto()
    restored.CopyFrom(simplified)
    paths: list[str] = []
    by_new_output: dict[str, str] = {}
    for node in restored.graph.node:
        found = (
            _path_of_product(node, makers)
            or by_name.get(node.name)
            or next((by_output[o] for o in node.output if o in by_output), None)
            or next((by_weight[i] for i in node.input if i in by_weight), None)
            or next((by_new_output[i] for i in node.input if i in by_new_output), None)
            or ROOT
        )
        paths.append(found)
        by_new_output.update(dict.fromkeys(node.output, found))
    _write(restored, paths)
    return restored


def _path_of_product(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> str | None:
    """The path of the product in the original graph that ends in this product's output."""
    maker = makers.get(node.output[0]) if node.op_type in _PRODUCTS else None
    while maker is not None and maker.op_type not in _PRODUCTS:
        maker = next((makers[name] for name in maker.input if name in makers), None)
    return path_of(maker.name) if maker is not None else None


def _module_path(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = [str(scope) for scope in ast.literal_eval(entry.value)]
            return next((scope for scope in reversed(scopes[:-1]) if scope), ROOT)
    return ROOT


def _write(model: onnx.ModelProto, paths: Sequence[str]) -> None:
    seen: Counter[str] = Counter()
    for node, path in zip(model.graph.node, paths, strict=True):
        name = f"{path}/{node.op_type}"
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
