"""A backend made for one batch size only, made to take any number of images."""

from __future__ import annotations

import numpy as np

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.data.images import repeat_to
from hvt_deploy.runtime.base import Backend, BoundCall, PlacedBackend


class FixedBatchBackend:
    """Fills a last, partial batch up by repeating images, and drops their logits again."""

    def __init__(self, backend: Backend, batch: int) -> None:
        self.name = backend.name
        self.placement = backend.placement if isinstance(backend, PlacedBackend) else None
        self._backend = backend
        self._batch = batch

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W), batch by batch."""
        starts = range(0, len(images_NCHW), self._batch)
        chunks = (images_NCHW[start : start + self._batch] for start in starts)
        logits = [self._backend.infer(repeat_to(chunk, self._batch)) for chunk in chunks]
        return np.concatenate(logits)[: len(images_NCHW)]

    def bind(self, images_NCHW: ImagesNCHW) -> BoundCall:
        """A call that runs one inference of a whole batch. Raises BadInput for a size that the
        backend does not take.
        """
        return self._backend.bind(images_NCHW)

    def close(self) -> None:
        """Free the backend."""
        self._backend.close()
