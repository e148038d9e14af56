"""Work in a process of its own: its memory is given back when it ends, and a crash takes nothing with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hvt_deploy.errors import BadInput, HvtDeployError, MissingEnvironment, ToolFailure
from hvt_deploy.records import from_plain, to_plain

T = TypeVar("T")

_ERRORS: dict[str, type[HvtDeployError]] = {
    error.__name__: error for error in (BadInput, MissingEnvironment, ToolFailure)
}
_REFUSED = 3


@dataclass(frozen=True)
class Refusal:
    """A HvtDeployError on its way from the child."""

    error: str
    message: str
    hint: str


def run_in_child(module: str, job: object) -> None:
    """Run `python -m module` with `job`, a dataclass, as JSON. The module ends with `answer`.

    Raises the HvtDeployError that was raised there, ToolFailure with the last lines if the process crashed.
    """
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as folder:
        job_file, refusal_file = Path(folder) / "job.json", Path(folder) / "refusal.json"
        job_file.write_text(json.dumps(to_plain(job)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", module, str(job_file), str(refusal_file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        if done.returncode == _REFUSED and refusal_file.is_file():
            refusal = from_plain(Refusal, json.loads(refusal_file.read_text(encoding="utf-8")))
            raise _ERRORS.get(refusal.error, ToolFailure)(refusal.message, refusal.hint)
    if done.returncode != 0:
        killed = done.returncode == -signal.SIGKILL
        said = "".join(f"\n  {line}" for line in done.stdout.strip().splitlines()[-5:])
        raise ToolFailure(
            f"The process `{module}` {'was killed' if killed else f'ended with {done.returncode}'}.{said}",
            "Memory ran out, or someone ended it." if killed else "Run again with --debug and report it.",
        )


def answer(kind: type[T], work: Callable[[T], None]) -> int:
    """The child's side: read the job of this process, do `work` on it; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    job_file, refusal_file = map(Path, sys.argv[1:])
    try:
        work(from_plain(kind, json.loads(job_file.read_text(encoding="utf-8"))))
    except HvtDeployError as error:
        refusal = Refusal(type(error).__name__, error.message, error.hint)
        refusal_file.write_text(json.dumps(to_plain(refusal)), encoding="utf-8")
        return _REFUSED
    return 0
