"""`build-trt`: an ONNX artifact -> a strongly typed engine with its passport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.config import Precision, RunConfig
from hvt_deploy.engine.audit import EngineAudit, audit_layers
from hvt_deploy.engine.build import BuildOutcome, build_engine
from hvt_deploy.engine.flavour import engine_tag
from hvt_deploy.engine.passport import make_passport
from hvt_deploy.engine.plan import BuildPlan, Profile, choose_capabilities, choose_flavour, engine_file_name
from hvt_deploy.environment import Gpu, find_gpus, tool_versions
from hvt_deploy.errors import BadInput
from hvt_deploy.records import to_plain
from hvt_deploy.ui import Ui
from hvt_deploy.workspace import Artifact, Manifest, ModelFolder

ENGINE = "engine"


@dataclass(frozen=True)
class Built:
    """The engine file, how it was built and what its layers say."""

    path: Path
    precision: str
    flavour: str
    compute_capabilities: tuple[str, ...]
    seconds: float
    audit: EngineAudit
    ahead_of_time: bool


def build_trt(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> Built:
    """Build the engine of `precision`, whose ONNX artifact must be there (see `flows.build_trt`).

    Raises MissingEnvironment where no library can build here, ToolFailure naming the node that was refused.
    """
    gpus = find_gpus()
    flavour = choose_flavour(config.engine.flavour, bool(gpus))
    capabilities = choose_capabilities(flavour.name, gpus, config.engine.compute_capabilities)
    with folder.lock():
        manifest = folder.read()
        onnx_path = folder.open_artifact(manifest, precision)
        tag = engine_tag(flavour, capabilities)
        with folder.staging() as staged:
            plan = BuildPlan(
                onnx=onnx_path, engine=staged / engine_file_name(folder.slug, precision, flavour, capabilities),
                flavour=flavour.name, compute_capabilities=capabilities, profiles=_profiles(config, manifest),
                workspace_mib=config.engine.workspace_mib, timing_cache=folder.path / f"timing-{tag}.cache",
            )  # fmt: skip
            with ui.progress(f"Building the {precision} engine with {flavour.title}") as progress:
                outcome = build_engine(plan, progress)
            for note in outcome.notes:
                ui.say(note)
            artifact = _artifact(plan, outcome, gpus, precision, manifest)
            make_passport(plan, outcome, gpus, precision).write(plan.engine)
            manifest = folder.add(manifest, f"{ENGINE}-{precision}-{tag}", staged, artifact)
    stored = manifest.artifacts[f"{ENGINE}-{precision}-{tag}"]
    audit = audit_layers(outcome.layers)
    return Built(
        folder.file(stored), precision, flavour.title, capabilities, outcome.seconds, audit, ahead_of_time=not gpus
    )


def _profiles(config: RunConfig, manifest: Manifest) -> tuple[Profile, ...]:
    if manifest.signature.batch is not None:
        return ()
    if not config.engine.profiles:
        raise BadInput("An ONNX file with any batch size needs a profile.", "Example: --profile 1,8,32")
    return tuple(Profile(*profile) for profile in config.engine.profiles)


def _artifact(
    plan: BuildPlan, outcome: BuildOutcome, gpus: Sequence[Gpu], precision: str, manifest: Manifest
) -> Artifact:
    return Artifact(
        folder=f"{ENGINE}-{precision}", main=plan.engine.name, files={}, precision=precision,
        remake=f"hvt-deploy build-trt {manifest.slug} --precision {precision}",
        parents={precision: manifest.artifacts[precision].sha256},
        facts={
            "flavour": outcome.flavour.name, "version": outcome.flavour.version,
            "compute_capabilities": list(plan.compute_capabilities), "gpu": gpus[0].name if gpus else "",
            "profiles": [str(profile) for profile in plan.profiles], "seconds": outcome.seconds,
            "audit": to_plain(audit_layers(outcome.layers)),
        },
        tool_versions=tool_versions(),
    )  # fmt: skip
