"""Checkpoints made by hand: of any content, with a wrong weight, hostile."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from hvt_deploy.data.assets import asset_path

KEY = "head.weight"


class Attack:
    """Would leave a file if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch attacked",)


class Builtin:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('attacked', 'w')",)


class Zeros:
    """Would be 20 GB if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (20 << 30,)


class _Stretched:
    """A tensor of `size` values from `offset` of a storage of four."""

    def __init__(self, size: int, offset: int) -> None:
        self.size, self.offset = size, offset

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        storage = torch.zeros(4).storage()
        values = storage, self.offset, (self.size,), (1,), False, OrderedDict()
        return torch._utils._rebuild_tensor_v2, values


def stretch_tensor(size: int, offset: int = 0) -> bytes:
    return save({**demo_state(), KEY: _Stretched(size, offset)})


def make_pickle(opcodes: bytes) -> bytes:
    """A checkpoint whose pickle has these opcodes."""
    pickled = b"\x80\x04" + opcodes + b"."
    return make_zip({"archive/data.pkl": pickled, "archive/version": b"3\n"})


def demo_state() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(asset_path("hvt_demo.safetensors"))


def save(content: object, **options: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def with_weight(change: Callable[[Tensor], Tensor]) -> bytes:
    state = demo_state()
    return save({**state, KEY: change(state[KEY])})


def with_first(value: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.cat([torch.full_like(tensor[:1], value), tensor[1:]])


def with_head(classes: int) -> bytes:
    weight = torch.zeros(1, 1).expand(classes, demo_state()[KEY].shape[1])
    return save({**demo_state(), KEY: weight, "head.bias": torch.zeros(1).expand(classes)})


def make_safetensors(
    header: Mapping[str, object] | bytes, data: bytes = b"", length: int = -1
) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length < 0 else length) + text + data


def describe_tensor(
    offsets: tuple[int, int] = (0, 4), dtype: str = "F32", shape: tuple[int, ...] = (1,)
) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def make_zip(files: Mapping[str, bytes], form: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", form) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def read_zip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def flip_bit(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def share_tuples(depth: int = 60) -> bytes:
    """Tuples of the tuple before, twice each: 300 bytes that are 2^60 values when written out."""
    value: object = ()
    for _ in range(depth):
        value = (value, value)
    return save({"model": value})


def nest_lists(depth: int = 100_000) -> bytes:
    pickled = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    return make_zip({"archive/data.pkl": pickled, "archive/version": b"3\n"})


def share_in_key(doublings: int = 60) -> bytes:
    """Tuples of the tuple before as a key of a dict, which walks through all that is shared."""
    pickled = b"\x80\x02})q\0" + b"h\0\x86q\0" * doublings + b"K\x01s."
    return make_zip({"archive/data.pkl": pickled, "archive/version": b"3\n"})


def make_torchscript() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def make_npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


def make_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("pickle")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"\x80\x02}q."))
    return stream.getvalue()


def leave_out(prefix: str) -> bytes:
    return save({k: t for k, t in demo_state().items() if not k.startswith(prefix)})
