"""Array types and the signature of a model.

Suffixes name the axes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.types import BatchSize, Between, ImageSide

ImagesNCHW: TypeAlias = NDArray[np.float32]
LogitsNK: TypeAlias = NDArray[np.float32]
LabelsN: TypeAlias = NDArray[np.int64]
# What a decoder gives: RGB of any size.
PixelsHWC: TypeAlias = NDArray[np.uint8]

# A float32 has 24 bits, 144 dB: more cannot be seen, and JSON has no infinity.
LARGEST_SQNR_DB = 150.0
INPUT_NAME = "images"
OUTPUT_NAME = "logits"
# Of a graph with its preprocessing: uint8 (batch, height, width, 3).
PIXELS_NAME = "images_NHWC"


@dataclass(frozen=True)
class Signature:
    """Input `images` (batch, 3, height, width) and output `logits` (batch, num_classes)."""

    image_size: tuple[ImageSide, ImageSide]
    """(height, width)."""
    num_classes: Annotated[int, Between(1, 100_000)]
    """Classes of the head."""
    batch: BatchSize | None = None
    """Fixed batch size; None means any."""
    input_name: str = INPUT_NAME
    """Name of the input in the graph."""
    output_name: str = OUTPUT_NAME
    """Name of the output in the graph."""

    def images_shape(self, batch: int) -> tuple[int, int, int, int]:
        """The shape of an input of `batch` images."""
        return (batch, 3, *self.image_size)


def signal_and_noise(reference: NDArray[Any], candidate: NDArray[Any]) -> tuple[float, float]:
    """The sums of squares of `reference` and of `candidate - reference`, in float64.

    Arrays of any shape, the same for both. The sums of several batches may be added.
    """
    reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
    return float(np.square(reference).sum()), float(np.square(candidate - reference).sum())


def sqnr_db(signal: float, noise: float) -> float:
    """Signal-to-quantization-noise ratio (SQNR), 10 · log10(signal / noise), within ±150 dB.

    `signal` and `noise` are sums of squares.
    No noise is +150 dB; noise that is not finite is -150 dB.
    """
    if noise == 0:
        return LARGEST_SQNR_DB
    if signal == 0 or not math.isfinite(noise) or not math.isfinite(signal):
        return -LARGEST_SQNR_DB
    return max(
        -LARGEST_SQNR_DB, min(LARGEST_SQNR_DB, 10 * (math.log10(signal) - math.log10(noise)))
    )
