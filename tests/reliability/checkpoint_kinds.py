"""Checkpoints: files that are none, that would run code, that lie about their contents, and weights
of other models or that are no numbers.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from kinds import Kind
from made_checkpoints import (
    KEY,
    Attack,
    Builtin,
    demo_state,
    describe_tensor,
    flip_bit,
    leave_out,
    make_npz,
    make_safetensors,
    make_tar,
    make_torchscript,
    make_zip,
    nest_lists,
    read_zip,
    save,
    share_in_key,
    share_tuples,
    with_first,
    with_head,
    with_weight,
)
from pickles import NO_CHECKPOINT as _NO_CHECKPOINT
from pickles import PICKLES

from hvt_deploy.data.assets import asset_path

_EXPORT = ("export", "hvt_demo", "--force", "--weights", "bad.pth")


_NOT_FINITE = f"{KEY}.*no finite"
_NO_NAME = "asks for the Python name"
CONTENTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", _NO_CHECKPOINT),
    "text": (lambda: b"hello world", _NO_CHECKPOINT),
    "random bytes": (lambda: np.random.default_rng(0).bytes(5000), _NO_CHECKPOINT),
    "a web page": (lambda: b"<!doctype html><title>Sign in</title>", "is a web page"),
    "a pointer of git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\n",
        _NO_CHECKPOINT,
    ),
    "compressed by gzip": (lambda: gzip.compress(save(demo_state())), _NO_CHECKPOINT),
    "in a tar archive": (make_tar, _NO_CHECKPOINT),
    "arrays of NumPy": (make_npz, _NO_CHECKPOINT),
    "an HDF5 file": (lambda: b"\x89HDF\r\n\x1a\n" + b"\0" * 500, _NO_CHECKPOINT),
    "a TorchScript program": (make_torchscript, "is a TorchScript program"),
    "a zip of something else": (lambda: make_zip({"readme.txt": b"hello"}), _NO_CHECKPOINT),
    "a zip without entries": (lambda: make_zip({}), _NO_CHECKPOINT),
    "a zip that is only its start": (lambda: b"PK\x03\x04 and no more", _NO_CHECKPOINT),
    "a compressed zip": (
        lambda: make_zip(read_zip(save(demo_state())), zipfile.ZIP_DEFLATED),
        "compressed archive",
    ),
    "a zip whose entries lie outside": (
        lambda: make_zip({"../../x/data.pkl": pickle.dumps({}), "../../x/version": b"3"}),
        _NO_CHECKPOINT,
    ),
    "a zip with two pickles": (
        lambda: make_zip(
            {"a/data.pkl": b"\x80\x02}.", "b/data.pkl": b"\x80\x02}.", "a/version": b"3"}
        ),
        f"{_NO_CHECKPOINT}|holds no weights",
    ),
    "cut off": (lambda: save(demo_state())[:40_000], _NO_CHECKPOINT),
    "cut off at its end": (lambda: save(demo_state())[:-30], _NO_CHECKPOINT),
    "a bit of the weights that flipped": (
        lambda: flip_bit(save(demo_state()), 200_000),
        "Bad CRC-32|Bad magic|not a complete",
    ),
    "without its data": (
        lambda: make_zip(
            {k: c for k, c in read_zip(save(demo_state())).items() if "/data/" not in k}
        ),
        _NO_CHECKPOINT,
    ),
    "a pickle that runs a program": (
        lambda: pickle.dumps(Attack()),
        f"{_NO_NAME}|{_NO_CHECKPOINT}",
    ),
    "a checkpoint that runs a program": (lambda: save({"model": Attack()}), _NO_NAME),
    "a checkpoint that evaluates text": (lambda: save({"model": Builtin()}), _NO_NAME),
    "a whole module": (lambda: save(torch.nn.Linear(2, 2)), _NO_NAME),
    "the old format with code": (
        lambda: save({"model": Attack()}, _use_new_zipfile_serialization=False),
        _NO_NAME,
    ),
    "the old format, cut off": (
        lambda: save(demo_state(), _use_new_zipfile_serialization=False)[:30_000],
        _NO_CHECKPOINT,
    ),
    "a plain pickle": (lambda: pickle.dumps({"a": 1}), _NO_CHECKPOINT),
    "a pickle without an end": (
        lambda: make_zip({"archive/data.pkl": b"\x80\x02}", "archive/version": b"3\n"}),
        _NO_CHECKPOINT,
    ),
    "a list nested 100 000 deep": (nest_lists, f"{_NO_CHECKPOINT}|holds no weights"),
    "tuples that share each other": (share_tuples, "values within values"),
    "tuples that share each other as a key": (share_in_key, "values within values"),
    "the old format of tuples that share each other": (
        lambda: b"".join(
            (
                pickle.dumps(torch.serialization.MAGIC_NUMBER, 2),
                pickle.dumps(1001, 2),
                pickle.dumps({}, 2),
                b"\x80\x02})q\0" + b"h\0\x86q\0" * 60 + b"K\x01s.",
            )
        ),
        "values within values",
    ),
    "nothing in it": (lambda: save({}), "holds no weights"),
    "a list": (lambda: save([torch.zeros(1)]), "holds no weights.*a list"),
    "a number": (lambda: save(3), "holds no weights"),
    "one tensor": (lambda: save(torch.zeros(3)), "holds no weights"),
    "an optimizer only": (
        lambda: save({"optimizer": {"state": {}}, "epoch": 3}),
        "holds no weights",
    ),
    "training options only": (lambda: save(argparse.Namespace(lr=1)), "holds no weights"),
    "numbers as keys": (lambda: save({1: torch.zeros(1)}), "holds no weights"),
    "values that are no tensors": (lambda: save({"model": {"a": [1.0]}}), "holds no weights"),
    "an ordered dict of nothing": (lambda: save(collections.OrderedDict()), "holds no weights"),
    "another model": (lambda: save({"conv1.weight": torch.zeros(3, 3)}), "hvt_demo"),
    "without a block": (lambda: leave_out("blocks.0"), "blocks.0"),
    "with keys of another model": (
        lambda: save(
            {**demo_state(), **{f"layer4.{i}.weight": torch.zeros(2) for i in range(500)}}
        ),
        "layer4",
    ),
    "a key of 10 000 characters": (
        lambda: save({**demo_state(), "x" * 10_000: torch.zeros(1)}),
        r"x{80}\.\.\.",
    ),
    "a key with terminal codes": (
        lambda: save({**demo_state(), "\x1b[31m": torch.zeros(1)}),
        r"\\x1b",
    ),
    "a weight of another shape": (lambda: with_weight(lambda t: t[:, :-1]), KEY),
    "a weight transposed": (lambda: with_weight(lambda t: t.T.contiguous()), KEY),
    "a scalar for a weight": (lambda: with_weight(lambda t: torch.tensor(1.0)), KEY),
    "an empty weight": (lambda: with_weight(lambda t: t[:0]), KEY),
    "NaN": (lambda: with_weight(with_first(float("nan"))), _NOT_FINITE),
    "infinity": (lambda: with_weight(with_first(float("inf"))), _NOT_FINITE),
    "numbers beyond float32": (
        lambda: with_weight(lambda t: t.double() * 1e300),
        _NOT_FINITE,
    ),
    "INT8 weights": (lambda: with_weight(lambda t: t.to(torch.int8)), f"{KEY} is int8"),
    "bool weights": (lambda: with_weight(lambda t: t > 0), f"{KEY} is bool"),
    "complex weights": (
        lambda: with_weight(lambda t: t.to(torch.complex64)),
        "is complex64",
    ),
    "FP8 weights": (lambda: with_weight(lambda t: t.to(torch.float8_e4m3fn)), f"{KEY} is float8"),
    "sparse weights": (lambda: with_weight(lambda t: t.to_sparse()), f"{KEY} is sparse"),
    "quantized weights": (
        lambda: with_weight(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        f"{KEY} is qint8",
    ),
    "weights without values": (lambda: with_weight(lambda t: t.to("meta")), f"{KEY} has no values"),
    "a head of 10^9 classes": (lambda: with_head(10**9), KEY),
    "a head of no class": (lambda: with_head(0), KEY),
    "safetensors cut off": (
        lambda: asset_path("hvt_demo.safetensors").read_bytes()[:9000],
        _NO_CHECKPOINT,
    ),
    "safetensors with a header of 2^60 bytes": (
        lambda: make_safetensors(b"{}", length=2**60),
        _NO_CHECKPOINT,
    ),
    "safetensors with a header that is no JSON": (
        lambda: make_safetensors(b"{nonsense"),
        _NO_CHECKPOINT,
    ),
    "safetensors with a header nested deep": (
        lambda: make_safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        _NO_CHECKPOINT,
    ),
    "safetensors whose tensors overlap": (
        lambda: make_safetensors({"a": describe_tensor(), "b": describe_tensor()}, b"\0" * 4),
        _NO_CHECKPOINT,
    ),
    "safetensors that reach beyond the file": (
        lambda: make_safetensors({"a": describe_tensor((0, 4000), shape=(1000,))}, b"\0" * 4),
        _NO_CHECKPOINT,
    ),
    "safetensors of an unknown type": (
        lambda: make_safetensors({"a": describe_tensor(dtype="F7")}, b"\0" * 4),
        _NO_CHECKPOINT,
    ),
    "safetensors whose shape does not fit": (
        lambda: make_safetensors({"a": describe_tensor(shape=(2**40, 2**40))}, b"\0" * 4),
        _NO_CHECKPOINT,
    ),
    "safetensors of another model": (
        lambda: make_safetensors({"a": describe_tensor()}, b"\0" * 4),
        "hvt_demo",
    ),
    "safetensors with negative offsets": (
        lambda: make_safetensors({"a": describe_tensor((-4, 0))}, b"\0" * 4),
        _NO_CHECKPOINT,
    ),
    "safetensors with a hole": (
        lambda: make_safetensors(
            {"a": describe_tensor((0, 4)), "b": describe_tensor((8, 12))}, b"\0" * 12
        ),
        _NO_CHECKPOINT,
    ),
    "safetensors whose metadata is a list": (
        lambda: make_safetensors({"__metadata__": [1]}),
        _NO_CHECKPOINT,
    ),
    "safetensors of nothing": (lambda: make_safetensors({}), "holds no weights"),
}
NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "There is no checkpoint file"),
    "a folder": (Path.mkdir, "There is no checkpoint file"),
    "a pipe": (os.mkfifo, "There is no checkpoint file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "There is no checkpoint file"),
    "a link to an endless device": (
        lambda path: path.symlink_to("/dev/zero"),
        "There is no checkpoint file",
    ),
}


def _hole(place: Path) -> None:
    with (place / "bad.pth").open("wb") as stream:
        stream.truncate(100 << 30)


def _indices(place: Path, content: bytes) -> None:
    (place / "weights").mkdir()
    (place / "weights/good.pth").write_bytes(save(demo_state()))
    (place / "weights/class_indices.json").write_bytes(content)


_INDICES = {
    "that are no JSON": b"{",
    "of another number": b'{"0": "cat", "1": "dog"}',
    "that are a list of numbers": b"[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "nested deep": b"[" * 100_000,
    "with a gap": json.dumps({str(i + (i > 4)): "c" for i in range(10)}).encode(),
    "that are no text": b"\xff\xfe\0\0",
}


def _list_kinds() -> Iterator[Kind]:
    for fault, (make, sentence) in {**CONTENTS, **PICKLES}.items():
        yield Kind("checkpoint", fault, _EXPORT, sentence, partial(_write, make))
    for fault, (put, sentence) in NO_FILES.items():
        yield Kind("checkpoint", fault, _EXPORT, sentence, partial(_put, put))
    yield Kind("checkpoint", "a hole of 100 GB", _EXPORT, _NO_CHECKPOINT, _hole)
    for fault, content in _INDICES.items():
        yield Kind(
            "checkpoint",
            f"class names next to it {fault}",
            ("export", "hvt_demo", "--force", "--weights", "weights/good.pth"),
            r"class_indices\.json",
            partial(_indices, content=content),
        )


def _write(make: Callable[[], bytes], place: Path) -> None:
    (place / "bad.pth").write_bytes(make())


def _put(put: Callable[[Path], object], place: Path) -> None:
    put(place / "bad.pth")


KINDS = tuple(_list_kinds())
