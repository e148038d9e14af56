"""Filling a model: official and fine-tuned checkpoints, safetensors, and seeded random weights.

A checkpoint is untrusted: nothing in it is executed (DESIGN, "Weights").
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
import pickle
import re
import zlib
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from hvt_deploy.environment import require
from hvt_deploy.errors import BadInput
from hvt_deploy.models.download import ObtainedWeights, looks_like_html, obtain_weights, sha256_of
from hvt_deploy.models.registry import create_from, family_of, list_specs, spec_of

__all__ = [
    "LoadReport",
    "ObtainedWeights",
    "load_checkpoint",
    "obtain_weights",
    "save_reference",
    "seed_random_weights",
]

# Where training programs keep the weights, in the order in which the official evaluations look.
_CONTAINERS = ("state_dict", "model", "model_ema")


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint` found. `container` is `bare` or the key that held the weights.

    `loaded` counts tensors. `dropped_train_only` are keys without use at inference; `recomputed` are stored buffers
    that the model computes itself; `num_classes` is the head's size, which the model now has.
    """

    path: Path
    sha256: str
    container: str
    loaded: int
    dropped_train_only: tuple[str, ...]
    recomputed: tuple[str, ...]
    num_classes: int


class _Headed(Protocol):
    """What every reference form with a classifier has."""

    num_classes: int
    head: nn.Linear


def load_checkpoint(model: nn.Module, path: str | Path) -> LoadReport:
    """Fill the reference form `model` from a checkpoint with official key names, in place.

    Takes safetensors and torch files: a bare state dict, or one under `state_dict`, `model` or `model_ema`, with or
    without the prefix `module.`. A head of another size replaces `model.head` and sets `model.num_classes`. Raises
    BadInput, with the model as it was, for a file that is damaged, unsafe or made for another model.
    """
    path = Path(path)
    container, state = _read_state(path)
    family = family_of(model)
    dropped = tuple(key for key in state if key.startswith(family.train_only_prefixes))
    recomputed = tuple(key for key in state if key.endswith(family.recomputed_suffixes))
    wanted = _needed_at_inference(model)
    given = {key: tensor for key, tensor in state.items() if key not in (*dropped, *recomputed)}
    head = _head_of_another_size(wanted, given)
    _check_keys(path, model, wanted, given, ignore=frozenset(head))
    if head:
        _replace_head(model, head)
    model.load_state_dict(given, strict=False)
    classes = cast("_Headed", model).num_classes
    return LoadReport(path, sha256_of(path), container, len(given), dropped, recomputed, classes)


def save_reference(model: nn.Module, path: Path) -> None:
    """Write what the reference form needs at inference as safetensors; `load_checkpoint` reads it back."""
    require("safetensors", extra="export")
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous().cpu() for key, tensor in _needed_at_inference(model).items()}, path)
    path.chmod(0o644)  # safetensors gives its file to the owner alone; artifacts are there to be served


def seed_random_weights(model: nn.Module, seed: int) -> None:
    """Fill every parameter, in place, with values that depend only on `seed`, its name and its shape.

    Matrices and convolutions have variance 1 / fan-in, norms scatter around 1, biases around 0: activations and
    logits keep the scale of a trained model, so parity and quantization figures mean something.
    """
    for name, parameter in model.named_parameters():
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
        values = torch.from_numpy(generator.standard_normal(tuple(parameter.shape), dtype=np.float32))
        if parameter.ndim <= 1:
            values = 0.05 * values if name.endswith("bias") else 1 + 0.1 * values
        elif parameter.ndim == 3 or name.endswith("pos_embed"):
            values = 0.2 * values
        else:
            values = values / math.sqrt(math.prod(parameter.shape[1:]))
        parameter.data.copy_(values)


def _needed_at_inference(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without train-only keys and without buffers that the model computes itself."""
    family = family_of(model)
    return {
        key: tensor
        for key, tensor in model.state_dict().items()
        if not key.startswith(family.train_only_prefixes) and not key.endswith(family.recomputed_suffixes)
    }


def _read_state(path: Path) -> tuple[str, dict[str, Tensor]]:
    """(container, key -> tensor) of a checkpoint file, on the CPU, with the prefix `module.` taken off."""
    if not path.is_file():
        raise BadInput(f"There is no checkpoint file {path}.", "Give --weights auto, official, random or a file.")
    with path.open("rb") as file:
        start = file.read(512)
    if looks_like_html(start):
        raise BadInput(
            f"{path} is a web page, not a checkpoint.",
            "The host answered with a page instead of the file: open the link in a browser and save the file itself.",
        )
    content = _read_safetensors(path) if start[8:9] == b"{" else _read_torch(path)
    container, state = _find_state(path, content)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return container, state


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    require("safetensors", extra="export")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def _read_torch(path: Path) -> object:
    try:
        with _only_inert_globals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe is None:
            raise _damaged(path, str(error).partition("\n")[0]) from None
        raise BadInput(
            f"{path} was not loaded: it asks for the Python name {unsafe[1]}, which could execute code.",
            "Nothing was executed. Save only the state dict, torch.save(model.state_dict(), PATH), or safetensors.",
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
    """Stands for training options inside a checkpoint: any object of the class becomes an ordered dict."""

    def __new__(cls, *_: object) -> OrderedDict[str, object]:  # type: ignore[misc]
        return OrderedDict()


@contextmanager
def _only_inert_globals() -> Generator[None]:
    """Two names beyond torch's own safe ones load, as stubs, whatever other packages have allowed."""
    serialization = torch.serialization
    before = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals([(_Inert, "argparse.Namespace"), (_Inert, "yacs.config.CfgNode")])
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _find_state(path: Path, content: object) -> tuple[str, dict[str, Tensor]]:
    if isinstance(content, Mapping):
        entries = cast("Mapping[object, object]", content)
        for container in _CONTAINERS:
            state = _as_state(entries.get(container))
            if state:
                return container, state
        state = _as_state(entries)
        if state:
            return "bare", state
        found = ", ".join(repr(key) for key in list(entries)[:8]) or "nothing"
    else:
        found = f"a {type(content).__name__}"
    raise BadInput(
        f"{path} holds no weights: expected tensors by name, bare or under {', '.join(_CONTAINERS)}; found {found}."
    )


def _as_state(value: object) -> dict[str, Tensor]:
    """`value` as key -> tensor, or an empty dict when it is anything else."""
    if not isinstance(value, Mapping):
        return {}
    entries = cast("Mapping[object, object]", value)
    state = {key: tensor for key, tensor in entries.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    return state if len(state) == len(entries) else {}


def _head_of_another_size(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The given head, when it is a whole Linear over the same features with another number of classes."""
    head = {key: given[key] for key in ("head.weight", "head.bias") if key in given and key in wanted}
    if len(head) < 2 or head["head.weight"].shape == wanted["head.weight"].shape:
        return {}
    weight, features = head["head.weight"], wanted["head.weight"].shape[1:]
    return head if weight.shape[1:] == features and head["head.bias"].shape == weight.shape[:1] else {}


def _replace_head(model: nn.Module, head: Mapping[str, Tensor]) -> None:
    headed = cast("_Headed", model)
    classes, features = head["head.weight"].shape
    headed.head = nn.Linear(features, classes, device=headed.head.weight.device, dtype=headed.head.weight.dtype)
    headed.num_classes = int(classes)


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], ignore: frozenset[str]) -> list[str]:
    """What keeps `given` from filling `wanted`, in words; empty when it fits."""
    shapes = [k for k in wanted if k in given and k not in ignore and wanted[k].shape != given[k].shape]
    lists = {
        "missing": [k for k in wanted if k not in given],
        "unexpected": [k for k in given if k not in wanted],
        "of another shape": [f"{k} {tuple(given[k].shape)} for {tuple(wanted[k].shape)}" for k in shapes],
    }
    return [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in lists.items()
        if keys
    ]


def _check_keys(
    path: Path, model: nn.Module, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], ignore: frozenset[str]
) -> None:
    differences = _differences(wanted, given, ignore)
    if differences:
        raise BadInput(
            f"{path} is not a checkpoint of {spec_of(model).name}: {'; '.join(differences)}.", _owner_hint(given)
        )


def _owner_hint(given: Mapping[str, Tensor]) -> str:
    """Names the model that the checkpoint does fit."""
    for spec in list_specs():
        with torch.device("meta"):
            other = create_from(spec)
        wanted = _needed_at_inference(other)
        head = _head_of_another_size(wanted, given)
        if not _differences(wanted, given, frozenset(head)):
            return f"It is a checkpoint of {spec.name}."
    return "Check the model name and that the file is this model's."
