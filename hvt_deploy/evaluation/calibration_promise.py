"""What calibration promised of INT8 logits, and what validation found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from hvt_deploy.core.manifest import GraphFacts, GraphKey, Manifest
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.record import Row

_MOST_BELOW_DB = 6.0
# Where few images have most of the noise, some draws have none of them.
_DRAWS, _BY_CHANCE = 1000, 0.01


def find_broken_promises(
    manifest: Manifest, rows: Sequence[Row], answers: ImageAnswers
) -> Iterator[str]:
    """A sentence for each INT8 row whose SQNR is more than 6 dB below that of its graph on
    calibration images, which hardly any draw of as many of the validation images reaches.
    """
    for row in rows:
        key = _find_graph(row)
        facts = manifest.facts(key, GraphFacts) if key else None
        if not (facts and facts.parity and facts.compared_images and row.fidelity):
            continue
        promised_db, found_db = facts.parity.sqnr_db, row.fidelity.sqnr_db
        if not math.isfinite(promised_db) or promised_db - found_db <= _MOST_BELOW_DB:
            continue
        reached = _count_reached(answers, row.backend, promised_db, facts.compared_images)
        if reached <= _BY_CHANCE * _DRAWS:
            yield (
                f"{row.backend} has an SQNR of {found_db:.1f} dB on {row.images} images, "
                f"{promised_db:.1f} dB on {facts.compared_images} calibration images: "
                "these are unlike the images of the validation. Calibrate on images like those "
                f"that the model will see: hvt-deploy quantize {manifest.slug} --int8 --calib DIR"
            )


def _count_reached(answers: ImageAnswers, name: str, promised_db: float, images: int) -> int:
    """How many random draws of so many of the images have the promised SQNR."""
    signal_N, noise_N = answers.answers[answers.reference]["energy"], answers.answers[name]["noise"]
    picks = np.random.default_rng(0).integers(len(noise_N), size=(_DRAWS, images))
    signal, noise = signal_N[picks].sum(axis=1), noise_N[picks].sum(axis=1)
    return int((noise * 10 ** (promised_db / 10) <= signal).sum())


def _find_graph(row: Row) -> GraphKey | None:
    """The graph that an INT8 row is of; None for others."""
    if row.variant.precision not in ("int8", "int8-fp32"):
        return None
    if row.variant.form == "engine-numerics":
        return "int8-fp32"
    return "int8-cpu" if row.variant.form == "cpu" else "int8"
