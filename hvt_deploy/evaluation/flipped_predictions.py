"""Images whose predicted class differs between a backend and the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.evaluation.class_scores import NO_CLASS
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.scores import Answer, Flip

KEPT_FLIPS = 12


def find_flips(answers: ImageAnswers, name: str) -> tuple[Flip, ...]:
    """The `KEPT_FLIPS` most informative flips of one backend.

    First those that lost a right answer, then those that gained one, then those wrong both times;
    within each, the ones where both backends are surest.
    """
    found, reference = answers.answers[name], answers.answers[answers.reference]
    flipped = np.flatnonzero(found["predicted"] != reference["predicted"])
    labels = answers.labels[flipped]
    lost, gained = (one["predicted"][flipped] == labels for one in (reference, found))
    kind = np.where(lost, 2, np.where(gained, 1, 0))
    sureness = reference["probability"][flipped] + found["probability"][flipped]
    most = flipped[np.lexsort((flipped, -sureness, -kind))[:KEPT_FLIPS]]
    return tuple(
        Flip(answers.files[n], int(answers.labels[n]), _answer(reference[n]), _answer(found[n]))
        for n in map(int, most)
    )


def _answer(record: NDArray[np.void] | np.void) -> Answer:
    if record["predicted"] == NO_CLASS:
        return Answer(None, None)
    return Answer(int(record["predicted"]), float(record["probability"]))
