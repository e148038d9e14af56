"""Topological order, which ONNX requires and converters break by appending nodes at the end."""

from __future__ import annotations

import heapq

import onnx

from hvt_deploy.core.errors import ToolFailure


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes of `graph` in place, keeping the present order where possible.

    Raises ToolFailure for a cycle.
    """
    nodes = list(graph.node)
    producers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    sources = [{producers[name] for name in node.input if name in producers} for node in nodes]
    if all(source < i for i, needed in enumerate(sources) for source in needed):
        return
    consumers: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(sources):
        for source in needed:
            consumers[source].append(i)
    waiting_for = [len(needed) for needed in sources]
    ready = [i for i, count in enumerate(waiting_for) if not count]  # sorted, which is a heap
    ordered: list[onnx.NodeProto] = []
    while ready:
        first = heapq.heappop(ready)
        ordered.append(nodes[first])
        for i in consumers[first]:
            waiting_for[i] -= 1
            if not waiting_for[i]:
                heapq.heappush(ready, i)
    if len(ordered) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waiting_for, strict=True) if count)
        raise ToolFailure(f"The graph has a cycle at node {stuck.name}.")
    del graph.node[:]
    graph.node.extend(ordered)
