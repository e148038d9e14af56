"""Work in a process of its own: its memory is given back, a crash takes nothing with it."""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hvt_deploy.core.errors import (
    BadInput,
    HvtDeployError,
    MissingEnvironment,
    ToolFailure,
    as_failure,
)
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.verbosity import is_verbose

T = TypeVar("T")

_ERRORS: dict[str, type[HvtDeployError]] = {
    error.__name__: error for error in (BadInput, MissingEnvironment, ToolFailure)
}
# The mark of a line that is of use only where the child crashes.
DETAIL = "@detail "
# The mark of the line with the child's refusal: for a file of its own the disk may be full.
_REFUSAL = "@refusal "
_REFUSED = 3
_LOG_LINES = 5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Refusal:
    """A HvtDeployError on its way from the child."""

    error: str
    """Name of its class."""
    message: str
    """Description of the failure."""
    hint: str
    """Suggested action; empty if none."""


class TimeUp(ToolFailure):
    """A child that was ended because it took too long; `log` has its last lines."""

    def __init__(self, module: str, limit_s: float, log: str) -> None:
        self.log = log
        super().__init__(f"The process `{module}` took more than {limit_s:.0f} seconds.{log}")


class Crash(ToolFailure):
    """A child that ended without an answer; `by_signal` is "" where it ended itself."""

    def __init__(self, module: str, exit_code: int, log: str) -> None:
        self.by_signal = _signal_name(-exit_code) if exit_code < 0 else ""
        how = f"crashed ({self.by_signal})" if self.by_signal else f"ended with {exit_code}"
        hint = "Run again with --debug and report it."
        if self.by_signal == "SIGKILL":
            how = "was killed, most likely out of memory"
            hint = "Free some memory and run again."
        super().__init__(f"The process `{module}` {how}.{log}", hint)


def run_in_child(
    module: str,
    job: object,
    takes: Callable[[str], bool] = lambda line: False,
    limit_s: float | None = None,
) -> None:
    """Run `python -m module` with `job`, a dataclass, as JSON. The module ends with `answer`.

    `takes` is given each line that the child prints, and returns whether it consumed it; the other
    lines are the log. With --verbose it is shown, but for lines that begin with `DETAIL`. The child
    is killed if this process is interrupted, and with its own children after `limit_s` seconds.
    Raises the HvtDeployError that was raised there, TimeUp, and Crash with the last lines of the
    log if the process died.
    """
    refusals: list[str] = []

    def take(line: str) -> bool:
        if not line.startswith(_REFUSAL):
            return takes(line)
        refusals.append(line.removeprefix(_REFUSAL))
        return True

    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as folder:
        job_file = Path(folder) / "job.json"
        job_file.write_text(json.dumps(to_plain(job)), encoding="utf-8")
        limit = _Limit(limit_s)
        exit_code, log = _run(child_command(module, job_file), folder, take, limit)
    if limit.is_up:
        raise TimeUp(module, limit_s or 0, log)
    if exit_code == _REFUSED and refusals:
        refusal = from_plain(Refusal, json.loads(refusals[-1]))
        raise _ERRORS.get(refusal.error, ToolFailure)(refusal.message, refusal.hint)
    if exit_code != 0:
        raise Crash(module, exit_code, log)


def child_command(module: str, *arguments: Path | str) -> list[str]:
    """The command `python -m module arguments` as a child that ends with this process, and that
    Ctrl-C does not reach: this process ends it.
    """
    parent = str(os.getpid())
    return [sys.executable, "-m", __name__, parent, module, *map(str, arguments)]


def answer(kind: type[T], work: Callable[[T], None]) -> int:
    """The child's side: read the job of this process, do `work` on it; returns the exit code."""
    try:
        work(from_plain(kind, json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except (HvtDeployError, OSError, MemoryError) as error:
        failure = as_failure(error)
        refusal = Refusal(type(failure).__name__, failure.message, failure.hint)
        sys.stdout.write(f"\n{_REFUSAL}{json.dumps(to_plain(refusal))}\n")
        sys.stdout.flush()
        return _REFUSED
    return 0


class _Limit:
    """Ends a process and its children when its time is up; `limit_s` None: never."""

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s, self.is_up = limit_s, False

    @contextmanager
    def watch(self, process: subprocess.Popen[str]) -> Generator[None]:
        """End `process`, which leads a session of its own, if the block takes longer."""
        if self.limit_s is None:
            yield
            return
        timer = threading.Timer(self.limit_s, self._end, [process.pid])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self, session: int) -> None:
        self.is_up = True
        with suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)


def _run(
    command: list[str], folder: str, takes: Callable[[str], bool], limit: _Limit
) -> tuple[int, str]:
    """The exit code of a command, and its last lines as they are shown.

    What it leaves behind when it is killed is in `folder`.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": folder},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=limit.limit_s is not None,
    )
    log, shown = deque[str](maxlen=_LOG_LINES), is_verbose()
    try:
        with limit.watch(process):
            for line in process.stdout or ():
                if not takes(line) and line.strip():
                    log.append(line.removeprefix(DETAIL).strip()[:300])
                    if shown and not line.startswith(DETAIL):
                        sys.stderr.write(line)
            return process.wait(), "".join(f"\n  {line}" for line in log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _begin_child() -> None:
    """The child's side of `child_command`, before it imports anything that takes long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent, module = int(sys.argv[1]), sys.argv[2]
    if os.getppid() != parent:  # which has ended already
        sys.exit(1)
    sys.argv[:3] = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _begin_child()
