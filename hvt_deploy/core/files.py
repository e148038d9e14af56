"""Files: hashes of their content, writes that appear whole or not at all, the cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hvt_deploy.core.errors import (
    WRONG_PATH,
    BadInput,
    HvtDeployError,
    MissingEnvironment,
    refused_by_system,
    with_number,
)

# Names of folders that are being written begin so, followed by eight characters.
STAGING = ".staging-"
_BLOCK_BYTES = 1 << 20


def hash_bytes(content: bytes) -> str:
    """The sha256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(*paths: Path) -> str:
    """The sha256, in hexadecimal, of the files' content one after the other, read in blocks.

    Raises OSError for what is no regular file: a pipe would be waited for, a device has no end.
    """
    digest = hashlib.sha256()
    for path in paths:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def hash_unchanged(path: Path) -> str:
    """`hash_file` of one file, read again only where its state is not that of the last time."""
    state = path.stat()
    return _hash_once(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=64)
def _hash_once(path: Path, *_state: int) -> str:
    return hash_file(path)


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a file itself, no link to one, has this hash."""
    return path.is_file() and not path.is_symlink() and hash_file(path) == sha256


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return when everything below `folder` has reached the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def tree_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder; links count as links."""
    found = path.rglob("*") if path.is_dir() else (path,)
    return sum(one.lstat().st_size for one in found if one.is_symlink() or one.is_file())


@contextmanager
def replace_file(path: Path) -> Generator[Path]:
    """A temporary path in the folder of `path`; what is written there becomes `path` at the end.

    After an error the file that was there before is unchanged, after a power cut either file is
    whole. Raises BadInput for what is no file: a pipe, a device or a link would be gone.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BadInput(f"{path} is a link, a folder or a device.", "Give the path of a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that replaces the one that was there only when it is whole."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def staging_folder(parent: Path) -> Generator[Path]:
    """A new folder in `parent`, so on the same disk; removed at the end unless it was moved."""
    staged = Path(tempfile.mkdtemp(prefix=STAGING, dir=parent))
    staged.chmod(0o755)  # mkdtemp's 0700 would keep other users from reading what is moved
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A temporary folder that becomes `path`, which is missing or empty, at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(path.parent) as staged:
        yield staged
        staged.replace(path)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Raise BadInput naming the file, or else `path`, if the system refuses a read in this block.

    A missing file, a link to itself, a folder without permission and a name that is too long are
    such.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{error.filename or path} cannot be read: {error.strerror or error}.",
            "Check that it exists, its links and its permissions.",
        ) from None


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a user's file in UTF-8, with or without a byte order mark.

    Raises BadInput, naming it, if it cannot be read, is not a regular file, has more than
    `max_bytes` or is not UTF-8.
    """
    with reading(path):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise BadInput(f"{path} is not a file.", "Give the path of a file.")
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BadInput(f"{path} is too large: it has more than {max_bytes >> 20} MiB.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not text in UTF-8: byte {error.start} is {content[error.start]:#04x}.",
            "Save it as UTF-8.",
        ) from None


@contextmanager
def writing_to(path: Path) -> Generator[None]:
    """Raise MissingEnvironment naming `path` if the system refuses a write in this block; what else
    it refuses is named by itself.
    """
    try:
        yield
    except OSError as error:
        raise write_failed(path, error) from error


@contextmanager
def writing_to_cache() -> Generator[Path]:
    """The cache folder. Raises MissingEnvironment naming the file there that the system refuses."""
    folder = cache_folder()
    try:
        yield folder
    except OSError as error:
        if error.filename is None or not _is_of(folder, Path(os.fsdecode(error.filename))):
            raise
        raise MissingEnvironment(
            f"The cache cannot be used: {os.fsdecode(error.filename)}: {error.strerror}.",
            "Free some space, or choose another folder: XDG_CACHE_HOME=DIR hvt-deploy ...",
        ) from error


def write_failed(path: Path, error: OSError) -> HvtDeployError:
    """The error for a write to `path` that the system refused, or for what else it refused on the
    way: another file, a full folder for temporary files.
    """
    error = with_number(error)
    temporary = _find_full_temporary_folder(path) if error.errno == errno.ENOSPC else None
    if temporary and error.filename is None:
        return MissingEnvironment(
            f"Could not write to {temporary}, the folder for temporary files: {error.strerror}.",
            "Free some space there or choose another: TMPDIR=DIR hvt-deploy ...",
        )
    if error.errno in WRONG_PATH:
        return refused_by_system(error)
    named = error.filename
    if named is not None and not _is_of(path, Path(os.fsdecode(named))):
        return refused_by_system(error)
    return MissingEnvironment(
        f"Could not write to {path}: {error.strerror or error}.",
        "What was there before is unchanged. Free some space or choose another --workspace DIR.",
    )


def _is_of(path: Path, named: Path) -> bool:
    """Whether `named` is `path`, above it, in it, or a temporary file next to it."""
    path, named = path.absolute(), named.absolute()
    beside = named.parent == path.parent and named.name.startswith(".")
    return beside or named.is_relative_to(path) or path.is_relative_to(named)


def _find_full_temporary_folder(path: Path) -> Path | None:
    """The folder for temporary files if it is on another disk than `path`, and is the full one."""
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - only looked at
    place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not temporary.is_dir() or temporary.stat().st_dev == place.stat().st_dev:
        return None
    full = shutil.disk_usage(temporary).free < _BLOCK_BYTES <= shutil.disk_usage(place).free
    return temporary if full else None


def cache_folder() -> Path:
    """Where downloads and interrupted measurements are kept: `hvt-deploy` in $XDG_CACHE_HOME or
    ~/.cache.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "hvt-deploy"
