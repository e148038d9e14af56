"""`quantize` on the small trained models: its warnings and checks."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from hvt_deploy.commands import quantize as quantize_command
from hvt_deploy.commands.arguments import quantization_settings
from hvt_deploy.commands.calibration_cache import calibrate
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.core.manifest import CalibrationFacts, GraphFacts
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.types import RECOVERIES
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.calibration_set import choose_calibration
from hvt_deploy.data.digits import write_digits
from hvt_deploy.data.images import load_batches
from hvt_deploy.graph.quantization.logits_judge import run_logits
from hvt_deploy.graph.storage import load_onnx


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def settings(folder, digits, **quantization):
    flags = {"calibration.folder": str(digits.calibration), "calibration.images": 32}
    flags |= {f"quantization.{name}": value for name, value in quantization.items()}
    return with_flags(folder.read().config, flags)


def test_a_named_calibrator_that_loses_is_used_and_said(exported, digits, tmp_path):
    folder = exported(tmp_path, "hvt_demo")
    config = settings(folder, digits, calibrator="entropy", recovery=())
    for _ in ("calibrated", "taken from the cache"):
        ui = SilentUi()
        facts = quantize(folder, config, "int8-fp32", ui).calibration
        assert facts.effects["calibrator entropy"].endswith("images), used although it loses")
        (warning,) = ui.warnings
        assert "calibrator entropy loses" in warning and "\n" not in warning


def test_graphs_are_compared_on_images_of_all_classes(exported, digits, tmp_path):
    """Of a folder sorted by class, with a file that cannot be read; also from the cache."""
    folder = exported(tmp_path, "hvt_demo")
    images = shutil.copytree(digits.calibration, tmp_path / "images")
    flags = {"calibration.folder": str(images), "calibration.images": 128}
    config, manifest = with_flags(folder.read().config, flags), folder.read()
    samples = choose_calibration(images, 128, config.calibration.seed).samples()
    samples[0].path.write_bytes(b"no image")
    readable = samples[1:]
    (batch,) = load_batches(readable, manifest.preprocessing, 127, threads=1)
    found = []
    for _ in ("measured", "taken from the cache"):
        manifest, made = calibrate(folder, manifest, config, int8=False, ui=SilentUi())
        places = [
            next(i for i, image in enumerate(batch.images_NCHW) if np.array_equal(image, one))
            for one in made.images
        ]
        assert len(places) == len(made.images) >= 63
        assert len({readable[place].path.parent.name for place in places}) == 10
        found.append(made)
    fp32 = folder.open_artifact(manifest, "fp32")
    expected_NK = run_logits(load_onnx(fp32), [found[0].images], 1)
    np.testing.assert_allclose(found[0].fp32_logits_NK, expected_NK, atol=1e-4)
    assert len(found[0].images) == 63, "of small images more than of large ones"
    assert found[1].fp32_logits_NK is None


def test_an_interrupt_between_calibration_and_graphs_leaves_the_model_usable(
    exported, digits, tmp_path, monkeypatch
):
    folder = exported(tmp_path, "hvt_demo")
    first = settings(folder, digits, calibrator="max", recovery=())
    quantize(folder, first, "int8-fp32", SilentUi())
    before = folder.read()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize_command, "make_quantized_graph", interrupt)
    other = with_flags(first, {"calibration.images": 24})
    with pytest.raises(KeyboardInterrupt):
        quantize(folder, other, "int8-fp32", SilentUi())
    assert folder.read() == before
    for key in before.artifacts:
        folder.open_artifact(before, key)


def test_the_folder_of_calibration_is_found_from_another_working_directory(
    exported, digits, tmp_path, monkeypatch
):
    folder = exported(tmp_path, "hvt_demo")
    monkeypatch.chdir(digits.calibration.parent)
    config = settings(folder, digits, calibrator="max", recovery=())
    config = with_flags(config, {"calibration.folder": digits.calibration.name})
    quantize(folder, config, "fp16", SilentUi())
    assert folder.read().config.calibration.folder == str(digits.calibration)


def test_what_speaks_against_the_images_is_said_each_time_and_recorded(exported, digits, tmp_path):
    folder = exported(tmp_path, "hvt_demo")
    config = settings(folder, digits, calibrator="max", recovery=())
    one_class = {"calibration.folder": str(digits.calibration / "3"), "calibration.images": 8}
    for flags, faults in ((one_class, ["only 8 images", "from 1 class folder,"]), ({}, [])):
        for _ in ("measured", "taken from the cache"):
            ui = SilentUi()
            done = quantize(folder, with_flags(config, flags), "fp16", ui)
            assert len(ui.warnings) == len(faults)
            assert all(part in said for part, said in zip(faults, ui.warnings, strict=True))
            assert done.health == tuple(ui.warnings)
            assert folder.read().facts("calibration", CalibrationFacts).health == done.health
    assert folder.read().facts("fp16", GraphFacts).compared_images == 32


def test_a_recovery_pass_that_was_switched_off_can_be_switched_on_again(tmp_path):
    def choose(recipe, own, **flags):
        wanted = {name.replace("_", "-"): on for name, on in flags.items()}
        settings = quantization_settings(recipe, None, wanted, own)
        return tuple(settings["quantization.recovery"])

    own = config_of("hvt_demo").quantization
    assert choose(None, own) == RECOVERIES
    without = replace(own, recovery=choose(None, own, smooth_quant=False, bias_correction=None))
    assert without.recovery == ("bias-correction", "weight-rounding")
    assert choose(None, without, weight_rounding=False) == ("bias-correction",)
    assert choose(None, without, smooth_quant=True) == RECOVERIES
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_plain(replace(own, recovery=("smooth-quant",)))))
    assert choose(recipe, without) == ("smooth-quant",)
    assert choose(recipe, without, bias_correction=True) == RECOVERIES[:2]
