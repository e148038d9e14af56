"""The workspace: one commit point, locks, stale and changed artifacts, writes that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import add, make_manifest

from hvt_deploy.commands.config import config_of
from hvt_deploy.core import locks
from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.environment import tool_versions
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import (
    CalibrationFacts,
    GraphFacts,
    GraphRecipe,
    Int8CalibrationFacts,
    Parity,
    RecordedFacts,
    engine_key,
)
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.workspace import ModelFolder, find_model, now, open_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_WAIT_S", 0.2)
    folder = ModelFolder(tmp_path / "artifacts" / "m")
    add(folder, make_manifest(), "fp32", "weights")
    return folder


def test_an_artifact_comes_back_with_its_manifest(folder):
    manifest = folder.read()
    assert folder.open_artifact(manifest, "fp32").read_text() == "weights"
    assert manifest == replace(
        make_manifest(), exported=manifest.exported, artifacts=manifest.artifacts
    )


def test_a_changed_or_missing_file_names_the_command_that_remakes_it(folder):
    manifest = folder.read()
    path = folder.open_artifact(manifest, "fp32")
    path.write_text("other")
    with pytest.raises(BadInput, match="sha256") as caught:
        folder.open_artifact(manifest, "fp32")
    assert "remake fp32" in caught.value.hint
    path.unlink()
    with pytest.raises(BadInput, match="missing"):
        folder.open_artifact(manifest, "fp32")


def test_a_child_of_a_replaced_parent_is_stale(folder):
    manifest = folder.read()
    manifest = add(folder, manifest, "int8", "q", ["fp32"])
    engine = engine_key("int8", "rtx-sm86")
    manifest = add(folder, manifest, engine, "e", ["int8"])
    folder.open_artifact(manifest, engine)
    manifest = add(folder, manifest, "fp32", "retrained")
    assert not is_fresh(manifest, engine)
    with pytest.raises(BadInput) as caught:
        folder.open_artifact(manifest, engine)
    assert "remake int8" in caught.value.hint
    # What is stale stops nobody who opens something else.
    assert folder.open_artifact(manifest, "fp32").read_text() == "retrained"


def test_replaced_artifacts_and_unfinished_ones_are_removed(folder):
    (folder.path / "int8-0123456789ab").mkdir()
    manifest = add(folder, folder.read(), "fp32", "second")
    folders = [p.name for p in folder.path.iterdir() if p.is_dir()]
    assert folders == [manifest.artifacts["fp32"].folder]


def test_files_and_folders_are_on_the_disk_before_the_manifest_names_them(folder, monkeypatch):
    steps: list[str] = []
    fsync, replace_path = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append("staged" if path.name.startswith(".staging-") else path.name)
        fsync(descriptor)

    def record_replace(path: Path, target: Path) -> Path:
        steps.append(f"replace {target.name}")
        return replace_path(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    add(folder, folder.read(), "fp16", "half")
    visible = steps.index("replace manifest.json")
    assert set(steps[:visible]) >= {"file", "staged", folder.slug, folder.path.parent.name}
    assert steps[visible - 1].startswith(".manifest.json.")
    assert steps[visible + 1] == folder.slug


def test_an_interrupt_in_the_middle_of_a_write_leaves_the_old_artifact(folder):
    before = folder.read()
    with pytest.raises(KeyboardInterrupt), folder.staging() as staged:
        (staged / "file").write_text("half")
        raise KeyboardInterrupt
    assert folder.read() == before
    assert folder.open_artifact(before, "fp32").read_text() == "weights"
    assert not list(folder.path.glob(".staging*"))


def test_a_full_disk_leaves_the_old_artifact(folder, tmp_path):
    # A file size limit makes the system refuse the write in the middle, as a full disk does.
    code = (
        "import resource, signal, sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "from hvt_deploy.core.workspace import ModelFolder\n"
        "from hvt_deploy.core.errors import MissingEnvironment\n"
        "folder = ModelFolder(pathlib.Path(sys.argv[1])); manifest = folder.read()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with folder.staging() as staged: (staged / 'file').write_bytes(bytes(100_000))\n"
        "except MissingEnvironment as error: print(error.exit_code, error.message, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path), "."],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("3 Could not write"), done.stderr
    assert folder.open_artifact(folder.read(), "fp32").read_text() == "weights"


def test_a_second_run_says_who_holds_the_folder(folder):
    code = (
        "import sys, pathlib; from hvt_deploy.core.workspace import ModelFolder\n"
        "with ModelFolder(pathlib.Path(sys.argv[1])).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(MissingEnvironment, match=f"process {other.pid}"),
            folder.lock(),
        ):
            pass
        other.stdin.close()
    with folder.lock():
        pass


def test_the_holder_that_is_named_is_the_present_one_alone(folder):
    holder = folder.path / ".lock"
    holder.write_text("process 1 (hvt-deploy validate earlier-model) since 2026")
    with folder.lock():
        text = holder.read_text()
        with pytest.raises(MissingEnvironment) as caught, folder.lock():
            pass
    assert text.startswith(f"process {os.getpid()} (")
    assert "earlier-model" not in text
    assert f"is in use by {text}." in caught.value.message


def test_an_artifact_records_where_it_comes_from(folder):
    manifest = add(folder, folder.read(), "int8", "q", ["fp32"])
    fp32, int8 = manifest.artifacts["fp32"], manifest.artifacts["int8"]
    assert int8.parents == {"fp32": fp32.sha256}
    assert int8.remake == "remake int8"
    assert int8.tool_versions == tool_versions()
    assert fp32.created < int8.created < now()
    assert int8.folder.startswith("int8-")


def test_facts_of_every_kind_come_back(folder):
    engine = EngineFacts("int8", "tensorrt", "10.13", ("8.7",), "Orin", ((1, 8, 32),), 12.5)
    recipe = GraphRecipe(measured_ranges=True, quantization=config_of("fdvit_ti").quantization)
    parity = Parity(0.5, 0.1, 30.0, same_argmax=True)
    facts = {
        "fp32": GraphFacts("fp32", 17, 3, {"MatMul": 3}, parity),
        "int8": GraphFacts("int8", 19, 9, recipe=recipe, kept_fp32={"node": "its range"}),
        "calibration": CalibrationFacts("k"),
        "int8-calibration": Int8CalibrationFacts(
            "k", {"a": "b"}, {"qkv": {"max": 9.0}}, {"mse": 2}
        ),
        engine_key("int8", "trt10.13-sm87"): engine,
        "recorded-reference": RecordedFacts(10, Preprocessing((32, 32)), None, 3, "imagenet-a"),
    }
    manifest = folder.read()
    for key, value in facts.items():
        with folder.staging() as staged:
            (staged / "file").write_text(key)
            manifest = folder.add(manifest, key, staged, "file", "again", facts=value)
    manifest = folder.read()
    assert {key: manifest.facts(key, type(value)) for key, value in facts.items()} == facts
    assert manifest.engines == {"engine-int8-trt10.13-sm87": engine}
    assert manifest.facts("fp16", GraphFacts) is None
    with pytest.raises(BadInput, match="other facts"):
        manifest.facts("calibration", GraphFacts)


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (3, "hvt-deploy export fdvit_ti --as m"),
        (None, "hvt-deploy export fdvit_ti --as m"),
        (5, "pip install --upgrade hvt-deploy"),
    ],
)
def test_a_manifest_of_another_version_is_refused_with_the_way_out(folder, version, hint):
    path = folder.path / "manifest.json"
    data = json.loads(path.read_text())
    assert data["schema_version"] == 4
    path.write_text(json.dumps({**data, "schema_version": version}))
    with pytest.raises(BadInput, match=f"schema version {version}; .* reads 4") as caught:
        folder.read()
    assert hint in caught.value.hint
    assert folder.earlier_artifacts() == {}


def with_artifact(data, **changes):
    artifact = {**data["artifacts"]["fp32"], **changes}
    return json.dumps({**data, "artifacts": {**data["artifacts"], "fp32": artifact}})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda d: "{", "damaged"),
        (lambda d: "[" * 100_000, "damaged: it is nested too deep"),
        (lambda d: "[]", "not a mapping"),
        (lambda d: '{"slug": "m", "slug": "n"}', "the key 'slug' is there twice"),
        (lambda d: json.dumps({"slug": "m", "schema_version": 4}), "missing key"),
        (lambda d: with_artifact(d, folder=".."), "names '..', which is or may be outside"),
        (lambda d: with_artifact(d, folder="/etc", main="passwd"), "names '/etc'"),
        (lambda d: with_artifact(d, files={"../../file": "0"}), "names '../../file'"),
        (lambda d: json.dumps({**d, "slug": "../up"}), "names '../up'"),
        (lambda d: with_artifact(d, main="other"), "main file of its 'fp32' artifact, other"),
        (lambda d: with_artifact(d, parents={"fp32": "0"}), "'fp32' artifact was made from itself"),
        (lambda d: json.dumps({**d, "class_names": ["a"]}), "1 class names and 2 classes"),
    ],
)
def test_a_damaged_manifest_is_refused_and_names_the_way_out(folder, damage, why):
    path = folder.path / "manifest.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(BadInput, match=why) as caught:
        folder.read()
    assert "hvt-deploy export m" in caught.value.hint


def test_a_damaged_manifest_stops_no_command_that_names_another_model(folder, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    root = folder.path.parent
    add(ModelFolder(root / "other"), make_manifest("other"), "fp32", "w")
    (folder.path / "manifest.json").write_text("{")
    assert find_model(root, "other").read().slug == "other"
    with pytest.raises(BadInput, match=r"m/manifest\.json is damaged") as caught:
        find_model(root, None)
    assert "name the model to work with: m, other" in caught.value.hint


def test_a_link_to_a_file_elsewhere_is_not_opened(folder, tmp_path):
    manifest = folder.read()
    path = folder.open_artifact(manifest, "fp32")
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(BadInput, match="a link to a file outside"):
        folder.open_artifact(manifest, "fp32")


def test_a_model_is_found_by_the_name_that_was_exported(folder):
    root, name = folder.path.parent, "timm:x"
    for slug in ("timm-x", "mine"):
        add(ModelFolder(root / slug), replace(make_manifest(slug), model=name), "fp32", "w")
        if slug == "timm-x":
            assert find_model(root, name).slug == slug
    with pytest.raises(BadInput, match="more than once") as caught:
        find_model(root, name)
    assert "mine, timm-x" in caught.value.hint


def test_the_newest_export_is_found_and_ci_wants_a_name(folder, monkeypatch):
    root = folder.path.parent
    monkeypatch.delenv("CI", raising=False)
    newer = ModelFolder(root / "newer")
    add(newer, make_manifest("newer"), "fp32", "w")
    assert find_model(root, None).slug == "newer"
    monkeypatch.setenv("CI", "true")
    with pytest.raises(BadInput, match="several models"):
        find_model(root, None)
    assert find_model(root, "m").slug == "m"
    with pytest.raises(BadInput, match="newe"):
        find_model(root, "newe")


def test_with_ci_the_only_model_needs_no_name(folder, monkeypatch):
    monkeypatch.setenv("CI", "true")
    assert find_model(folder.path.parent, None).slug == "m"


def test_nothing_exported_and_bad_names(tmp_path):
    with pytest.raises(BadInput, match="Nothing was exported"):
        find_model(tmp_path / "none", None)
    for name in ("", "../up", "a/b", ".hidden"):
        with pytest.raises(BadInput):
            open_folder(tmp_path, name)
