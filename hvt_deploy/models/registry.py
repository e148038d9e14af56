"""Every model by name. Importing this imports no torch: a family's code is opened when a model is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hvt_deploy.environment import require
from hvt_deploy.errors import BadInput, unknown_name
from hvt_deploy.models.spec import Family, ModelSpec
from hvt_deploy.models.specs import fdvit

if TYPE_CHECKING:
    from torch import nn


def _open_fdvit() -> Family:
    from hvt_deploy.models.fdvit import FDVIT

    return FDVIT


_SPECS: dict[str, ModelSpec] = {**fdvit.SPECS}
_FAMILIES: dict[str, Callable[[], Family]] = {"fdvit": _open_fdvit}


def list_specs() -> list[ModelSpec]:
    """Every known model, families together, in the order of their papers' tables."""
    return list(_SPECS.values())


def get_spec(name: str) -> ModelSpec:
    """What is known of the model `name`. Raises BadInput with the nearest names when there is none."""
    if name not in _SPECS:
        raise unknown_name("model", name, _SPECS)
    return _SPECS[name]


def create_model(name: str, *, num_classes: int | None = None) -> nn.Module:
    """The reference form of a model in eval mode with PyTorch's random weights.

    It maps images (B, 3, H, W) to logits (B, num_classes); with `num_classes=0` the head is left out and the
    result is the pooled features. Raises BadInput for an unknown name or a negative number of classes,
    MissingEnvironment without PyTorch.
    """
    spec = get_spec(name)
    classes = spec.num_classes if num_classes is None else num_classes
    if classes < 0:
        raise BadInput(f"num_classes is {classes}, it must be 0 or more.")
    return _open(spec.family).build(spec, classes).eval()


def to_deployed(model: nn.Module) -> nn.Module:
    """The deployed form of a model made by `create_model`: the same function, rewritten for inference.

    The argument is left as it was. Raises BadInput for any other module.
    """
    return family_of(model).deploy(model)


def family_of(model: nn.Module) -> Family:
    """The family whose code made `model`. Raises BadInput for a module from elsewhere."""
    name = getattr(model, "name", None)
    if not isinstance(name, str) or name not in _SPECS:
        raise BadInput(f"{type(model).__name__} is not a model of this package.", "Make it with create_model(NAME).")
    return _open(_SPECS[name].family)


def _open(family: str) -> Family:
    require("torch", extra="export")
    return _FAMILIES[family]()
