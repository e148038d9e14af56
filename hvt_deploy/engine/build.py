"""Build an engine in a child process, so that a library that crashes takes nothing with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.engine.audit import EngineLayer
from hvt_deploy.engine.flavour import FlavourInfo, is_noise
from hvt_deploy.engine.monitor import PROGRESS_MARK, PROGRESS_STEPS
from hvt_deploy.engine.plan import BuildPlan
from hvt_deploy.errors import BadInput, HvtDeployError, MissingEnvironment, ToolFailure
from hvt_deploy.records import from_plain, to_plain

_LOG_LINES = 5
_ERRORS: dict[str, type[HvtDeployError]] = {
    error.__name__: error for error in (BadInput, MissingEnvironment, ToolFailure)
}


@dataclass(frozen=True)
class BuildOutcome:
    """A finished engine file: what built it, its layers, and what the builder remarked."""

    engine: Path
    flavour: FlavourInfo
    layers: tuple[EngineLayer, ...]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A HvtDeployError on its way from the child."""

    error: str
    message: str
    hint: str


@dataclass(frozen=True)
class ChildReport:
    """What the child leaves behind: one of the two."""

    outcome: BuildOutcome | None = None
    refusal: Refusal | None = None


def build_engine(plan: BuildPlan, progress: Callable[[int, int], None] | None = None) -> BuildOutcome:
    """Carry out a plan: afterwards `plan.engine` exists, or it is as it was before.

    Raises BadInput for an ONNX file or profiles that do not fit, MissingEnvironment for a missing library, GPU or
    disk space, ToolFailure (with ONNX node, reason and hint) where parser or builder refuse or crash.
    """
    if not plan.onnx.is_file():
        raise BadInput(f"There is no ONNX file {plan.onnx}.", "Run `hvt-deploy export` again.")
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=plan.engine.parent) as folder:
            staged = Path(folder) / plan.engine.name
            outcome = _build_in(Path(folder), replace(plan, engine=staged), progress)
            staged.replace(plan.engine)
    except OSError as error:
        raise MissingEnvironment(
            f"Could not write {plan.engine}: {error.strerror or error}.", "Free some space or choose another folder."
        ) from error
    if progress is not None:
        progress(PROGRESS_STEPS, PROGRESS_STEPS)
    return replace(outcome, engine=plan.engine)


def _build_in(folder: Path, plan: BuildPlan, progress: Callable[[int, int], None] | None) -> BuildOutcome:
    plan_file, report_file = folder / "plan.json", folder / "report.json"
    plan_file.write_text(json.dumps(to_plain(plan)), encoding="utf-8")
    exit_code, log = _run_child([str(plan_file), str(report_file)], progress)
    if exit_code != 0 or not report_file.is_file():
        raise _crashed(exit_code, log)
    report = from_plain(ChildReport, json.loads(report_file.read_text(encoding="utf-8")), "report of the build")
    if report.refusal is not None:
        raise _ERRORS[report.refusal.error](report.refusal.message, report.refusal.hint)
    if report.outcome is None or not plan.engine.is_file():
        raise _crashed(exit_code, log)
    return report.outcome


def _run_child(arguments: Sequence[str], progress: Callable[[int, int], None] | None) -> tuple[int, tuple[str, ...]]:
    """Run the child to its end; its exit code and last log lines. It is killed if this process is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hvt_deploy.engine.child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    log: deque[str] = deque(maxlen=_LOG_LINES)
    try:
        for line in process.stdout or ():
            mark, *steps = line.split()[:3] or [""]
            if mark != PROGRESS_MARK:
                if mark and not is_noise(line):
                    log.append(line.strip()[:300])
            elif progress is not None:
                progress(int(steps[0]), int(steps[1]))
        return process.wait(), tuple(log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _crashed(exit_code: int, log: Sequence[str]) -> ToolFailure:
    if exit_code >= 0:
        how, hint = f"ended with exit code {exit_code}", "This is a bug of this program or of the library."
    else:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        how = f"crashed ({name})"
        hint = (
            "Memory ran out, or someone ended it."
            if name == "SIGKILL"
            else "The library crashed on this graph. Opset 23 and later are known for it: export with --opset 17 to 22."
        )
    return ToolFailure(f"The engine build {how}. Its last lines:\n" + "\n".join(f"  {line}" for line in log), hint)
