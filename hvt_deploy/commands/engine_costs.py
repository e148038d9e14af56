"""What an engine that was just built costs, next to FP16; the gate `--max-traffic`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hvt_deploy.core.engine_facts import CostFacts, CostTotals
from hvt_deploy.core.errors import CheckFailed, HvtDeployError
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import Manifest
from hvt_deploy.core.types import Precision, Skipped
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.graph.analysis.engine_cost import EngineCost, ProfileCost
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.cost import WHAT, count_profile_cost, find_cost
from hvt_deploy.runtime.tensorrt.passport import read_passport
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile


@dataclass(frozen=True)
class BuiltPlan:
    """A build that was carried out."""

    plan: BuildPlan
    """What was to be built."""
    outcome: BuildOutcome
    """What came of it."""
    nodes: tuple[NodeFacts, ...]
    """Of the graph; empty where its shapes cannot be inferred."""


def count_costs(
    folder: ModelFolder, manifest: Manifest, precision: Precision, built: BuiltPlan, ui: Ui
) -> tuple[ProfileCost, ...]:
    """The cost at OPT of each profile, or at the batch of a graph whose batch is fixed.

    An INT8 engine is compared with the FP16 engine of the same profile and target where the
    manifest has it, else with a build of the FP16 graph for its cost only. Whatever fails is
    Skipped: it takes no engine away.
    """
    profiles = built.plan.profiles or _fixed_profile(manifest)
    plan, outcome = built.plan, built.outcome

    def build(plan: BuildPlan, batch: int) -> EngineCost | Skipped:
        return _build_for_cost(plan, batch, f"the {precision} engine", ui)

    costs = [
        count_profile_cost(plan, outcome, built.nodes, place, profile.opt, build)
        for place, profile in enumerate(profiles)
    ]
    if not precision.startswith("int8"):
        return tuple(costs)
    recorded = _read_fp16_costs(folder, manifest, built)
    return tuple(
        replace(
            cost,
            fp16=recorded.get(profile) or _count_fp16(folder, manifest, plan, cost.batch, ui),
        )
        for profile, cost in zip(profiles, costs, strict=True)
    )


def sum_up(cost: ProfileCost) -> CostFacts:
    """The totals of a cost, for the manifest."""
    return CostFacts(cost.batch, _totals(cost.own), _totals(cost.fp16))


def check_traffic(engine: str, costs: Sequence[ProfileCost], max_traffic: float) -> None:
    """Raise CheckFailed unless in every profile the engine moves at most `max_traffic` times as
    many bytes as FP16. An unknown cost passes no gate.
    """
    for cost in costs:
        ratio = cost.traffic_ratio
        if ratio is None:
            unknown = cost.own if isinstance(cost.own, Skipped) else cost.fp16
            why = unknown.why if isinstance(unknown, Skipped) else "it was not compared with FP16"
            raise CheckFailed(
                f"The traffic of {engine} at batch {cost.batch} against FP16 is unknown: {why}. "
                "The engine was kept.",
                "Build it without --max-traffic.",
            )
        if ratio > max_traffic:
            raise CheckFailed(
                f"{engine} moves {ratio:.3f} times the bytes of FP16 at batch {cost.batch}; "
                f"expected at most {max_traffic:g}. The engine was kept.",
                "Build --fp16 instead, quantize other roles (quantization.int8_roles in the "
                "configuration), or raise --max-traffic.",
            )


def _count_fp16(
    folder: ModelFolder, manifest: Manifest, plan: BuildPlan, batch: int, ui: Ui
) -> EngineCost | Skipped:
    if not is_fresh(manifest, "fp16"):
        why = f"there is no FP16 graph: hvt-deploy quantize {manifest.slug} --fp16 makes it"
        return Skipped(WHAT, why)
    try:
        plan = replace(plan, onnx=folder.open_artifact(manifest, "fp16"))
        return _build_for_cost(plan, batch, "FP16, to compare with", ui)
    except HvtDeployError as error:
        return Skipped(WHAT, error.message)


def _build_for_cost(plan: BuildPlan, batch: int, of: str, ui: Ui) -> EngineCost | Skipped:
    with ui.progress(f"Counting the cost of {of}, in a build for batch {batch}") as progress:
        return find_cost(plan, batch, progress)


def _read_fp16_costs(
    folder: ModelFolder, manifest: Manifest, built: BuiltPlan
) -> dict[Profile, EngineCost | Skipped]:
    """By profile: the recorded costs of the FP16 engines of the same library and target."""
    flavour, found = built.outcome.flavour, dict[Profile, EngineCost | Skipped]()
    wanted = ("fp16", flavour.name, flavour.version, built.plan.compute_capabilities)
    for key, one in manifest.engines.items():
        if (one.precision, one.flavour, one.version, one.compute_capabilities) != wanted:
            continue
        try:
            passport = read_passport(folder.open_artifact(manifest, key))
        except HvtDeployError:  # stale or damaged, which is no fault of the engine that was built
            continue
        costs = zip(passport.profiles or _fixed_profile(manifest), passport.costs, strict=False)
        found |= {profile: cost.own for profile, cost in costs if isinstance(cost.own, EngineCost)}
    return found


def _fixed_profile(manifest: Manifest) -> tuple[Profile, ...]:
    """The only batch size of a graph that has one."""
    batch = manifest.signature.batch or 1
    return (Profile(batch, batch, batch),)


def _totals(cost: EngineCost | Skipped | None) -> CostTotals | None:
    if not isinstance(cost, EngineCost):
        return None
    return CostTotals(cost.whole.kernels, cost.whole.activation_bytes, cost.whole.weight_bytes)
