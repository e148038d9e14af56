"""Files from the network: a download that is ended, however, goes on where it was."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, cast

from hvt_deploy.core.environment import check_free_disk
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.files import replace_file, sync, writing_to
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.core.ui import SilentUi

_CONNECT_TIMEOUT_S = 10
_CHUNK_BYTES = 1 << 20
_RESUMES = 5


class HostUnreachable(MissingEnvironment):
    """No answer at all: no network, an unknown or silent host, a proxy that refuses."""


@dataclass(frozen=True)
class _Version:
    """What the host said of the file that a part is of."""

    total_bytes: int = 0
    """Its size; 0 where it is not known."""
    etag: str = ""
    """Names its content; a weak one, or none, proves nothing."""

    @property
    def is_certain(self) -> bool:
        """Whether the rest of the same file can be asked for."""
        return self.etag.startswith('"') and self.total_bytes > 0


def fetch(
    url: str, path: Path, hint: str, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the file at `url` to `path`, which appears only when it is complete.

    Where the connection breaks off, or this process was ended, the rest is asked for by its range
    (RFC 9110, section 14) if the host names the file's version: now up to `_RESUMES` times, or by
    the next call. Raises HostUnreachable, and BadInput with `hint` for another answer than the file
    and for one that stays incomplete.
    """
    part, note = (path.with_name(f".{path.name}.{end}") for end in ("part", "version"))
    with hold_alone(path.with_name(f".{path.name}.lock"), SilentUi()), writing_to(path):
        if path.is_file():  # another process fetched it meanwhile
            return
        try:
            with part.open("ab") as stream:
                _receive_all(url, stream, note, hint, progress)
            sync(part)
            part.replace(path)
            note.unlink(missing_ok=True)
            sync(path.parent)
        finally:
            if not _read_note(note).is_certain or not part.stat().st_size:
                part.unlink(missing_ok=True)
                note.unlink(missing_ok=True)


def looks_like_html(start: bytes) -> bool:
    """Whether a file that starts like this is a web page."""
    return (
        start.lstrip(b"\xef\xbb\xbf \t\r\n")
        .lower()
        .startswith((b"<!doctype html", b"<html", b"<head"))
    )


def _receive_all(
    url: str,
    part: IO[bytes],
    note: Path,
    hint: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill `part` up; the version of what is in it is in `note`."""
    version, broken = _read_note(note), ""
    part.seek(0, os.SEEK_END)
    for attempt in range(1 + _RESUMES):
        if version.is_certain and part.tell() == version.total_bytes:
            break
        headers: dict[str, str] = {}
        if version.is_certain and part.tell() < version.total_bytes:
            headers = {"Range": f"bytes={part.tell()}-", "If-Range": version.etag}
        try:
            answer = _request(url, hint, headers)
        except HostUnreachable as gone:
            if not attempt:
                raise
            broken = f": {gone.message}"
            break
        if not headers or answer.status != 206:  # new, another version, a host without ranges
            part.seek(0)
            part.truncate()
            length, etag = answer.headers.get("Content-Length"), answer.headers.get("ETag", "")
            version = _Version(int(length or 0), etag)
            _write_note(note, version)
            check_free_disk(note, version.total_bytes)
        broken = _receive(answer, part, version.total_bytes, url, hint, progress)
        if not version.is_certain:
            break
    done, total = part.tell(), version.total_bytes
    if done == 0 or done < total:
        raise BadInput(
            f"The download of {url} broke off after {done} of {total or 'unknown'} bytes{broken}.",
            hint,
        )


def _read_note(note: Path) -> _Version:
    text = note.read_text(encoding="utf-8", errors="replace") if note.is_file() else ""
    size, _, etag = text.partition(" ")
    return _Version(int(size), etag) if size.isdecimal() else _Version()


def _write_note(note: Path, version: _Version) -> None:
    if not version.is_certain:
        note.unlink(missing_ok=True)
        return
    with replace_file(note) as temporary:
        temporary.write_text(f"{version.total_bytes} {version.etag}", encoding="utf-8")


def _request(url: str, hint: str, headers: dict[str, str]) -> HTTPResponse:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - from a spec
    try:
        return cast("HTTPResponse", urllib.request.urlopen(request, timeout=_CONNECT_TIMEOUT_S))  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        raise BadInput(
            f"{url} answered {error.code} {error.reason} instead of the checkpoint.", hint
        ) from None
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise HostUnreachable(f"The host of {url} cannot be reached ({reason}).", hint) from None


def _receive(
    answer: HTTPResponse,
    part: IO[bytes],
    total: int,
    url: str,
    hint: str,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Append an answer to `part`; returns why it broke off, "" where the host just ended."""
    with answer:
        while True:
            try:
                chunk = answer.read(_CHUNK_BYTES)
            except (OSError, HTTPException) as error:
                return f": {error}"
            if not chunk:
                return ""
            if part.tell() == 0 and looks_like_html(chunk):
                raise BadInput(f"{url} answered with a web page instead of the checkpoint.", hint)
            part.write(chunk)
            if progress is not None:
                progress(part.tell(), max(total, part.tell()))
