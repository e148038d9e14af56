"""A validation with the promised number of images proves its point in about 80 of 100 cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hvt_deploy.evaluation.images_needed import find_images_needed, find_sample_size
from hvt_deploy.evaluation.statistics import CONFIDENCE_Z, tango_interval, tango_scores


def are_inside(lost_R, gained_R, images, lowest, highest):
    """Whether `tango_interval` is inside: its end is where the score is the quantile."""
    inside_R = tango_scores(lost_R, gained_R, images, highest / 100) <= -CONFIDENCE_Z
    if math.isfinite(lowest):
        inside_R &= tango_scores(gained_R, lost_R, images, -lowest / 100) <= -CONFIDENCE_Z
    return inside_R


def simulate(lost, gained, images, lowest, highest):
    """The share of validations whose whole interval is inside."""
    shares = (lost, gained, 1 - lost - gained)
    counts = np.random.default_rng(11).multinomial(images, shares, 3000)
    return are_inside(counts[:, 0], counts[:, 1], images, lowest, highest).mean()


def test_the_simulation_judges_as_the_interval_does():
    for lost in range(0, 12, 2):
        for gained in range(0, 12, 3):
            interval = tango_interval(lost, gained, 1000)
            for lowest in (-math.inf, -0.5):
                inside = lowest <= interval.low and interval.high <= 0.5
                assert are_inside(lost, gained, 1000, lowest, 0.5) == inside


@pytest.mark.parametrize(
    ("lost", "gained", "images", "lowest", "highest"),
    [
        (9, 9, 900, -math.inf, 0.5),
        (9, 9, 900, -0.5, 0.5),
        (10, 4, 2000, -math.inf, 0.5),
        (2, 8, 1000, -1.0, 1.0),
        (1, 1, 1000, -math.inf, 0.5),
    ],
)
def test_the_promised_number_passes_80_of_100_times(lost, gained, images, lowest, highest):
    needed = find_images_needed(lost, gained, images, lowest, highest)
    shares = lost / images, gained / images
    assert simulate(*shares, needed.fewest, lowest, highest) == pytest.approx(0.8, abs=0.035)
    assert needed.most > needed.fewest
    assert simulate(*shares, needed.most, lowest, highest) > 0.9


def test_over_all_first_validations_the_range_holds_80_of_100():
    """The shares are not known: they are those of a first validation of 900 images."""
    lost, gained, lowest = 0.01, 0.01, -math.inf
    drawn = np.random.default_rng(3).multinomial(900, (lost, gained, 1 - lost - gained), 60)
    first = [(b, c) for b, c, _ in drawn.tolist() if not are_inside(b, c, 900, lowest, 0.5)]
    needed = [find_images_needed(b, c, 900, lowest, 0.5) for b, c in first]
    known = [one for one in needed if one is not None]
    assert len(known) > 30
    at_fewest = [simulate(lost, gained, one.fewest, lowest, 0.5) for one in known]
    at_most = [one.most is None or simulate(lost, gained, one.most, lowest, 0.5) for one in known]
    assert 0.6 <= np.mean(at_fewest) <= 0.85
    assert np.mean(at_most) >= 0.85


def test_where_nothing_changes_it_is_the_first_count_that_proves_it():
    needed = find_sample_size(0, 0, -math.inf, 0.5)
    assert tango_interval(0, 0, needed).high <= 0.5 < tango_interval(0, 0, needed - 1).high


def test_more_images_than_there_are():
    """900 images did not prove it, so 726 will not."""
    for lost, gained in ((1, 0), (2, 1), (0, 0), (0, 9), (0, 30)):
        interval = tango_interval(lost, gained, 900)
        for lowest in (-math.inf, -0.5):
            if lowest <= interval.low and interval.high <= 0.5:
                continue
            needed = find_images_needed(lost, gained, 900, lowest, 0.5)
            assert needed is None or needed.fewest > 900


def test_both_ends_are_asked_for():
    one = find_images_needed(10, 10, 1000, -math.inf, 0.5)
    both = find_images_needed(10, 10, 1000, -0.5, 0.5)
    assert both.fewest > 1.2 * one.fewest
    assert find_images_needed(0, 30, 1000, -math.inf, 0.5).fewest == 1001
    assert find_images_needed(0, 30, 1000, -0.5, 0.5) is None


def test_no_number_of_images_proves_a_drop_that_is_there():
    assert find_images_needed(10, 2, 400, -math.inf, 2.0) is None
    assert find_images_needed(10, 2, 400, -math.inf, 1.9) is None
    needed = find_images_needed(10, 2, 400, -math.inf, 2.1)
    assert needed.most is None
    assert needed.sentence.startswith("at least ")


def test_numbers_are_rounded_up_to_two_digits():
    found = find_images_needed(9, 9, 900, -math.inf, 0.5)
    assert found.sentence == "6,400 to 52,000 images needed"
