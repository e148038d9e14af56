"""How many images would prove what they do not prove yet, with a power of 80 %."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hvt_deploy.evaluation.statistics import CONFIDENCE_Z, tango_bound, tango_scores

POWER = 0.8
_SIMULATIONS = 4000
_MOST_IMAGES = 10**8
_QUARTILE_Z = NormalDist().inv_cdf(0.75)


@dataclass(frozen=True)
class ImagesNeeded:
    """A range of numbers of images."""

    fewest: int
    """If the shares of lost and gained images stay what they are."""
    most: int | None
    """If they are as bad as the quartile of what the images allow; None where no number is enough
    then."""

    @property
    def sentence(self) -> str:
        """For a reader: `1,600 to 2,500 images needed`."""
        fewest, most = _round_up(self.fewest), self.most and _round_up(self.most)
        if most is None:
            return f"at least {fewest:,} images needed"
        return (
            f"{fewest:,} images needed"
            if fewest == most
            else (f"{fewest:,} to {most:,} images needed")
        )


def find_images_needed(
    lost: int, gained: int, images: int, lowest: float, highest: float
) -> ImagesNeeded | None:
    """How many images would put `tango_interval` inside `lowest` to `highest` (points, infinite for
    a side that is not asked for), in 80 of 100 validations; more than the `images` there are.

    `lost` and `gained` are counts of those images. None where the estimate itself is not inside:
    then no number of images proves it.
    """
    fewest = find_sample_size(lost / images, gained / images, lowest, highest, images)
    if fewest is None:
        return None
    ends: list[int | None] = []
    if math.isfinite(highest):
        drop, others = tango_bound(lost, gained, images, _QUARTILE_Z)
        ends.append(find_sample_size(others + drop, others, lowest, highest, images))
    if math.isfinite(lowest):
        gain, others = tango_bound(gained, lost, images, _QUARTILE_Z)
        ends.append(find_sample_size(others, others + gain, lowest, highest, images))
    known = [end for end in ends if end is not None]
    return ImagesNeeded(fewest, max(fewest, *known) if len(known) == len(ends) else None)


def find_sample_size(
    lost_share: float, gained_share: float, lowest: float, highest: float, more_than: int = 0
) -> int | None:
    """The fewest images, more than `more_than`, that put `tango_interval` inside `lowest` to
    `highest` (points) in 80 of 100 validations, where these shares (0 to 1) of all images are lost
    and gained; None where no number does.
    """
    if not lowest < 100 * (lost_share - gained_share) < highest:
        return None

    def is_enough(images: int) -> bool:
        return _find_power(lost_share, gained_share, lowest, highest, images) >= POWER

    too_few, enough = more_than, more_than + 1
    while not is_enough(enough):
        too_few, enough = enough, 2 * enough
        if enough > _MOST_IMAGES:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if is_enough(middle):
            enough = middle
        else:
            too_few = middle
    return enough


def _find_power(lost: float, gained: float, lowest: float, highest: float, images: int) -> float:
    """In which share of simulated validations the whole interval is inside."""
    rng = np.random.default_rng(0)
    lost, gained = max(0.0, lost), max(0.0, gained)  # rounding may leave them just below 0
    lost_R = rng.binomial(images, lost, _SIMULATIONS)
    gained_R = rng.binomial(images - lost_R, min(1.0, gained / max(1 - lost, 1e-12)))
    is_inside_R = np.ones(_SIMULATIONS, bool)
    if math.isfinite(highest):
        is_inside_R &= tango_scores(lost_R, gained_R, images, highest / 100) <= -CONFIDENCE_Z
    if math.isfinite(lowest):
        is_inside_R &= tango_scores(gained_R, lost_R, images, -lowest / 100) <= -CONFIDENCE_Z
    return float(is_inside_R.mean())


def _round_up(images: int) -> int:
    """To two digits: a simulation knows no more."""
    step = 10 ** max(0, len(str(images)) - 2)
    return -(-images // step) * step
