"""Module paths for the nodes of other exporters, from what each exporter leaves of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import onnx

from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.module_graph import ROOT_PATH
from hvt_deploy.graph.node_names import SCOPES, write_names
from hvt_deploy.graph.queries import map_readers

_PARAMETER = re.compile(r"(.+)\.(weight|bias|in_proj_weight|in_proj_bias|weight_g|weight_v)")


def name_foreign_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node `<module path>/<op>`; one of unknown module has the path of the module that
    holds the one before.

    The path is from the dynamo exporter's metadata, else from the older exporter's node names
    (`/layers/layers.0/attn/MatMul`), else from the names of parameters (`layers.0.attn.weight`).
    """
    named = copy_model(model)
    graph = named.graph
    weights = {tensor.name for tensor in graph.initializer}
    readers = map_readers(graph)
    by_output: dict[str, str] = {}
    paths: list[str] = []
    for node in graph.node:
        own = (
            _path_of_scopes(node)
            or _path_of_name(node.name)
            or _path_of_parameters(node, weights, readers)
        )
        held_by = own.rpartition(".")[0] if own else None
        before = next((by_output[name] for name in node.input if name in by_output), ROOT_PATH)
        paths.append(own or before)
        by_output.update(dict.fromkeys(node.output, held_by or before))
    write_names(named, paths)
    return named


def _path_of_scopes(node: onnx.NodeProto) -> str | None:
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = [str(scope) for scope in ast.literal_eval(entry.value)]
            return next((scope for scope in reversed(scopes[:-1]) if scope), ROOT_PATH)
    return None


def _path_of_name(name: str) -> str | None:
    """`features.1.0.attn` of `/features/features.1/features.1.0/attn/MatMul`."""
    if not name.startswith("/"):
        return None
    path: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path) or ROOT_PATH


def _path_of_parameters(
    node: onnx.NodeProto, weights: set[str], readers: Mapping[str, list[onnx.NodeProto]]
) -> str | None:
    """The module of a weight that the node reads, or of the bias that is added to its result."""
    following = [r for name in node.output for r in readers.get(name, []) if r.op_type == "Add"]
    for reader in (node, *following):
        for name in reader.input:
            found = _PARAMETER.fullmatch(name) if name in weights else None
            if found:
                return found.group(1)
    return None
