"""What calibration promised of INT8 logits, and what validation found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hvt_deploy.core.manifest import GraphFacts, GraphKey, Manifest
from hvt_deploy.evaluation.record import Row

_MOST_BELOW_DB = 6.0


def find_broken_promises(manifest: Manifest, rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each INT8 row whose SQNR is more than 6 dB below that of its graph on
    calibration images.
    """
    for row in rows:
        key = _find_graph(row)
        facts = manifest.facts(key, GraphFacts) if key else None
        if not (facts and facts.parity and facts.compared_images and row.fidelity):
            continue
        promised_db, found_db = facts.parity.sqnr_db, row.fidelity.sqnr_db
        if math.isfinite(promised_db) and promised_db - found_db > _MOST_BELOW_DB:
            yield (
                f"{row.backend} has an SQNR of {found_db:.1f} dB on {row.images} images, "
                f"{promised_db:.1f} dB on {facts.compared_images} calibration images: "
                "these are unlike the images of the validation. Calibrate on images like those "
                f"that the model will see: hvt-deploy quantize {manifest.slug} --int8 --calib DIR"
            )


def _find_graph(row: Row) -> GraphKey | None:
    """The graph that an INT8 row is of; None for others."""
    if row.variant.precision not in ("int8", "int8-fp32"):
        return None
    if row.variant.form == "engine-numerics":
        return "int8-fp32"
    return "int8-cpu" if row.variant.form == "cpu" else "int8"
