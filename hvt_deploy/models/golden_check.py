"""Checks both forms of a model on this machine against recorded logits of the official code.

The rule behind the weights: a standard normal tensor seeded by crc32("<salt>:<name>"), scaled by
the kind of parameter, for every parameter and every BatchNorm statistic. `data/assets/golden/`
holds the official code's results in one file per model.
"""

from __future__ import annotations

import gc
import json
import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvt_deploy.core.environment import check_free_disk
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.data.assets import asset_path
from hvt_deploy.models.registry import create_model, to_deployed

# Of max(1, |logit|) in float64. Where the official code ran in float32 only, of the largest logit,
# in float32.
TOLERANCE = 1e-6
TOLERANCE_FLOAT32 = 1e-4
_SLOW_TO_CHECK_BYTES = 4 * 2**30


@dataclass(frozen=True)
class GoldenOptions:
    """The options of a recorded model; None for the default."""

    resolution: tuple[int, int] | None = None
    """Height and width of the image, pixels."""
    window_size: tuple[int, ...] | None = None
    """Side of a square attention window in each level, tokens."""
    ct_size: int | None = None
    """Side of the square of carrier tokens per window."""
    dim: int | None = None
    """Channels of level 0."""


@dataclass(frozen=True)
class Golden:
    """The official code's result under one salt. Rows are images; logits have 7 digits."""

    name: str
    """"default", or the variant of the model that was recorded."""
    salt: str
    """String that the weights and the input are derived from."""
    input: tuple[int, ...]
    """Shape of the input, (B, 3, H, W)."""
    logits_first32: list[list[float]]
    """The first 32 logits of each image, (B, 32)."""
    mean: list[float]
    """Mean of all logits of each image, (B,)."""
    std: list[float]
    """Population standard deviation of all logits of each image, (B,)."""
    argmax: list[int]
    """Predicted class of each image, (B,)."""
    l2: list[float]
    """L2 norm of all logits of each image, (B,)."""
    f32_vs_f64_max_abs_diff: float | None = None
    """Largest difference of the official float32 logits; None: ran in float32 only."""
    max_abs_row_difference: float | None = None
    """Largest difference between the logits of two images."""
    kwargs: GoldenOptions = field(default_factory=GoldenOptions)
    """Arguments of the official constructor."""
    resolution: tuple[int, int] | None = None
    """Height and width of the image, pixels, where the record names them."""
    window_size: tuple[int, ...] | None = None
    """Side of a window in each level, tokens, where the record names it."""

    @property
    def in_float64(self) -> bool:
        """Whether the official code ran in float64."""
        return self.f32_vs_f64_max_abs_diff is not None


@dataclass(frozen=True)
class GoldenCheck:
    """How far one form of a model is from a recorded result, and how far it may be."""

    golden: str
    """Name of the recorded result."""
    form: str
    """Reference or deployed."""
    dtype: str
    """The dtype that the official code ran in when it was recorded, and the model now."""
    error: float
    """Largest error of the logits and their statistics, relative where they exceed 1."""
    allowed: float
    """Largest error that passes."""
    same_argmax: bool
    """Whether every image has the recorded predicted class."""

    @property
    def passed(self) -> bool:
        """Whether the result is that of the official code."""
        return self.error <= self.allowed and self.same_argmax


def list_goldens(model: str) -> list[Golden]:
    """Everything recorded of a model: its default size first. Raises BadInput if nothing was."""
    file = asset_path(f"golden/{model}.json")
    if not file.is_file():
        raise BadInput(
            f"No official logits were recorded for {model}.",
            "The models of the four papers have them.",
        )
    recorded = json.loads(file.read_text(encoding="utf-8"))
    default = [
        {"name": "default", "salt": salt, **values} for salt, values in recorded["golden"].items()
    ]
    extra = [
        {"name": key.rpartition("/")[0], "salt": key.rpartition("/")[2], **values}
        for key, values in recorded["golden_extra"].items()
    ]
    return [from_plain(Golden, values, f"{model}.json") for values in (*default, *extra)]


def check_model(model: str, progress: Callable[[int, int], None]) -> list[GoldenCheck]:
    """Run both forms of `model` against everything recorded of it, in the dtype of the record.

    Needs the memory of one model in that dtype, and disk for another above 4 GiB. Raises BadInput
    without a record.
    """
    checks: list[GoldenCheck] = []
    recorded = list_goldens(model)
    progress(0, 2 * len(recorded))
    for golden in recorded:
        for form in ("reference", "deployed"):
            checks.append(check_golden(model, golden, form))
            progress(len(checks), 2 * len(recorded))
    return checks


def check_golden(model: str, golden: Golden, form: str) -> GoldenCheck:
    """Compare one form, `reference` or `deployed`, with one record."""
    dtype = torch.float64 if golden.in_float64 else torch.float32
    made = create_golden(model, golden, dtype)
    if form == "deployed":
        with tempfile.TemporaryDirectory() as folder:
            made = to_deployed(map_large(made, Path(folder)))
        gc.collect()
    with torch.inference_mode():
        values = made(draw_images(golden.salt, golden.input).to(dtype)).double().numpy()
    error, allowed = _error(values, golden)
    same = values.argmax(axis=1).tolist() == golden.argmax
    return GoldenCheck(golden.name, form, str(dtype).removeprefix("torch."), error, allowed, same)


def map_large(model: nn.Module, folder: Path) -> nn.Module:
    """`model`, a large one with its parameters in a file in `folder`: both forms of
    faster_vit_6_224 in float64 are 22 GB.
    """
    size = sum(parameter.nbytes for parameter in model.parameters())
    if size > _SLOW_TO_CHECK_BYTES:
        check_free_disk(folder, size)
        torch.save(model.state_dict(), folder / "state.pth")
        model.load_state_dict(
            torch.load(folder / "state.pth", mmap=True, weights_only=True), assign=True
        )
    return model


def create_golden(model: str, golden: Golden, dtype: torch.dtype) -> nn.Module:
    """The reference form as the official one was made for this record, with the rule's weights."""
    made = create_model(
        model,
        image_size=golden.kwargs.resolution,
        window_size=golden.kwargs.window_size,
        carrier_token_size=golden.kwargs.ct_size,
    )
    fill_parameters(made, golden.salt)
    return made.to(dtype)


def _error(values_NK: NDArray[np.float64], golden: Golden) -> tuple[float, float]:
    """(error, allowed): the worst over the first 32 logits and over mean, deviation and norm of all
    of them.
    """
    pairs = [(values_NK[:, :32], np.asarray(golden.logits_first32))]
    for got, wanted in (
        (values_NK.mean(axis=1), golden.mean),
        (values_NK.std(axis=1), golden.std),
        (np.linalg.norm(values_NK, axis=1), golden.l2),
    ):
        pairs.append((got, np.asarray(wanted)))
    if golden.in_float64:
        return max(
            float((np.abs(a - b) / np.maximum(1, np.abs(b))).max()) for a, b in pairs
        ), TOLERANCE
    largest = float(np.abs(values_NK).max())
    return float(np.abs(pairs[0][0] - pairs[0][1]).max()) / largest, TOLERANCE_FLOAT32


def draw_normal(salt: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The standard normal tensor of a name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))
    return generator.standard_normal(shape, dtype=np.float32)


def draw_parameter(salt: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of the parameter or BatchNorm statistic with this official name, float32."""
    values = draw_normal(salt, name, shape)
    if name.endswith("running_var"):
        return np.asarray(0.75 + 0.25 * np.abs(values), np.float32)
    if name.endswith("running_mean"):
        return 0.1 * values
    if name.rsplit(".", maxsplit=1)[-1] == "pos_embed":
        return 0.2 * values
    if name.endswith("pos_emb_funct.cpb_mlp.0.bias"):
        return values
    if name.endswith("pos_emb_funct.cpb_mlp.2.weight"):
        return np.asarray((values - 0.25) / math.sqrt(shape[1]), np.float32)
    if len(shape) <= 1:
        return 0.05 * values if name.endswith("bias") else 1 + 0.1 * values
    if len(shape) in (2, 4):
        return np.asarray(values / math.sqrt(math.prod(shape[1:])), np.float32)
    return 0.2 * values


def draw_state(salt: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The rule's tensors for these names and shapes."""
    return {
        name: torch.as_tensor(draw_parameter(salt, name, tuple(shape)))
        for name, shape in shapes.items()
    }


def fill_parameters(model: nn.Module, salt: str) -> None:
    """Give every parameter and BatchNorm statistic of a model with official names its value, in
    place.
    """
    for name, parameter in model.named_parameters():
        parameter.data.copy_(torch.as_tensor(draw_parameter(salt, name, tuple(parameter.shape))))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.as_tensor(draw_parameter(salt, name, tuple(buffer.shape))))


def draw_images(salt: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule's input (B, 3, H, W), float32."""
    return torch.as_tensor(draw_normal(salt, "input", shape))
