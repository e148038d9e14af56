"""Small or empty files that would take hundreds of MiB of memory if what is read, unpacked or
written out of them were not bounded. Each has the least that shows it, and its own bound.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml
from kinds import Kind
from place import MODEL

from hvt_deploy.commands import unpack
from hvt_deploy.core import records, serialization, yaml_file
from hvt_deploy.data import class_names

_MB = 1_000_000
_HOLE_BYTES = 150 * _MB
_MORE_THAN_LABELS = 300 * _MB
# A list that has 7^6 words when it is written out, 35 MB.
_ALIASES = ", ".join(
    [f"&a [{', '.join(['x' * 300] * 7)}]"]
    + [
        f"&{name} [{', '.join([f'*{before}'] * 7)}]"
        for before, name in zip("abcde", "bcdef", strict=True)
    ]
)
_DEPLOY = ("deploy", "bad.tar", "--data", "validation", "--workspace", "new")


def _write_recipe(place: Path) -> None:
    (place / "bad.yaml").write_text(f"int8_roles: [{_ALIASES}]")


def _write_configuration(place: Path) -> None:
    text = (place / "configs/hvt_demo.yaml").read_text()
    (place / "bad.yaml").write_text(text.replace("model: hvt_demo", f"model: [{_ALIASES}]"))


def _make_hole(name: str, place: Path) -> None:
    """A file of zeros that takes no room on the disk."""
    path = next(iter(place.glob(name)), place / name)
    path.unlink(missing_ok=True)
    with path.open("wb") as stream:
        stream.truncate(_MORE_THAN_LABELS if name == "labels.txt" else _HOLE_BYTES)


def _make_sparse_bundle(place: Path) -> None:
    """10 KiB whose first file is a sparse one of 150 MB."""
    index = tarfile.TarInfo("bundle.json")
    index.pax_headers = {
        "GNU.sparse.size": str(_HOLE_BYTES),
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.offset": "0",
        "GNU.sparse.numbytes": "1",
    }
    index.size = 1
    with tarfile.open(place / "bad.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(index, io.BytesIO(b"{"))


def _make_bundle_with_a_long_name(place: Path) -> None:
    """The header of a file whose name has zeros."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, _HOLE_BYTES
    with (place / "bad.tar").open("wb") as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(_HOLE_BYTES + 2048)


_HOLES: dict[str, tuple[str, tuple[object, ...], str, float]] = {
    "a configuration": ("bad.yaml", ("quantize", "--int8", "--config", "bad.yaml"), "64 KiB", 60),
    "a manifest": (f"{MODEL}/manifest.json", ("predict", "validation/0/0.png"), "64 MiB", 200),
    "results": ("old.json", ("diff", "old.json", "old.json"), "64 MiB", 200),
    "an index of bundles": ("bad.tar", _DEPLOY, "bad.tar was refused", 100),
    "a file of class names": (
        "names.json",
        ("export", "hvt_demo", "--force", "--class-names", "names.json"),
        "too large",
        120,
    ),
    "a file of labels": (
        "labels.txt",
        ("validate", "--data", "validation", "--labels", "labels.txt"),
        "too large",
        400,
    ),
    "a checkpoint": (
        "bad.pth",
        ("export", "hvt_demo", "--force", "--weights", "bad.pth"),
        "not a complete checkpoint",
        100,
    ),
    "an image": ("bad.png", ("predict", "bad.png"), "not an image in one of", 100),
}


def _list_kinds() -> Iterator[Kind]:
    for channel, prepare, command in (
        ("recipe", _write_recipe, ("quantize", "--int8", "--recipe", "bad.yaml")),
        (
            "configuration",
            _write_configuration,
            ("validate", "--data", "validation", "--config", "bad.yaml"),
        ),
    ):
        yield Kind(channel, "2 KB of aliases", command, "an alias", prepare, most_mib=60)
    bundles: dict[str, Callable[[Path], None]] = {
        "a sparse index": _make_sparse_bundle,
        "a name of 150 MB": _make_bundle_with_a_long_name,
    }
    for fault, prepare in bundles.items():
        yield Kind("bundle", fault, _DEPLOY, "bad.tar was refused", prepare, most_mib=60)
    for channel, (name, command, sentence, most_mib) in _HOLES.items():
        prepare = partial(_make_hole, name)
        yield Kind(channel, "zeros", command, sentence, prepare, most_mib=most_mib)


def _allow_aliases() -> None:
    yaml_file._Loader.compose_node = yaml.SafeLoader.compose_node
    serialization._show.repr = repr


def _allow_sparse_files() -> None:
    unpack._is_plain_file = tarfile.TarInfo.isreg
    unpack._MAX_RECORD_BYTES = _HOLE_BYTES


def _allow_large_records() -> None:
    records.MAX_RECORD_BYTES = _HOLE_BYTES


def _allow_large_names() -> None:
    class_names.MAX_NAMES_BYTES = _HOLE_BYTES


KINDS = tuple(_list_kinds())
# What each bound of the product is for: without it the kind is not clean.
BOUNDS: dict[str, Callable[[], None]] = {
    "configuration: 2 KB of aliases": _allow_aliases,
    "bundle: a sparse index": _allow_sparse_files,
    "results: zeros": _allow_large_records,
    "a file of class names: zeros": _allow_large_names,
}
