"""Images whose predicted class differs between a backend and the reference."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.tensors import LabelsN
from hvt_deploy.evaluation.class_scores import NO_CLASS
from hvt_deploy.evaluation.scores import Answer, Flip

KEPT_FLIPS = 12


class FlipTally:
    """Keeps the `KEPT_FLIPS` most informative flips of one backend.

    First those that lost a right answer, then those that gained one, then those wrong both times;
    within each, the ones where both backends are surest.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._kept: list[tuple[int, float, int, Flip]] = []

    def add(
        self,
        files: Sequence[str],
        labels_N: LabelsN,
        reference_NK: NDArray[np.float64],
        logits_NK: NDArray[np.float64],
        reference_N: NDArray[np.int64],
        answers_N: NDArray[np.int64],
    ) -> None:
        """Look at one batch: logits (N, K) and answers (N,) of both."""
        for n in np.flatnonzero(answers_N != reference_N):
            label = int(labels_N[n])
            flip = Flip(
                files[int(n)],
                label,
                _answer(reference_NK[n], reference_N[n]),
                _answer(logits_NK[n], answers_N[n]),
            )
            kind = 2 if flip.reference.label == label else 1 if flip.candidate.label == label else 0
            sureness = (flip.reference.probability or 0.0) + (flip.candidate.probability or 0.0)
            heapq.heappush(self._kept, (kind, sureness, -(self._seen + int(n)), flip))
            if len(self._kept) > KEPT_FLIPS:
                heapq.heappop(self._kept)
        self._seen += len(labels_N)

    def flips(self) -> tuple[Flip, ...]:
        """The kept flips, the most informative first."""
        return tuple(
            entry[-1] for entry in sorted(self._kept, key=lambda entry: entry[:3], reverse=True)
        )


def _answer(logits_K: NDArray[np.float64], answer: np.int64) -> Answer:
    if answer == NO_CLASS:
        return Answer(None, None)
    return Answer(int(answer), float(1 / np.exp(logits_K - logits_K[answer]).sum()))
