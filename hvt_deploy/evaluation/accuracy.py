"""From the answers to every image to accuracy and fidelity.

Counts are integers and sums are exactly rounded (`math.fsum`), so the numbers depend on the answers
alone: not on their order, nor on how many parts, runs or machines they come from.
"""

from __future__ import annotations

import math

import numpy as np

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import sqnr_db
from hvt_deploy.evaluation.class_scores import (
    NO_CLASS,
    CurveTally,
    count_classes,
    count_confusions,
)
from hvt_deploy.evaluation.flipped_predictions import find_flips
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.scores import Accuracy, Fidelity, Top1Drop
from hvt_deploy.evaluation.statistics import mcnemar_exact, tango_interval, wilson_interval

_TOP = 5


def measure_accuracy(answers: ImageAnswers, name: str) -> Accuracy:
    """The answers of a backend against the labels. Raises BadInput where there is no image."""
    labels_N, images, num_classes = answers.labels, len(answers.labels), answers.num_classes
    if images == 0:
        hint = "Give a folder with readable, labelled images."
        raise BadInput("No image was measured.", hint)
    predicted_N, reference_N = answers.predicted(name), answers.predicted(answers.reference)
    right_N, reference_right_N = predicted_N == labels_N, reference_N == labels_N
    lost, gained = (
        int((reference_right_N & ~right_N).sum()),
        int((right_N & ~reference_right_N).sum()),
    )
    found = answers.answers[name]
    curves = CurveTally(num_classes) if "logits" in (found.dtype.names or ()) else None
    if curves is not None:
        curves.add(found["logits"].astype(np.float64), labels_N)
    return Accuracy(
        images=images,
        top1=wilson_interval(int(right_N.sum()), images),
        top5=wilson_interval(int((found["rank"] < _TOP).sum()), images)
        if num_classes > _TOP
        else None,
        drop=None
        if name == answers.reference
        else Top1Drop(
            tango_interval(lost, gained, images), lost, gained, mcnemar_exact(lost, gained)
        ),
        not_finite=int((predicted_N == NO_CLASS).sum()),
        classes=count_classes(labels_N, predicted_N, reference_N, num_classes),
        confusions=count_confusions(labels_N, predicted_N, num_classes),
        curves=curves.curves() if curves is not None else (),
        chance=100 * int(np.bincount(labels_N).max()) / images,
    )


def measure_fidelity(answers: ImageAnswers, name: str) -> Fidelity | None:
    """The logits of a backend against the reference's; None for the reference itself."""
    if name == answers.reference:
        return None
    found, reference = answers.answers[name], answers.answers[answers.reference]
    agree_N = (found["predicted"] == reference["predicted"]) & (found["predicted"] != NO_CLASS)
    signal, noise, energy, product = (
        math.fsum(sums_N)
        for sums_N in (reference["energy"], found["noise"], found["energy"], found["product"])
    )
    max_abs = float(found["max_abs"].max(initial=0))
    return Fidelity(
        agreement=wilson_interval(int(agree_N.sum()), len(answers.labels)),
        sqnr_db=sqnr_db(signal, noise),
        cosine=_cosine(product, signal, energy) if math.isfinite(noise) else None,
        max_abs=max_abs if math.isfinite(max_abs) else None,
        flips=find_flips(answers, name),
    )


def _cosine(product: float, signal: float, energy: float) -> float | None:
    """Of the angle between all logits of both; None where one of them is all zeros."""
    length = math.sqrt(signal * energy)
    return max(-1.0, min(1.0, product / length)) if length > 0 else None
