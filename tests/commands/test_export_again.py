"""`export` asked for again: the graph that is there is taken if, and only if, the inputs are the
same and its files are as they were.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from command_line import run, run_without_torch
from PIL import Image

from hvt_deploy.commands import exported_graph, graph_export
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.core.environment import tool_versions
from hvt_deploy.core.manifest import WeightsRecord
from hvt_deploy.core.run_config import dump_config, with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder, find_model
from hvt_deploy.data.assets import asset_path
from hvt_deploy.models.registry import get_spec

DEMO = "fdvit_demo"


class _ExportsAnew(Exception):
    pass


@pytest.fixture
def folder(tmp_path, exported, monkeypatch):
    """An exported model; exporting it once more raises _ExportsAnew."""
    folder = exported(tmp_path / "artifacts", DEMO)

    def export_graph(*_):
        raise _ExportsAnew

    monkeypatch.setattr(graph_export, "export_graph", export_graph)
    return folder


def again(folder, flags=None, class_names=None, **more):
    config = with_flags(config_of(DEMO), flags or {})
    return export(folder, config, class_names, SilentUi(), **more)


def test_the_command_says_so_in_every_form_without_pytorch_and_force_repeats_it(
    tmp_path, folder, monkeypatch
):
    stamp = folder.file(folder.read().artifacts["fp32"]).stat().st_mtime_ns
    done = run_without_torch("export", DEMO, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["before"] is True
    assert said["parity"]["same_argmax"] is True
    told = run("export", DEMO, cwd=tmp_path)
    assert "Exported before, from the same weights with the same settings" in told.stderr
    assert f"{DEMO}.fp32.onnx  opset 17" in told.stdout
    assert folder.file(folder.read().artifacts["fp32"]).stat().st_mtime_ns == stamp
    with pytest.raises(_ExportsAnew):
        again(folder, force=True)
    monkeypatch.undo()
    forced = run("export", DEMO, "--force", "--json", cwd=tmp_path)
    assert json.loads(forced.stdout)["before"] is False


@pytest.mark.parametrize(
    "flags",
    [
        {"export.opset": 18},
        {"export.batch": 2},
        {"export.simplifier": "none"},
        {"export.preprocess_in_graph": True},
        {"export.weights": "random"},
        {"num_classes": 7},
        {"preprocessing.crop_pct": 0.5},
    ],
)
def test_another_setting_of_the_graph_exports_anew(folder, flags):
    with pytest.raises(_ExportsAnew):
        again(folder, flags)


def test_settings_of_later_verbs_are_no_inputs_and_what_was_set_of_them_stays(folder):
    given = {"calibration.images": 3, "quantization.calibrator": "mse", "export.seed": 5}
    assert again(folder, {**given, "validation.margin": 2.0}).before
    config = folder.read().config
    assert (config.calibration.images, config.quantization.calibrator) == (3, "mse")
    assert again(folder, {"validation.margin": 1.0}).before
    config = folder.read().config
    assert (config.calibration.images, config.validation.margin) == (3, 1.0)


def test_weights_count_by_their_bytes_and_other_class_names_replace_those_there(tmp_path, folder):
    packaged = asset_path(get_spec(DEMO).checkpoint.packaged)
    mine = tmp_path / "mine.safetensors"
    shutil.copyfile(packaged, mine)
    manifest = folder.read()
    folder.commit(
        replace(manifest, weights=replace(manifest.weights, source="file", path=str(mine)))
    )
    moved = mine.rename(tmp_path / "moved.safetensors")
    flags = {"export.weights": str(moved)}
    assert again(folder, flags).before
    names = tmp_path / "names.txt"
    names.write_text("\n".join(folder.read().class_names))
    assert again(folder, flags, names).before
    names.write_text("\n".join(f"digit {name}" for name in folder.read().class_names))
    assert again(folder, flags, names).before
    assert folder.read().class_names[3] == "digit 3"
    assert again(folder, flags).before
    assert folder.read().class_names[3] == "digit 3"
    moved.write_bytes(moved.read_bytes() + b" ")
    with pytest.raises(_ExportsAnew):
        again(folder, flags)


def test_random_weights_count_by_their_seed_and_the_warning_is_repeated(tmp_path, folder):
    manifest = folder.read()
    weights = WeightsRecord("random", "", untrained=True)
    folder.commit(replace(manifest, weights=weights))
    done = run("export", DEMO, "--weights", "random", "--json", cwd=tmp_path)
    assert "UNTRAINED" in done.stderr
    said = json.loads(done.stdout)
    assert (said["before"], said["untrained"]) == (True, True)
    with pytest.raises(_ExportsAnew):
        again(folder, {"export.weights": "random", "export.seed": 9})


def test_another_version_exports_anew_unless_it_is_of_an_engine_library(folder, monkeypatch):
    versions = tool_versions()
    monkeypatch.setattr(exported_graph, "tool_versions", lambda: {**versions, "tensorrt": "99"})
    assert again(folder).before
    monkeypatch.setattr(exported_graph, "tool_versions", lambda: {**versions, "torch": "99"})
    with pytest.raises(_ExportsAnew):
        again(folder)


@pytest.mark.parametrize("key", ["fp32", "pytorch"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_and_missing_files_export_anew(folder, key, damage):
    file = folder.file(folder.read().artifacts[key])
    if damage == "changed":
        file.write_bytes(file.read_bytes() + b" ")
    else:
        file.unlink()
    with pytest.raises(_ExportsAnew):
        again(folder)


def test_a_manifest_that_cannot_be_read_exports_anew(folder):
    (folder.path / "manifest.json").write_text("{")
    with pytest.raises(_ExportsAnew):
        again(folder)


def test_it_is_the_newest_export_then(tmp_path, folder, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    other = shutil.copytree(folder.path, tmp_path / "artifacts/other")
    ModelFolder(other).commit(replace(folder.read(), slug="other"))
    folder.commit(replace(folder.read(), exported="2000-01-01"))
    assert find_model(tmp_path / "artifacts", None).slug == "other"
    again(folder)
    assert find_model(tmp_path / "artifacts", None).slug == DEMO


@pytest.mark.parametrize(("asked", "is_there"), [("images", True), ("", False), ("none", False)])
def test_the_calibration_folder_of_a_configuration_holds_in_any_working_directory(
    tmp_path, folder, asked, is_there
):
    """Stored as it was, FP16 was made without ranges in another one."""
    (tmp_path / "images").mkdir()
    config = with_flags(config_of(DEMO), {"calibration.folder": asked})
    (tmp_path / "mine.yaml").write_text(dump_config(config))
    done = run("export", DEMO, "--config", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = str(tmp_path / "images") if is_there else asked
    assert folder.read().config.calibration.folder == stored


def test_other_weights_are_calibrated_on_the_images_of_the_export_before(tmp_path, exported):
    """Otherwise FP16 is made without ranges, with a warning only."""
    folder = exported(tmp_path / "artifacts", DEMO)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(tmp_path / "images" / "a.png")
    images = str(tmp_path / "images")
    manifest = folder.read()
    stored = with_flags(manifest.config, {"calibration.folder": images})
    folder.commit(replace(manifest, config=stored))
    other = {"export.weights": "random"}
    export(folder, with_flags(config_of(DEMO), other), None, SilentUi())
    assert folder.read().weights.untrained
    assert folder.read().config.calibration.folder == images
    export(folder, with_flags(config_of("hvt_demo"), other), None, SilentUi())
    assert folder.read().config.calibration.folder == "imagenet/train"
