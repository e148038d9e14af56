"""`bundle`: an exported model in one file, with the hash of everything in it; and unpacking it.

A bundle is a tar: `bundle.json` first, then the files that it lists. Nothing in it is executed, and
nothing is written outside the folder it is unpacked to.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes, hash_file, replace_file, writing_to
from hvt_deploy.core.manifest import RECORDED, RESULTS, WEIGHTS, Artifact, Manifest, parse_manifest
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.ui import Progress, Ui
from hvt_deploy.core.workspace import MANIFEST, ModelFolder, now, open_folder

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
    if manifest.weights.untrained and not allow_untrained:
        raise BadInput(
            f"{folder.slug} has random weights: its predictions mean nothing.",
            "Export it with a checkpoint (--weights FILE), or give --allow-untrained to try a "
            "device.",
        )
    ui.say(manifest.licences)
    files: dict[str, Path] = {}
    for key, artifact in manifest.artifacts.items():
        if not _stays_here(key, artifact):
            folder.open_artifact(manifest, key)
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


def unpack(bundle_file: Path, root: Path, ui: Ui) -> ModelFolder:
    """Put a bundle's model into the workspace `root`; engines of the same model stay there.

    Raises BadInput for a file that is no bundle, a path outside its folder, a link, a wrong hash, a
    file too many or too few; nothing is in the workspace then.
    """
    try:
        with tarfile.open(bundle_file, "r:") as archive:
            index, members = _read_index(bundle_file, archive)
            folder = open_folder(root, index.slug)
            with folder.lock(), folder.staging() as staged:
                with ui.progress(f"Unpacking {bundle_file.name}") as progress:
                    _extract(bundle_file, archive, members, index, staged, progress)
                text = (staged / MANIFEST).read_text(encoding="utf-8")
                manifest = parse_manifest(json.loads(text), f"{bundle_file}/{MANIFEST}", index.slug)
                for artifact in manifest.artifacts.values():
                    for name in (artifact.folder, artifact.main, *artifact.files):
                        if Path(name).name != name:
                            raise _refused(
                                bundle_file, f"its manifest names {name}, outside its folder"
                            )
                _move_in(folder, manifest, staged)
            return folder
    except FileNotFoundError:
        raise BadInput(
            f"There is no bundle {bundle_file}.", "Write one: hvt-deploy bundle MODEL"
        ) from None
    except (tarfile.TarError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _refused(bundle_file, f"it is not a bundle, or it is truncated ({error})") from None


def _portable(manifest: Manifest) -> Manifest:
    """The manifest without artifacts of this machine.

    The entry of the weights stays: other artifacts were made from them.
    """
    kept = {
        key: artifact
        for key, artifact in manifest.artifacts.items()
        if key == WEIGHTS or not _stays_here(key, artifact)
    }
    return replace(manifest, artifacts=kept)


def _stays_here(key: str, artifact: Artifact) -> bool:
    """Whether the files of an artifact are for this machine or of no use on another.

    That is engines, reports, and the weights that only PyTorch reads.
    """
    return key in (WEIGHTS, RESULTS) or isinstance(artifact.facts, EngineFacts)


def _add(
    archive: tarfile.TarFile, name: str, content: bytes | IO[bytes], size: int | None = None
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content) if isinstance(content, bytes) else (size or 0)
    archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else content)


def _read_index(
    file: Path, archive: tarfile.TarFile
) -> tuple[BundleIndex, Iterator[tarfile.TarInfo]]:
    members = iter(archive)
    first = next(members, None)
    stream = (
        archive.extractfile(first)
        if first is not None and first.name == INDEX and first.isreg()
        else None
    )
    if stream is None:
        raise _refused(file, f"its first file is not {INDEX}")
    index = from_plain(BundleIndex, json.loads(stream.read().decode()), f"{file}/{INDEX}")
    if index.schema_version != BUNDLE_SCHEMA:
        raise _refused(
            file, f"it has version {index.schema_version} of the format, known is {BUNDLE_SCHEMA}"
        )
    return index, members


def _extract(
    file: Path,
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    index: BundleIndex,
    target: Path,
    progress: Progress,
) -> None:
    missing = dict(index.files)
    for member in members:
        name = member.name
        parts = Path(name).parts
        if not member.isreg():
            raise _refused(file, f"{name} is not a plain file")
        if Path(name).is_absolute() or ".." in parts or len(parts) > 2:
            raise _refused(file, f"{name} lies outside its folder")
        if name not in missing:
            raise _refused(file, f"{name} is not listed, or listed once and there twice")
        stream = archive.extractfile(member)
        path = target / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as out:
            if stream is not None:
                shutil.copyfileobj(stream, out)
        if hash_file(path) != missing.pop(name):
            raise _refused(file, f"{name} is not the file that was bundled (sha256 differs)")
        progress(len(index.files) - len(missing), len(index.files))
    if missing:
        raise _refused(file, f"{next(iter(missing))} is missing")


def _move_in(folder: ModelFolder, manifest: Manifest, staged: Path) -> None:
    """Move the unpacked files to the folder; what was built from the same files before stays."""
    for artifact in manifest.artifacts.values():
        if (staged / artifact.folder).is_dir() and not (folder.path / artifact.folder).exists():
            (staged / artifact.folder).rename(folder.path / artifact.folder)
    built = {
        key: artifact
        for key, artifact in folder.earlier_artifacts().items()
        if key not in manifest.artifacts and _stays_here(key, artifact)
    }
    folder.commit(replace(manifest, artifacts={**manifest.artifacts, **built}))


def _refused(file: Path, why: str) -> BadInput:
    return BadInput(
        f"{file} was refused: {why}.",
        "Nothing was unpacked. Copy the bundle again, or write it anew.",
    )
