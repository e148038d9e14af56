"""CIFAR-100 in its published form: made up here with real pickles of the same shape."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvt_deploy.core.errors import BadInput
from hvt_deploy.data.calibration_set import choose_calibration, find_overlap
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.folders import open_image_folder

FINE = tuple(f"fine_{i:02d}" for i in range(100))
COARSE = tuple(f"coarse_{i:02d}" for i in range(20))


def write_cifar(path: Path, protocol: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Two images a class in each split; class c belongs to coarse class c % 20. Returns the test
    pixels.
    """
    path.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 200, 3072), np.uint8)
    fine = [i % 100 for i in range(200)]
    for split, data in zip(("train", "test"), pixels, strict=True):
        content = {
            b"data": data,
            b"fine_labels": fine,
            b"coarse_labels": [c % 20 for c in fine],
            b"filenames": [b"x.png"] * 200,
        }
        (path / split).write_bytes(pickle.dumps(content, protocol))
    meta = {
        b"fine_label_names": [n.encode() for n in FINE],
        b"coarse_label_names": [n.encode() for n in COARSE],
    }
    (path / "meta").write_bytes(pickle.dumps(meta, protocol))
    return pixels[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_test_images_come_with_their_pixels_and_labels(tmp_path: Path, protocol: int) -> None:
    pixels = write_cifar(tmp_path / "c", protocol)
    opened = open_image_folder(tmp_path / "c", None, 100)
    assert len(opened.samples) == 200
    assert "by class number" in opened.mapping
    for sample in opened.samples:
        index = int(sample.path.stem)
        assert sample.label == index % 100
        read_CHW = np.moveaxis(np.asarray(Image.open(sample.path), np.uint8), 2, 0)
        assert read_CHW.tobytes() == pixels[index].tobytes()


def test_fine_labels_are_found_by_name_in_another_order(tmp_path: Path) -> None:
    write_cifar(tmp_path / "c")
    opened = open_image_folder(tmp_path / "c", ClassNames(FINE[::-1]), 100)
    assert all(s.label == 99 - int(s.path.stem) % 100 for s in opened.samples)


def test_coarse_labels_only_for_a_model_that_names_them(tmp_path: Path) -> None:
    write_cifar(tmp_path / "c")
    opened = open_image_folder(tmp_path / "c", ClassNames(COARSE), 20)
    assert all(s.label == int(s.path.stem) % 20 for s in opened.samples)
    with pytest.raises(BadInput, match="neither its 100 fine nor its 20 coarse"):
        open_image_folder(tmp_path / "c", None, 20)


def test_calibration_takes_training_images_and_shares_none_with_the_test_images(
    tmp_path: Path,
) -> None:
    write_cifar(tmp_path / "c")
    chosen = choose_calibration(tmp_path / "c", 100, seed=0)
    assert {f.class_name for f in chosen.files} == set(FINE)
    assert find_overlap(chosen, open_image_folder(tmp_path / "c", None, 100).samples) == []
    assert len(find_overlap(chosen, chosen.samples())) == 100


class _Hostile:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.marker,))


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    write_cifar(tmp_path / "c")
    (tmp_path / "c" / "test").write_bytes(
        pickle.dumps({b"data": _Hostile(str(tmp_path / "ran"))}, 2)
    )
    with pytest.raises(BadInput, match=r"not a file of CIFAR-100: it names \w+\.mkdir"):
        open_image_folder(tmp_path / "c", None, 100)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", pickle.dumps([1]), pickle.dumps({b"data": np.zeros((2, 7), np.uint8)})],
)
def test_other_content_is_an_error(tmp_path: Path, content: bytes) -> None:
    write_cifar(tmp_path / "c")
    (tmp_path / "c" / "test").write_bytes(content)
    with pytest.raises(BadInput, match="test"):
        open_image_folder(tmp_path / "c", None, 100)


def test_label_names_that_would_leave_the_cache_are_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path / "c")
    names = {b"fine_label_names": [b"../out"], b"coarse_label_names": [b"a"]}
    (tmp_path / "c" / "meta").write_bytes(pickle.dumps(names, 2))
    with pytest.raises(BadInput, match="no usable `fine_label_names`"):
        open_image_folder(tmp_path / "c", None, 100)


def test_other_users_of_the_cache_can_read_the_images(tmp_path: Path) -> None:
    write_cifar(tmp_path / "c")
    previous = os.umask(0o022)
    try:
        samples = open_image_folder(tmp_path / "c", None, 100).samples
    finally:
        os.umask(previous)
    assert all(sample.path.stat().st_mode & 0o044 == 0o044 for sample in samples)
    folders = [*samples[0].path.relative_to(tmp_path).parents][:-1]
    assert len(folders) == 5
    assert all((tmp_path / folder).stat().st_mode & 0o055 == 0o055 for folder in folders)
