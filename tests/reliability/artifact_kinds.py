"""Manifests and artifacts: damaged, hostile, or of another version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kinds import Kind
from place import MODEL

Fields = dict[str, Any]
_LAST = {
    "predict": ("predict", "validation/0/0.png"),
    "validate": ("validate", "--data", "validation"),
    "bundle": ("bundle", "--output", "new.tar"),
    "package": ("package", "--triton", "new"),
    "quantize": ("quantize", "--int8"),
    "build-trt": ("build-trt", "--int8", "--force"),
    "report": ("report",),
    "diff": ("diff",),
    "inspect": ("inspect", "hvt_demo"),
    "diagnose": ("diagnose", "--data", "validation"),
}


def _replace(path: Path, content: bytes) -> None:
    """Files of the place are shared by all trials: another one takes the place of each."""
    path.unlink()
    path.write_bytes(content)


def _fields(place: Path) -> Fields:
    return json.loads((place / MODEL / "manifest.json").read_text())


def _edit(change: Callable[[Fields], object], place: Path) -> None:
    fields = _fields(place)
    change(fields)
    _replace(place / MODEL / "manifest.json", json.dumps(fields).encode())


def _fp32(fields: Fields) -> Fields:
    return fields["artifacts"]["fp32"]


def _find(place: Path, pattern: str) -> Path:
    return next(iter(sorted((place / MODEL).glob(pattern))))


def _forge(key: str, name: str, content: bytes, place: Path) -> None:
    """Another content whose hash the manifest has."""
    fields = _fields(place)
    artifact = fields["artifacts"][key]
    name = name or artifact["main"]
    _replace(place / MODEL / artifact["folder"] / name, content)
    artifact["files"][name] = hashlib.sha256(content).hexdigest()
    for other in fields["artifacts"].values():
        if key in other["parents"] and name == artifact["main"]:
            other["parents"][key] = artifact["files"][name]
    _replace(place / MODEL / "manifest.json", json.dumps(fields).encode())


def _edit_results(change: Callable[[Fields], object], place: Path) -> None:
    results = json.loads(_find(place, "results-[0-9a-f]*/results.json").read_text())
    change(results)
    _forge("results", "results.json", json.dumps(results).encode(), place)


def _lock(put: Callable[[Path], object], place: Path) -> None:
    lock = place / MODEL / ".lock"
    lock.unlink(missing_ok=True)
    put(lock)


_DAMAGED = r"manifest\.json"
MANIFESTS: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"slug": "hvt_demo", "mod',
    "no JSON": b"slug: hvt_demo",
    "a list": b"[]",
    "null": b"null",
    "an empty mapping": b"{}",
    "nested deep": b"[" * 200_000,
    "UTF-16": '{"slug": 1}'.encode("utf-16"),
    "zeros, as after a power cut": b"\0" * 4000,
    "a key twice": b'{"slug": "a", "slug": "b"}',
    "NaN for a number": b'{"schema_version": NaN}',
}
EDITS: dict[str, Callable[[Fields], object]] = {
    "of a newer version": lambda f: f.update(schema_version=99),
    "of an older version": lambda f: f.update(schema_version=1),
    "of a version that is text": lambda f: f.update(schema_version="3"),
    "without a version": lambda f: f.pop("schema_version"),
    "without a model": lambda f: f.pop("model"),
    "with an unknown field": lambda f: f.update(colour="red"),
    "with artifacts that are a list": lambda f: f.update(artifacts=[]),
    "with a number for a text": lambda f: f.update(exported=3),
    "with too few class names": lambda f: f.update(class_names=["a"]),
    "with too many wnids": lambda f: f.update(wnids=["n1"] * 11),
    "with a slug that leads outside": lambda f: f.update(slug="../x"),
    "with a folder that leads outside": lambda f: _fp32(f).update(folder=".."),
    "with an absolute folder": lambda f: _fp32(f).update(folder="/etc"),
    "with a file that leads outside": lambda f: _fp32(f).update(main="../../notes.txt"),
    "with a main file that is not listed": lambda f: _fp32(f).update(files={}),
    "with facts of an unknown kind": lambda f: _fp32(f)["facts"].update(kind="magic"),
    "with parents in a cycle": lambda f: _fp32(f).update(parents={"int8": "0"}),
    "with a negative image size": lambda f: f["signature"].update(image_size=[-1, -1]),
    "with no classes": lambda f: f["signature"].update(num_classes=0),
    "with a batch of 0": lambda f: f["signature"].update(batch=0),
    "with an unknown precision": lambda f: _fp32(f)["facts"].update(precision="fp4"),
    "with a configuration out of range": lambda f: f["config"]["calibration"].update(images=0),
}
MISSING: dict[str, tuple[Callable[[Fields], object], str, str]] = {
    "of an unknown model": (lambda f: f.update(model="resnet"), "validate", "resnet"),
    "whose hashes are not the files'": (
        lambda f: _fp32(f)["files"].update({_fp32(f)["main"]: "0" * 64}),
        "predict",
        "sha256 differs",
    ),
    "whose INT8 graph was made from another": (
        lambda f: f["artifacts"]["int8"]["parents"].update(fp32="0" * 64),
        "bundle",
        "made from another|stale|was replaced|Run: hvt-deploy",
    ),
}


def _not_a_file(put: Callable[[Path], object], place: Path) -> None:
    path = place / MODEL / "manifest.json"
    path.unlink()
    put(path)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link that leads nowhere": lambda path: path.symlink_to("gone"),
    "a pipe": os.mkfifo,
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "gone": lambda path: None,
}
# A lock that is none: it is not written to, nor what it leads to.
LOCKS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to a file of mine": lambda path: path.symlink_to("../../notes.txt"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a full device": lambda path: path.symlink_to("/dev/full"),
}
# By artifact and file ("" for the main one): contents that are none, and the verb that reads it.
_BAD = {
    "empty": b"",
    "no JSON": b"{",
    "nested deep": b"[" * 100_000,
    "of another shape": b'{"a": 1}',
}
FORGED: tuple[tuple[str, str, Mapping[str, bytes], str], ...] = (
    ("fp32", "", {"empty": b"", "text": b"hello", "a cut": b"\x08\x07\x12\x04"}, "predict"),
    ("fp32", "", {"text, to inspect": b"hello"}, "inspect"),
    ("int8", "", {"text": b"hello"}, "inspect"),
    ("calibration", "calibration.json", _BAD, "validate"),
    ("calibration", "ranges.json", _BAD, "quantize"),
    ("results", "results.json", _BAD, "report"),
)
DAMAGED: tuple[tuple[str, str], ...] = (
    ("fp32-*/*.onnx", "predict"),
    ("fp32-*/*.onnx", "bundle"),
    ("fp32-*/*.onnx", "package"),
    ("fp32-*/*.onnx", "diagnose"),
    ("int8-[0-9a-f]*/*.onnx", "build-trt"),
    ("calibration-*/calibration.json", "validate"),
    ("calibration-*/ranges.json", "bundle"),
    ("recorded-reference-*/reference.npz", "bundle"),
    ("engine-*/*.engine", "inspect"),
    ("engine-*/*.engine.json", "inspect"),
    ("results-*/results.json", "report"),
)


def _damage(pattern: str, place: Path) -> None:
    for path in (place / MODEL).glob(pattern):
        _replace(path, path.read_bytes()[:-1] + b"\1")


def _remove(pattern: str, place: Path) -> None:
    for path in (place / MODEL).glob(pattern):
        path.unlink()


def _link_outside(pattern: str, place: Path) -> None:
    for path in (place / MODEL).glob(pattern):
        outside = shutil.move(path, place / path.name)
        path.symlink_to(outside)


def _list_kinds() -> Iterator[Kind]:
    predict = _LAST["predict"]
    for fault, content in MANIFESTS.items():
        prepare = partial(_not_a_file, partial(_write_to, content))
        yield Kind("manifest", fault, predict, _DAMAGED, prepare)
    for fault, change in EDITS.items():
        yield Kind("manifest", fault, predict, _DAMAGED, partial(_edit, change))
    for fault, (change, verb, sentence) in MISSING.items():
        yield Kind("manifest", fault, _LAST[verb], sentence, partial(_edit, change))
    for fault, put in NO_FILES.items():
        yield Kind("manifest", fault, predict, "Nothing was exported", partial(_not_a_file, put))
    for fault, put in LOCKS.items():
        yield Kind("lock", fault, ("quantize", "--fp16"), "no lock file", partial(_lock, put))
    empty = partial(_edit_results, lambda results: results.update(rows=[]))
    yield Kind("results that are kept", "without rows", _LAST["diff"], "has no rows", empty)
    for key, name, contents, verb in FORGED:
        for fault, content in contents.items():
            channel = f"{name or key} whose hash is right"
            sentence = r"\.json|\.onnx|damaged|not an ONNX"
            yield Kind(channel, fault, _LAST[verb], sentence, partial(_forge, key, name, content))
    for pattern, verb in DAMAGED:
        fault, arguments = f"{pattern} before {verb}", _LAST[verb]
        sentence = "sha256 differs|was edited|is not the file"
        yield Kind("a bit that flipped", fault, arguments, sentence, partial(_damage, pattern))
        yield Kind(
            "missing file", fault, arguments, "is missing|no passport", partial(_remove, pattern)
        )
    for verb in ("predict", "bundle"):
        prepare = partial(_link_outside, "fp32-*/*.onnx")
        yield Kind(
            "artifact", f"a link outside, {verb}", _LAST[verb], "link to a file outside", prepare
        )


def _write_to(content: bytes, path: Path) -> None:
    path.write_bytes(content)


KINDS = tuple(_list_kinds())
