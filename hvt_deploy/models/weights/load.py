"""Filling a model: official and fine-tuned checkpoints, safetensors, and seeded random weights."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file
from hvt_deploy.models.registry import create_from, family_of, open_family, spec_of
from hvt_deploy.models.spec import ModelSpec
from hvt_deploy.models.weights.container import Container, read_container, show_key
from hvt_deploy.models.weights.key_report import (
    KeyStatus,
    Status,
    classify_keys,
    count_statuses,
)
from hvt_deploy.models.weights.nearest import (
    describe_nearest,
    find_tables_of_another,
    list_needed_at_inference,
)
from hvt_deploy.models.weights.values import check_values

# A head with more outputs is not taken for a classifier of other data.
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint.

    Attributes:
        path: The file.
        container: The key that held the weights, or `bare`.
        keys: Every key of the file with its status, in the file's order.
        num_classes: The size of the file's head, which the model now has. Nothing is ever resized.
    """

    path: Path
    container: str
    keys: tuple[KeyStatus, ...]
    num_classes: int

    @cached_property
    def sha256(self) -> str:
        """The hash of the file, read when it is asked for."""
        return hash_file(self.path)

    @property
    def dropped_train_only(self) -> tuple[str, ...]:
        """Keys without use at inference."""
        return self.keys_with("train-only")

    @property
    def summary(self) -> Mapping[str, int]:
        """How many keys have each status: {"loaded": 386, "recomputed": 88, ...}."""
        return count_statuses(self.keys)

    def keys_with(self, status: Status) -> tuple[str, ...]:
        """The keys with this status."""
        return tuple(key.key for key in self.keys if key.status == status)


class _Classifying(Protocol):
    """The attribute that every reference form has."""

    num_classes: int


def load_checkpoint(model: nn.Module, path: str | Path) -> LoadReport:
    """Fill the reference form `model` from a checkpoint with official key names, in place.

    Takes safetensors and torch files: a bare state dict, or one under `state_dict`, `model`,
    `model_state_dict`, `state_dict_ema`, `model_ema`, `ema_state_dict` or `ema`, with or without
    the prefixes `module.`, `model.`, `_orig_mod.` and `encoder.`. A head of another size replaces
    the model's and sets `model.num_classes`. Raises BadInput, with the model as it was, for a file
    that is damaged, unsafe, made for another model, or with weights that are no finite numbers.
    """
    classes = cast("_Classifying", model).num_classes
    return _fill(model, read_container(Path(path)), classes, assign=False)


def load_model(
    spec: ModelSpec, path: str | Path, num_classes: int | None = None
) -> tuple[nn.Module, LoadReport]:
    """`create_from` and `load_checkpoint` in one, without a second copy of the weights: the float32
    model's parameters are the file's own pages where it holds float32. They are read once, to see
    that they are finite; the system may drop them until they are used.

    The file must stay as it is while the model lives (replacing it by another is fine). What a file
    lacks because it is of use in training only is zero. Raises BadInput as both do.
    """
    container = read_container(Path(path))
    with _parameters_without_memory() if open_family(spec.family).builds_light else nullcontext():
        model = create_from(spec, num_classes)
    classes = spec.num_classes if num_classes is None else num_classes
    report = _fill(model, container, classes, assign=True)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(module, name, nn.Parameter(torch.zeros_like(parameter, device="cpu")))
    return model, report


@contextmanager
def _parameters_without_memory() -> Generator[None]:
    """Models made inside have their parameters on the meta device. Buffers are real: nobody else
    computes them.
    """

    def forget(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # Its signature says that the hook returns nothing; its documentation, that it may return a new
    # parameter.
    handle = register_module_parameter_registration_hook(cast("Callable[..., None]", forget))
    try:
        yield
    finally:
        handle.remove()


def _fill(model: nn.Module, container: Container, num_classes: int, *, assign: bool) -> LoadReport:
    """`num_classes` are those of the model."""
    wanted = list_needed_at_inference(model)
    keys = classify_keys(container.state, wanted, spec_of(model), family_of(model))
    given = {
        key.target: container.state[key.key].detach() for key in keys if key.status == "loaded"
    }
    heads = _heads_of_another_size(wanted, given, spec_of(model).heads)
    _check_keys(container, model, wanted, given, ignore=frozenset(heads))
    _check_tables(container, model)
    for key, values in given.items():
        check_values(container.path, key, values, wanted[key].dtype)
    for path in spec_of(model).heads if heads else ():
        num_classes, features = heads[f"{path}.weight"].shape
        _replace_head(model, path, num_classes, features)
    if assign:
        given = {
            key: tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in given.items()
        }
    model.load_state_dict(given, strict=False, assign=assign)
    keys += tuple(KeyStatus(key, "not model", key) for key in container.outside)
    return LoadReport(container.path, container.name, keys, num_classes)


def save_reference(model: nn.Module, path: Path) -> None:
    """Write the reference form's weights, without train-only ones, as safetensors.

    `load_checkpoint` reads the file. Raises OSError if it cannot be written.
    """
    require("safetensors", extra="export")
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    tensors: dict[str, Tensor] = {}
    stored = set[int]()
    for key, tensor in list_needed_at_inference(model).items():
        values = tensor.contiguous().cpu()
        place = values.untyped_storage().data_ptr()
        tensors[key] = (
            values.clone() if place in stored else values
        )  # safetensors takes no shared memory
        stored.add(place)
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))
        if refused is None:
            raise
        raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from None
    path.chmod(
        0o644
    )  # safetensors gives its file to the owner alone; artifacts are there to be served


def seed_random_weights(model: nn.Module, seed: int) -> None:
    """Fill every parameter, in place, with values that depend only on `seed`, its name and its
    shape.

    Matrices and convolutions have variance 1 / fan-in, norms scatter around 1, biases around 0:
    activations and logits keep the scale of a trained model, so parity and quantization figures
    mean something.
    """
    for name, parameter in model.named_parameters():
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
        values = torch.as_tensor(
            generator.standard_normal(tuple(parameter.shape), dtype=np.float32)
        )
        if parameter.ndim <= 1:
            values = 0.05 * values if name.endswith("bias") else 1 + 0.1 * values
        elif parameter.ndim == 3 or name.endswith("pos_embed"):
            values = 0.2 * values
        else:
            values = values / math.sqrt(math.prod(parameter.shape[1:]))
        parameter.data.copy_(values)


def _heads_of_another_size(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], paths: tuple[str, ...]
) -> dict[str, Tensor]:
    """The given heads, when each is a whole Linear over the same features, for one other number of
    classes.
    """
    if not paths:
        return {}
    weights, biases = ([f"{path}.{part}" for path in paths] for part in ("weight", "bias"))
    if any(key not in given or key not in wanted for key in (*weights, *biases)):
        return {}
    classes = {given[key].shape[:1] for key in (*weights, *biases)}
    if len(classes) > 1 or not all(1 <= n <= _MOST_CLASSES for shape in classes for n in shape):
        return {}
    if classes == {wanted[weights[0]].shape[:1]}:
        return {}
    if any(
        given[key].ndim != 2 or given[key].shape[1:] != wanted[key].shape[1:] for key in weights
    ):
        return {}
    return {key: given[key] for key in (*weights, *biases)}


def _replace_head(model: nn.Module, path: str, classes: int, features: int) -> None:
    parent, _, name = path.rpartition(".")
    old = cast("nn.Linear", model.get_submodule(path))
    new = nn.Linear(features, classes, device=old.weight.device, dtype=old.weight.dtype)
    setattr(model.get_submodule(parent), name, new)
    with suppress(AttributeError):  # a user's own property
        cast("_Classifying", model).num_classes = classes


def _check_keys(
    container: Container,
    model: nn.Module,
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    ignore: frozenset[str],
) -> None:
    """Raise BadInput unless `given` fills `wanted`. A BatchNorm's count of batches may lack:
    nothing reads it.
    """
    spec, parts = spec_of(model), family_of(model).size_dependent
    missing = [
        key for key in wanted if key not in given and not key.endswith(".num_batches_tracked")
    ]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        k for k in wanted if k in given and k not in ignore and wanted[k].shape != given[k].shape
    ]
    if not (missing or unexpected or shapes):
        return
    if not (unexpected or shapes) and all(any(part in key for part in parts) for key in missing):
        raise BadInput(
            f"{container.path} was saved at an image size at which the model has no "
            f"{_shorten(missing)}; {spec.name} at {'x'.join(map(str, spec.image_size))} needs "
            f"{'it' if len(missing) == 1 else 'them'}.",
            "Nothing can replace trained weights: take the --image-size of the file, or a file of "
            "square images.",
        )
    reshaped = [f"{k} {tuple(given[k].shape)} for {tuple(wanted[k].shape)}" for k in shapes]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    differences = [f"{len(keys)} {kind} ({_shorten(keys)})" for kind, keys in lists.items() if keys]
    raise BadInput(
        f"{container.path} is not a checkpoint of {spec.name}: {'; '.join(differences)}.",
        describe_nearest(model, container.state),
    )


def _check_tables(container: Container, model: nn.Module) -> None:
    """Raise BadInput for weights of a model that differs only in sizes that no weight has.
    Any-resolution models take such weights: they are made for other sizes.
    """
    spec, state = spec_of(model), container.state
    for key in () if spec.resizable else find_tables_of_another(spec, family_of(model), state):
        raise BadInput(
            f"{container.path} is not a checkpoint of {spec.name}: its weights have the right "
            f"shapes, but were trained with other windows ({key} is {tuple(state[key].shape)}).",
            describe_nearest(model, state),
        )


def _shorten(keys: list[str]) -> str:
    return f"{', '.join(map(show_key, keys[:3]))}{', ...' if len(keys) > 3 else ''}"
