"""Validations on disk: what is checked before one starts, what an interruption leaves, which ones
are kept.
"""

from __future__ import annotations

import json
import shutil

import pytest
from command_line import run

from hvt_deploy.commands import validate as step
from hvt_deploy.commands.validate import validate
from hvt_deploy.core import environment
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.digits import write_digits

# The last two, in the order of time.
KEYS = ("results-1", "results")


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    place = tmp_path_factory.mktemp("place")
    write_digits(place / "digits")
    exported(place / "artifacts", "hvt_demo")
    return place


def validations(place):
    """The kept validations by key: `results` is the newest."""
    manifest = json.loads((place / "artifacts/hvt_demo/manifest.json").read_text())
    return {key: a for key, a in manifest["artifacts"].items() if key.startswith("results")}


def run_validate(place, *more, limit=20):
    return run("validate", "--data", "digits/validation", "--limit", limit, *more, cwd=place)


@pytest.mark.parametrize("value", ["nan", "-0.5", "inf", "-inf"])
@pytest.mark.parametrize("gate", ["max-top1-drop", "min-speedup", "max-latency-ms", "margin"])
def test_a_gate_that_is_no_number_ends_with_2_before_anything_runs(place, gate, value):
    done = run_validate(place, f"--{gate}", value)
    assert done.returncode == 2, done.stderr
    assert gate.replace("-", "_") in done.stderr.replace("-", "_")
    assert not list(place.glob("artifacts/hvt_demo/.answers*"))


def test_a_full_disk_is_seen_before_the_first_image(place, monkeypatch):
    monkeypatch.setattr(environment, "free_disk_bytes", lambda _: 1 << 20)
    monkeypatch.setattr(step, "open_rows", None)  # which would open the first backend
    folder = ModelFolder(place / "artifacts/hvt_demo")
    with pytest.raises(MissingEnvironment, match=r"only 0\.00 GB are free"):
        validate(folder, folder.read().config, place / "digits/validation", None, SilentUi())


def read_numbers(place):
    newest = validations(place)["results"]
    record = json.loads(
        (place / "artifacts/hvt_demo" / newest["folder"] / "results.json").read_text()
    )
    return {row["backend"]: (row["accuracy"], row["fidelity"]) for row in record["rows"]}


def test_a_damaged_part_is_evaluated_again_and_the_others_are_not(place, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(step, "time_rows", interrupted)
        assert run_validate(place, limit=300).returncode == 130
    parts = sorted(place.glob("artifacts/hvt_demo/.answers-*/*/*.npz"))
    assert [part.name[:15] for part in parts] == ["0000000-0000256", "0000256-0000300"]
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[: len(whole) // 2])
    done = run_validate(place, limit=300)
    assert done.returncode == 0, done.stderr
    assert "256 of 300 images" in done.stderr
    numbers = read_numbers(place)
    assert run_validate(place, limit=300).returncode == 0
    assert read_numbers(place) == numbers
    assert set(validations(place)) == {"results", "results-1"}


def test_as_many_are_kept_as_asked_for(place):
    before = validations(place)["results"]
    assert run_validate(place, "--keep", "2").returncode == 0
    kept = validations(place)
    assert set(kept) == {"results", "results-1"}
    assert kept["results-1"] == before
    assert run_validate(place, "--keep", "1").returncode == 0
    assert set(validations(place)) == {"results"}
    assert len(list(place.glob("artifacts/hvt_demo/results-*"))) == 1
    assert run_validate(place, "--keep", "0").returncode == 2


def test_the_list_says_that_a_verdict_is_of_artifacts_that_were_replaced(place, tmp_path):
    assert run_validate(place).returncode == 0
    shutil.copytree(place / "artifacts", tmp_path / "artifacts")
    assert "others since then" not in run("list", cwd=tmp_path).stdout
    folder = ModelFolder(tmp_path / "artifacts" / "hvt_demo")
    with folder.staging() as staged:
        (staged / "other.onnx").write_bytes(b"another export")
        folder.add(folder.read(), "fp32", staged, "other.onnx", "again")
    assert "; others since then: fp32)" in run("list", cwd=tmp_path).stdout


def test_diff_without_files_compares_the_last_two_validations(place):
    for limit in (30, 40):
        assert run_validate(place, limit=limit).returncode == 0
    done = run("diff", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "Other images: 30 of digits/validation, then 40" in done.stdout
    folder = place / "artifacts/hvt_demo"
    files = [folder / validations(place)[key]["folder"] / "results.json" for key in KEYS]
    by_name = run("diff", *files, "--json", cwd=place)
    assert json.loads(by_name.stdout) == json.loads(done.stdout)


def test_diff_of_a_model_with_one_validation_and_of_one_file_are_refused(place, exported):
    exported(place / "others", "hvt_demo")
    none = run("diff", "--workspace", "others", cwd=place)
    assert none.returncode == 2
    assert "no earlier validation of hvt_demo" in none.stderr
    assert run("diff", "a.json", cwd=place).returncode == 2


@pytest.mark.parametrize("margin", ["nan", "inf", "-1"])
def test_a_margin_of_diff_that_is_no_number_is_refused(place, margin):
    done = run("diff", "a.json", "b.json", "--margin", margin, cwd=place)
    assert done.returncode == 2
    assert "margin" in done.stderr
