"""Reading checkpoint files, in every format in which training programs and hubs publish weights.

A checkpoint is untrusted: nothing in it is executed (DESIGN, "Weights"). Tensors stay in the file,
mapped into memory: what is not used (an optimizer's state, stored buffers) is never read.
"""

# torch.serialization and safetensors are typed in part only.

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.weights.download import looks_like_html

__all__ = ["Container", "read_container"]

# Where training programs keep the weights, in the order in which the official evaluations look;
# averaged ones only where there are no others.
_NAMES = ("state_dict", "model", "state_dict_ema", "model_ema")
_WRAPPER = "module."
_ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class Container:
    """The weights of a file.

    Attributes:
        path: The file.
        name: The key under which it holds them; `bare` where the file is a state dict.
        state: Key -> tensor on the CPU. Keys are without the prefix `module.` of training on
            several GPUs.
    """

    path: Path
    name: str
    state: Mapping[str, Tensor]


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
    with path.open("rb") as file:
        start = file.read(512)
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
    if next(iter(state)).startswith(_WRAPPER):
        state = {key.removeprefix(_WRAPPER): tensor for key, tensor in state.items()}
    return Container(path, name, state)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    require("safetensors", extra="export")
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def _read_torch(path: Path, mapped: bool) -> object:
    """`mapped` is for the zip format; the format before torch 1.6 can only be read as a whole."""
    try:
        with _only_inert_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe is None:
            raise _damaged(path, str(error).partition("\n")[0]) from None
        raise BadInput(
            f"{path} was not loaded: it asks for the Python name {unsafe[1]}, which could execute "
            "code.",
            "Nothing was executed. Save only the state dict, torch.save(model.state_dict(), PATH), "
            "or safetensors.",
        ) from None
    except Exception as error:
        raise _damaged(path, str(error).partition("\n")[0] or type(error).__name__) from None


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
        found = ", ".join(repr(key) for key in list(entries)[:8]) or "nothing"
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
