"""Folders for temporary files on a disk that gets full while a command works: a small one of its
own, which only the process that is tried sees.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kinds import Kind
from place import prove_parity_again

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # linux/sched.h
_PRIVATE_EVERYWHERE = 0x4000 | 0x40000  # linux/mount.h
# Commands that write temporary files, and the KiB that are free for them.
_VERBS: dict[str, tuple[tuple[object, ...], tuple[int, ...]]] = {
    "export": (("export", "hvt_demo", "--force"), (4, 8)),
    "diagnose": (("diagnose", "--graph", "fp16", "--data", "validation"), (4, 8, 40)),
}


def _may_mount() -> bool:
    """Whether this system lets a user mount a disk in memory, which many containers do not."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _fill_temporary(free_kib: int) -> None:
    """Mount a disk on `tmp`, for this process alone, with so much free space."""
    libc, user = ctypes.CDLL(None, use_errno=True), os.getuid()
    _check(libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)))
    if user:
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    _check(libc.mount(b"none", b"/", None, _PRIVATE_EVERYWHERE, None))
    _check(libc.mount(b"none", b"tmp", b"tmpfs", 0, f"size={64 + free_kib}k".encode()))
    Path("tmp/full").write_bytes(b"\0" * (64 << 10))
    prove_parity_again()


def _check(answer: int) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _list_kinds() -> Iterator[Kind]:
    for verb, (arguments, sizes) in _VERBS.items():
        for free_kib in sizes:
            before = partial(_fill_temporary, free_kib)
            name = f"a full TMPDIR, {free_kib} KiB free, {verb}"
            yield Kind("environment", name, arguments, "TMPDIR", code=3, before=before)


KINDS = tuple(_list_kinds()) if _may_mount() else ()
