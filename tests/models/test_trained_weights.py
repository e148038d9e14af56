"""Models of solar cells are trained once, seeded, and their weights are in the cache only."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from elpv_package import install_stand_in, shorten_training

from hvt_deploy.commands.train_demo import train_on_elpv
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data import elpv
from hvt_deploy.data.class_names import find_stated_names
from hvt_deploy.data.elpv import ELPV_CLASSES, write_elpv
from hvt_deploy.models import get_spec, registry
from hvt_deploy.models.weights.download import obtain_weights
from hvt_deploy.models.weights.load import load_model

MODEL = "hvt_elpv"


@pytest.fixture(scope="module", autouse=True)
def _short():
    with pytest.MonkeyPatch.context() as patch:
        shorten_training(MODEL, 4, patch)
        yield


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Fifty images to train on, and the calibration split to measure on."""
    place = tmp_path_factory.mktemp("elpv")
    with pytest.MonkeyPatch.context() as patch:
        install_stand_in(place / "site", patch)
        folders = write_elpv(place / "cells")
    for image in sorted(folders.train.glob("*/*"))[::20]:
        target = place / "few" / image.parent.name / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, target)
    assert len(list((place / "few").glob("*/*"))) == 50
    return replace(folders, train=place / "few", test=folders.calibration)


def train(cells, cache):
    """The record of a short training into this cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return train_on_elpv(MODEL, cells, SilentUi())


@pytest.fixture(scope="module")
def trained(cells, tmp_path_factory):
    return train(cells, tmp_path_factory.mktemp("cache"))


def obtain(record):
    return obtain_weights(get_spec(MODEL), "auto", record.parent.parent)


def test_the_weights_are_the_models_and_recorded_with_an_interval(trained):
    record, obtained = json.loads(trained.read_text()), obtain(trained)
    assert (obtained.source, obtained.untrained, obtained.warning) == ("trained", False, "")
    _, report = load_model(get_spec(MODEL), obtained.path)
    assert report.sha256 == record["sha256"]
    low, high = record["wilson_95_percent"]
    assert low < record["top1_percent"] <= high
    assert record["majority_percent"] == pytest.approx(100 * 101 / 256, abs=0.01)
    assert low > record["majority_percent"], "brightness is learnt in four steps"
    assert find_stated_names(4, None, obtained.path) == ELPV_CLASSES


def test_it_is_trained_once_and_the_same_again(cells, trained, tmp_path):
    before = trained.stat().st_mtime_ns
    assert train(cells, trained.parents[2]) == trained
    assert trained.stat().st_mtime_ns == before
    again = train(cells, tmp_path)
    assert json.loads(again.read_text())["sha256"] == json.loads(trained.read_text())["sha256"]


@pytest.mark.parametrize("part", ["recipe", "sizes", "images"])
def test_weights_of_another_recipe_are_not_taken_and_stay(cells, trained, part, monkeypatch):
    spec = get_spec(MODEL)
    if part == "recipe":
        shorten_training(MODEL, 1, monkeypatch)
    elif part == "sizes":
        other = replace(spec, architecture=replace(spec.architecture, patch_size=16))
        monkeypatch.setitem(registry._SPECS, MODEL, other)
    else:
        monkeypatch.setattr(elpv, "_SEED", 1)
    obtained = obtain(trained)
    assert obtained.untrained
    assert "by its present recipe" in obtained.warning
    if part == "recipe":
        assert train(cells, trained.parents[2]) != trained
        assert not obtain(trained).untrained
        monkeypatch.undo()
        assert obtain(trained).path.with_suffix(".json") == trained


def test_other_weights_in_the_cache_are_refused(cells, trained, tmp_path):
    record = shutil.copytree(trained.parents[1], tmp_path / "hvt-deploy") / "elpv" / trained.name
    weights = record.with_suffix(".safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for use in (lambda: train(cells, tmp_path), lambda: obtain(record)):
        with pytest.raises(BadInput, match="not the file that was trained") as caught:
            use()
        assert str(record) in caught.value.hint
    record.unlink()
    assert obtain(record).untrained, "a training that did not end left nothing"


def test_an_untrained_model_names_the_command(tmp_path):
    spec, command = get_spec("dfvt_elpv"), "hvt-deploy demo --data elpv --family dfvt"
    with pytest.raises(BadInput, match="was not trained on this machine") as caught:
        obtain_weights(spec, "official", tmp_path)
    assert command in caught.value.hint
    obtained = obtain_weights(spec, "auto", tmp_path)
    assert obtained.untrained
    assert command in obtained.warning
