"""`clean` and `list`: only what the workspace made and nothing needs goes, and only when asked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from command_line import run
from small_models import add, make_manifest

from hvt_deploy.commands.clean import clean
from hvt_deploy.commands.list import list_models
from hvt_deploy.core import locks
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.freshness import without_stale
from hvt_deploy.core.leftovers import VALIDATION_LOCK, name_answers
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.core.workspace import ModelFolder

STAGED = ".staging-abcd1234"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A model whose INT8 graph and engine are of a calibration that was replaced."""
    monkeypatch.setattr(locks, "_WAIT_S", 0.2)
    folder = ModelFolder(tmp_path / "artifacts" / "m")
    manifest = add(folder, make_manifest(), "fp32", "weights")
    manifest = add(folder, manifest, "calibration", "old", ("fp32",))
    manifest = add(folder, manifest, "int8", "graph", ("calibration",))
    manifest = add(folder, manifest, "engine-int8-rtx-sm86", "engine", ("int8",))
    manifest = add(folder, manifest, "budget", "recipe", ("calibration",))
    manifest = add(folder, manifest, "results", "numbers")
    add(folder, manifest, "calibration", "new", ("fp32",))
    return tmp_path / "artifacts"


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_stale_is_listed_first_and_removed_when_asked(root):
    before = contents(root)
    found = clean(root, [], remove=False)
    assert {one.path.name.rpartition("-")[0] for one in found.found} == {
        "int8",
        "engine-int8-rtx-sm86",
    }
    assert contents(root) == before

    assert clean(root, ["m"], remove=True).skipped == ()
    assert set(ModelFolder(root / "m").read().artifacts) == {
        *("fp32", "calibration", "budget", "results"),
    }
    assert not any(one.path.exists() for one in found.found)
    assert clean(root, [], remove=True).found == ()


def test_a_path_is_whole_in_a_narrow_terminal(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    done = run("clean", cwd=root.parent)
    found = clean(root, [], remove=False).found
    assert all(f"{one.path.relative_to(root.parent)}, " in done.stdout for one in found)
    assert len(found) == 2


@pytest.mark.parametrize("name", ["timm:test_vit", "mine:make", "artifacts/m"])
def test_a_model_is_named_as_elsewhere(root, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = ModelFolder(root / "m")
    folder.commit(replace(folder.read(), model=name))
    assert len(clean(root, [name], remove=True).found) == 2
    assert clean(root, [], remove=False).found == ()


def test_what_an_interrupted_run_left_goes_and_a_users_own_files_stay(root, tmp_path):
    left = [root / "m" / STAGED, root / "m" / "fp32-0123456789ab", root / "began" / STAGED]
    kept = [root / "m" / "notes.txt", root / "m" / "fp32-mine", root / "mine" / STAGED]
    for path in (*left, *kept):
        path.mkdir(parents=True)
        (path / "file").write_text("x")
    (root / "began" / ".lock").touch()
    (tmp_path / "elsewhere").mkdir()
    (root / "m" / "int8-0123456789ab").symlink_to(tmp_path / "elsewhere")
    done = clean(root, [], remove=True)
    assert {*left} < {one.path for one in done.found}
    assert not any(path.exists() for path in left)
    assert all((path / "file").is_file() for path in kept)
    assert (root / "m" / "int8-0123456789ab").is_symlink()
    assert (tmp_path / "elsewhere").is_dir()


def test_answers_and_timing_caches_of_what_was_replaced_go(root):
    folder = ModelFolder(root / "m")
    manifest = add(folder, without_stale(folder.read()), "engine-fp16-trt10.3-sm87-b1-1-1", "e")
    manifest = add(folder, manifest, "results", "of the same graphs")
    needed = [name_answers(manifest), "timing-trt10.3-sm87.cache", "timing-notes.cache"]
    left = [".answers-0123456789ab", "timing-trt10.13-sm87.cache"]
    for name in (*needed, *left):
        (folder.path / name / "part").mkdir(parents=True)
    with hold_alone(folder.path / VALIDATION_LOCK):
        done = clean(root, [], remove=True)
    assert {one.path.name for one in done.found} == {*left}
    assert len(done.skipped) == 2
    assert clean(root, [], remove=True).skipped == ()
    assert not any((folder.path / name).exists() for name in left)
    assert all((folder.path / name).is_dir() for name in needed)
    add(folder, manifest, "fp32", "other weights")
    assert name_answers(manifest) in {one.path.name for one in clean(root, [], remove=False).found}


def test_what_others_write_or_read_stays(root):
    folder = ModelFolder(root / "m")
    with folder.lock():
        (folder.path / STAGED).mkdir()
        done = clean(root, [], remove=True)
        assert (folder.path / STAGED).is_dir()
    assert done.found == ()
    assert "is in use by" in done.skipped[0].why
    with folder.reading():
        done = clean(root, [], remove=True)
    assert {one.why for one in done.skipped} == {"It is being read."}
    assert len(done.skipped) == 2


def test_a_damaged_manifest_may_name_everything(root):
    (root / "m" / "manifest.json").write_text("{")
    before = contents(root)
    done = clean(root, [], remove=True)
    assert "damaged" in done.skipped[0].why
    assert contents(root) == before
    (model,) = list_models(root)
    assert (model.name, "damaged" in model.damage) == ("m", True)


def test_an_unknown_model_and_an_empty_workspace(tmp_path, root):
    with pytest.raises(BadInput, match="Unknown exported model"):
        clean(root, ["n"], remove=True)
    assert clean(tmp_path / "none", [], remove=True).found == ()
    assert list_models(tmp_path / "none") == ()


def test_the_commands_say_what_they_found(root, tmp_path):
    listed = run("list", cwd=tmp_path)
    assert "int8 (stale)" in listed.stdout
    assert "m: Its weights are random." in listed.stdout
    model = json.loads(run("list", "--json", cwd=tmp_path).stdout)[0]
    fresh = {artifact["key"]: artifact["is_fresh"] for artifact in model["artifacts"]}
    assert (fresh["int8"], fresh["fp32"]) == (False, True)
    assert model["bytes"] > sum(artifact["bytes"] for artifact in model["artifacts"]) > 0

    shown = run("clean", cwd=tmp_path)
    assert "To remove it, add --remove" in shown.stdout
    assert json.loads(run("clean", "--json", cwd=tmp_path).stdout)["removed"] is False
    assert "Removed: " in run("clean", "--remove", cwd=tmp_path).stdout
    assert "Everything is needed." in run("clean", cwd=tmp_path).stdout
