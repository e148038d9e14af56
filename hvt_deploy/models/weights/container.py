"""Reading checkpoint files, in every format in which training programs and hubs publish weights.

A checkpoint is untrusted: nothing in it is executed (DESIGN, "Weights"). Tensors stay in the file,
mapped into memory: what is not used (an optimizer's state, stored buffers) is never read.
"""

# torch.serialization and safetensors are typed in part only.

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import torch
from torch import Tensor

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.weights.pickled_values import has_too_many_values
from hvt_deploy.models.weights.transfer import looks_like_html

__all__ = ["Container", "read_container"]

# Where training programs keep the weights, in the order in which the official evaluations look;
# averaged ones only where there are no others.
_NAMES = (
    *("state_dict", "model", "model_state_dict"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
# What several GPUs, Lightning and averaging put before each of the model's keys, one or more.
_WRAPPERS = ("module.", "model.", "ema_model.")
# What torch.compile puts before the keys of each module that it compiled.
_COMPILED = "_orig_mod."
# Where the header of an entry has the lengths of its name and its extra field, which end it.
_ZIP_LENGTHS = 26
_ZIP_START = b"PK\x03\x04"
_BLOCK_BYTES = 1 << 20
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Container:
    """The weights of a file.

    Attributes:
        path: The file.
        name: The key under which it holds them; `bare` where the file is a state dict.
        state: Key -> tensor on the CPU. Keys are without the prefixes of training on several GPUs,
            `torch.compile`, Lightning and averaging.
        outside: Keys next to those of the model in such a wrapper: of losses, of metrics.
    """

    path: Path
    name: str
    state: Mapping[str, Tensor]
    outside: tuple[str, ...] = ()


def read_container(path: Path) -> Container:
    """Read the weights of a safetensors or torch file, mapped where the format allows it.

    Raises BadInput for a file that is missing, a web page, damaged, without weights, or that asks
    for code.
    """
    if not path.is_file():
        raise BadInput(
            f"There is no checkpoint file {path}.",
            "Give --weights auto, official, random or a file.",
        )
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
    if looks_like_html(start):
        raise BadInput(
            f"{path} is a web page, not a checkpoint.",
            "The host answered with a page instead of the file: open the link in a browser and "
            "save the file itself.",
        )
    if start[8:9] == b"{":
        content: object = _read_safetensors(path)
    else:
        content = _read_torch(path, mapped=start.startswith(_ZIP_START))
    name, state = _find_state(path, content)
    return Container(path, name, *_unwrap(state))


def show_key(key: str) -> str:
    """A key of a foreign file for a message: of bounded length, without control characters."""
    shown = key if key.isprintable() else ascii(key)[1:-1]
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def _unwrap(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """(the model's tensors without what wrappers put before their keys, the other keys)."""
    state = {key.replace(_COMPILED, ""): tensor for key, tensor in state.items()}
    outside: list[str] = []
    while True:
        for wrapper in _WRAPPERS:
            own = [key for key in state if key.startswith(wrapper)]
            if 2 * len(own) >= len(state):
                break
        else:
            return state, tuple(outside)
        outside += [key for key in state if not key.startswith(wrapper)]
        state = {key.removeprefix(wrapper): state[key] for key in own}


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    require("safetensors", extra="export")
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    try:
        return load_file(path)
    except (SafetensorError, LookupError, OSError, ValueError) as error:
        raise _damaged(path, _reason(error)) from None


def _read_torch(path: Path, mapped: bool) -> object:
    """`mapped` is for the zip format; the format before torch 1.6 can only be read as a whole."""
    if mapped:
        _check_zip(path)
    else:
        with path.open("rb") as stream:
            _check_values(path, stream)
    try:
        with _only_inert_globals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe is None:
            raise _damaged(path, _reason(error)) from None
        raise BadInput(
            f"{path} was not loaded: it asks for the Python name {show_key(unsafe[1])}, which "
            "could execute code.",
            "Nothing was executed. Save only the state dict, torch.save(model.state_dict(), PATH), "
            "or safetensors. For a network of your own, write a callable that returns it and "
            "export that: hvt-deploy export module:factory --weights PATH",
        ) from None
    except Exception as error:
        raise _damaged(path, _reason(error)) from None


def _check_zip(path: Path) -> None:
    """Compare every entry with its checksum, which PyTorch does not. A checksum of 0 is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise BadInput(
                    f"{path} is a TorchScript program, not a checkpoint.",
                    "Save the state dict, torch.save(model.state_dict(), PATH), or safetensors.",
                )
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _damaged(path, "it is a compressed archive")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise _damaged(path, "its entries are larger than the file")
            for entry in entries:
                with archive.open(entry) as stream:
                    while entry.CRC and stream.read(_BLOCK_BYTES):
                        pass
                if entry.filename.endswith(".pkl"):
                    with path.open("rb") as stream:  # as it is stored, with or without a checksum
                        stream.seek(entry.header_offset + _ZIP_LENGTHS)
                        stream.seek(sum(struct.unpack("<HH", stream.read(4))), os.SEEK_CUR)
                        _check_values(path, stream)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error) as error:
        raise _damaged(path, _reason(error)) from None


def _check_values(path: Path, stream: IO[bytes]) -> None:
    if has_too_many_values(stream):
        raise BadInput(
            f"{path} was not loaded: it holds values within values, too many to look at.",
            "Save only the state dict, torch.save(model.state_dict(), PATH), or safetensors.",
        )


def _reason(error: Exception) -> str:
    """One line of an error of PyTorch, without its advice to load the file unsafely."""
    line = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    if not line or "weights_only" in line or "safe_globals" in line:
        return "PyTorch cannot read it"
    return show_key(line.partition(". ")[0])


def _damaged(path: Path, reason: str) -> BadInput:
    size = path.stat().st_size
    return BadInput(
        f"{path} ({size} bytes) is not a complete checkpoint: {reason}",
        "It is truncated, damaged or no checkpoint at all: delete it and fetch or save it again.",
    )


class _Inert:
    """Stands for training options in a checkpoint: an object of the class becomes a dict."""

    def __new__(cls, *_: object) -> OrderedDict[str, object]:  # type: ignore[misc]
        return OrderedDict()


class _SafeGlobals(Protocol):
    """torch.serialization's list of loadable names, with types."""

    def get_safe_globals(self) -> list[object]: ...

    def clear_safe_globals(self) -> None: ...

    def add_safe_globals(self, safe_globals: list[object], /) -> None: ...


@contextmanager
def _only_inert_globals() -> Generator[None]:
    """Only torch's own safe names load, and two more as stubs, whatever others have allowed."""
    allowed = cast("_SafeGlobals", torch.serialization)
    before = allowed.get_safe_globals()
    allowed.clear_safe_globals()
    allowed.add_safe_globals([(_Inert, "argparse.Namespace"), (_Inert, "yacs.config.CfgNode")])
    try:
        yield
    finally:
        allowed.clear_safe_globals()
        allowed.add_safe_globals(before)


def _find_state(path: Path, content: object) -> tuple[str, Mapping[str, Tensor]]:
    if isinstance(content, Mapping):
        entries = cast("Mapping[object, object]", content)
        for name in _NAMES:
            state = _as_state(entries.get(name))
            if state:
                return name, state
        state = _as_state(entries)
        if state:
            return "bare", state
        names = [show_key(key) if isinstance(key, str) else "no name" for key in list(entries)[:8]]
        found = ", ".join(names) or "nothing"
    else:
        found = f"a {type(content).__name__}"
    raise BadInput(
        f"{path} holds no weights: expected tensors by name, bare or under {', '.join(_NAMES)}; "
        f"found {found}."
    )


def _as_state(value: object) -> dict[str, Tensor]:
    """`value` as key -> tensor, or an empty dict when it is anything else."""
    if not isinstance(value, Mapping):
        return {}
    entries = cast("Mapping[object, object]", value)
    state = {
        key: tensor
        for key, tensor in entries.items()
        if isinstance(key, str) and isinstance(tensor, Tensor)
    }
    return state if len(state) == len(entries) else {}
