"""The solar cells as image folders: from a stand-in of their package, and slowly from itself."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from elpv_package import COUNTS, install_stand_in

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.data.elpv import ELPV_CLASSES, ELPV_NOTICE, ELPV_SPLITS, write_elpv
from hvt_deploy.data.folders import open_image_folder


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The data folder of a stand-in."""
    return install_stand_in(tmp_path / "site", monkeypatch)


def read_labels(package: Path) -> dict[str, tuple[str, str]]:
    rows = csv.reader((package / "labels.csv").read_text().splitlines(), delimiter=" ")
    return {Path(row[0]).name: (row[2], row[-1]) for row in rows}


def check_folders(folder: Path, labels: dict[str, tuple[str, str]]) -> None:
    seen: list[str] = []
    for split, size in ELPV_SPLITS.items():
        found = open_image_folder(folder / split, ELPV_CLASSES, 4)
        assert len(found.samples) == size
        for sample in found.samples:
            probability, module = labels[sample.path.name]
            assert probability != "0.3333333333333333"
            state = "functional" if probability == "0.0" else "defective"
            assert ELPV_CLASSES.names[sample.label] == f"{state}_{module}"
        counts = [sum(sample.label == i for sample in found.samples) for i in range(4)]
        shares = [588 / 2329, 920 / 2329, 369 / 2329, 452 / 2329]
        assert counts == pytest.approx([share * size for share in shares], abs=2)
        seen += [sample.path.name for sample in found.samples]
    assert len(seen) == len(set(seen)) == sum(COUNTS.values()) - 117 - 178
    assert (folder / "LICENCE.txt").read_text().strip() == ELPV_NOTICE
    assert "CC-BY-NC-SA" in ELPV_NOTICE


def test_splits_are_stratified_disjoint_and_without_the_undecided(package, tmp_path):
    folder = tmp_path / "cells"
    folders = write_elpv(folder)
    check_folders(folder, read_labels(package))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_elpv(folder) == folders
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert write_elpv(tmp_path / "again").test != folders.test
    names = [sorted(p.name for p in f.rglob("test/*/*")) for f in (folder, tmp_path / "again")]
    assert names[0] == names[1]


def test_missing_and_changed_files_are_refused(package, tmp_path):
    image = package / "images" / "cell0007.png"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(BadInput, match=r"lacks 1 of its files, the first is .*cell0007\.png"):
        write_elpv(tmp_path / "cells")
    image.write_bytes(content[:-1] + b"x")
    with pytest.raises(BadInput, match="sha256") as caught:
        write_elpv(tmp_path / "cells")
    assert "pip install elpv-dataset==1.0.0.post1" in caught.value.hint
    assert not (tmp_path / "cells").exists()


def test_another_version_is_refused_though_whole(package, tmp_path):
    with (package / "labels.csv").open("a") as labels:
        labels.write("images/cell0001.png  0.0 mono\n")
    with pytest.raises(BadInput, match="sha256"):
        write_elpv(tmp_path / "cells")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingEnvironment) as caught:
        write_elpv(tmp_path / "cells")
    assert "pip install 'hvt-deploy[elpv]'" in caught.value.hint


def test_a_folder_with_other_files_is_left_alone(package, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(BadInput, match="not the complete set"):
        write_elpv(tmp_path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


@pytest.mark.slow
def test_the_published_package(tmp_path):
    package = importlib.util.find_spec("elpv_dataset")
    assert package, "pip install 'hvt-deploy[elpv]'"
    write_elpv(tmp_path / "cells")
    check_folders(tmp_path / "cells", read_labels(Path(package.origin).parent / "data"))
