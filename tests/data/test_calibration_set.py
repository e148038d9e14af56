from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from hvt_deploy.core.errors import BadInput
from hvt_deploy.data.calibration_set import CalibrationSet, choose_calibration, find_overlap
from hvt_deploy.data.folders import Sample


def write_tree(folder: Path, per_class: int = 6, classes: str = "abc") -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            (folder / name / f"{i}.jpg").write_bytes(f"{name}{i}".encode())
    return folder


def samples_in(folder: Path) -> list[Sample]:
    return [Sample(path, 0) for path in sorted(folder.rglob("*.jpg"))]


def test_the_set_is_balanced_over_folders_that_are_no_classes_of_the_model(tmp_path: Path) -> None:
    chosen = choose_calibration(write_tree(tmp_path), images=9, seed=0)
    assert Counter(f.class_name for f in chosen.files) == {"a": 3, "b": 3, "c": 3}
    for file, sample in zip(chosen.files, chosen.samples(), strict=True):
        assert sample.path == tmp_path / file.file
        assert sample.label == -1
        content = sample.path.read_bytes()
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert file.size_bytes == len(content)


def test_a_flat_folder_works_and_a_small_one_gives_all_it_has(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
    chosen = choose_calibration(tmp_path, images=3, seed=0)
    assert len(chosen.files) == 3
    assert {f.class_name for f in chosen.files} == {""}
    assert len(choose_calibration(tmp_path, images=512, seed=0).files) == 5


def test_the_choice_follows_the_seed_and_not_the_place(tmp_path: Path) -> None:
    here = write_tree(tmp_path / "here", per_class=30)
    shutil.copytree(here, tmp_path / "there")
    first = choose_calibration(here, 20, seed=0)
    assert choose_calibration(tmp_path / "there", 20, seed=0).files == first.files
    assert choose_calibration(here, 20, seed=1).files != first.files


def test_the_key_changes_with_one_image_and_not_with_names(tmp_path: Path) -> None:
    write_tree(tmp_path)
    key = choose_calibration(tmp_path, 100, seed=0).content_key
    (tmp_path / "a" / "0.jpg").rename(tmp_path / "a" / "renamed.jpg")
    assert choose_calibration(tmp_path, 100, seed=0).content_key == key
    (tmp_path / "a" / "renamed.jpg").write_bytes(b"changed")
    assert choose_calibration(tmp_path, 100, seed=0).content_key != key


def test_the_manifest_is_json_that_reads_back(tmp_path: Path) -> None:
    chosen = choose_calibration(write_tree(tmp_path / "train"), 4, seed=7)
    path = tmp_path / "calibration.json"
    chosen.write(path)
    assert CalibrationSet.read(path) == chosen
    plain = json.loads(path.read_text(encoding="utf-8"))
    assert plain["seed"] == 7
    assert set(plain["files"][0]) == {"file", "sha256", "size_bytes", "class_name", "use"}


@pytest.mark.parametrize("text", [None, "{", "[]", '{"folder": "x", "seed": 0}', "\x00"])
def test_a_bad_manifest_is_an_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "calibration.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput):
        CalibrationSet.read(path)


def test_overlap_is_found_by_content_whatever_the_names(tmp_path: Path) -> None:
    train, val = write_tree(tmp_path / "train"), write_tree(tmp_path / "val", classes="xyz")
    chosen = choose_calibration(train, 6, seed=0)
    assert (
        find_overlap(chosen, samples_in(val)) == []
    )  # all files have the same size: size alone decides nothing
    copy = val / "x" / "copy of another name.jpg"
    shutil.copy(chosen.samples()[2].path, copy)
    assert find_overlap(chosen, samples_in(val)) == [copy]
    used = {s.path for s in chosen.samples()}
    assert set(find_overlap(chosen, samples_in(train))) == used


def test_overlap_reads_only_files_that_can_match_and_passes_over_missing_ones(
    tmp_path: Path,
) -> None:
    chosen = choose_calibration(write_tree(tmp_path / "train"), 6, seed=0)
    large = tmp_path / "large.jpg"
    large.write_bytes(b"x" * 100)
    calls: list[tuple[int, int]] = []
    found = find_overlap(
        chosen,
        [Sample(large, 0), Sample(tmp_path / "gone.jpg", 0)],
        progress=lambda *done: calls.append(done),
    )
    assert found == []
    assert calls == []  # nothing had to be hashed


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_without_images_the_error_says_how_to_give_some(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "train"
    if what == "empty":
        folder.mkdir()
    with pytest.raises(BadInput) as caught:
        choose_calibration(folder, 512, seed=0)
    assert "--calib DIR" in caught.value.hint
    assert str(folder) in caught.value.message


def test_too_few_images_asked_for_and_an_unreadable_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="0 calibration images"):
        choose_calibration(write_tree(tmp_path / "a"), 0, seed=0)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(BadInput, match="broken link"):
        choose_calibration(tmp_path / "b", 1, seed=0)
