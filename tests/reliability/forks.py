"""A command in a fork of this process, which must have no other threads: bounded, measured, and
stopped at each step that changes the disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from command_line import run

_STEPS = {
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.utime"),
}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# What a run may allocate more than this process has: a fault shall not take the machine with it.
_MOST_BYTES = 2 << 30


@dataclass(frozen=True)
class Step:
    """A change of the disk that a run is about to make."""

    event: str
    """Its audit event."""
    path: str
    """Of the file or folder, in the place of the run."""
    flags: int | None
    """With which a file is opened for writing; None for another event."""


@dataclass(frozen=True)
class Ran:
    """A run that ended."""

    code: int
    """Its exit code, negative for a signal."""
    said: str
    """The end of its output, messages last."""
    cpu_s: float = 0.0
    """Processor time."""
    peak_mib: float = 0.0
    """The most memory that it held at once, more than this process had."""


def run_in_fork(
    arguments: Sequence[object],
    place: Path,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] = lambda: None,
    *,
    pause: Callable[[Step], object] | None = None,
    limit_s: int = 300,
) -> Ran:
    """Run `hvt-deploy ARGUMENTS` in the folder `place`, after `before`.

    It waits before each step while `pause` looks at the disk, as the run would leave it if it were
    killed there: what it has not written yet is lost. One that takes longer than `limit_s` besides
    that is killed.
    """
    reading, writing = os.pipe()
    waiting, going = os.pipe()

    def stop(step: Step) -> None:
        os.write(writing, (json.dumps(asdict(step)) + "\n").encode())
        os.read(waiting, 1)

    process = os.fork()
    if process == 0:
        os.close(reading)
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            at_first_mib = _reset_peak()
            if pause:
                _hear_steps(place, stop)
            answer = _run(arguments, place, environment or {}, before)
        except BaseException:
            answer = 99, traceback.format_exc()
        children_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        peak_mib = max(_read_memory("VmHWM") - at_first_mib, children_mib)
        os.write(writing, json.dumps([*answer, peak_mib]).encode())
        os._exit(0)
    os.close(writing)
    os.close(waiting)
    content = ""
    with os.fdopen(reading, encoding="utf-8") as stream, os.fdopen(going, "wb", 0) as go:
        for line in stream if pause else ():
            if not line.endswith("\n"):
                content = line
                break
            pause(Step(**json.loads(line)))
            go.write(b".")
        usage = _wait(process, limit_s)
        content = content or stream.read()
    spent = usage[1]
    cpu_s = spent.ru_utime + spent.ru_stime
    if not content:
        return Ran(os.waitstatus_to_exitcode(usage[0]), "", cpu_s)
    code, said, peak_mib = json.loads(content)
    return Ran(code, said, cpu_s, peak_mib)


def _reset_peak() -> float:
    """Memory of this process, MiB, whose peak counts from now on; much more it cannot get."""
    Path("/proc/self/clear_refs").write_text("5")
    resource.setrlimit(
        resource.RLIMIT_DATA, (int(_read_memory("VmData") * 2**20) + _MOST_BYTES,) * 2
    )
    return _read_memory("VmRSS")


def _read_memory(name: str) -> float:
    """A line of /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


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
) -> tuple[int, str]:
    usual = {
        "TMPDIR": str(place / "tmp"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "COLUMNS": "4000",
    }
    tempfile.tempdir = None
    os.chdir(place)
    before()
    done = run(*arguments, cwd=place, **{**usual, **environment})
    return done.returncode, (done.stdout[-8000:] + done.stderr)[-16000:]


def _hear_steps(place: Path, stop: Callable[[Step], object]) -> None:
    """Call `stop` before each step of this process that changes the disk below `place`."""

    def hear(event: str, values: tuple[object, ...]) -> None:
        flags = values[2] if event == "open" else None
        if event not in _STEPS and not (isinstance(flags, int) and flags & _WRITES):
            return
        path = values[0]
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        path = place / os.fsdecode(path)
        if path.is_relative_to(place):
            stop(Step(event, str(path.relative_to(place)), flags))

    sys.addaudithook(hear)
