"""A bundle -> the workspace of a device, where it also restores what is damaged.

Nothing in a bundle is executed, and nothing is written outside the folder it is unpacked to. The
reader never holds more of it than one small record, and writes no more than the file's size.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hvt_deploy.commands.bundle import BUNDLE_SCHEMA, INDEX, BundleIndex, stays_here
from hvt_deploy.commands.recorded_names import keep_names
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.files import hash_file, writing_to
from hvt_deploy.core.manifest import REFERENCES, Manifest
from hvt_deploy.core.manifest_file import is_plain_name, parse_manifest
from hvt_deploy.core.records import check_version, parse_fields
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.ui import Progress, Ui
from hvt_deploy.core.workspace import MANIFEST, ModelFolder, open_folder

# More than the index or the manifest of any model.
_MAX_RECORD_BYTES = 16 << 20
_ADVICE = "Nothing was unpacked. Copy the bundle again, or write it anew."
_ENGINE = ".engine"


def unpack(bundle_file: Path, root: Path, ui: Ui) -> ModelFolder:
    """Put a bundle's model into the workspace `root`; engines of the same model stay there.

    Files that are there and are not those of the bundle are replaced. Raises BadInput for a file
    that is no bundle, a path outside its folder, a link, a hole, an engine, a wrong hash, a file
    too many or too few, MissingEnvironment where the disk is too small; nothing is in the workspace
    then.
    """
    if not bundle_file.is_file():
        raise BadInput(f"There is no bundle {bundle_file}.", "Write one: hvt-deploy bundle MODEL")
    try:
        with (
            _BoundedReads(bundle_file) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            index, members = _read_index(bundle_file, archive)
            folder = open_folder(root, index.slug)
            with folder.lock(), folder.staging() as staged:
                _check_disk(bundle_file, staged)
                with (
                    writing_to(folder.path),
                    ui.progress(f"Unpacking {bundle_file.name}") as progress,
                ):
                    _extract(bundle_file, archive, members, index, staged, progress)
                content = (staged / MANIFEST).read_bytes()
                manifest = parse_manifest(content, f"{bundle_file}/{MANIFEST}", index.slug)
                _check_contents(bundle_file, index, manifest)
                for file in _move_in(folder, manifest, staged):
                    ui.say(f"Restored from the bundle: {file}")
            return folder
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise _refused(bundle_file, f"it is not a bundle, or it is truncated ({error})") from None


class _BoundedReads(io.FileIO):
    """A file of which at most a record is read at once: tar headers may claim any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_RECORD_BYTES:
            raise tarfile.ReadError("a header or record in it is too large")
        return super().read(size)


def _read_index(
    file: Path, archive: tarfile.TarFile
) -> tuple[BundleIndex, Iterator[tarfile.TarInfo]]:
    members = iter(archive)
    first = next(members, None)
    if first is None or first.name != INDEX or not _is_plain_file(first):
        raise _refused(file, f"its first file is not {INDEX}")
    if first.size > _MAX_RECORD_BYTES:
        raise _refused(file, f"its {INDEX} is larger than {_MAX_RECORD_BYTES >> 20} MiB")
    stream, where = archive.extractfile(first), f"{file}/{INDEX}"
    fields = parse_fields(stream.read() if stream else b"", where, _ADVICE)
    check_version(fields, where, BUNDLE_SCHEMA, _ADVICE)
    index = from_plain(BundleIndex, fields, where)
    for name in index.files:
        parts = name.split("/")
        if name != MANIFEST and not (len(parts) == 2 and all(map(is_plain_name, parts))):
            raise _refused(file, f"its {INDEX} lists {name[:80]!r}, outside its folder")
    return index, members


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file as it is: a sparse one claims to be larger than the bundle."""
    return member.isreg() and not member.issparse()


def _check_disk(file: Path, target: Path) -> None:
    free, needed = shutil.disk_usage(target).free, file.stat().st_size
    if needed > free:
        raise MissingEnvironment(
            f"{file} needs {needed / 1e6:,.0f} MB on the disk of {target.parent}, and "
            f"{free / 1e6:,.0f} MB are free.",
            "Nothing was unpacked. Free some space or choose another --workspace DIR.",
        )


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
        if not _is_plain_file(member):
            raise _refused(file, f"{name} is not a plain file")
        if Path(name).is_absolute() or ".." in parts or len(parts) > 2:
            raise _refused(file, f"{name} lies outside its folder")
        if name not in missing:
            raise _refused(file, f"{name:.200} is not listed, or listed once and there twice")
        stream = archive.extractfile(member)
        path = target / name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as out:
            if stream is not None:
                shutil.copyfileobj(stream, out)
        if hash_file(path) != missing.pop(name):
            raise _refused(file, f"{name} is not the file that was bundled (sha256 differs)")
        progress(len(index.files) - len(missing), len(index.files))
    if missing or MANIFEST not in index.files:
        raise _refused(file, f"{next(iter(missing), MANIFEST)} is missing")


def _check_contents(file: Path, index: BundleIndex, manifest: Manifest) -> None:
    """Raise BadInput unless the manifest names the bundled files, no others, and no engine."""
    if manifest.slug != index.slug:
        raise _refused(file, f"its manifest is that of {manifest.slug}, not of {index.slug}")
    engines = [key for key, a in manifest.artifacts.items() if stays_here(key, a)]
    engines += [name for name in index.files if Path(name).suffix == _ENGINE]
    if named := next((name for name in engines if name not in REFERENCES), None):
        raise _refused(
            file, f"it holds {named}; an engine can execute code and is built on its device"
        )
    listed = {
        f"{artifact.folder}/{name}": sha256
        for key, artifact in manifest.artifacts.items()
        if key not in REFERENCES
        for name, sha256 in artifact.files.items()
    }
    bundled = {name: sha256 for name, sha256 in index.files.items() if name != MANIFEST}
    if listed != bundled:
        other = sorted(listed.items() ^ bundled.items())[0][0]
        raise _refused(file, f"its manifest and its {INDEX} do not agree on {other}")


def _move_in(folder: ModelFolder, manifest: Manifest, staged: Path) -> list[str]:
    """Move the unpacked files to the folder, unless they are there undamaged; returns those that
    take the place of a missing or damaged one.

    What was built from the same files before stays.
    """
    restored: list[str] = []
    with writing_to(folder.path):
        for artifact in manifest.artifacts.values():
            if (source := staged / artifact.folder).is_dir():
                restored += folder.place(source, artifact.folder, artifact.files)
    built = {
        key: artifact
        for key, artifact in folder.earlier_artifacts().items()
        if key not in manifest.artifacts and stays_here(key, artifact)
    }
    named = keep_names(folder, manifest)
    folder.commit(replace(named, artifacts={**manifest.artifacts, **built}))
    return restored


def _refused(file: Path, why: str) -> BadInput:
    return BadInput(f"{file} was refused: {why}.", _ADVICE)
