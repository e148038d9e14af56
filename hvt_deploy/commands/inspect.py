"""`inspect`: an ONNX file by stage and role; an engine by its recorded audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Precision
from hvt_deploy.core.workspace import ModelFolder, find_model
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.graph.analysis.summary import GraphSummary, summarize_graph
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt.passport import check_engine_file, read_passport

_ENGINE = ".engine"
COLUMNS = ("stage", "role", "nodes", "parameters", "MACs", "of all", "int8", "fp16", "fp32")
_MAC_PRECISIONS = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class EngineSummary:
    """The content of an engine's passport."""

    flavour: str
    """The library it runs in."""
    version: str
    """Version of that library."""
    device: str
    """GPU it was built on, or compute capabilities it was built for."""
    precision: Precision
    """Precision of its graph."""
    audit: EngineAudit
    """The precisions that its layers run in."""
    costs: tuple[ProfileCost, ...]
    """Its cost at the batch of each profile, next to that of FP16."""


def inspect_target(root: Path, target: str) -> Mapping[str, GraphSummary | EngineSummary]:
    """The summary of a file, or of every graph and engine of an exported model, by file name.

    Raises BadInput for what is neither, for a file that is not what its name says, and for one that
    is not the file that was recorded in its manifest or passport.
    """
    path = Path(target)
    if path.suffix in (".onnx", _ENGINE):
        if not path.is_file():
            raise BadInput(
                f"There is no file {path}.",
                "Give an ONNX file, an engine or the name of an exported model.",
            )
        return {path.name: _inspect_file(_check_recorded(path))}
    folder = find_model(root, target)
    with folder.reading() as manifest:
        files = [
            folder.check_files(artifact)
            for artifact in manifest.artifacts.values()
            if Path(artifact.main).suffix in (".onnx", _ENGINE)
        ]
        return {file.name: _inspect_file(file) for file in files}


def _check_recorded(path: Path) -> Path:
    """`path`; a file of a workspace is checked against its manifest."""
    folder = ModelFolder(path.absolute().parent.parent)
    if folder.exists():
        for artifact in folder.read().artifacts.values():
            if (artifact.folder, artifact.main) == (path.absolute().parent.name, path.name):
                folder.check_files(artifact)
    return path


def _inspect_file(path: Path) -> GraphSummary | EngineSummary:
    if path.suffix != _ENGINE:
        return inspect_onnx(path)
    passport = read_passport(path)
    check_engine_file(path, passport)
    device = (
        passport.gpu
        or f"built ahead of time for compute capability {', '.join(passport.compute_capabilities)}"
    )
    return EngineSummary(
        flavour=passport.flavour,
        version=passport.version,
        device=device,
        precision=passport.precision,
        audit=passport.audit,
        costs=passport.costs,
    )


def inspect_onnx(path: Path) -> GraphSummary:
    """The facts of an ONNX file. Raises BadInput for one that is missing, cut off or not ONNX."""
    model = load_onnx(path, weights=False)
    if not model.graph.node:
        raise BadInput(
            f"{path} holds no graph.", "Give an ONNX file that `hvt-deploy export` wrote."
        )
    return summarize_graph(model)


def graph_rows(facts: GraphSummary) -> Sequence[Sequence[str]]:
    """The table of `COLUMNS`, with a line for everything as the last."""
    total = sum(facts.macs.values()) or 1

    def row(
        stage: str, role: str, nodes: int, parameters: int, macs: dict[str, int]
    ) -> tuple[str, ...]:
        own = sum(macs.values())
        shares = [
            f"{100 * macs.get(p, 0) / own:.0f} %" if own and macs.get(p) else ""
            for p in _MAC_PRECISIONS
        ]
        return (
            stage,
            role,
            str(nodes),
            f"{parameters:,}",
            f"{own / 1e6:,.1f} M" if own else "",
            f"{100 * own / total:.1f} %" if own else "",
            *shares,
        )

    rows = [row(g.stage, g.role, g.nodes, g.parameters, dict(g.macs)) for g in facts.groups]
    nodes, parameters = sum(g.nodes for g in facts.groups), sum(g.parameters for g in facts.groups)
    return [*rows, row("all", "", nodes, parameters, dict(facts.macs))]
