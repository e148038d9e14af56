"""`clean`: what a workspace made and nothing needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput, HvtDeployError
from hvt_deploy.core.files import tree_bytes
from hvt_deploy.core.freshness import without_stale
from hvt_deploy.core.leftovers import (
    VALIDATION_LOCK,
    find_outdated,
    find_unfinished,
    find_unnamed,
    remove_entry,
)
from hvt_deploy.core.locks import try_alone
from hvt_deploy.core.types import Skipped
from hvt_deploy.core.workspace import ModelFolder, find_model, list_folders

_STALE = "stale: made from something that was replaced"
_UNNAMED = "not named by the manifest: replaced while it was being read"
_UNFINISHED = "left by a run that was interrupted"
_OUTDATED = "of graphs or engines that were replaced"


@dataclass(frozen=True)
class Unneeded:
    """A folder or file that nothing needs."""

    path: Path
    """Where it is."""
    bytes: int
    """Its size."""
    why: str
    """Why nothing needs it."""


@dataclass(frozen=True)
class Cleaned:
    """What was found, and removed if that was asked for."""

    found: tuple[Unneeded, ...]
    """Everything that nothing needs."""
    removed: bool
    """Whether it was removed, except what is skipped."""
    skipped: tuple[Skipped, ...]
    """What could not be looked at or removed."""

    @property
    def bytes(self) -> int:
        """The size of everything that was found."""
        return sum(one.bytes for one in self.found)


def clean(root: Path, models: Sequence[str], *, remove: bool) -> Cleaned:
    """Find what the models of a workspace (all, if none is named) made and nothing needs: artifacts
    whose parents were replaced, replaced artifacts, what interrupted runs left and no other can go
    on with, timing caches without an engine. Only `remove` removes it. Nothing else is ever
    touched, nor a model that another process is writing to.

    A model is named as `find_model` takes it, or by its folder, in which an export may have been
    interrupted. Raises BadInput for one that is not there.
    """
    folders = {folder.slug: folder for folder in list_folders(root)}
    named = [folders.get(name) or find_model(root, name) for name in models]
    found: list[Unneeded] = []
    skipped: list[Skipped] = []
    for folder in named or folders.values():
        try:
            unneeded = _find_unneeded(folder)
            if remove and unneeded:
                _remove_unneeded(folder)
        except HvtDeployError as error:
            skipped.append(Skipped(folder.slug, f"{error.message} {error.hint}".strip()))
            continue
        found += unneeded
        left = [one for one in unneeded if remove and one.path.exists()]
        skipped += [Skipped(str(one.path), "It is being read.") for one in left]
    return Cleaned(tuple(found), remove, tuple(skipped))


def _find_unneeded(folder: ModelFolder) -> list[Unneeded]:
    if not folder.is_ours():
        return []
    reasons = dict.fromkeys(find_unfinished(folder.path), _UNFINISHED)
    if reasons:
        folder.check_free()  # or a run is writing it now
    if folder.exists():
        manifest = folder.read()  # which may name all that is here: one that is damaged is an error
        named = {artifact.folder for artifact in manifest.artifacts.values()}
        reasons |= dict.fromkeys(find_unnamed(folder.path, named), _UNNAMED)
        fresh = {artifact.folder for artifact in without_stale(manifest).artifacts.values()}
        reasons |= {folder.path / name: _STALE for name in sorted(named - fresh)}
        reasons |= dict.fromkeys(find_outdated(folder.path, manifest), _OUTDATED)
    return [Unneeded(path, tree_bytes(path), why) for path, why in reasons.items()]


def _remove_unneeded(folder: ModelFolder) -> None:
    with folder.lock():  # removes what is unfinished and unnamed
        try:
            manifest = folder.read()
        except BadInput:  # an export that was interrupted: there never was one
            return
        if (kept := without_stale(manifest)) != manifest:
            folder.commit(kept)
        with try_alone(folder.path / VALIDATION_LOCK) as nobody_validates:
            for entry in find_outdated(folder.path, kept) if nobody_validates else ():
                remove_entry(entry)
