"""The code behind the models of one paper: both forms, and how official checkpoints name keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.spec import ModelSpec

Reference = TypeVar("Reference", bound=nn.Module)


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        build: Makes the reference form of a spec, for this number of classes, with random weights.
        deploy: Makes the deployed form of a reference form. Raises BadInput for any other module.
        train_only_prefixes: Keys that start like this have no use at inference: not loaded.
        recomputed_suffixes: Keys that end like this are buffers that the model computes itself,
            even where a file holds them: not loaded.
        aliases: Pairs of key endings (alias, canonical). A file that holds both means the alias.
        translate: Gives the model's names of keys that another implementation wrote, from all keys
            of the file and those of the model in their order.
        size_dependent: Parts of keys that a resizable model has at some image sizes only: a file
            may hold more of them than the model has.
        builds_light: Whether `build` works where parameters have no memory.
        strict: Whether a graph that breaks the contract is an error; of networks that were not
            written here it is a warning.
        roles_in_paths: Whether module paths tell the roles of its nodes; where not, the shape of
            the graph does.
        stored_shapes: The shapes that some recomputed buffers have in the official file. They tell
            models apart whose parameters are alike.

    """

    build: Callable[[ModelSpec, int], nn.Module]
    deploy: Callable[[nn.Module], nn.Module]
    train_only_prefixes: tuple[str, ...] = ()
    recomputed_suffixes: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    translate: Callable[[Iterable[str], Iterable[str]], Mapping[str, str]] | None = None
    size_dependent: tuple[str, ...] = ()
    builds_light: bool = True
    strict: bool = True
    roles_in_paths: bool = True
    stored_shapes: Callable[[ModelSpec], Mapping[str, tuple[int, ...]]] | None = None


def deploy_with(
    reference: type[Reference], deployed: Callable[[Reference], nn.Module]
) -> Callable[[nn.Module], nn.Module]:
    """A family's `deploy`: `deployed` of a `reference`, BadInput for any other module."""

    def deploy(model: nn.Module) -> nn.Module:
        if not isinstance(model, reference):
            raise BadInput(
                f"{type(model).__name__} is not the reference form of a {reference.__name__}.",
                "Pass what create_model made.",
            )
        return deployed(model)

    return deploy
