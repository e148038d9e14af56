"""Array types and the signature of a model. Suffixes name the axes: N images, C channels, H, W, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ImagesNCHW: TypeAlias = NDArray[np.float32]
LogitsNK: TypeAlias = NDArray[np.float32]
LabelsN: TypeAlias = NDArray[np.int64]

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives: `images` (batch, 3, height, width) -> `logits` (batch, num_classes).

    `batch` None means any batch size.
    """

    image_size: tuple[int, int]
    num_classes: int
    batch: int | None = None
    input_name: str = INPUT_NAME
    output_name: str = OUTPUT_NAME

    def images_shape(self, batch: int) -> tuple[int, int, int, int]:
        """The shape of an input of `batch` images."""
        return (batch, 3, *self.image_size)
