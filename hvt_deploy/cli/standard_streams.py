"""Standard output and error as they may be: closed, full, not read to the end, in ASCII."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

from hvt_deploy.core.errors import MissingEnvironment


class Output:
    """Standard output, which remembers why something could not be printed."""

    def __init__(self) -> None:
        self.fault: OSError | None = None
        self.closed = sys.stdout is None  # pyright: ignore[reportUnnecessaryComparison]
        self._stream = _open_null() if self.closed else sys.stdout

    def write(self, text: str) -> int:
        """As `TextIO.write`."""
        with self._remember():
            return self._stream.write(text)

    def flush(self) -> None:
        """As `TextIO.flush`."""
        with self._remember():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return cast("object", getattr(self._stream, name))

    @contextmanager
    def _remember(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            self.fault = error
            raise

    def finish(self) -> MissingEnvironment | None:
        """Print what is not printed yet; returns the error if anything was lost."""
        try:
            self.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # lost: no other try
        if self.fault is None:
            return None
        hint = "Print to a file on a disk with free space."
        if isinstance(self.fault, BrokenPipeError):
            hint = "The program that read it ended: let it read to the end, or print to a file."
        return MissingEnvironment(
            f"Could not write to standard output: {self.fault.strerror}.", hint
        )


def prepare_streams() -> Output:
    """Make both streams take any character.

    What is closed goes to the null device: a file that is opened later would be given its number
    and what libraries print.
    """
    output = Output()
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = _open_null()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stdout = cast("TextIO", output)
    return output


def _open_null() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
