"""`sweep`: everything runs, a failure stops nothing, what was done is not done again, and one
report holds all.
"""

from __future__ import annotations

import shutil

import pytest
from command_line import run

from hvt_deploy.commands import build_trt as build_step
from hvt_deploy.commands import quantize as quantize_step
from hvt_deploy.commands import sweep as sweep_step
from hvt_deploy.commands.sweep import last_validation, match_models
from hvt_deploy.core.errors import BadInput, CheckFailed, MissingEnvironment
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation.record import read_results


def test_patterns_stand_for_models_in_their_order():
    assert match_models(["hvt_s_1", "fdvit_*"]) == (
        "fdvit_ti",
        "fdvit_s",
        "fdvit_b",
        "fdvit_demo",
        "fdvit_elpv",
        "hvt_s_1",
    )
    assert match_models(["timm:resnet18", "hvt_demo"]) == ("hvt_demo", "timm:resnet18")
    assert match_models(["mine:make", "hvt_demo", "m.onnx"]) == ("hvt_demo", "mine:make", "m.onnx")
    with pytest.raises(BadInput, match="fdvit_x"):
        match_models(["fdvit_b", "fdvit_x*"])
    with pytest.raises(BadInput):
        match_models([])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    write_digits(place / "digits")
    return place


class Sweep:
    """Sweeps of two models, one of which cannot be exported; `calls` are the steps that were
    called.
    """

    def __init__(self, place, monkeypatch):
        self.place, self.calls = place, []
        for step, module in (
            ("export", sweep_step),
            ("quantize", quantize_step),
            ("validate", sweep_step),
        ):
            monkeypatch.setattr(module, step, self.counted(step, getattr(module, step)))
        monkeypatch.setattr(build_step, "build_from_graph", self.no_engine)

    def counted(self, step, real):
        def call(folder, *rest, **more):
            self.calls.append(f"{step} {folder.slug}")
            if self.calls[-1] == "export dfvt_demo":
                raise CheckFailed(
                    "The exported graph differs from PyTorch.", "Try another --simplifier."
                )
            return real(folder, *rest, **more)

        return call

    def no_engine(self, folder, *_):
        raise MissingEnvironment("No TensorRT here.")

    def __call__(self, **changed):
        self.calls.clear()
        flags = {
            "calibration.folder": str(self.place / "digits/calibration"),
            "calibration.images": 8,
            "validation.limit": 40,
            **changed,
        }
        return sweep_step.sweep(
            ["dfvt_demo", "hvt_demo"],
            ["fp32", "fp16"],
            self.place / "digits/validation",
            None,
            flags,
            self.place / "artifacts",
            self.place / "sweep",
            SilentUi(),
        )


@pytest.fixture
def sweep(place, monkeypatch):
    return Sweep(place, monkeypatch)


def test_a_failure_stops_nothing_and_what_was_done_is_not_done_again(sweep, place):
    done = sweep()
    assert sweep.calls == [
        "export dfvt_demo",
        "export hvt_demo",
        "quantize hvt_demo",
        "validate hvt_demo",
    ]
    assert [(m.model, [(f.what, f.exit_code) for f in m.failures]) for m in done.models] == [
        ("dfvt_demo", [("export", 1)]),
        ("hvt_demo", []),
    ]
    assert done.exit_code == 1

    recorded = read_results(place / "sweep/results.json")
    rows = {row.backend: row for row in recorded.rows}
    assert {"hvt_demo pytorch fp32", "hvt_demo ort fp32", "hvt_demo ort fp16"} <= set(rows)
    (skipped,) = recorded.skipped
    assert skipped.what == "dfvt_demo export"
    assert "--simplifier" in skipped.why
    assert rows["hvt_demo ort fp32"].accuracy.top1.estimate > 90
    for report in ("report.md", "report.html"):
        text = (place / "sweep" / report).read_text()
        assert "hvt_demo ort fp32" in text
        assert "differs from PyTorch" in text
        assert "hvt_demo hvt_demo" not in text
    assert "none is faster and as accurate as: hvt_demo ort fp32" in done.results.verdict
    assert "Failed: dfvt_demo (export)." in done.results.verdict

    again = sweep()
    assert sweep.calls == ["export dfvt_demo", "export hvt_demo", "quantize hvt_demo"], (
        "export and quantize look for themselves what is there"
    )
    assert again.results.rows == done.results.rows
    folder = ModelFolder(place / "artifacts/hvt_demo")
    config = with_flags(folder.read().config, {"validation.limit": 40})
    data = place / "digits/validation"
    recorded = read_results(folder.file(folder.read().artifacts["results"]))
    assert last_validation(folder, config, data, None) == recorded
    other = with_flags(config, {"validation.limit": 30})
    assert last_validation(folder, other, data, None) is None
    assert last_validation(folder, config, data.parent, None) is None


def test_a_validation_is_taken_for_the_same_images_only_wherever_they_are(sweep, place, tmp_path):
    assert any(swept.results for swept in sweep().models)
    folder = ModelFolder(place / "artifacts/hvt_demo")
    config = with_flags(folder.read().config, {"validation.limit": 40})
    moved = shutil.copytree(place / "digits/validation", tmp_path / "moved")
    assert last_validation(folder, config, moved, None) is not None
    zero, one = (sorted((moved / label).iterdir()) for label in "01")
    for old, new in zip(zero, one, strict=False):
        new.replace(old)  # the same names, other images
    assert last_validation(folder, config, moved, None) is None


def test_a_fault_of_this_program_and_other_settings(sweep, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(sweep_step, "export", broken)
    done = sweep(**{"export.seed": 7})
    assert [[(f.what, f.exit_code) for f in m.failures] for m in done.models] == [
        [("export", 4)],
        [("export", 4)],
    ]
    assert "ZeroDivisionError: by zero" in done.models[0].failures[0].why
    assert done.exit_code == 4
    assert done.results.verdict.startswith("2 models, 0 backends ran.")


def test_bad_input_is_one_message(tmp_path):
    for arguments, said in (
        (("--models", "nope_*"), "nope_*"),
        (("--models", "hvt_*", "--precisions", "int4"), "int4"),
    ):
        done = run("sweep", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr


@pytest.mark.parametrize("data", ["nowhere", "two"])
def test_images_that_fit_no_model_stop_a_sweep_before_any_export(tmp_path, data):
    for name in ("cat", "dog"):
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "1.png").write_bytes(b"")
    done = run("sweep", "--models", "hvt_demo,fdvit_demo", "--data", data, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert data in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["two"], "nothing was written"


def test_a_sweep_goes_on_with_the_models_that_the_images_fit(place, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep_step, "_sweep_one", lambda model, *_: asked.append(model) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep_step.sweep(
            ["hvt_s_1", "hvt_demo"],
            (),
            place / "digits/validation",
            None,
            {},
            place,
            place,
            SilentUi(),
        )
    assert len(asked) == 1
