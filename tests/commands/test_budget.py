"""`quantize --budget` on the trained FasterViT of the demo and real digits."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hvt_deploy
from hvt_deploy.commands import calibration_cache
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.find_recipe import quantize_within_budget
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import GraphFacts
from hvt_deploy.core.run_config import load_recipe
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_set import CalibrationSet
from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation import recipe_search
from hvt_deploy.evaluation.budget_record import BudgetRequest

OUTLIER = 700.0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Digits, and the demo model with an outlier channel before its head: the same function in
    FP32.
    """
    place = tmp_path_factory.mktemp("budget")
    digits = write_digits(place / "digits")
    state = load_file(
        Path(hvt_deploy.__file__).parent / "data" / "assets" / "faster_vit_demo.safetensors"
    )
    last = "levels.3.blocks.0"
    state[f"{last}.mlp.fc2.bias"][1] += OUTLIER / state[f"{last}.gamma4"][1]
    state["norm.running_mean"][1] += OUTLIER
    save_file(
        {key: value.contiguous() for key, value in state.items()}, place / "planted.safetensors"
    )
    config = config_of("faster_vit_demo")
    config = replace(
        config,
        export=replace(config.export, weights=str(place / "planted.safetensors")),
        calibration=replace(config.calibration, folder=str(digits.calibration), images=64),
        quantization=replace(config.quantization, calibrator="max", recovery=()),
        engine=replace(config.engine, flavour="tensorrt"),  # where the head is INT8
    )
    with torch.no_grad():
        export(ModelFolder(place / "artifacts" / "m"), config, None, SilentUi())
    return place, digits, config


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def request_of(digits, **changes):
    return replace(BudgetRequest(2.0, digits.calibration.parent / "train", 400), **changes)


class WatchedUi(SilentUi):
    """Keeps what was shown of the progress of the search."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def progress(self, description):
        if description.startswith("Searching"):
            return nullcontext(lambda done, total: self.shown.append((done, total)))
        return super().progress(description)


@pytest.fixture(scope="module")
def watched():
    return WatchedUi()


@pytest.fixture(scope="module")
def found(place, watched):
    """The recipe within 2 points, and the model quantized by it."""
    root, digits, config = place
    folder = ModelFolder(root / "artifacts" / "m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        return quantize_within_budget(folder, config, request_of(digits), watched)


def test_the_time_left_is_that_of_the_whole_search_at_most(found, watched):
    left = [total - done for done, total in watched.shown]
    groups, recipes = len(found.record.sensitivity), len(found.record.trials)
    assert left == sorted(left, reverse=True), "never more than was said before"
    # FP32, each group alone, all groups, each left out and put back, FP32 and INT8 to confirm.
    assert watched.shown[0][1] == 200 * (1 + groups + 1 + 2 * groups) + 400
    assert watched.shown[-1] == (200 * (1 + groups + recipes) + 400,) * 2


def test_the_planted_group_is_the_one_left_out_and_the_recipe_works_again(place, found):
    folder = ModelFolder(place[0] / "artifacts" / "m")
    assert found.record.chosen.excluded == ("head/head",)
    assert found.record.sensitivity[0].group == "head/head"
    assert 0.9 < found.record.chosen.int8_share < 1
    assert found.record.holds
    everything = next(trial for trial in found.record.trials if not trial.excluded)
    assert everything.drop.high > 2.0, "with the planted group in INT8 the budget is broken"
    recipe = load_recipe(found.folder / "recipe.yaml")
    assert recipe == found.recipe
    made = folder.read().facts("int8-fp32", GraphFacts)
    assert made.recipe.quantization == recipe
    assert "head/head" in (found.folder / "budget.md").read_text()
    plot = (found.folder / "budget.svg").read_text()
    for label in ("one group in INT8", "chosen recipe", "other recipes", "budget: "):
        assert f">{label}" in plot
    assert json.loads((found.folder / "budget.json").read_text())["metric"] == "top-1"


def test_a_recipe_with_exclusions_is_not_calibrated_again(place, found, monkeypatch):
    root, _, config = place

    def refuse(*arguments):
        raise AssertionError("calibrated again")

    monkeypatch.setattr(calibration_cache, "calibrate_int8", refuse)
    folder = ModelFolder(root / "artifacts" / "m")
    assert found.recipe.excluded
    for recipe in (config.quantization, found.recipe):
        quantize(folder, replace(config, quantization=recipe), "int8", SilentUi())
    with pytest.raises(AssertionError, match="again"):  # another calibrator is another matter
        other = replace(found.recipe, calibrator="mse")
        quantize(folder, replace(config, quantization=other), "int8", SilentUi())


def test_its_images_must_not_be_validated_on(place, found):
    root, digits, config = place
    folder = ModelFolder(root / "artifacts" / "m")
    files = CalibrationSet.read(found.folder / "calibration.json").files
    counts = {
        use: sum(file.use == use for file in files) for use in ("calibration", "search", "confirm")
    }
    assert counts == {"calibration": 64, "search": 200, "confirm": 200}
    assert len({file.sha256 for file in files}) >= 450, "no image is in two parts"
    with pytest.raises(BadInput, match="calibrated on"):
        validate(folder, config, digits.calibration.parent / "train", None, SilentUi())


def test_an_emptied_list_of_its_images_does_not_allow_them(place, found):
    root, digits, config = place
    listed = found.folder / "calibration.json"
    before = listed.read_text()
    listed.write_text(json.dumps({**json.loads(before), "files": []}))
    with pytest.raises(BadInput, match=r"calibration\.json is not the file that was recorded"):
        validate(
            ModelFolder(root / "artifacts" / "m"),
            config,
            digits.calibration.parent / "train",
            None,
            SilentUi(),
        )
    listed.write_text(before)


def test_an_interrupted_search_goes_on_where_it_was(place, monkeypatch):
    root, digits, config = place
    folder = ModelFolder(root / "artifacts" / "m")
    runs = []
    real = recipe_search.quantize_for_engine

    def counted(*arguments):
        runs.append(arguments)
        if len(runs) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(recipe_search, "quantize_for_engine", counted)
    with pytest.raises(KeyboardInterrupt):
        quantize_within_budget(folder, config, request_of(digits, label_free=True), SilentUi())
    first = len(runs)
    found = quantize_within_budget(folder, config, request_of(digits, label_free=True), SilentUi())
    assert found.record.metric == "agreement with FP32"
    measured = {trial.excluded for trial in found.record.trials} | {
        g.group for g in found.record.sensitivity
    }
    assert len(runs) - first <= len(measured) - 4 + 1, (
        "four measurements were kept; the promise is one more"
    )


def test_too_few_images_are_refused_with_the_number_needed(place):
    root, digits, config = place
    with pytest.raises(BadInput, match=r"0\.1 points needs \d+"):
        quantize_within_budget(
            ModelFolder(root / "artifacts" / "m"),
            config,
            request_of(digits, budget=0.1),
            SilentUi(),
        )
