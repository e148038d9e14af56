"""`artifacts/<slug>/`: a manifest and artifacts in folders named by their hash.

Replacing `manifest.json` is the only commit point: what it does not name is garbage, so an
interrupted or failed run leaves the artifacts that were there before.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from hvt_deploy.core.environment import tool_versions
from hvt_deploy.core.errors import BadInput, MissingEnvironment, unknown_name
from hvt_deploy.core.files import hash_bytes, hash_file, replace_file, staging_folder, writing_to
from hvt_deploy.core.manifest import Artifact, Facts, Manifest, parse_manifest
from hvt_deploy.core.serialization import to_plain

MANIFEST = "manifest.json"


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
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadInput(
                f"Nothing was exported to {self.path}.", f"Run: hvt-deploy export {self.slug}"
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadInput(
                f"{file} is damaged: {error}.", f"Run: hvt-deploy export {self.slug}"
            ) from None
        return parse_manifest(data, str(file), self.slug)

    def earlier_artifacts(self) -> Mapping[str, Artifact]:
        """The artifacts that are here; none where the manifest is missing or cannot be read."""
        try:
            return self.read().artifacts
        except BadInput:
            return {}

    def exists(self) -> bool:
        """Whether a model was exported here."""
        return (self.path / MANIFEST).is_file()

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
        for name, sha256 in artifact.files.items():
            path = self.path / artifact.folder / name
            if not path.is_file():
                raise BadInput(f"{path} is missing.", f"Run: {artifact.remake}")
            if hash_file(path) != sha256:
                raise BadInput(
                    f"{path} is not the file that was recorded (sha256 differs).",
                    f"Run: {artifact.remake}",
                )
        return self.file(artifact)

    @contextmanager
    def lock(self, wait_s: float = 3.0) -> Generator[None]:
        """Hold this folder.

        Raises MissingEnvironment that names the holder if it stays taken for `wait_s`.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("a+", encoding="utf-8")
        with stream:
            deadline = time.monotonic() + wait_s
            while not _try_lock(stream.fileno()):
                if time.monotonic() > deadline:
                    stream.seek(0)
                    holder = stream.read().strip() or "another process"
                    raise MissingEnvironment(
                        f"{self.path} is in use by {holder}.",
                        "Wait until it ends, or choose another --workspace DIR.",
                    )
                time.sleep(0.1)
            command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
            stream.truncate(0)
            stream.write(f"process {os.getpid()} ({command}) since {now()}")
            stream.flush()
            yield

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
        hashes = _hash_files(staged)
        digest = hash_bytes(json.dumps(hashes, sort_keys=True).encode())
        target = self.path / f"{key}-{digest[:12]}"
        if target.exists() and _hash_files(target) != hashes:  # changed by hand since
            shutil.rmtree(target)
        if not target.exists():
            staged.rename(target)
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

    def commit(self, manifest: Manifest) -> None:
        """Replace the manifest, then remove what it does not name."""
        file = self.path / MANIFEST
        with writing_to(file), replace_file(file) as temporary:
            temporary.write_text(json.dumps(to_plain(manifest), indent=2), encoding="utf-8")
        kept = {artifact.folder for artifact in manifest.artifacts.values()}
        for entry in self.path.iterdir():
            if entry.is_dir() and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)


def check_fresh(manifest: Manifest, key: str) -> None:
    """Raise BadInput if an ancestor of artifact `key` was replaced since it was made."""
    artifact = manifest.artifacts[key]
    for parent, sha256 in artifact.parents.items():
        current = manifest.artifacts.get(parent)
        if current is None or current.sha256 != sha256:
            raise BadInput(
                f"The '{key}' artifact of {manifest.slug} was made from another '{parent}' "
                "than the one here now.",
                f"Run: {artifact.remake}",
            )
        check_fresh(manifest, parent)


def is_fresh(manifest: Manifest, key: str) -> bool:
    """Whether artifact `key` exists and none of its ancestors was replaced."""
    if key not in manifest.artifacts:
        return False
    try:
        check_fresh(manifest, key)
    except BadInput:
        return False
    return True


def open_folder(root: Path, slug: str) -> ModelFolder:
    """The folder an export goes to. Raises BadInput for a name that is no plain folder name."""
    if not slug or slug.startswith(".") or Path(slug).name != slug:
        raise BadInput(f"'{slug}' cannot be a folder name.", "Give a plain name with --as NAME.")
    return ModelFolder(root / slug)


def find_model(root: Path, name: str | None) -> ModelFolder:
    """The folder of `name`, or of the newest export where no name is given.

    Raises BadInput if nothing was exported, or if CI=true and the choice would be a guess.
    """
    folders = [ModelFolder(p) for p in sorted(root.iterdir())] if root.is_dir() else []
    exported = {f.slug: f for f in folders if f.exists()}
    if not exported:
        raise BadInput(
            f"Nothing was exported to {root} yet.",
            "Run: hvt-deploy export MODEL (or give --workspace DIR)",
        )
    if name is not None:
        if name not in exported:
            raise unknown_name(f"exported model in {root}", name, exported)
        return exported[name]
    if len(exported) > 1 and os.environ.get("CI", "").lower() == "true":
        raise BadInput(
            f"{root} holds several models and CI=true.", f"Name one of: {', '.join(exported)}."
        )
    return max(exported.values(), key=lambda f: f.read().exported)


def _hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
