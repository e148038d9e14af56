"""`inspect`: what an ONNX file holds, by stage and role; what an engine does, by its recorded audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvt_deploy.errors import BadInput
from hvt_deploy.graph.inspect import GraphFacts, inspect_graph
from hvt_deploy.graph.storage import load_onnx

COLUMNS = ("stage", "role", "nodes", "parameters", "MACs", "of all", "int8", "fp16", "fp32")
PRECISIONS = ("int8", "fp16", "fp32")


def inspect_onnx(path: Path) -> GraphFacts:
    """The facts of an ONNX file. Raises BadInput for one that is missing, cut off or not ONNX."""
    model = load_onnx(path, weights=False)
    if not model.graph.node:
        raise BadInput(f"{path} holds no graph.", "Give an ONNX file that `hvt-deploy export` wrote.")
    return inspect_graph(model)


def graph_rows(facts: GraphFacts) -> Sequence[Sequence[str]]:
    """The table of `COLUMNS`, with a line for everything as the last."""
    total = sum(facts.macs.values()) or 1

    def row(stage: str, role: str, nodes: int, parameters: int, macs: dict[str, int]) -> tuple[str, ...]:
        own = sum(macs.values())
        shares = [f"{100 * macs.get(p, 0) / own:.0f} %" if own and macs.get(p) else "" for p in PRECISIONS]
        return (stage, role, str(nodes), f"{parameters:,}", f"{own / 1e6:,.1f} M" if own else "",
                f"{100 * own / total:.1f} %" if own else "", *shares)  # fmt: skip

    rows = [row(g.stage, g.role, g.nodes, g.parameters, dict(g.macs)) for g in facts.groups]
    nodes, parameters = sum(g.nodes for g in facts.groups), sum(g.parameters for g in facts.groups)
    return [*rows, row("all", "", nodes, parameters, dict(facts.macs))]
