"""What a model's folder holds that its manifest does not name, though it was made here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from hvt_deploy.core.files import STAGING
from hvt_deploy.core.manifest import ENGINE, KEYS
from hvt_deploy.core.types import PRECISIONS

MANIFEST = "manifest.json"
# How many digits of the hash are in a folder's name.
DIGITS = 12
# The names that are made here, and no others: what else a user keeps in the folder stays.
_MADE = re.compile(
    rf"({'|'.join(KEYS)}|{ENGINE}-({'|'.join(PRECISIONS)})-(rtx|trt)[a-z0-9.,-]*)"
    rf"-[0-9a-f]{{{DIGITS}}}"
)
_STAGED = re.compile(rf"{re.escape(STAGING)}[a-z0-9_]{{8}}")
_TEMPORARY = re.compile(rf"\.{re.escape(MANIFEST)}\.[0-9]+\.new")


def is_key(key: str) -> bool:
    """Whether an artifact can have this key."""
    return _MADE.fullmatch(f"{key}-{'0' * DIGITS}") is not None


def find_unfinished(folder: Path) -> Iterator[Path]:
    """What a run left that ended without cleaning up, or what one is writing now."""
    for entry in folder.iterdir():
        made = _STAGED.fullmatch(entry.name) and _is_folder(entry)
        if made or _TEMPORARY.fullmatch(entry.name):
            yield entry


def find_unnamed(folder: Path, named: Collection[str]) -> Iterator[Path]:
    """Folders of artifacts other than those `named`."""
    for entry in folder.iterdir():
        if _MADE.fullmatch(entry.name) and entry.name not in named and _is_folder(entry):
            yield entry


def remove(entry: Path) -> None:
    """Remove a file, or a folder with all it holds."""
    if _is_folder(entry):
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink()
