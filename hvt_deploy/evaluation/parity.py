"""How far the logits of one form of a model are from another's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, Signature, sqnr_db


@dataclass(frozen=True)
class Parity:
    """What differs between the logits of a reference and a candidate.

    `max_abs` is the largest |difference|, `relative_to_largest` the same over the reference's
    largest |logit|; both are infinite where a candidate's logit is not finite. `same_argmax`: in
    every row. `rows_differ`: no two rows of the candidate are equal, which a graph with a mixed-up
    batch would give (and so would two equal images).
    """

    max_abs: float
    relative_to_largest: float
    sqnr_db: float
    same_argmax: bool
    rows_differ: bool


def compare_logits(reference_NK: LogitsNK, candidate_NK: LogitsNK) -> Parity:
    """The differences between two sets of logits (N, K) for the same images.

    Raises ToolFailure where the shapes differ or there is nothing to compare.
    """
    if reference_NK.shape != candidate_NK.shape or reference_NK.size == 0:
        raise ToolFailure(
            f"Expected logits of shape {reference_NK.shape} to compare, got {candidate_NK.shape}."
        )
    reference, candidate = reference_NK.astype(np.float64), candidate_NK.astype(np.float64)
    finite = bool(np.isfinite(candidate).all())
    difference = np.abs(candidate - reference) if finite else np.full_like(reference, math.inf)
    max_abs, largest = float(difference.max()), float(np.abs(reference).max())
    return Parity(
        max_abs=max_abs,
        relative_to_largest=0.0
        if max_abs == 0
        else (max_abs / largest if largest > 0 else math.inf),
        sqnr_db=sqnr_db(float(np.square(reference).sum()), float(np.square(difference).sum())),
        same_argmax=finite and bool((reference.argmax(axis=1) == candidate.argmax(axis=1)).all()),
        rows_differ=len(np.unique(candidate_NK, axis=0)) == len(candidate_NK),
    )


def seeded_noise(signature: Signature, batch: int, seed: int) -> ImagesNCHW:
    """`batch` images (batch, 3, H, W) of standard normal noise, the scale that preprocessed images
    have.
    """
    return np.random.default_rng(seed).standard_normal(
        signature.images_shape(batch), dtype=np.float32
    )
