"""Engines on their own, results and bundles: damaged, hostile, or of another version."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kinds import Kind
from place import MODEL

Fields = dict[str, Any]


def _loose(change: Callable[[Path], object], place: Path) -> None:
    """An engine with its passport, outside a workspace, and what is wrong with it."""
    engine = next((place / MODEL).glob("engine-*/*.engine"))
    shutil.copy(engine, place / "loose.engine")
    shutil.copy(f"{engine}.json", place / "loose.engine.json")
    change(place / "loose.engine")


def _edit_passport(change: Callable[[Fields], object], engine: Path) -> None:
    path = Path(f"{engine}.json")
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def _passport(content: bytes, engine: Path) -> None:
    Path(f"{engine}.json").write_bytes(content)


PASSPORTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another engine": (lambda e: e.write_bytes(b"other"), "is not the file its passport describes"),
    "an empty engine": (lambda e: e.write_bytes(b""), "is not the file its passport describes"),
    "no passport": (lambda e: Path(f"{e}.json").unlink(), "has no passport"),
    "an empty passport": (partial(_passport, b""), "is damaged"),
    "a passport cut off": (partial(_passport, b'{"schema_version": 2, "fl'), "is damaged"),
    "a passport that is a list": (partial(_passport, b"[]"), "is damaged"),
    "a passport nested deep": (partial(_passport, b"[" * 100_000), "is damaged"),
    "a passport of a newer version": (
        partial(_edit_passport, lambda f: f.update(schema_version=99)),
        "schema version 99",
    ),
    "a passport without seals": (
        partial(_edit_passport, lambda f: f.pop("seals")),
        "damaged|seals",
    ),
    "a passport whose GPU was edited": (
        partial(_edit_passport, lambda f: f.update(compute_capabilities=["9.0"])),
        "was edited: its field 'compute_capabilities'",
    ),
    "a passport without a field": (
        partial(_edit_passport, lambda f: f.pop("version")),
        "was edited|version",
    ),
    "a passport with another field": (
        partial(_edit_passport, lambda f: f.update(colour="red")),
        "was edited|colour",
    ),
}
RESULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "old.json"),
    "no JSON": (b"{", "old.json"),
    "a list": (b"[]", "old.json"),
    "nested deep": (b"[" * 100_000, "old.json"),
    "of a newer version": (b'{"schema_version": 99}', "schema version 99"),
    "of no version": (b"{}", "schema version"),
    "without rows": (b'{"schema_version": 3, "model": "m"}', "old.json"),
    "UTF-16": ("{}".encode("utf-16"), "old.json"),
}


def _rewrite(change: Callable[[str, bytes], tuple[str, bytes] | None], place: Path) -> None:
    with (
        tarfile.open(place / "hvt_demo.tar") as source,
        tarfile.open(place / "bad.tar", "w") as target,
    ):
        for member in source:
            if (entry := change(member.name, source.extractfile(member).read())) is not None:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                target.addfile(info, io.BytesIO(entry[1]))


def _add(name: str, kind: bytes, place: Path) -> None:
    shutil.copy(place / "hvt_demo.tar", place / "bad.tar")
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    with tarfile.open(place / "bad.tar", "a") as archive:
        archive.addfile(entry)


def _cut(size: int, place: Path) -> None:
    (place / "bad.tar").write_bytes((place / "hvt_demo.tar").read_bytes()[:size])


def _put(content: bytes, place: Path) -> None:
    (place / "bad.tar").write_bytes(content)


def _swap(name: str, content: bytes) -> Callable[[Path], None]:
    return partial(_rewrite, lambda n, c: (n, content if n == name else c))


def _gzipped(place: Path) -> None:
    with tarfile.open(place / "bad.tar", "w:gz") as archive:
        archive.add(place / "notes.txt", "bundle.json")


BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (partial(_put, b""), "bad.tar was refused"),
    "text": (partial(_put, b"hello" * 500), "bad.tar was refused"),
    "cut off in its index": (partial(_cut, 700), "bad.tar was refused"),
    "cut off": (partial(_cut, 100_000), "bad.tar was refused"),
    "zeros": (partial(_put, b"\0" * 20_000), "bad.tar was refused"),
    "compressed": (_gzipped, "bad.tar was refused"),
    "with an index that is no JSON": (_swap("bundle.json", b"{"), "is damaged"),
    "with an index of a newer version": (
        _swap("bundle.json", b'{"schema_version": 99}'),
        "schema version 99",
    ),
    "with an empty index": (_swap("bundle.json", b"{}"), "schema version"),
    "with another manifest": (_swap("manifest.json", b"{}"), "sha256 differs"),
    "with a file that leads outside": (
        partial(_rewrite, lambda n, c: (f"../{n}" if n == "manifest.json" else n, c)),
        "outside its folder",
    ),
    "with an absolute file": (
        partial(_rewrite, lambda n, c: ("/tmp/x" if n == "manifest.json" else n, c)),
        "outside its folder",
    ),
    "with a file that is not listed": (
        partial(_rewrite, lambda n, c: (f"x/{n}" if n == "manifest.json" else n, c)),
        "not listed",
    ),
    "without a file": (
        partial(_rewrite, lambda n, c: None if n == "manifest.json" else (n, c)),
        "is missing",
    ),
    "with a file twice": (partial(_add, "manifest.json", tarfile.REGTYPE), "is not listed, or"),
    "with a link in it": (partial(_add, "a", tarfile.SYMTYPE), "is not listed, or|not a plain"),
    "with a pipe in it": (partial(_add, "a", tarfile.FIFOTYPE), "is not listed, or|not a plain"),
    "with a name of half a character": (partial(_add, "a\udcff", tarfile.REGTYPE), r"a\\udcff"),
    "with a name of 100 000 letters": (
        partial(_add, "a" * 100_000, tarfile.REGTYPE),
        "is not listed, or",
    ),
    "without an index": (
        partial(_rewrite, lambda n, c: None if n == "bundle.json" else (n, c)),
        "its first file is not bundle.json",
    ),
}


def _list_kinds() -> Iterator[Kind]:
    for fault, (change, sentence) in PASSPORTS.items():
        arguments = ("inspect", "loose.engine")
        yield Kind("engine", fault, arguments, sentence, partial(_loose, change))
    for fault, (content, sentence) in RESULTS.items():
        arguments = ("diff", "old.json", "old.json")
        yield Kind("results", fault, arguments, sentence, partial(_put_results, content))
    for fault, (prepare, sentence) in BUNDLES.items():
        arguments = ("deploy", "bad.tar", "--data", "validation", "--workspace", "new")
        yield Kind("bundle", fault, arguments, sentence, prepare)


def _put_results(content: bytes, place: Path) -> None:
    (place / "old.json").write_bytes(content)


KINDS = tuple(_list_kinds())
