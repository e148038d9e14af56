"""A command in a fork of this process, which must have no other threads: bounded, measured, and
ended before any step that changes the disk.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from command_line import run

# The exit code of a run that was ended before a step.
ENDED = 77
_STEPS = {
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.utime"),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Ran:
    """A run that ended."""

    code: int
    """Its exit code, negative for a signal."""
    said: str
    """The end of its output, messages last."""
    steps: Sequence[str] = ()
    """What it changed on the disk, step by step."""
    cpu_s: float = 0.0
    """Processor time."""
    peak_mib: float = 0.0
    """Memory that it needed more than this process."""


def run_in_fork(
    arguments: Sequence[object],
    place: Path,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] = lambda: None,
    *,
    end_before: int = -1,
    limit_s: int = 60,
) -> Ran:
    """Run `hvt-deploy ARGUMENTS` in the folder `place`, after `before`.

    With `end_before` the process ends hard before that step, as by a power cut: what it has not
    written yet is lost. One that takes longer than `limit_s` is killed.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        os.setsid()
        try:
            answer = _run(arguments, place, environment or {}, before, end_before)
        except BaseException:
            answer = 99, traceback.format_exc(), ()
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    usage = _wait(process, limit_s)
    with os.fdopen(reading, "rb") as stream:
        content = stream.read()
    spent = usage[1]
    cpu_s = spent.ru_utime + spent.ru_stime
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_mib = max(0, spent.ru_maxrss - here) / 1024
    if not content:
        return Ran(os.waitstatus_to_exitcode(usage[0]), "", (), cpu_s, peak_mib)
    return Ran(*json.loads(content), cpu_s, peak_mib)


def _wait(process: int, limit_s: int) -> tuple[int, resource.struct_rusage]:
    deadline = time.monotonic() + limit_s
    while True:
        ended, status, spent = os.wait4(process, os.WNOHANG)
        if ended:
            return status, spent
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.005)


def _run(
    arguments: Sequence[object],
    place: Path,
    environment: Mapping[str, str],
    before: Callable[[], object],
    end_before: int,
) -> tuple[int, str, Sequence[str]]:
    usual = {
        "TMPDIR": str(place / "tmp"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "COLUMNS": "4000",
    }
    tempfile.tempdir = None
    os.chdir(place)
    before()
    steps: list[str] = []
    armed = True

    def hear(event: str, values: tuple[object, ...]) -> None:
        if not armed or not _changes_disk(event, values):
            return
        path = values[0]
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        path = place / os.fsdecode(path)
        if not path.is_relative_to(place):
            return
        if len(steps) == end_before:
            os._exit(ENDED)
        steps.append(f"{event} {path.relative_to(place)}")

    sys.addaudithook(hear)
    done = run(*arguments, cwd=place, **{**usual, **environment})
    armed = False
    return done.returncode, (done.stdout[-8000:] + done.stderr)[-16000:], steps


def _changes_disk(event: str, values: tuple[object, ...]) -> bool:
    if event == "open":
        return isinstance(values[2], int) and bool(values[2] & _WRITES)
    return event in _STEPS
