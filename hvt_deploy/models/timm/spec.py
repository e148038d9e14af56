"""The specification of a timm classification model, `timm:NAME`, from its own configuration."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.models.spec import Checkpoint, ModelSpec

PREFIX = "timm:"


@dataclass(frozen=True)
class TimmArchitecture:
    """A model of timm at its own or another image size."""

    name: str
    """The model's name in timm, with or without a tag."""
    image_size: tuple[int, int] | None = None
    """Height and width, pixels; None for the model's own."""


def is_of_timm(name: str) -> bool:
    """Whether timm has a model of this name. Raises MissingEnvironment without timm."""
    require("timm", extra="export")
    import timm

    return timm.models.is_model(name.partition(".")[0])


def match_timm(patterns: Sequence[str]) -> list[ModelSpec]:
    """The specs of timm's classifiers that one of `patterns`, `timm:` and shell wildcards, stands
    for, in timm's order; with a dot in a pattern, of names with tags (`timm:swin_tiny*.ms_*`).

    Raises BadInput for a pattern that stands for none, MissingEnvironment without timm.
    """
    require("timm", extra="export")
    import timm

    names: dict[str, None] = {}
    for pattern in patterns:
        own = pattern.removeprefix(PREFIX)
        found = timm.list_pretrained(own) if "." in own else timm.list_models(own)
        if not found:
            raise BadInput(
                f"timm has no model '{own}'.", "Give a pattern: hvt-deploy models 'timm:swin*'"
            )
        names |= dict.fromkeys(found)
    specs: list[ModelSpec] = []
    for name in names:
        with suppress(BadInput):  # it has no classifier, or a transform of its own
            specs.append(spec_of_timm(PREFIX + name))
    return specs


def spec_of_timm(name: str, image_size: tuple[int, int] | None = None) -> ModelSpec:
    """The spec of `timm:NAME` with timm's evaluation transform.

    Raises BadInput for an unknown name, a model without a classifier or an unsupported transform,
    MissingEnvironment without timm.
    """
    require("timm", extra="export")
    import timm
    from timm.data.config import (
        resolve_data_config,  # pyright: ignore[reportUnknownVariableType]
    )

    own = name.removeprefix(PREFIX)
    try:
        configuration = timm.models.get_pretrained_cfg(own) if is_of_timm(own) else None
    except RuntimeError:  # an unknown tag of a known model
        configuration = None
    if configuration is None:
        known = timm.list_pretrained(f"{own.partition('.')[0]}.*") or timm.list_models()
        near = difflib.get_close_matches(own, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(PREFIX + n for n in near)}? " if near else ""
        raise BadInput(
            f"timm has no model '{own}'.",
            f"{hint}All: hvt-deploy models 'timm:*'",
        )
    if configuration.num_classes < 1:
        raise BadInput(
            f"{name} has no classifier as timm publishes it.",
            "Choose a model that was trained to classify.",
        )
    data = cast(
        "dict[str, object]", resolve_data_config({}, pretrained_cfg=configuration.to_dict())
    )
    _, height, width = cast("tuple[int, int, int]", data["input_size"])
    size = (height, width)
    other = image_size if image_size not in (None, size) else None
    return ModelSpec(
        name=name,
        family="timm",
        architecture=TimmArchitecture(own, other),
        num_classes=configuration.num_classes,
        preprocessing=_preprocessing(name, data, other or size),
        published=None,
        measured=None,
        checkpoint=Checkpoint(url=_address(configuration.url, configuration.hf_hub_id)),
        code_licence="Apache-2.0",
        weights_licence=configuration.license or "not stated",
        resizable=other is not None,
        heads=_heads(configuration.classifier),
    )


def _preprocessing(name: str, data: dict[str, object], size: tuple[int, int]) -> Preprocessing:
    mode, interpolation = data["crop_mode"], data["interpolation"]
    if mode not in ("center", "squash") or interpolation not in ("bicubic", "bilinear", "nearest"):
        raise BadInput(
            f"{name} is evaluated with crop mode {mode} and {interpolation} interpolation.",
            "Supported are crop modes center and squash; bicubic, bilinear and nearest "
            "interpolation.",
        )
    return Preprocessing(
        size,
        float(cast("float", data["crop_pct"])),
        mode,
        interpolation,
        cast("tuple[float, float, float]", tuple(cast("tuple[float, ...]", data["mean"]))),
        cast("tuple[float, float, float]", tuple(cast("tuple[float, ...]", data["std"]))),
    )


def _address(url: object, hub_name: str | None) -> str | None:
    if hub_name:
        return f"https://huggingface.co/{hub_name}/resolve/main/model.safetensors"
    return url if isinstance(url, str) and url else None


def _heads(classifier: object) -> tuple[str, ...]:
    """The paths of the classifiers; the first is the one that labels taught."""
    paths = (
        cast("tuple[str, ...]", classifier)
        if isinstance(classifier, (tuple, list))
        else (str(classifier),)
    )
    return tuple(paths) if classifier else ("head",)
