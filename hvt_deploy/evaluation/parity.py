"""How far the logits of one form of a model are from another's."""

from __future__ import annotations

import math

import numpy as np

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.manifest import Parity
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature, signal_and_noise, sqnr_db


def compare_logits(reference_NK: LogitsNK, candidate_NK: LogitsNK) -> Parity:
    """The differences between two sets of logits (N, K) for the same images.

    Raises ToolFailure where the shapes differ or there is nothing to compare.
    """
    if reference_NK.shape != candidate_NK.shape or reference_NK.size == 0:
        raise ToolFailure(
            f"Expected logits of shape {reference_NK.shape} to compare, got {candidate_NK.shape}."
        )
    reference, candidate = reference_NK.astype(np.float64), candidate_NK.astype(np.float64)
    finite = bool(np.isfinite(reference).all() and np.isfinite(candidate).all())
    difference = np.abs(candidate - reference) if finite else np.full_like(reference, math.inf)
    max_abs, largest = float(difference.max()), float(np.abs(reference).max())
    return Parity(
        max_abs=max_abs,
        relative_to_largest=0.0
        if max_abs == 0
        else (max_abs / largest if finite and largest > 0 else math.inf),
        sqnr_db=sqnr_db(*signal_and_noise(reference, candidate)),
        same_argmax=finite and bool((reference.argmax(axis=1) == candidate.argmax(axis=1)).all()),
    )


def draw_seeded_noise(signature: Signature, batch: int, seed: int) -> ImagesNCHW:
    """`batch` images (batch, 3, H, W) of standard normal noise, the scale that preprocessed images
    have.
    """
    return np.random.default_rng(seed).standard_normal(
        signature.images_shape(batch), dtype=np.float32
    )
