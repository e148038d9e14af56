"""Calibration images that are few, of few classes or nearly alike are named."""

from __future__ import annotations

import numpy as np
import pytest

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.calibration_health import Thumbnails, find_health_faults
from hvt_deploy.data.calibration_set import CalibrationFile, CalibrationSet, choose_calibration
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.images import load_batches


def faults(images_NCHW, classes=("",), num_classes=10, folder="calibration", names=()):
    """Of a set whose images are of these class folders in turn, in two batches."""
    files = tuple(
        CalibrationFile(f"{i}.png", str(i), 1, classes[i % len(classes)])
        for i in range(len(images_NCHW))
    )
    thumbnails = Thumbnails()
    passed = list(thumbnails.watch(np.array_split(images_NCHW, 2)))
    assert np.array_equal(np.concatenate(passed), images_NCHW)
    return find_health_faults(CalibrationSet(folder, 0, files), thumbnails, num_classes, names)


def textures(count, side=40, seed=0):
    """Images with structure of many sizes, unlike each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, side // 5, side // 5))
    return np.kron(coarse, np.ones((1, 1, 5, 5))).astype(np.float32)


def frames(count):
    """One scene with the noise of a camera and a little flicker."""
    rng = np.random.default_rng(1)
    flicker = rng.uniform(0.95, 1.05, (count, 1, 1, 1))
    found = textures(1) * flicker + rng.normal(0, 0.1, (count, 3, 40, 40))
    return found.astype(np.float32)


def test_the_digits_are_a_healthy_set(tmp_path):
    chosen = choose_calibration(write_digits(tmp_path / "digits").calibration, 512, seed=0)
    thumbnails = Thumbnails()
    batches = load_batches(chosen.samples(), Preprocessing((32, 32)), 64, 1)
    list(thumbnails.watch(batch.images_NCHW for batch in batches))
    assert find_health_faults(chosen, thumbnails, 10, ()) == ()
    assert len(find_health_faults(chosen, thumbnails, 11, ())) == 1


def test_fewer_than_32_images_are_few():
    (found,) = faults(textures(31))
    assert "only 31 images" in found
    assert faults(textures(32)) == ()


@pytest.mark.parametrize(
    ("classes", "num_classes", "folder", "missing"),
    [
        (("a",), 10, "train", "from 1 class folder,"),
        (("a", "b"), 3, "train", "from 2 class folders,"),
        (("a", "b"), 2, "train", None),
        (("",), 10, "train", None),
        (("",), 10, "tench", "from 1 class folder,"),
        (tuple(f"n{i}" for i in range(40)), 1000, "train", None),
        (tuple(f"n{i}" for i in range(39)), 1000, "train", "from 39 class folders,"),
    ],
)
def test_classes_are_missing_where_folders_say_so(classes, num_classes, folder, missing):
    found = faults(textures(40), classes, num_classes, folder, {"tench", "goldfish"})
    assert [missing in fault for fault in found] == ([True] if missing else [])


def test_frames_of_one_scene_are_nearly_alike_and_few_among_others_are_not():
    (found,) = faults(frames(40))
    assert found.startswith("39 of 40 calibration images are nearly like another one")
    assert faults(np.concatenate([textures(60), frames(16)])) == ()
    (found,) = faults(np.repeat(textures(20), 2, axis=0))
    assert found.startswith("20 of 40")
    noise = np.random.default_rng(2).normal(0, 1e-4, (40, 3, 8, 8))
    grey = (1 + noise).astype(np.float32)
    (found,) = faults(grey)
    assert found.startswith("39 of 40")
    assert faults(grey * np.arange(1, 41)[:, None, None, None]) == ()


def test_a_filled_last_batch_does_not_count_as_repeats():
    images = textures(40)
    thumbnails = Thumbnails()
    list(thumbnails.watch([images, images]))
    assert thumbnails.find_repeats(40) == (0, 40)


def test_a_large_set_is_compared_in_part():
    thumbnails = Thumbnails()
    list(thumbnails.watch([textures(1500)]))
    assert thumbnails.find_repeats(1500) == (0, 750)
