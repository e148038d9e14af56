"""Class names stay with the model: given, learned from folders, shown by everything after it."""

from __future__ import annotations

import json
import tarfile

import pytest
from command_line import run
from PIL import Image

from hvt_deploy.commands.bundle import bundle
from hvt_deploy.commands.recorded_names import record_class_names
from hvt_deploy.commands.unpack import unpack
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.folders import name_classes_by_folders

MODEL = "hvt_demo"
NAMES = tuple(f"digit-{number}" for number in range(10))
CALIBRATED = ("--fp16", "--calib", "data/train", "--calib-images", "8")


@pytest.fixture
def place(tmp_path, exported):
    """The demo model, and its digits in folders that the model does not know: `digit-3`."""
    digits = write_digits(tmp_path / "digits")
    for split, source in (("train", digits.calibration), ("val", digits.validation)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number, name in enumerate(NAMES):
            (tmp_path / "data" / split / name).symlink_to(source / str(number))
    exported(tmp_path / "artifacts", MODEL)
    return tmp_path


def read(place):
    return ModelFolder(place / "artifacts" / MODEL).read()


def photo_of(place, digit):
    return sorted((place / "digits/validation" / str(digit)).iterdir())[0]


def test_a_model_in_the_place_of_an_image_is_named(place):
    done = run("predict", MODEL, photo_of(place, 3), cwd=place)
    assert done.returncode == 2
    assert f"{MODEL} is an exported model and no image" in done.stderr
    assert f"hvt-deploy predict IMAGE --model {MODEL}" in done.stderr


def test_names_learned_in_a_calibration_are_said_recorded_and_shown(place):
    assert read(place).class_names == tuple(map(str, range(10)))
    done = run("quantize", *CALIBRATED, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "named by the folders of data/train in sorted order, from 'digit-0'" in done.stderr
    assert read(place).class_names == NAMES
    assert read(place).class_names_source == "data/train"
    again = run("quantize", *CALIBRATED, cwd=place)
    assert "sorted order" not in again.stderr

    shown = run("predict", photo_of(place, 3), "--json", cwd=place)
    assert json.loads(shown.stdout)["images"][0]["labels"][0]["name"] == "digit-3"
    assert run("package", "--onnx-backend", "python", cwd=place).returncode == 0
    labels = [path.read_text().splitlines() for path in place.glob("triton/*/labels.txt")]
    assert labels and all(tuple(lines) == NAMES for lines in labels)
    assert run("bundle", "--output", "it.tar", cwd=place).returncode == 0
    with tarfile.open(place / "it.tar") as bundle:
        assert json.load(bundle.extractfile("manifest.json"))["class_names"] == list(NAMES)

    exported = run("export", MODEL, cwd=place)
    assert "Exported before" in exported.stderr
    assert read(place).class_names == NAMES


def test_names_learned_in_a_validation_are_in_its_record_and_in_the_manifest(place):
    folder = ModelFolder(place / "artifacts" / MODEL)
    flags = {"validation.limit": 20, "validation.threads": 1, "validation.backends": ["ort"]}
    config = with_flags(folder.read().config, flags)
    done = validate(folder, config, place / "data/val", None, SilentUi())
    assert done.results.class_names == NAMES
    assert "taken as the model's 10 classes in sorted order" in done.results.data.class_mapping
    assert "digit-3" in done.to_html()
    assert read(place).class_names == NAMES


def test_folders_named_by_number_name_nothing(place):
    folders = ("--calib", "digits/calibration", "--calib-images", "8")
    assert run("quantize", "--fp16", *folders, cwd=place).returncode == 0
    assert read(place).class_names_source == ""


def test_names_given_later_leave_the_graphs_as_they_are(place):
    assert run("quantize", *CALIBRATED, cwd=place).returncode == 0
    before = read(place)
    (place / "names.txt").write_text("\n".join(f"the {number}" for number in range(10)))
    photo = photo_of(place, 3)
    shown = run("predict", photo, "--class-names", "names.txt", "--json", cwd=place)
    assert json.loads(shown.stdout)["images"][0]["labels"][0]["name"] == "the 3"
    after = read(place)
    assert (after.class_names[3], after.class_names_source) == ("the 3", "names.txt")
    assert after.artifacts == before.artifacts

    (place / "names.txt").write_text("one\ntwo\n")
    refused = run("predict", photo, "--class-names", "names.txt", cwd=place)
    assert refused.returncode == 2
    assert "names.txt names 2 classes, but the model has 10" in refused.stderr
    assert read(place) == after


def test_unpacking_a_bundle_without_names_again_keeps_those_that_were_given(place):
    folder = ModelFolder(place / "artifacts" / MODEL)
    packed = bundle(folder, place / "it.tar", False, SilentUi())
    (place / "names.txt").write_text("\n".join(NAMES))
    record_class_names(folder, place / "names.txt", SilentUi())
    unpack(packed, place / "artifacts", SilentUi())
    assert read(place).class_names == NAMES


def images_in(folder):
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png")


@pytest.mark.parametrize(
    "names", [("train/cat", "val/cat"), ("cat",), ("cat", "1"), ("a", "b", "c")]
)
def test_folders_that_are_not_all_classes_name_none(tmp_path, names):
    for name in names:
        images_in(tmp_path / name)
    assert name_classes_by_folders(tmp_path, 2) is None


def test_folders_named_by_wnid_get_imagenets_names(tmp_path):
    for wnid in ("n01440764", "n02102040"):
        images_in(tmp_path / wnid)
    names = name_classes_by_folders(tmp_path, 2)
    assert names.wnids == ("n01440764", "n02102040")
    assert [names.short(0), names.short(1)] == ["tench", "English springer"]
