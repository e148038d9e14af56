"""Folders for temporary files on a disk that gets full while a command works: a small one of its
own, which only the process that is tried sees.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kinds import Kind
from place import MODEL, QUANTIZE, VALIDATE, build_again, prove_parity_again

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # linux/sched.h
_PRIVATE_EVERYWHERE = 0x4000 | 0x40000  # linux/mount.h


@dataclass(frozen=True)
class _Verb:
    """A command with a full folder for temporary files."""

    arguments: tuple[object, ...]
    free_kib: tuple[int, ...] = (4,)
    """What is free for temporary files; each is a kind."""
    sentence: str = "TMPDIR"
    code: int = 3
    before: Callable[[], object] = lambda: None
    """Ends the shortcut of a computation that writes temporary files."""
    may_appear: str = "^$"
    may_change: str = "^$"
    most_mib: float | None = None


_ARTIFACTS = rf"^{MODEL}/(manifest\.json$|[^/]*-[0-9a-f]{{12}}(/|$))"
_BUILT = {"sentence": "", "code": 0, "may_appear": _ARTIFACTS, "may_change": _ARTIFACTS}
_VERBS: dict[str, _Verb] = {
    "export": _Verb(("export", "hvt_demo", "--force"), (4, 8), before=prove_parity_again),
    "diagnose": _Verb(("diagnose", "--graph", "fp16", "--data", "validation"), (4, 8, 40)),
    # The engine is built: only its cost, counted by a second build in TMPDIR, is not known.
    "build-trt": _Verb(
        ("build-trt", "--fp16", "--compute-capability", 8.6, "--profile", "1,2,2"),
        **{**_BUILT, "sentence": "written to .*/tmp/.*: No space left"},
        before=build_again,
        most_mib=900,
    ),
    # These write nothing large there.
    "quantize": _Verb((*QUANTIZE, "--seed", 1), **_BUILT),
    "validate": _Verb(VALIDATE, **_BUILT),
    "predict": _Verb(("predict", "validation"), sentence="", code=0),
    "package": _Verb(("package", "--triton", "new"), sentence="", code=0, may_appear="^new/"),
    "bundle": _Verb(("bundle", "--output", "new.tar"), sentence="", code=0, may_appear="^new.tar"),
}


def _may_mount() -> bool:
    """Whether this system lets a user mount a disk in memory, which many containers do not."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _fill_temporary(free_kib: int, before: Callable[[], object]) -> None:
    """Mount a disk on `tmp`, for this process alone, with so much free space."""
    libc, user = ctypes.CDLL(None, use_errno=True), os.getuid()
    _check(libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)))
    if user:
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    _check(libc.mount(b"none", b"/", None, _PRIVATE_EVERYWHERE, None))
    _check(libc.mount(b"none", b"tmp", b"tmpfs", 0, f"size={64 + free_kib}k".encode()))
    Path("tmp/full").write_bytes(b"\0" * (64 << 10))
    before()


def _check(answer: int) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _list_kinds() -> Iterator[Kind]:
    for name, verb in _VERBS.items():
        for free_kib in verb.free_kib:
            yield Kind(
                "environment",
                f"a full TMPDIR, {free_kib} KiB free, {name}",
                verb.arguments,
                verb.sentence,
                code=verb.code,
                before=partial(_fill_temporary, free_kib, verb.before),
                may_appear=verb.may_appear,
                may_change=verb.may_change,
                most_mib=verb.most_mib,
            )


KINDS = tuple(_list_kinds()) if _may_mount() else ()
