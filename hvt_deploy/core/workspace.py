"""`artifacts/<slug>/`: a manifest and artifacts in folders named by their hash.

Replacing `manifest.json` is the only commit point: an interrupted or failed run leaves the
artifacts that were there before. What was made here and is not named is removed as soon as nobody
reads; what a user keeps in the folder stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from hvt_deploy.core.environment import tool_versions
from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.files import (
    hash_bytes,
    hash_file,
    hash_unchanged,
    is_intact,
    reading,
    replace_file,
    staging_folder,
    sync,
    sync_tree,
    writing_to,
)
from hvt_deploy.core.freshness import check_fresh
from hvt_deploy.core.leftovers import (
    DIGITS,
    MANIFEST,
    find_unfinished,
    find_unnamed,
    is_key,
    remove_entry,
)
from hvt_deploy.core.locks import hold_alone, share, try_alone
from hvt_deploy.core.manifest import Artifact, Facts, Manifest
from hvt_deploy.core.manifest_file import is_plain_name, parse_manifest
from hvt_deploy.core.records import read_content
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.types import StrPath
from hvt_deploy.core.ui import Ui

_LOCK, _READERS = ".lock", ".readers"


def now() -> str:
    """The time in UTC, ISO 8601; microseconds give two exports in one second an order."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


class ModelFolder:
    """`artifacts/<slug>`: reads and replaces one model's manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slug = path.name

    def read(self) -> Manifest:
        """The manifest. Raises BadInput if there is none, it is damaged or of another version."""
        file = self.path / MANIFEST
        try:
            content = read_content(file)
        except FileNotFoundError:
            raise BadInput(
                f"Nothing was exported to {self.path}.", f"Run: hvt-deploy export {self.slug}"
            ) from None
        return parse_manifest(content, str(file), self.slug)

    def earlier_artifacts(self) -> Mapping[str, Artifact]:
        """The artifacts that are here; none where the manifest is missing or cannot be read."""
        try:
            return self.read().artifacts
        except BadInput:
            return {}

    def exists(self) -> bool:
        """Whether a model was exported here."""
        return (self.path / MANIFEST).is_file()

    def is_ours(self) -> bool:
        """Whether this is the folder of a model, exported or not yet, and not a user's own."""
        return self.exists() or (self.path / _LOCK).is_file()

    def file(self, artifact: Artifact) -> Path:
        """The path of an artifact's main file."""
        return self.path / artifact.folder / artifact.main

    def open_artifact(self, manifest: Manifest, key: str) -> Path:
        """The main file of artifact `key`, after its hashes and its parents' were checked.

        Raises BadInput if it is missing, was changed since, or was made from something that was
        replaced.
        """
        artifact = manifest.artifacts.get(key)
        if artifact is None:
            raise BadInput(
                f"{manifest.slug} has no '{key}' artifact.",
                f"It has: {', '.join(manifest.artifacts) or 'none'}.",
            )
        check_fresh(manifest, key)
        return self.check_files(artifact)

    def check_files(self, artifact: Artifact) -> Path:
        """The main file of an artifact, after the hashes of its files were checked.

        Raises BadInput for one that is missing, was changed since, or lies elsewhere.
        """
        for name, sha256 in artifact.files.items():
            path = self.path / artifact.folder / name
            if not path.is_file():
                raise BadInput(f"{path} is missing.", f"Run: {artifact.remake}")
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise BadInput(
                    f"{path} is a link to a file outside {self.path}.", f"Run: {artifact.remake}"
                )
            if hash_unchanged(path) != sha256:
                raise BadInput(
                    f"{path} is not the file that was recorded (sha256 differs).",
                    f"Run: {artifact.remake}",
                )
        return self.file(artifact)

    @contextmanager
    def reading(self) -> Generator[Manifest]:
        """The manifest, whose files stay there until the end of the block, whoever writes.

        Raises BadInput as `read` does.
        """
        with share(self.path / _READERS) if self.exists() else nullcontext():
            yield self.read()

    @contextmanager
    def lock(self, ui: Ui | None = None) -> Generator[None]:
        """Hold this folder, to write to it; what an interrupted run left there is removed.

        Raises MissingEnvironment that names the holder if it stays taken; with `ui` that is said,
        and this process waits as long as it takes.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with hold_alone(self.path / _LOCK, ui):
            self._remove_unfinished()
            yield

    def check_free(self) -> None:
        """Raise MissingEnvironment that names the holder if another process writes to this folder,
        or nobody can.
        """
        with hold_alone(self.path / _LOCK):
            pass

    @contextmanager
    def staging(self) -> Generator[Path]:
        """A folder on the same disk to write an artifact in; removed afterwards."""
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with staging_folder(self.path) as staged:
                yield staged

    def add(
        self,
        manifest: Manifest,
        key: str,
        staged: Path,
        main: str,
        remake: str,
        *,
        facts: Facts | None = None,
        parents: Sequence[str] = (),
        commit: bool = True,
    ) -> Manifest:
        """Make the files in `staged` artifact `key`, of which `main` is the file that is opened.

        `remake` is the command that makes it again, `parents` are keys of `manifest`. Returns the
        manifest that names it; without `commit` it is not visible to readers yet.
        """
        if not is_key(key):
            raise ValueError(f"'{key}' is no key of an artifact")
        with writing_to(self.path):
            hashes = _hash_files(staged)
            digest = hash_bytes(json.dumps(hashes, sort_keys=True).encode())
            target = self.path / f"{key}-{digest[:DIGITS]}"
            self.place(staged, target.name, hashes)
        artifact = Artifact(
            folder=target.name,
            main=main,
            files=hashes,
            remake=remake,
            parents={parent: manifest.artifacts[parent].sha256 for parent in parents},
            facts=facts,
            tool_versions=tool_versions(),
            created=now(),
        )
        updated = replace(manifest, artifacts={**manifest.artifacts, key: artifact})
        if commit:
            self.commit(updated)
        return updated

    def place(self, staged: Path, name: str, hashes: Mapping[str, str]) -> list[str]:
        """Make `staged`, with files of these hashes, the folder `name`, and wait for the disk.

        Of a folder that is there already, only what is missing or was changed is replaced; returns
        the names of these files.
        """
        sync_tree(staged)
        target = self.path / name
        if target.is_symlink() or not target.is_dir():
            remove_entry(target)
            staged.rename(target)
            return []
        restored = [name for name, sha256 in hashes.items() if not is_intact(target / name, sha256)]
        for file in restored:
            remove_entry(target / file)
            (staged / file).replace(target / file)
        sync(target)
        return restored

    def commit(self, manifest: Manifest) -> None:
        """Replace the manifest, whose files are on the disk, then remove those it does not name."""
        file = self.path / MANIFEST
        with writing_to(file):
            sync(self.path.parent)
            sync(self.path)
            with replace_file(file) as temporary:
                temporary.write_text(json.dumps(to_plain(manifest), indent=2), encoding="utf-8")
        self._remove_unnamed(manifest)

    def _remove_unfinished(self) -> None:
        """Remove what a run left that ended without cleaning up; the lock is held."""
        for entry in find_unfinished(self.path):
            remove_entry(entry)
        if not self.exists():
            return
        with suppress(BadInput):  # a manifest that cannot be read may name all that is here
            self._remove_unnamed(self.read())

    def _remove_unnamed(self, manifest: Manifest) -> None:
        """Remove artifacts that `manifest` does not name, unless somebody still reads some: then
        the next run that writes does.
        """
        kept = {artifact.folder for artifact in manifest.artifacts.values()}
        with try_alone(self.path / _READERS) as nobody_reads:
            for entry in find_unnamed(self.path, kept) if nobody_reads else ():
                remove_entry(entry)


def open_folder(root: Path, slug: str) -> ModelFolder:
    """The folder an export goes to. Raises BadInput for a name that is no plain folder name."""
    plain = slug.isprintable() and slug == slug.strip() and is_plain_name(slug)
    if slug.startswith((".", "-")) or not plain:
        raise BadInput(f"'{slug}' cannot be a folder name.", "Give a plain name with --as NAME.")
    return ModelFolder(root / slug)


def list_folders(root: Path) -> list[ModelFolder]:
    """The folders of a workspace, with or without an exported model, by name."""
    return [ModelFolder(p) for p in sorted(root.iterdir()) if p.is_dir()] if root.is_dir() else []


def find_model(root: Path, name: StrPath | None) -> ModelFolder:
    """The folder of `name`, which may also be the path of an exported model's folder or the name
    that was given to `export` (`timm:NAME`), or the newest export where no name is given.

    Raises BadInput if nothing was exported, if the model was exported more than once, or if CI=true
    and the choice would be a guess.
    """
    exported = {f.slug: f for f in list_folders(root) if f.exists()}
    if name is not None and name not in exported:
        with reading(Path(name)):
            if ModelFolder(Path(name)).exists():
                return ModelFolder(Path(name).resolve())
    if not exported:
        raise BadInput(
            f"Nothing was exported to {root} yet.",
            "Run: hvt-deploy export MODEL (or give --workspace DIR)",
        )
    if name is not None:
        return exported.get(str(name)) or _find_by_model(root, exported, str(name))
    if len(exported) > 1 and os.environ.get("CI", "").lower() == "true":
        raise BadInput(
            f"{root} holds several models and CI=true.", f"Name one of: {', '.join(exported)}."
        )
    try:
        return max(exported.values(), key=lambda f: f.read().exported)
    except BadInput as error:  # perhaps the newest is the one that cannot be read
        hint = f"{error.hint}, or name the model to work with: {', '.join(exported)}."
        raise BadInput(error.message, hint) from None


def _find_by_model(root: Path, exported: Mapping[str, ModelFolder], model: str) -> ModelFolder:
    found: list[ModelFolder] = []
    for folder in exported.values():
        with suppress(BadInput):  # the damaged manifest of another model
            if folder.read().model == model:
                found.append(folder)
    if len(found) > 1:
        names = ", ".join(folder.slug for folder in found)
        raise BadInput(f"{root} holds {model} more than once.", f"Name one of: {names}.")
    if not found:
        raise unknown_name(f"exported model in {root}", model, exported)
    return found[0]


def _hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}
