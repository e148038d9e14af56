"""The models that a checkpoint fits, for the error about a file made for another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from hvt_deploy.models.family import Family
from hvt_deploy.models.registry import create_from, family_of, list_specs, spec_of
from hvt_deploy.models.spec import ModelSpec
from hvt_deploy.models.weights.key_report import classify_keys

# Below this share of agreeing tensors a file is not called anybody's: norms and biases agree by
# chance.
_LIKENESS = 0.3


def list_needed_at_inference(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without train-only keys and without buffers that the model computes itself."""
    family = family_of(model)
    return {
        key: tensor
        for key, tensor in model.state_dict().items()
        if not key.startswith(family.train_only_prefixes)
        and not key.endswith(family.recomputed_suffixes)
    }


def find_tables_of_another(
    spec: ModelSpec, family: Family, state: Mapping[str, Tensor]
) -> list[str]:
    """Computed buffers of a file that have other shapes than in the official file of `spec`."""
    if family.stored_shapes is None:
        return []
    shapes = family.stored_shapes(spec)
    return [key for key in shapes if key in state and tuple(state[key].shape) != shapes[key]]


@dataclass(frozen=True)
class _Known:
    """A named model and the shapes of its tensors, without its weights."""

    spec: ModelSpec
    """The model's specification."""
    family: Family
    """How its network is built."""
    shapes: Mapping[str, torch.Size]
    """Shape of each tensor of its state dict, by key."""

    def agreement(self, state: Mapping[str, Tensor]) -> tuple[int, int]:
        """(tensors of the file that fit, tensors that would have to), heads of any size, tables
        counted where wrong.
        """
        keys = classify_keys(state, self.shapes, self.spec, self.family)
        given = {key.target: state[key.key].shape for key in keys if key.status == "loaded"}
        fitting = sum(self._fits(key, given[key]) for key in given.keys() & self.shapes.keys())
        wrong = len(find_tables_of_another(self.spec, self.family, state))
        return fitting, len(given.keys() | self.shapes.keys()) + wrong

    def _fits(self, key: str, shape: torch.Size) -> bool:
        # The number of classes is the first size of a head's tensors.
        classes = int(any(key.startswith(f"{path}.") for path in self.spec.heads[:1]))
        return shape[classes:] == self.shapes[key][classes:]


@lru_cache(maxsize=1)
def _known_models() -> tuple[_Known, ...]:
    with torch.device("meta"):
        return tuple(_known(create_from(spec)) for spec in list_specs())


def _known(model: nn.Module) -> _Known:
    shapes = {key: tensor.shape for key, tensor in list_needed_at_inference(model).items()}
    return _Known(spec_of(model), family_of(model), shapes)


def describe_nearest(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """A hint that names the models which `state` fits; where it fits none, the one with the most in
    common.
    """
    asked = spec_of(model)
    others = [known for known in _known_models() if known.spec.name != asked.name]
    scores = [(known.spec, *known.agreement(state)) for known in (_known(model), *others)]
    fitting = [
        spec for spec, agreeing, total in scores if agreeing == total and spec.name != asked.name
    ]
    if fitting:
        alike = [spec for spec in fitting if spec.resizable == asked.resizable] or fitting
        return f"It is a checkpoint of {' or '.join(spec.name for spec in alike)}."
    nearest, agreeing, total = max(scores, key=lambda score: score[1] / score[2])
    if agreeing < _LIKENESS * total:
        return "It is like no model that is known here: check the model name and the file."
    itself = " itself" if nearest.name == asked.name else ""
    return f"It is nearest to {nearest.name}{itself}: {agreeing} of {total} tensors agree."
