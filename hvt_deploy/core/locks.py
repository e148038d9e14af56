"""Locks between processes; the system gives them back when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.files import writing_to
from hvt_deploy.core.ui import Ui

_WAIT_S = 3.0
_POLL_S = 0.1


@contextmanager
def hold_alone(path: Path, ui: Ui | None = None) -> Generator[None]:
    """Hold the lock file `path`, which names its holder.

    Raises MissingEnvironment that names the other holder if it keeps the lock; with `ui` that is
    said, and this process waits as long as it takes. Raises BadInput where `path` is no file: a
    link would have another file written to.
    """
    with writing_to(path):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise BadInput(f"{path} is no lock file of hvt-deploy.", "Remove it.")
        descriptor = _open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        stream = os.fdopen(descriptor, "a+", encoding="utf-8")
    with stream:
        deadline = time.monotonic() + _WAIT_S
        while not _try_lock(stream.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                if ui is None:
                    raise MissingEnvironment(
                        f"{path.parent} is in use by {holder}.",
                        "Wait until it ends, or choose another --workspace DIR.",
                    )
                ui.say(f"Waiting until {path.parent} is free; it is in use by {holder}.")
                deadline = float("inf")
            time.sleep(_POLL_S)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with writing_to(path):
            stream.truncate(0)
            stream.write(f"process {os.getpid()} ({command}) since {since}")
            stream.flush()
        yield


@contextmanager
def share(path: Path) -> Generator[None]:
    """Hold the lock file `path` together with others that share it.

    Where it can be neither made nor opened, as on a read-only disk, there is nothing to hold.
    """
    descriptor = _open(path)
    try:
        if descriptor is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def try_alone(path: Path) -> Generator[bool]:
    """Whether nobody shares the lock file `path`; nobody begins to until the end of the block."""
    descriptor = _open(path)
    if descriptor is None:
        yield False
        return
    try:
        yield _try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with suppress(OSError):
            return _open_own(path, flags)
    return None


def _open_own(path: Path, flags: int) -> int:
    """Open what is no link to another file; a pipe is not waited for."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
