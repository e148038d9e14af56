"""Topological order, which ONNX requires and converters break by appending nodes at the end."""

from __future__ import annotations

import onnx

from hvt_deploy.core.errors import ToolFailure


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes of `graph` in place, keeping the present order where possible.

    Raises ToolFailure for a cycle.
    """
    waiting = list(graph.node)
    made = {name for node in waiting for name in node.output}
    ready = (
        {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    )
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            if all(name in ready or name not in made for name in node.input):
                ready.update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ToolFailure(f"The graph has a cycle at node {later[0].name}.")
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)
