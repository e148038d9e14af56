"""Node names `<module path>/<op>`: written after export, kept through simplification."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx

from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.module_graph import ROOT_PATH, read_module_path
from hvt_deploy.graph.queries import PRODUCT_OPS, map_producers

# Torch's exporter writes the module paths that a node came from here, as a Python list; the last
# entry is the call.
SCOPES = "pkg.torch.onnx.name_scopes"


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node `<module path>/<op>` from the exporter's metadata; repeats get `_1`, `_2`."""
    named = copy_model(model)
    write_names(named, [_module_path(node) for node in named.graph.node])
    return named


def restore_names(simplified: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Name the nodes of a simplified graph by the modules of the graph it came from.

    A product that a following scale or normalization was folded into keeps its own path. Other
    nodes keep theirs if their name or output was kept; a fused node gets the path of its weight,
    else that of the node before it.
    """
    producers = map_producers(original.graph)
    by_name = {node.name: read_module_path(node.name) for node in original.graph.node}
    by_output = {out: read_module_path(node.name) for out, node in producers.items()}
    weights = {tensor.name for tensor in original.graph.initializer}
    by_weight = {
        i: read_module_path(node.name)
        for node in original.graph.node
        for i in node.input
        if i in weights
    }
    restored = copy_model(simplified)
    paths: list[str] = []
    by_new_output: dict[str, str] = {}
    for node in restored.graph.node:
        found = (
            _path_of_product(node, producers)
            or by_name.get(node.name)
            or next((by_output[o] for o in node.output if o in by_output), None)
            or next((by_weight[i] for i in node.input if i in by_weight), None)
            or next((by_new_output[i] for i in node.input if i in by_new_output), None)
            or ROOT_PATH
        )
        paths.append(found)
        by_new_output.update(dict.fromkeys(node.output, found))
    write_names(restored, paths)
    return restored


def _path_of_product(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str | None:
    """The path of the last product before this product's output in the original graph."""
    found = producers.get(node.output[0]) if node.op_type in PRODUCT_OPS else None
    while found is not None and found.op_type not in PRODUCT_OPS:
        found = next((producers[name] for name in found.input if name in producers), None)
    return read_module_path(found.name) if found is not None else None


def _module_path(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = [str(scope) for scope in ast.literal_eval(entry.value)]
            return next((scope for scope in reversed(scopes[:-1]) if scope), ROOT_PATH)
    return ROOT_PATH


def write_names(model: onnx.ModelProto, paths: Sequence[str]) -> None:
    """Name the nodes, in place, by their module paths; repeats get `_1`, `_2`."""
    seen: Counter[str] = Counter()
    for node, path in zip(model.graph.node, paths, strict=True):
        name = f"{path}/{node.op_type}"
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
