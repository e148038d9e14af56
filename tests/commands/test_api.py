"""`hvt_deploy` in a program: what it costs to import, the steps, what they return and refuse."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer.main

import hvt_deploy as hd
from hvt_deploy import cli
from hvt_deploy.commands.api import plan_export
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.data.digits import write_digits

MODEL = "hvt_demo"
PAGE = Path(__file__).parent.parent.parent / "docs" / "api.md"
IMPORT = """
import sys, time
began = time.process_time()
import hvt_deploy
print(time.process_time() - began, {"numpy", "rich", "typer", "torch"} & set(sys.modules))
"""
# What only a person at a terminal needs, and what open() takes.
AT_A_TERMINAL = {
    *("help", "as_json", "quiet", "verbose", "debug", "fp16", "int8"),
    *("workspace", "config_file", "model", "models", "precision"),
}
COMMANDS = typer.main.get_command(cli.app).commands


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    place = tmp_path_factory.mktemp("place")
    exported(place / "artifacts", MODEL)
    return place, write_digits(place / "digits")


@pytest.fixture(scope="module")
def model(place):
    return hd.open(MODEL, workspace=place[0] / "artifacts")


@pytest.fixture(scope="module")
def quantized(place, model):
    return model.quantize("int8", calib=place[1].calibration, calib_images=16, calibrator="max")


def test_the_import_is_cheap():
    costs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True)
        cost, heavy = done.stdout.decode().split(maxsplit=1)
        assert heavy.strip() == "set()"
        costs.append(float(cost))
    assert min(costs) <= 0.05


def test_every_public_name_is_there_and_is_listed():
    assert set(dir(hd)) == {*hd.__all__, "open"}
    assert all(getattr(hd, name) for name in dir(hd))
    assert set(re.findall(r"`hd\.(\w+)", PAGE.read_text())) >= {*dir(hd)} - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'quantize'"):
        hd.quantize  # noqa: B018


@pytest.mark.parametrize(
    ("function", "command", "only_flags"),
    [
        (hd.export, "export", {"dry_run"}),
        (plan_export, "export", {"dry_run", "weights", "batch", "simplifier", "force"}),
        (hd.Model.quantize, "quantize", set()),
        (hd.Model.build_trt, "build-trt", {"explain"}),
        (hd.Model.validate, "validate", {"class_names"}),
        (hd.Model.diagnose, "diagnose", {"replay"}),
        (hd.Model.bundle, "bundle", {"class_names"}),
        (hd.Model.package, "package", {"class_names"}),
    ],
)
def test_keywords_are_the_flags_of_the_command(function, command, only_flags):
    flags = {p.name: p for p in COMMANDS[command].params}
    names = {"slug": "as_", "compute_capability": "compute_capabilities", "profile": "profiles"}
    names["latency_batch"] = "latency_batches"
    if function is plan_export:
        only_flags |= {"class_names", "seed", "preprocessing"}
    wanted = {names.get(n, n): p for n, p in flags.items() if n not in AT_A_TERMINAL | only_flags}
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "model", "workspace", "config", "progress", "precision")
    }
    assert set(keywords) == set(wanted)
    differing = {n for n, p in wanted.items() if p.default not in (keywords[n], str(keywords[n]))}
    assert differing == set()


def test_an_exported_model_is_opened_by_name_by_path_or_as_the_newest(place, model):
    workspace = place[0] / "artifacts"
    for again in (hd.open(workspace / MODEL), hd.open(workspace=workspace), hd.open(model)):
        assert again.path == model.path
    assert model.exported.before
    assert model.exported.parity.same_argmax
    assert os.fspath(model) == str(workspace / MODEL)


def test_exporting_again_gives_the_model_that_is_there(place):
    again = hd.export(MODEL, workspace=place[0] / "artifacts")
    assert again.exported.before
    assert again.exported.path.is_file()


def test_quantize_returns_graphs_with_their_difference_from_fp32(model, quantized):
    assert set(quantized.paths) == {"fp16", "int8-fp32", "int8", "int8-cpu"}
    assert all(path.is_file() for path in quantized.paths.values())
    assert quantized.parity["int8"].sqnr_db > 20
    assert "int8-cpu" in quantized._repr_html_()
    assert model.quantize("int8", calibrator="max", calib_images=16) == quantized


def test_a_validation_has_rows_verdict_gates_and_its_page(place, model, quantized):
    done = model.validate(place[1].validation, limit=20, threads=1, max_top1_drop=90)
    backends = {row.backend for row in done.rows}
    assert {"pytorch fp32", "ort fp32", "ort int8 cpu"} <= backends
    assert {gate.status for gate in done.gates} == {"passed"}
    assert "20 images" in done.verdict
    assert done.to_html() == (done.folder / "report.html").read_text()
    cell = done._repr_html_()
    assert all(text in cell for text in ("ort int8 cpu", "passed: ", "max-top1-drop 90"))
    assert model.results == done.results


def test_a_build_is_audited_and_a_failed_gate_names_the_engine(model, quantized):
    target = {"flavour": "rtx", "compute_capabilities": ["8.6"], "profiles": [(1, 1, 1)]}
    plan = model.explain_build("int8", **target)
    built = model.build_trt("int8", calib_images=16, **target)
    assert built.path.name == plan.engine
    assert built.audit.layers.int8 > 0
    assert "fused attention blocks" in built._repr_html_()
    with pytest.raises(hd.CheckFailed, match="The engine was kept") as failed:
        model.build_trt("int8", calib_images=16, min_int8_of_all=1, **target)
    assert failed.value.built.path == built.path


def test_diagnosis_bundle_and_repository(place, model, quantized):
    found = model.diagnose("int8-fp32", data=place[1].calibration, output=place[0] / "diagnosis")
    assert not found.diverged
    assert found.graphs[0].sentence in found._repr_html_()
    with pytest.warns(hd.HvtDeployWarning, match="No recorded reference") as warned:
        assert model.bundle(place[0] / "it.tar").stat().st_size > 1000
    assert warned[0].filename == __file__
    packaged = model.package(place[0] / "triton", onnx_backend="python")
    assert packaged.ensemble == MODEL
    assert MODEL in packaged._repr_html_()


def test_a_classifier_takes_a_model_works_in_threads_and_says_that_it_was_closed(place, model):
    photos = [sorted((place[1].validation / str(digit)).iterdir())[0] for digit in range(10)]
    with hd.Classifier(model, "ort", threads=1) as classifier, ThreadPoolExecutor(2) as pool:
        both = list(pool.map(classifier, [photos, photos]))
    assert both[0] == both[1]
    assert [prediction.best.name for prediction in both[0]] == [str(digit) for digit in range(10)]
    classifier.close()
    with pytest.raises(BadInput, match="was closed"):
        classifier(photos)


def test_progress_goes_to_the_callback_and_nothing_is_printed(place, capfd):
    seen = []
    model = hd.open(MODEL, workspace=place[0] / "artifacts", progress=lambda *at: seen.append(at))
    model.diagnose("fp32", data=place[1].calibration, output=place[0] / "diagnosis")
    assert {step for step, _, _ in seen} == {"Comparing ort fp32 with pytorch fp32"}
    assert seen[-1][1] <= seen[-1][2]
    assert capfd.readouterr() == ("", "")


def test_progress_that_is_asked_for_is_on_stderr(place, capfd):
    hd.open(workspace=place[0] / "artifacts", progress=True)
    out, err = capfd.readouterr()
    assert (out, MODEL in err) == ("", True)


def test_another_thread_finds_the_folder_in_use(place, model, monkeypatch):
    monkeypatch.setattr("hvt_deploy.core.locks._WAIT_S", 0.1)
    with model._folder.lock(), ThreadPoolExecutor(1) as pool:
        error = pool.submit(model.quantize, "fp16").exception()
    assert isinstance(error, MissingEnvironment)
    assert "is in use by" in str(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_a_traceback_says_what_to_do(tmp_path):
    with pytest.raises(hd.BadInput) as caught:
        hd.open("nothing", workspace=tmp_path)
    assert "Run: hvt-deploy export MODEL" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda m: hd.export("fdvit_x"), "Unknown model 'fdvit_x'"),
        (lambda m: hd.export(MODEL, opset="17"), "options.export.opset: expected int, got '17'"),
        (lambda m: hd.export(MODEL, opset=3, workspace=m.path / "w"), "Opset 3"),
        (lambda m: hd.export(MODEL, weights="no.pth", workspace=m.path / "w"), r"no\.pth"),
        (lambda m: hd.export(MODEL, weights=5), "weights is 5"),
        (lambda m: hd.export(MODEL, image_size="224x224"), "image_size"),
        (lambda m: hd.export(MODEL, as_="../other"), "cannot be a folder name"),
        (lambda m: hd.export(MODEL, config="no.yaml"), r"no\.yaml"),
        (lambda m: hd.export(5), "model is 5"),
        (lambda m: hd.open("nothing", workspace=m.path.parent), "Unknown exported model"),
        (lambda m: hd.open(workspace="nowhere"), "Nothing was exported to nowhere"),
        (lambda m: hd.open(5), "model is 5"),
        (lambda m: hd.open(m, progress="yes"), "progress is 'yes'"),
        (lambda m: hd.Classifier(5), "model is 5"),
        (lambda m: m.quantize("int9"), "Unknown precision 'int9'"),
        (lambda m: m.quantize("fp16", calib_images="x"), "calibration.images"),
        (lambda m: m.quantize(budget="x"), "budget"),
        (lambda m: m.build_trt("fp16", min_int8=0.9), "is a gate on INT8 engines"),
        (lambda m: m.build_trt("fp16", profiles="1,8,32"), "engine.profiles: expected a list"),
        (lambda m: m.validate("no/images"), "no/images does not exist"),
        (lambda m: m.validate(b"bytes"), "data is b'bytes'"),
        (lambda m: m.validate(backends="ort"), "validation.backends: expected a list"),
        (lambda m: m.diagnose("int7"), "has no 'int7' artifact"),
        (lambda m: m.diagnose(device="tpu"), "device"),
        (lambda m: m.package(onnx_backend="x"), "onnx_backend"),
    ],
)
def test_bad_input_is_named(model, step, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=message):
        step(model)
