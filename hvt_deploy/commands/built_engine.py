"""An engine that was built, now or before: asked for again with the same inputs, it is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.commands.build_target import Target
from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import Manifest, engine_key
from hvt_deploy.core.types import Precision
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.report.engine_costs import describe_costs
from hvt_deploy.evaluation.report.engine_layers import audit_facts
from hvt_deploy.evaluation.report.notebook import render_cell
from hvt_deploy.evaluation.report.tables import Grid
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.runtime.tensorrt.passport import read_passport


@dataclass(frozen=True)
class Built:
    """An engine that is there."""

    path: Path
    """The engine file."""
    precision: Precision
    """Precision of the graph it was built from."""
    flavour: str
    """The library, with its version."""
    compute_capabilities: tuple[str, ...]
    """GPUs it runs on ("8.6")."""
    seconds: float
    """How long the build took."""
    audit: EngineAudit
    """The precisions that its layers run in."""
    costs: tuple[ProfileCost, ...]
    """Its cost at the batch of each profile, next to that of FP16."""
    ahead_of_time: bool
    """Whether it was built without the GPU it is for."""
    before: bool = False
    """Whether it was there already, built from the same inputs."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Where it runs, if not everywhere, and what it costs."""
        only = (
            f"This engine runs only in {self.flavour} on RTX cards of compute capability "
            f"{', '.join(self.compute_capabilities)}. "
            "For a Jetson or for TensorRT, run build-trt on that machine."
        )
        costs = describe_costs(self.precision, self.costs)
        return (only, *costs) if self.ahead_of_time else tuple(costs)

    def _repr_html_(self) -> str:
        rows = tuple((fact.label, fact.value) for fact in audit_facts(self.audit))
        return render_cell([Grid(str(self.path), ("property", "value"), rows)], self.sentences)


def find_built(
    folder: ModelFolder, manifest: Manifest, precision: Precision, target: Target, mib: int
) -> Built | None:
    """The engine that a build of `precision` for `target` with `mib` of workspace would make.

    None where there is none, it was built from another graph, by another version or with other
    settings, or its files are damaged.
    """
    key = engine_key(precision, target.tag)
    facts = manifest.facts(key, EngineFacts)
    if facts is None or not is_fresh(manifest, key) or not _is_same(facts, target, mib):
        return None
    try:
        path = folder.check_files(manifest.artifacts[key])
        passport = read_passport(path)
    except BadInput:  # building it again repairs it
        return None
    return Built(
        path,
        precision,
        target.flavour.title,
        facts.compute_capabilities,
        facts.build_s,
        passport.audit,
        passport.costs,
        ahead_of_time=not facts.gpu,
        before=True,
    )


def _is_same(facts: EngineFacts, target: Target, mib: int) -> bool:
    library = target.flavour.name, target.flavour.version
    profiles = tuple(profile.batches for profile in target.profiles)
    gpu = target.gpus[0].name if target.gpus else ""
    return (
        (facts.flavour, facts.version) == library
        and facts.compute_capabilities == target.capabilities
        and (facts.gpu == gpu or facts.flavour == "tensorrt_rtx")  # which compiles where it runs
        and (facts.profiles, facts.workspace_mib) == (profiles, mib)
    )
