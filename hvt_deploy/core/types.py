"""The vocabulary that several packages share. Standard library only: it is copied into Triton
packages too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SubsetName = Literal["imagenet-a", "imagenet-r", "imagenet-v2"]


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of a model, in timm's terms.

    `image_size` is (height, width). `center`: resize the shorter edge to floor(size / crop_pct),
    crop the centre. `squash`: resize both edges to floor(size / crop_pct) whatever the aspect
    ratio, crop the centre. Pixels are scaled to 0..1, then (x - mean) / std per channel.
    """

    image_size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Skipped:
    """A thing not done, and why."""

    what: str
    why: str
