"""From one machine to another in a file: unpacked without PyTorch, built, validated; what does not
fit is refused.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import pytest
from command_line import run, run_without_torch

from hvt_deploy.commands.bundle import unpack
from hvt_deploy.commands.deploy import deploy
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.ui import SilentUi


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
        interrupted.setattr("hvt_deploy.commands.bundle._move_in", build)
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


def test_a_manifest_that_points_outside_is_refused_even_with_a_right_hash(packed, tmp_path):
    import hashlib

    changed = outside_manifest("manifest.json", contents(packed[2])["manifest.json"][1])[1]

    def change(name, content):
        if name == "manifest.json":
            return plain(name, changed)
        if name == "bundle.json":
            index = json.loads(content)
            index["files"]["manifest.json"] = hashlib.sha256(changed).hexdigest()
            content = json.dumps(index).encode()
        return plain(name, content)

    with pytest.raises(BadInput, match=r"names \.\./fp32-.*outside"):
        unpack(
            rewrite(packed[2], tmp_path / "changed.tar", change), tmp_path / "artifacts", SilentUi()
        )


def test_a_truncated_bundle_and_one_that_is_none_are_refused(packed, tmp_path):
    whole = packed[2].read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar").write_text("no bundle")
    for name in ("half.tar", "text.tar", "none.tar"):
        with pytest.raises(BadInput):
            unpack(tmp_path / name, tmp_path / "artifacts", SilentUi())
    assert not list(tmp_path.glob("artifacts/*/manifest.json"))


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
