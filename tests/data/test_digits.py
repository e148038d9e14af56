from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.data.digits import SPLIT_SIZES, DigitsFolders, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DigitsFolders:
    return write_digits(tmp_path_factory.mktemp("digits") / "images")


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.png"))


def test_split_is_stratified_and_disjoint(digits: DigitsFolders) -> None:
    folders = {
        "train": digits.train,
        "calibration": digits.calibration,
        "validation": digits.validation,
    }
    numbers: list[str] = []
    for split, folder in folders.items():
        counts = [
            len(images_of) for images_of in (list((folder / str(c)).iterdir()) for c in range(10))
        ]
        assert sum(counts) == SPLIT_SIZES[split]
        assert max(counts) - min(counts) <= 0.01 * sum(counts) + 2
        numbers += [path.stem for path in images(folder)]
    assert len(numbers) == len(set(numbers)) == 1797


def test_images_are_enlarged_digits(digits: DigitsFolders) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    for path in images(digits.validation)[::50]:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((32, 32), "L")
            small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float) * 16 / 255
        assert int(path.parent.name) == source.target[int(path.stem)]
        assert np.abs(small - source.images[int(path.stem)]).mean() < 1, (
            "grey levels 0 to 16 must survive"
        )


def test_second_call_changes_nothing(digits: DigitsFolders) -> None:
    folder = digits.train.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_digits(folder) == digits
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_every_machine_gets_the_same_split(digits: DigitsFolders, tmp_path: Path) -> None:
    again = write_digits(tmp_path / "again")
    hashes = [
        [hashlib.sha256(p.read_bytes()).digest() for p in images(d.validation)]
        for d in (digits, again)
    ]
    assert hashes[0] == hashes[1]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(BadInput, match="not the complete set"):
        write_digits(tmp_path)
    assert (tmp_path / "train" / "photo.jpg").read_bytes() == b"precious"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = 0

    def save(*_: object) -> None:
        nonlocal saved
        saved += 1
        if saved == 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingEnvironment) as caught:
        write_digits(tmp_path / "digits")
    assert "hvt-deploy[demo]" in caught.value.hint
