"""`sweep` without images: a row for each backend that runs or whose engine is there."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from command_line import run
from foreign_files import write_graph

import hvt_deploy
from hvt_deploy.commands import sweep as sweep_step
from hvt_deploy.commands.benchmark import Benchmark, BenchmarkRow
from hvt_deploy.commands.sweep import benchmark
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation.scores import Latency


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported):
    place = tmp_path_factory.mktemp("benchmark")
    write_digits(place / "digits")
    exported(place / "artifacts", "hvt_demo")
    flags = {"calibration.folder": str(place / "digits/calibration"), "calibration.images": 8}
    places = place / "artifacts", place / "sweep"
    ui = SilentUi()
    benchmark(["hvt_demo", "timm:no_such_model"], ["fp32", "int8"], flags, *places, ui)
    return place


def read_record(place):
    return from_plain(Benchmark, json.loads((place / "sweep/benchmark.json").read_text()))


def test_every_backend_that_runs_has_a_size_and_a_latency(place):
    found = json.loads((place / "sweep/benchmark.json").read_text())
    rows = {row["backend"]: row for row in found["rows"]}
    assert {"pytorch fp32", "ort fp32", "ort int8 cpu", "trt int8 rtx-sm86"} <= set(rows)
    for name in ("pytorch fp32", "ort fp32", "ort int8 cpu"):
        assert rows[name]["latency"]["median"] > 0
        assert rows[name]["why_not"] == ""
    graph = next((place / "artifacts/hvt_demo").glob("fp32-*/hvt_demo.fp32.onnx"))
    assert rows["ort fp32"]["size_mib"] == graph.stat().st_size / 2**20
    assert rows["ort int8 cpu"]["size_mib"] < rows["ort fp32"]["size_mib"]
    assert "int8 engine numerics" not in rows, "accuracy only"


def test_an_engine_for_another_machine_is_counted_and_says_why_it_has_no_latency(place):
    found = json.loads((place / "sweep/benchmark.json").read_text())
    (engine,) = (row for row in found["rows"] if row["backend"] == "trt int8 rtx-sm86")
    assert engine["latency"] is None
    assert "no NVIDIA GPU" in engine["why_not"]
    assert engine["kernels"] > 10
    assert engine["traffic_mib"] > 0
    assert engine["cost_batch"] == 8


def test_the_table_and_the_plot_hold_the_same_and_what_failed(place):
    text = (place / "sweep/benchmark.md").read_text()
    assert "| hvt_demo | ort fp32 |" in text
    assert "timm:no_such_model, export failed: timm has no model" in text
    plot, found = place / "sweep/benchmark.svg", read_record(place)
    settled = [row for row in found.rows if row.latency and not row.latency_fault]
    assert plot.is_file() == bool(settled)
    (row,) = (row for row in found.rows if row.backend == "ort fp32")
    replace(found, rows=(replace(row, latency_fault=""),)).write(place / "settled")
    drawn = ElementTree.fromstring((place / "settled/benchmark.svg").read_text())
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"


def test_latencies_of_which_none_settled_are_no_plot_and_one_note(place):
    found = read_record(place)
    rows = [row for row in found.rows if row.latency][:2]
    noisy = replace(found, rows=tuple(replace(row, latency_fault="Noise.") for row in rows))
    noisy.write(place / "settled")
    assert not (place / "settled/benchmark.svg").exists()
    assert ", ".join(f"hvt_demo {row.backend}" for row in rows) + ": Noise." in noisy.notes


def test_an_unstable_latency_is_marked():
    latency = Latency(1, 1.0, 2.0, 3.0, 4.0, stable=False)
    row = BenchmarkRow(
        "m", "ort fp32", "fp32", "cpu", 1.0, latency, "Its median moved.", None, None, None, ""
    )
    assert row.cells() == ("m", "ort fp32", "1.00", "2.00 (unstable)", "500 (unstable)", "", "")


def test_a_benchmark_needs_no_images_but_for_int8(tmp_path, exported):
    exported(tmp_path / "artifacts", "hvt_demo")
    done = run("sweep", "--models", "hvt_demo", "--precisions", "fp32,int8", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "int8 failed" in done.stdout
    assert "imagenet/train" in done.stdout
    assert "ort fp32" in done.stdout


@pytest.mark.parametrize("flag", [("--max-top1-drop", "0.5"), ("--limit", "8")])
def test_a_gate_without_images_is_refused(flag, tmp_path):
    done = run("sweep", "--models", "hvt_demo", *flag, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{flag[0]} needs images" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_own_file_is_timed_as_it_was_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_graph(tmp_path / "mine.onnx")
    hvt_deploy.export("mine.onnx", preprocessing="mean=[0.5,0.5,0.5]", as_="other")
    monkeypatch.setattr(sweep_step, "build_engine_if_possible", lambda *_: None)
    root = tmp_path / "artifacts"
    done = benchmark(["mine.onnx"], ["fp32"], {}, root, tmp_path / "sweep", SilentUi())
    assert done.failures == ()
    assert "ort fp32" in {row.backend for row in done.rows}
    assert {row.model for row in done.rows} == {"other"}
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["other"]
    assert hvt_deploy.open("other").config.preprocessing.mean == (0.5, 0.5, 0.5)
