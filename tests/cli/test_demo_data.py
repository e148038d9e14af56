"""`demo --data`: what it refuses before anything runs, and the whole way with solar cells."""

from __future__ import annotations

import importlib.util
import json

import pytest
from command_line import run
from elpv_package import install_stand_in, shorten_training


def test_unknown_data_is_refused_by_name(tmp_path):
    done = run("demo", "--data", "elvp", cwd=tmp_path)
    assert done.returncode == 2
    assert "elpv" in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_the_images_the_licence_and_the_pip_line_are_said(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if "elpv" in name else found(name, *a)
    )
    done = run("demo", "--data", "elpv", cwd=tmp_path)
    assert done.returncode == 3
    assert "CC-BY-NC-SA-4.0" in done.stderr
    assert "pip install 'hvt-deploy[elpv]'" in done.stderr


@pytest.mark.slow
def test_a_model_is_trained_and_validated_on_images_it_has_not_seen(tmp_path, monkeypatch):
    install_stand_in(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shorten_training("hvt_elpv", 2, monkeypatch)
    done = run(
        *("demo", "--data", "elpv", "--family", "hvt", "--output", "out", "--json"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["data"]["images"] == 573
    manifest = json.loads((tmp_path / "out/artifacts/hvt_elpv/manifest.json").read_text())
    assert manifest["weights"]["source"] == "trained"
    assert manifest["weights"]["licence"] == "CC-BY-NC-SA-4.0"
    assert manifest["class_names"][3] == "defective_poly"
