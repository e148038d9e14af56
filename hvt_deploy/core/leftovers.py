"""What a model's folder holds that its manifest does not name, though it was made here."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from hvt_deploy.core.files import STAGING, hash_bytes
from hvt_deploy.core.freshness import without_stale
from hvt_deploy.core.manifest import ENGINE, KEYS, Manifest, is_results
from hvt_deploy.core.types import PRECISIONS

MANIFEST = "manifest.json"
# Held by the one validation of a model: two would disturb each other's timings.
VALIDATION_LOCK = ".validation.lock"
# How many digits of the hash are in a folder's name.
DIGITS = 12
# The names that are made here, and no others: what else a user keeps in the folder stays.
_MADE = re.compile(
    rf"({'|'.join(KEYS)}|{ENGINE}-({'|'.join(PRECISIONS)})-(rtx|trt)[a-z0-9.,-]*)"
    rf"-[0-9a-f]{{{DIGITS}}}"
)
_STAGED = re.compile(rf"{re.escape(STAGING)}[a-z0-9_]{{8}}")
_TEMPORARY = re.compile(rf"\.{re.escape(MANIFEST)}\.[0-9]+\.new")


_ANSWERS = re.compile(rf"\.answers-[0-9a-f]{{{DIGITS}}}")
_TIMING_CACHE = re.compile(r"timing-(trt[a-z0-9.-]*)\.cache")


def name_answers(manifest: Manifest) -> str:
    """The folder of the answers of validations that are not over, by what is validated."""
    hashes = {
        key: artifact.sha256
        for key, artifact in without_stale(manifest).artifacts.items()
        if not is_results(key)
    }
    return f".answers-{hash_bytes(json.dumps(hashes, sort_keys=True).encode())[:DIGITS]}"


def name_timing_cache(library: str) -> str:
    """The file of timed tactics; `library` is TensorRT's version and the GPU (`trt10.3-sm87`)."""
    return f"timing-{library}.cache"


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


def find_outdated(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """Answers of interrupted validations of what was replaced, and timing caches of libraries and
    GPUs that no engine of `manifest` is for.
    """
    keys = [f"{key}-" for key in without_stale(manifest).artifacts]
    for entry in folder.iterdir():
        if _ANSWERS.fullmatch(entry.name) and entry.name != name_answers(manifest):
            yield entry
        cache = _TIMING_CACHE.fullmatch(entry.name)
        if cache and not any(f"-{cache[1]}-" in key for key in keys):
            yield entry


def remove_entry(entry: Path) -> None:
    """Remove a file, or a folder with all it holds."""
    if _is_folder(entry):
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink()
