"""Golden logits of the official code, and the rule by which their weights and inputs are drawn.

The rule: a standard normal tensor seeded by crc32("<salt>:<name>"), scaled by what kind of parameter it is.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Golden:
    """What the official code gives under one salt. Rows are images; `logits_first32` are float64, 7 digits."""

    salt: str
    input: tuple[int, ...]
    logits_first32: list[list[float]]
    mean: list[float]
    std: list[float]
    argmax: list[int]
    l2: list[float]


def facts(model: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{model}.json").read_text())


def goldens(model: str) -> list[Golden]:
    return [Golden(salt, **values) for salt, values in facts(model)["golden"].items()]


def normal(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = zlib.crc32(f"{salt}:{name}".encode())
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


def draw(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of the parameter or BatchNorm statistic with this official name, float32 throughout."""
    v, f32 = normal(salt, name, shape), np.float32
    if name.endswith("running_var"):
        return f32(0.75) + f32(0.25) * np.abs(v)
    if name.endswith("running_mean"):
        return f32(0.1) * v
    if name.rsplit(".", maxsplit=1)[-1] == "pos_embed":
        return f32(0.2) * v
    if name.endswith("pos_emb_funct.cpb_mlp.0.bias"):
        return v
    if name.endswith("pos_emb_funct.cpb_mlp.2.weight"):
        return (v - f32(0.25)) / f32(math.sqrt(shape[1]))
    if len(shape) <= 1:
        return f32(0.05) * v if name.endswith("bias") else f32(1) + f32(0.1) * v
    if len(shape) in (2, 4):
        return v / f32(math.sqrt(math.prod(shape[1:])))
    return f32(0.2) * v


def state(salt: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(draw(salt, name, tuple(shape))) for name, shape in shapes.items()}


def fill(model: nn.Module, salt: str) -> None:
    """Gives every parameter and BatchNorm statistic of a model with official names its value."""
    drawn = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in dict(model.named_parameters()) or name.endswith(("running_mean", "running_var"))
    }
    model.load_state_dict(state(salt, {n: tuple(t.shape) for n, t in drawn.items()}), strict=False)


def images(salt: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(normal(salt, "input", shape))
