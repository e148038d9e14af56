"""From one machine to another in a file: unpacked without PyTorch, built, validated; what does not
fit is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run, run_process, run_without_torch

from hvt_deploy.commands.bundle import bundle
from hvt_deploy.commands.deploy import deploy
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.commands.unpack import unpack
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.manifest import BUDGET, INT8_CALIBRATION
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder


def contents(file):
    with tarfile.open(file) as archive:
        return {m.name: (m, archive.extractfile(m).read()) for m in archive if m.isreg()}


def rewrite(source, target, change):
    """A copy of a bundle whose members were passed through `change(name, content) -> (TarInfo,
    content) or None`.
    """
    with tarfile.open(target, "w") as archive:
        changed = (change(name, content) for name, (_, content) in contents(source).items())
        for entry, content in (member for member in changed if member is not None):
            entry.size = len(content) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return target


def test_a_bundle_has_what_a_device_needs_and_no_engine(packed):
    _, folder, file = packed
    names = contents(file)
    kinds = {name.split("-")[0] for name in names if "/" in name}
    assert {"fp32", "fp16", "int8", "calibration", "recorded"} <= kinds
    assert not {"engine", "pytorch", "results"} & kinds
    index = json.loads(names["bundle.json"][1])
    assert set(index["files"]) == set(names) - {"bundle.json"}
    manifest = json.loads(names["manifest.json"][1])
    assert manifest["class_names"] == list(folder.read().class_names)


def test_a_device_without_pytorch_builds_and_validates_and_goes_on_where_it_was(packed):
    place, _, _ = packed
    shutil.rmtree(place / "elsewhere", ignore_errors=True)
    arguments = ("deploy", "hvt_demo.tar", "--int8", "--data", "digits/validation")
    workspace = ("--workspace", "elsewhere")
    done = run_without_torch(*arguments, "--json", *workspace, cwd=place)
    # The sample is that of the record: 60 images.
    assert done.returncode == 0, done.stderr
    rows = {row["backend"]: row for row in json.loads(done.stdout)["rows"]}
    assert "pytorch fp32 (recorded)" in rows
    assert rows["ort fp32"]["fidelity"]["agreement"]["estimate"] == 100
    assert rows["ort int8 cpu"]["accuracy"]["top1"]["estimate"] > 90
    engines = list((place / "elsewhere" / "hvt_demo").glob("engine-*/*.engine"))
    assert len(engines) == 1
    stamp = engines[0].stat().st_mtime_ns
    again = run_without_torch(*arguments, *workspace, cwd=place)
    assert again.returncode == 0, again.stderr
    assert "Built before" in again.stderr
    assert engines[0].stat().st_mtime_ns == stamp


def test_an_interrupted_deploy_leaves_nothing_half_done_and_goes_on(packed, tmp_path, monkeypatch):
    """Interrupted while unpacking, there is no model; interrupted while building, the unpacked one
    stays as it is.
    """
    root, built = tmp_path / "artifacts", []

    def build(folder, *_):
        built.append(folder)
        raise KeyboardInterrupt

    def deploy_and_interrupt():
        with pytest.raises(KeyboardInterrupt):
            deploy(packed[2], root, "int8", tmp_path, None, SilentUi())

    monkeypatch.setattr("hvt_deploy.commands.build_trt.build_from_graph", build)
    with monkeypatch.context() as interrupted:
        interrupted.setattr("hvt_deploy.commands.unpack._move_in", build)
        deploy_and_interrupt()
    assert [path.name for path in (root / "hvt_demo").iterdir()] == [".lock"]
    deploy_and_interrupt()
    unpacked = {path: path.stat().st_mtime_ns for path in (root / "hvt_demo").glob("*/*")}
    assert len(unpacked) > 5
    deploy_and_interrupt()
    assert {path: path.stat().st_mtime_ns for path in (root / "hvt_demo").glob("*/*")} == unpacked
    assert built[-1].path == root / "hvt_demo"


def plain(name, content):
    return tarfile.TarInfo(name), content


def linked(name, content):
    entry = tarfile.TarInfo(name)
    if name == "manifest.json":
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry, content


def outside_manifest(name, content):
    if name == "manifest.json":
        content = content.replace(b'"folder": "fp32-', b'"folder": "../fp32-')
    return plain(name, content)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda n, c: plain(n, c + b" ") if n == "manifest.json" else plain(n, c),
            "sha256 differs",
        ),
        (lambda n, c: None if n.startswith("recorded") else plain(n, c), "is missing"),
        (lambda n, c: plain("../" + n if n == "manifest.json" else n, c), "outside its folder"),
        (lambda n, c: plain("/tmp/x" if n == "manifest.json" else n, c), "outside its folder"),
        (lambda n, c: plain("extra" if n == "manifest.json" else n, c), "not listed"),
        (linked, "not a plain file"),
        (outside_manifest, "sha256 differs"),
        (lambda n, c: None if n == "bundle.json" else plain(n, c), "first file is not bundle.json"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused_and_nothing_is_unpacked(
    packed, tmp_path, change, why
):
    file = rewrite(packed[2], tmp_path / "changed.tar", change)
    with pytest.raises(BadInput, match=why):
        unpack(file, tmp_path / "artifacts", SilentUi())
    assert not list((tmp_path / "artifacts").glob("*/manifest.json"))
    assert not list(tmp_path.glob("artifacts/*/fp32*"))


def with_manifest(source, target, change):
    """A copy of a bundle with another manifest, whose hash is right in the index."""
    fields = json.loads(contents(source)["manifest.json"][1])
    changed = json.dumps(change(fields)).encode()

    def replace(name, content):
        if name == "manifest.json":
            content = changed
        if name == "bundle.json":
            index = json.loads(content)
            index["files"]["manifest.json"] = hashlib.sha256(changed).hexdigest()
            content = json.dumps(index).encode()
        return plain(name, content)

    return rewrite(source, target, replace)


def with_graph(**changes):
    def change(fields):
        artifacts = fields["artifacts"]
        return {**fields, "artifacts": {**artifacts, "fp32": {**artifacts["fp32"], **changes}}}

    return change


def with_engine(fields):
    """The FP16 graph is called an engine."""
    facts = {
        "kind": "engine",
        "precision": "fp16",
        "flavour": "tensorrt",
        "version": "10.3.0",
        "compute_capabilities": ["8.7"],
        "gpu": "",
        "profiles": [],
        "build_s": 1.0,
    }
    artifacts = fields["artifacts"]
    return {**fields, "artifacts": {**artifacts, "fp16": {**artifacts["fp16"], "facts": facts}}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_graph(folder=".."), "names '..', which is or may be outside"),
        (with_graph(folder="/etc"), "names '/etc'"),
        (with_graph(folder="fp16-elsewhere"), "do not agree on"),
        (with_engine, "holds fp16; an engine can execute code"),
        (lambda fields: {**fields, "schema_version": 99}, "schema version 99; .* reads 4"),
        (lambda fields: {**fields, "slug": "other"}, "manifest is that of other"),
        (lambda fields: {**fields, "class_names": ["a"]}, "1 class names and 10 classes"),
    ],
)
def test_a_hostile_manifest_is_refused_even_with_a_right_hash(packed, tmp_path, change, why):
    file = with_manifest(packed[2], tmp_path / "changed.tar", change)
    with pytest.raises(BadInput, match=why):
        unpack(file, tmp_path / "artifacts", SilentUi())
    assert not list(tmp_path.glob("artifacts/*/[a-z]*"))


def index_bytes(**changes):
    return json.dumps({"slug": "m", "files": {}, "created": "", "schema_version": 1} | changes)


def sparse(entry):
    """256 GiB in one block: one hole, as GNU tar writes it."""
    entry.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,512",
        "GNU.sparse.size": str(256 << 30),
    }
    return entry


@pytest.mark.parametrize(
    ("index", "member", "why"),
    [
        (index_bytes(schema_version=2), None, "schema version 2; .* reads 1. A newer hvt-deploy"),
        (index_bytes(slug=".."), None, "cannot be a folder name"),
        (index_bytes(files={"../x/y": "0"}), None, "outside its folder"),
        (index_bytes(files={"x/..": "0"}), None, "outside its folder"),
        (index_bytes(files={"fp16/m.engine": "0"}), "fp16/m.engine", "sha256 differs"),
        ("[" * 100_000, None, "damaged"),
        (" " * (17 << 20), None, "larger than 16 MiB"),
        (index_bytes(files={"fp32/m.onnx": "0"}), sparse, "not a plain file"),
        (index_bytes(), None, "manifest.json is missing"),
    ],
)
def test_an_index_out_of_bounds_is_refused(tmp_path, index, member, why):
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("bundle.json")
        entry.size = len(index)
        archive.addfile(entry, io.BytesIO(index.encode()))
        if member:
            entry = tarfile.TarInfo(member if isinstance(member, str) else "fp32/m.onnx")
            entry.size = 512
            archive.addfile(
                entry if isinstance(member, str) else member(entry), io.BytesIO(b"0" * 512)
            )
    with pytest.raises(BadInput, match=why):
        unpack(tmp_path / "b.tar", tmp_path / "artifacts", SilentUi())
    assert not list(tmp_path.glob("artifacts/*/[a-z]*"))


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "b.tar").open("wb") as stream:
        entry = tarfile.TarInfo("././@LongLink")
        entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 6 << 30
        stream.write(entry.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(7 << 30)  # a hole: nothing on the disk
    with pytest.raises(BadInput, match="header or record in it is too large"):
        unpack(tmp_path / "b.tar", tmp_path / "artifacts", SilentUi())


def test_a_bundle_larger_than_the_disk_is_refused_before_it_is_unpacked(packed, tmp_path):
    large = shutil.copyfile(packed[2], tmp_path / "large.tar")
    with large.open("r+b") as stream:
        stream.truncate(1 << 43)
    with pytest.raises(MissingEnvironment, match="MB are free"):
        unpack(large, tmp_path / "artifacts", SilentUi())


def test_unpacking_again_restores_what_is_damaged_or_gone(packed, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(SilentUi, "say", lambda _, text: said.append(text))
    folder = unpack(packed[2], tmp_path / "artifacts", SilentUi())
    manifest = folder.read()
    intact = folder.open_artifact(manifest, "fp32")
    before = intact.stat().st_mtime_ns
    folder.file(manifest.artifacts["fp16"]).write_bytes(b"damaged")
    shutil.rmtree(folder.file(manifest.artifacts["int8"]).parent)
    (folder.path / "manifest.json").write_text("{")
    manifest = unpack(packed[2], tmp_path / "artifacts", SilentUi()).read()
    for key in ("fp16", "int8"):
        assert folder.open_artifact(manifest, key)
    assert intact.stat().st_mtime_ns == before
    assert [text for text in said if "fp16" in text] == [
        f"Restored from the bundle: {manifest.artifacts['fp16'].main}"
    ]
    assert not any("fp32" in text for text in said)


def test_unpacking_again_replaces_folders_and_links_in_the_place_of_files(packed, tmp_path):
    folder = unpack(packed[2], tmp_path / "artifacts", SilentUi())
    files = {key: folder.file(a) for key, a in folder.read().artifacts.items()}
    files["fp16"].unlink()
    (files["fp16"] / "nothing").mkdir(parents=True)
    files["fp32"].rename(tmp_path / "elsewhere.onnx")
    files["fp32"].symlink_to(tmp_path / "elsewhere.onnx")
    files["int8"].parent.rename(tmp_path / "int8")
    files["int8"].parent.symlink_to(tmp_path / "int8")
    shutil.rmtree(files["int8-cpu"].parent)
    files["int8-cpu"].parent.write_text("a file")
    manifest = unpack(packed[2], tmp_path / "artifacts", SilentUi()).read()
    for key in ("fp32", "fp16", "int8", "int8-cpu"):
        assert folder.open_artifact(manifest, key)
    assert (tmp_path / "elsewhere.onnx").is_file()
    assert (tmp_path / "int8" / files["int8"].name).is_file()


def test_a_truncated_bundle_and_one_that_is_none_are_refused(packed, tmp_path):
    whole = packed[2].read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar").write_text("no bundle")
    for name in ("half.tar", "text.tar", "none.tar"):
        with pytest.raises(BadInput):
            unpack(tmp_path / name, tmp_path / "artifacts", SilentUi())
    assert not list(tmp_path.glob("artifacts/*/manifest.json"))


def test_inspect_shows_nothing_of_a_file_that_was_changed(packed, tmp_path):
    _, folder, _ = packed
    shutil.copytree(folder.path, tmp_path / "artifacts" / "hvt_demo")
    copy = ModelFolder(tmp_path / "artifacts" / "hvt_demo")
    artifacts = copy.read().artifacts
    engine = next(a for key, a in artifacts.items() if key.startswith("engine"))
    assert run("inspect", "hvt_demo", cwd=tmp_path).returncode == 0
    for artifact in (engine, artifacts["fp16"]):
        path = copy.file(artifact)
        assert run("inspect", path, cwd=tmp_path).returncode == 0
        path.write_bytes(path.read_bytes() + b"\0")
        for target in (path, "hvt_demo"):
            done = run("inspect", target, cwd=tmp_path)
            assert done.returncode == 2
            assert f"{path.name} is not the file that was recorded" in done.stderr
        path.write_bytes(path.read_bytes()[:-1])
    loose = shutil.copy(copy.file(engine), tmp_path)  # an engine and its passport, on their own
    shutil.copy(copy.file(engine).with_name(f"{engine.main}.json"), tmp_path)
    assert run("inspect", loose, cwd=tmp_path).returncode == 0
    Path(loose).write_bytes(b"another engine")
    done = run("inspect", loose, cwd=tmp_path)
    assert done.returncode == 2
    assert "not the file its passport describes" in done.stderr


def test_a_budget_goes_along_though_int8_was_made_without_it_since(packed, tmp_path):
    """Its images must not be validated on; what else is stale is named."""
    _, folder, _ = packed
    shutil.copytree(folder.path, tmp_path / "hvt_demo")
    copy = ModelFolder(tmp_path / "hvt_demo")
    with copy.staging() as staged:
        (staged / "recipe.yaml").write_text("excluded: []\n")
        parents = (INT8_CALIBRATION,)
        made = copy.add(copy.read(), BUDGET, staged, "recipe.yaml", "again", parents=parents)
    other = replace(made.artifacts[BUDGET], parents={INT8_CALIBRATION: "0" * 64})
    copy.commit(replace(made, artifacts={**made.artifacts, BUDGET: other}))
    bundle(copy, tmp_path / "b.tar", False, SilentUi())
    assert f"{other.folder}/recipe.yaml" in contents(tmp_path / "b.tar")
    int8 = replace(made.artifacts["int8"], parents={INT8_CALIBRATION: "0" * 64})
    copy.commit(replace(made, artifacts={**made.artifacts, "int8": int8}))
    with pytest.raises(BadInput, match="'int8' artifact of hvt_demo was made from another"):
        bundle(copy, tmp_path / "c.tar", False, SilentUi())


def test_random_weights_are_not_bundled_without_a_word(tmp_path, exported):
    exported(tmp_path / "artifacts", "hvt_demo", {"export.weights": "random"})
    refused = run("bundle", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--allow-untrained" in refused.stderr
    done = run("bundle", "--allow-untrained", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "validate --record" in done.stderr
    assert (
        "Licences: code of hvt_demo Apache-2.0, its weights none needed, they are random"
        in done.stderr
    )
    assert (tmp_path / "hvt_demo.tar").is_file()


def test_a_copied_workspace_builds_from_its_recorded_calibration_in_any_folder(
    packed, tmp_path, monkeypatch
):
    """Without the images, FP16 is not remade without ranges, and INT8 is there as it was."""
    _, folder, _ = packed
    shutil.copytree(folder.path, tmp_path / "artifacts" / "hvt_demo")
    copy = ModelFolder(tmp_path / "artifacts" / "hvt_demo")
    manifest = copy.read()
    images = Path(manifest.config.calibration.folder)
    assert images.is_absolute()
    monkeypatch.chdir(tmp_path)
    away = with_flags(manifest.config, {"calibration.folder": "/nowhere/images"})
    copy.commit(replace(manifest, config=away))
    graphs = {key: manifest.artifacts[key].sha256 for key in ("fp16", "int8", "int8-cpu")}
    for precision in ("fp16", "int8"):
        quantize(copy, copy.read().config, precision, SilentUi())
    assert {key: copy.read().artifacts[key].sha256 for key in graphs} == graphs
    other = with_flags(away, {"calibration.folder": "misspelt"})
    for precision in ("fp16", "int8"):
        with pytest.raises(BadInput, match="no folder misspelt"):
            quantize(copy, other, precision, SilentUi())
    moved = images.rename(images.with_name("moved"))
    try:
        with pytest.raises(BadInput, match="needs its calibration images again"):
            quantize(copy, with_flags(away, {"quantization.recovery": ()}), "int8", SilentUi())
    finally:
        moved.rename(images)


def test_a_calibration_folder_is_stored_so_that_another_folder_changes_nothing(
    packed, tmp_path, exported, monkeypatch
):
    copy = exported(tmp_path / "artifacts", "hvt_demo")
    monkeypatch.chdir(packed[0])
    flags = {"calibration.folder": "digits/calibration", "calibration.images": 4}
    quantize(copy, with_flags(copy.read().config, flags), "fp16", SilentUi())
    made = copy.read()
    monkeypatch.chdir(tmp_path)
    quantize(copy, made.config, "fp16", SilentUi())
    assert copy.read() == made
    assert made.artifacts["calibration"]


def test_without_a_recorded_reference_a_device_compares_with_onnxruntime(
    packed, tmp_path, exported
):
    folder = exported(tmp_path / "artifacts", "hvt_demo")
    bundle(folder, tmp_path / "b.tar", False, SilentUi())
    data = ("--data", packed[0] / "digits" / "validation")
    for machine in (run_process, run_without_torch):
        place = tmp_path / machine.__name__
        done = machine(
            "deploy", "b.tar", "--precision", "fp32", *data, "--workspace", place, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("everything is compared with ort fp32") == 1
