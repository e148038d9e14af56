"""Build an engine in a child process, so that a library that crashes takes nothing with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.files import staging_folder, writing_to
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.worker import Crash, run_in_child
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer
from hvt_deploy.runtime.tensorrt.messages import CRASH_HINT, is_noise
from hvt_deploy.runtime.tensorrt.monitor import PROGRESS_MARK, PROGRESS_STEPS
from hvt_deploy.runtime.tensorrt.plan import BuildPlan


@dataclass(frozen=True)
class BuildOutcome:
    """A finished engine file.

    Attributes:
        engine: the file.
        flavour: the library that built it.
        layers: its layers; empty where they could not be read.
        seconds: duration of the build.
        notes: remarks of this package; those of the library are shown with --verbose.
    """

    engine: Path
    flavour: FlavourInfo
    layers: tuple[EngineLayer, ...]
    seconds: float
    notes: tuple[str, ...] = ()


def build_engine(
    plan: BuildPlan, progress: Callable[[int, int], None] = lambda done, total: None
) -> BuildOutcome:
    """Carry out a plan: afterwards `plan.engine` exists, or it is as it was before.

    Raises BadInput for an ONNX file or profiles that do not fit, MissingEnvironment for a missing
    library, GPU or disk space, ToolFailure (with ONNX node, reason and hint) where parser or
    builder refuse or crash.
    """
    if not plan.onnx.is_file():
        raise BadInput(f"There is no ONNX file {plan.onnx}.", "Run `hvt-deploy export` again.")

    def take(line: str) -> bool:
        mark, *steps = line.split()[:3] or [""]
        if mark == PROGRESS_MARK:
            progress(int(steps[0]), int(steps[1]))
        return mark == PROGRESS_MARK or is_noise(line)

    try:
        with writing_to(plan.engine), staging_folder(plan.engine.parent) as folder:
            staged = folder / plan.engine.name
            run_in_child(
                "hvt_deploy.runtime.tensorrt.build_process", replace(plan, engine=staged), take
            )
            outcome = from_plain(
                BuildOutcome, json.loads(_outcome_file(staged).read_text(encoding="utf-8"))
            )
            staged.replace(plan.engine)
    except Crash as crash:
        if crash.by_signal in ("", "SIGKILL"):
            raise
        raise ToolFailure(crash.message, CRASH_HINT) from crash
    progress(PROGRESS_STEPS, PROGRESS_STEPS)
    return replace(outcome, engine=plan.engine)


def write_outcome(outcome: BuildOutcome) -> None:
    """Called by the child at its end: write the outcome to a file in the engine's folder."""
    _outcome_file(outcome.engine).write_text(json.dumps(to_plain(outcome)), encoding="utf-8")


def _outcome_file(engine: Path) -> Path:
    return engine.with_name("outcome.json")
