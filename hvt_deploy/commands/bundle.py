"""`bundle`: an exported model in one file, with the hash of everything in it.

A bundle is a tar: `bundle.json` first, then the files that it lists.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hvt_deploy.commands.distribution import permit_distribution
from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.files import hash_bytes, hash_file, replace_file, writing_to
from hvt_deploy.core.freshness import check_fresh
from hvt_deploy.core.manifest import BUDGET, RECORDED, REFERENCES, Artifact, Manifest, is_results
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import MANIFEST, ModelFolder, now

INDEX = "bundle.json"
BUNDLE_SCHEMA = 1


@dataclass(frozen=True)
class BundleIndex:
    """Contents of a bundle."""

    slug: str
    """Name of the folder it is unpacked to."""
    files: Mapping[str, str]
    """sha256 by path, of every file but this one."""
    created: str
    """Time in UTC, ISO 8601."""
    schema_version: int = BUNDLE_SCHEMA
    """Version of the format."""


def bundle(folder: ModelFolder, output: Path, allow_untrained: bool, ui: Ui) -> Path:
    """Write an exported model to `output`, after its licences were shown.

    That is graphs, calibration, recorded reference, class names and configuration.

    Raises BadInput for untrained weights that are not allowed and for artifacts that are stale or
    changed.
    """
    with folder.reading() as manifest:
        _write(folder, manifest, output, allow_untrained, ui)
    return output


def _write(
    folder: ModelFolder, manifest: Manifest, output: Path, allow_untrained: bool, ui: Ui
) -> None:
    permit_distribution(manifest, ui, allow_untrained=allow_untrained)
    files: dict[str, Path] = {}
    for key, artifact in manifest.artifacts.items():
        if not stays_here(key, artifact):
            if key != BUDGET:  # its images must not be validated on, whatever was made since
                check_fresh(manifest, key)
            folder.check_files(artifact)
            files |= {
                f"{artifact.folder}/{name}": folder.path / artifact.folder / name
                for name in artifact.files
            }
    if RECORDED not in manifest.artifacts:
        ui.warn(
            "No recorded reference: on the device, accuracy is compared with ONNX Runtime. "
            "Make one: hvt-deploy validate --record"
        )
    content = json.dumps(to_plain(_portable(manifest)), indent=2).encode()
    hashes = {MANIFEST: hash_bytes(content)} | {
        name: hash_file(path) for name, path in files.items()
    }
    index = json.dumps(to_plain(BundleIndex(folder.slug, hashes, now())), indent=2).encode()
    with (
        writing_to(output),
        replace_file(output) as temporary,
        tarfile.open(temporary, "w") as archive,
        ui.progress(f"Writing {output.name}") as progress,
    ):
        _add(archive, INDEX, index)
        _add(archive, MANIFEST, content)
        for done, (name, path) in enumerate(files.items(), start=1):
            with path.open("rb") as stream:
                _add(archive, name, stream, path.stat().st_size)
            progress(done, len(files))


def _portable(manifest: Manifest) -> Manifest:
    """The manifest without artifacts of this machine.

    The entry of the weights stays: other artifacts were made from them.
    """
    kept = {
        key: artifact
        for key, artifact in manifest.artifacts.items()
        if key in REFERENCES or not stays_here(key, artifact)
    }
    return replace(manifest, artifacts=kept)


def stays_here(key: str, artifact: Artifact) -> bool:
    """Whether the files of an artifact are for this machine or of no use on another.

    That is engines, reports, and the reference: weights that only PyTorch reads, or the ONNX file
    that a model was exported from.
    """
    return key in REFERENCES or is_results(key) or isinstance(artifact.facts, EngineFacts)


def _add(
    archive: tarfile.TarFile, name: str, content: bytes | IO[bytes], size: int | None = None
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content) if isinstance(content, bytes) else (size or 0)
    archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else content)
