"""Messages and progress of a running build, printed line by line for the parent to read."""

from __future__ import annotations

import sys

from hvt_deploy.core.worker import DETAIL
from hvt_deploy.runtime.tensorrt.api import Native, TensorRT
from hvt_deploy.runtime.tensorrt.messages import is_noise

# The mark of a progress line, `@progress 3 1000`; every other line is log.
PROGRESS_MARK = "@progress"
PROGRESS_STEPS = 1000


class BuildLog:
    """Keeps errors and the layer list; prints everything, so that the parent has it if the process
    dies, and can show warnings.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers = ""

    def add(self, is_error: bool, is_warning: bool, message: str) -> None:
        """Take one message of TensorRT."""
        if message.startswith("Layers:"):
            self.layers = message
            return
        if is_error and not is_noise(message):
            self.errors.append(message)
        mark = "" if is_error or is_warning else DETAIL
        print_line(mark + message[:300].replace("\n", " "))


class _Phases:
    """Turns TensorRT's nested phases into one number that only grows."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int, int]] = []  # name, steps, steps done; innermost last
        self._shown = 0

    def start(self, name: str, steps: int) -> None:
        self._open.append((name, max(steps, 1), 0))

    def step(self, name: str, step: int) -> bool:
        self._open = [(n, steps, step + 1 if n == name else done) for n, steps, done in self._open]
        fraction = 0.0
        for _, steps, done in reversed(self._open):
            fraction = min((done + fraction) / steps, 1.0)
        shown = int(PROGRESS_STEPS * fraction)
        if shown > self._shown:
            self._shown = shown
            return print_line(f"{PROGRESS_MARK} {shown} {PROGRESS_STEPS}")
        return True

    def finish(self, name: str) -> None:
        self._open = [phase for phase in self._open if phase[0] != name]


def make_monitor(trt: TensorRT) -> Native:
    """A progress monitor that prints how far the build is."""
    progress = _Phases()

    def phase_start(_: object, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        progress.start(phase_name, num_steps)

    def step_complete(_: object, phase_name: str, step: int) -> bool:
        return progress.step(phase_name, step)

    def phase_finish(_: object, phase_name: str) -> None:
        progress.finish(phase_name)

    members = {
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return type("Monitor", (trt.IProgressMonitor,), members)()


def print_line(line: str) -> bool:
    """Write a line at once; False where nobody reads any more, which cancels a build."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True
