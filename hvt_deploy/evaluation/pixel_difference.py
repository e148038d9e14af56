"""Pixels of preprocessing in the graph against those of the exact pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.images import decode
from hvt_deploy.evaluation.record import PixelDifference
from hvt_deploy.runtime.base import PixelsBackend


class PixelsMeter:
    """Runs a backend on image files and compares its pixels with the exact ones, in constant
    memory.
    """

    def __init__(self, backend: PixelsBackend, preprocessing: Preprocessing) -> None:
        self._backend = backend
        self._steps = 255 * np.array(preprocessing.std, np.float64)[:, None, None]
        self._largest = self._sum = 0.0
        self._images = 0

    def infer(self, files: Sequence[Path], exact_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) of files, which preprocessed exactly are `exact_NCHW`. Raises
        UnreadableImage.
        """
        images = [np.asarray(decode(file)) for file in files]
        for image, exact_CHW in zip(images, exact_NCHW, strict=True):
            difference_CHW = np.abs(self._backend.preprocess(image)[0] - exact_CHW) * self._steps
            self._largest = max(self._largest, float(difference_CHW.max()))
            self._sum += float(difference_CHW.mean())
        self._images += len(images)
        return self._backend.infer_pixels(images)

    @property
    def difference(self) -> PixelDifference:
        """Over every pixel of every image so far; at least one."""
        return PixelDifference(self._largest, self._sum / self._images)
