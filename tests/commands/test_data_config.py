"""`config --for`: what a folder holds, in comments, and a configuration that `export` takes."""

from __future__ import annotations

import pickle
import subprocess

import pytest
from command_line import run
from PIL import Image

from hvt_deploy.commands.data_config import look_at
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.run_config import load_config


def fill(folder, *, count=5, size=(40, 30)):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (size[0] + number, size[1])).save(folder / f"{number}.png")


def test_class_folders_give_classes_sizes_and_a_split_that_works(tmp_path):
    fill(tmp_path / "photos/cat", count=7)
    fill(tmp_path / "photos/hot dog")
    done = run("config", "hvt_demo", "--for", "photos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 classes: cat (7), hot dog (5)." in done.stdout
    assert "Sizes: 40x30 to 46x30; the model's input is 32x32." in done.stdout
    (tmp_path / "mine.yaml").write_text(done.stdout)
    config = load_config(tmp_path / "mine.yaml")
    assert (config.model, config.num_classes) == ("hvt_demo", 2)
    assert (config.calibration.folder, config.calibration.images) == ("photos", 12)

    script = "\n".join(
        line.removeprefix("#   ")
        for line in done.stdout.splitlines()
        if line.startswith(("#   cd ", "#     while "))
    )
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True)
    moved = look_at(tmp_path / "photos-val", None)
    assert (moved.images, look_at(tmp_path / "photos", None).images) == (2, 10)
    assert set(moved.classes) <= {"cat", "hot dog"}


def test_an_export_takes_the_configuration(tmp_path):
    fill(tmp_path / "photos/a")
    fill(tmp_path / "photos/b")
    text = run("config", "hvt_demo", "--for", "photos", cwd=tmp_path).stdout
    (tmp_path / "mine.yaml").write_text(text)
    done = run("export", "hvt_demo", "--config", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_train_and_val_are_used_as_they_are(tmp_path):
    for part in ("train", "val"):
        fill(tmp_path / "data" / part / "a")
    facts = look_at(tmp_path / "data", None)
    assert (facts.calibration, facts.validation) == (tmp_path / "data/train", tmp_path / "data/val")
    assert dict(facts.classes) == {"a": 10}
    text = run("config", "--for", "data", cwd=tmp_path).stdout
    assert "hvt-deploy validate --data data/val" in text
    assert "every fifth" not in text
    assert "folder: data/train" in text


def test_a_flat_folder_has_the_classes_of_its_labels(tmp_path):
    fill(tmp_path / "flat")
    assert look_at(tmp_path / "flat", None).classes == {}
    assert "file of labels" in run("config", "--for", "flat", cwd=tmp_path).stdout
    (tmp_path / "labels.csv").write_text("0.png,cat\n1.png,dog\n2.png,cat\n")
    text = run("config", "--for", "flat", "--labels", "labels.csv", cwd=tmp_path).stdout
    assert "2 classes: cat (2), dog (1)." in text
    assert "--labels labels.csv" in text


def test_cifar_is_known(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({}))
    facts = look_at(folder, None)
    assert (len(facts.classes), facts.images, facts.sides) == (100, 60_000, ((32, 32), (32, 32)))


def test_folders_without_an_image_are_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"no image")
    for name in ("empty", "broken", "nowhere"):
        with pytest.raises(BadInput, match=name):
            look_at(tmp_path / name, None)
