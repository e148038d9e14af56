"""The product's main job through its command line: export, INT8, engine, validate, on folders of
real image files.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from command_line import run, run_process
from PIL import Image

from hvt_deploy.evaluation.image_answers import read_answers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, and the exported model with an INT8 engine."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(4):
            folder = place / "imagenet" / split / str(label)
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((40, 36)).save(folder / f"{split}{i}.png")
    done = run_process("export", "hvt_demo", "--weights", "random", "--opset", "17", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "UNTRAINED" in done.stderr
    return place


@pytest.fixture(scope="module")
def built(place):
    done = run("build-trt", "--int8", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def validated(place, built):
    done = run("validate", "--data", "imagenet/val", "--max-top1-drop", "50", cwd=place)
    return done, manifest(place)


def manifest(place):
    return json.loads((place / "artifacts/hvt_demo/manifest.json").read_text())


def test_the_export_has_its_opset_and_the_manifest_its_facts(place):
    fp32 = manifest(place)["artifacts"]["fp32"]
    model = onnx.load(place / "artifacts/hvt_demo" / fp32["folder"] / fp32["main"])
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert fp32["facts"]["parity"]["relative_to_largest"] <= 2e-5
    assert fp32["facts"]["nodes"] == len(model.graph.node)
    assert manifest(place)["weights"]["untrained"]


def test_inspect_shows_every_graph_and_the_engine_of_a_model(place, built):
    done = run("inspect", "hvt_demo", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    engine = next(facts for name, facts in found.items() if name.endswith(".engine"))
    graphs = {name.split(".")[1]: facts for name, facts in found.items() if name.endswith(".onnx")}
    assert set(graphs) == {"fp32", "fp16", "int8-fp32", "int8", "int8-cpu"}

    def macs(facts):
        return {
            p: sum(group["macs"].get(p, 0) for group in facts["groups"])
            for p in ("int8", "fp16", "fp32")
        }

    assert macs(graphs["fp16"])["int8"] == macs(graphs["fp32"])["int8"] == 0
    assert macs(graphs["int8"])["int8"] == engine["audit"]["quantized_macs"] > 0
    assert sum(macs(graphs["int8"]).values()) == sum(macs(graphs["fp32"]).values())
    shown = run("inspect", "hvt_demo", cwd=place).stdout
    assert "attention score" in shown
    assert "fused attention blocks" in shown


def test_the_engine_really_is_int8(place, built):
    assert built["path"].endswith("hvt_demo.int8.rtx-sm86.engine")
    assert (place / built["path"]).stat().st_size > 100_000
    assert built["audit"]["layers"]["int8"] > 10
    assert built["audit"]["fused_attention"] > 0
    passport = json.loads((place / f"{built['path']}.json").read_text())
    assert passport["flavour"] == "tensorrt_rtx"
    assert passport["onnx_sha256"] in manifest(place)["artifacts"]["int8"]["files"].values()


def test_int8_with_fp16_was_raised_to_opset_19(place, built):
    facts = {key: artifact["facts"] for key, artifact in manifest(place)["artifacts"].items()}
    assert facts["int8"]["opset"] == 19
    assert facts["int8-fp32"]["opset"] == facts["fp16"]["opset"] == 17


def test_an_unchanged_calibration_is_not_run_again(place, built):
    before = manifest(place)["artifacts"]
    done = run("quantize", "--int8", cwd=place)
    assert done.returncode == 0
    assert "Calibrating" not in done.stderr
    after = manifest(place)["artifacts"]
    assert {k: a["created"] for k, a in after.items()} == {
        k: a["created"] for k, a in before.items()
    }


def test_validate_compares_every_backend_and_writes_reports(place, validated):
    _, written = validated
    results = written["artifacts"]["results"]
    folder = place / "artifacts/hvt_demo" / results["folder"]
    record = json.loads((folder / "results.json").read_text())
    rows = {row["backend"]: row for row in record["rows"]}
    assert {
        "pytorch fp32",
        "ort fp32",
        "ort fp16",
        "ort int8 cpu",
        "int8 engine numerics",
    } <= set(rows)
    assert rows["ort fp32"]["fidelity"]["agreement"]["estimate"] == 100
    assert rows["ort fp32"]["timings"][0]["latency"]["median"] > 0
    assert rows["int8 engine numerics"]["timings"] == []
    assert rows["ort int8 cpu"]["timings"][0]["latency"]["median"] > 0
    files = {rows[name]["artifact"] for name in ("int8 engine numerics", "ort int8 cpu")}
    assert files == {"hvt_demo.int8-fp32.onnx", "hvt_demo.int8-cpu.onnx"}
    assert "no NVIDIA GPU here" in rows["trt int8 rtx-sm86"]["skipped"]
    assert record["data"]["images"] == 24
    assert "ort int8 cpu" in (folder / "report.html").read_text()
    answers = read_answers(folder / "answers.npz")
    assert sorted(answers.files)[0] == "0/val0.png"
    share = 100 * (answers.predicted("ort fp32") == answers.labels).mean()
    assert share == pytest.approx(rows["ort fp32"]["accuracy"]["top1"]["estimate"])
    assert "ort int8 cpu" in (folder / "report.md").read_text()


def test_no_gate_passes_on_untrained_weights(validated):
    done, _ = validated
    assert done.returncode == 1
    assert "untrained" in done.stdout.lower()


def test_a_named_backend_that_cannot_run_exits_3(place, built):
    done = run(
        "validate",
        "--data",
        "imagenet/val",
        "--backends",
        "trt",
        "--max-latency-ms",
        "5",
        cwd=place,
    )
    assert done.returncode == 3, done.stderr


def test_validating_on_calibration_images_is_refused(place, built):
    done = run("validate", "--data", "imagenet/train", cwd=place)
    assert done.returncode == 2
    assert "calibrated on" in done.stderr


def test_emptying_the_list_of_calibration_images_does_not_switch_that_off(place, built):
    (path,) = place.glob("artifacts/*/calibration-*/calibration.json")
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), "files": []}))
    try:
        done = run("validate", "--data", "imagenet/train", cwd=place)
    finally:
        path.write_text(whole)
    assert done.returncode == 2
    assert "calibration.json is not the file that was recorded" in done.stderr


def test_the_list_has_the_artifacts_and_the_last_verdict(place, validated):
    model = json.loads(run("list", "--json", cwd=place).stdout)[0]
    assert {"fp32", "int8", "int8-cpu", "results"} <= {a["key"] for a in model["artifacts"]}
    assert model["validated"]["verdict"].startswith("No verdict on accuracy.")
    shown = run("list", cwd=place).stdout
    assert "engine-int8-rtx-sm86" in shown
    assert "hvt_demo: No verdict on accuracy." in shown


def test_the_report_can_be_had_again(place, validated):
    done = run("report", "--format", "markdown", cwd=place)
    assert done.returncode == 0
    assert "# hvt_demo" in done.stdout
    assert "UNTRAINED" in done.stdout
    assert run("report", "--format", "html", "--output", "r.html", cwd=place).returncode == 0
    assert "<html" in (place / "r.html").read_text()


def test_int8_without_calibration_images_is_an_error(place, tmp_path):
    done = run(
        "build-trt",
        "hvt_demo",
        "--int8",
        "--calib",
        "nowhere",
        "--workspace",
        place / "artifacts",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "--calib DIR" in done.stderr


def test_a_re_export_with_other_weights_makes_children_stale(place, validated, tmp_path):
    root = tmp_path / "artifacts"
    subprocess.run(["cp", "-r", place / "artifacts", root], check=True)
    args = ("export", "hvt_demo", "--weights", "random", "--seed", "9")
    assert run(*args, cwd=tmp_path).returncode == 0
    done = run("validate", "--data", place / "imagenet/val", cwd=tmp_path)
    assert done.returncode == 2
    assert "hvt-deploy quantize hvt_demo" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("export", "fdvit_x"), 2, "fdvit_"),
        (("export", "hvt_demo", "--opset", "16"), 2, "17, 18, 19, 20, 21, 22"),
        (("export", "hvt_demo", "--weights", "missing.pth"), 2, "missing.pth"),
        (("validate", "--data", "nothing-here"), 2, "hvt-deploy demo"),
        (("validate", "--backends", "ortt"), 2, "ort"),
        (("build-trt", "--profile", "8,1"), 2, "MIN,OPT,MAX"),
        (("quantize", "--fp16", "--int8"), 2, "Several precisions"),
        (("build-trt", "--precision", "int4"), 2, "int8-fp32"),
        (
            ("build-trt", "--precision", "fp32", "--compute-capability", "1.1"),
            2,
            "compute capabilit",
        ),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_bad_input_is_one_message_and_an_exit_code(place, arguments, code, said):
    done = run(*arguments, cwd=place)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_machine_readable_answers(place):
    names = {spec["name"] for spec in json.loads(run("models", "--json", cwd=place).stdout)}
    assert {"fdvit_ti", "fdvit_s", "fdvit_b"} <= names
    doctor = json.loads(run("doctor", "--json", cwd=place).stdout)
    assert {a["verb"]: a["works"] for a in doctor["abilities"]} == {
        "export": True,
        "quantize": True,
        "build-trt": True,
        "validate": True,
    }


def test_an_interrupt_exits_130_and_leaves_what_was_there(place):
    before = manifest(place)
    command = [
        sys.executable,
        "-m",
        "hvt_deploy",
        "export",
        "hvt_demo",
        "--weights",
        "random",
        "--seed",
        "4",
    ]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as process:
        assert (
            "UNTRAINED" in process.stderr.readline()
        )  # the weights are there, the export has begun
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert manifest(place) == before


def test_a_fixed_batch_goes_all_the_way(place, tmp_path):
    root = ("--workspace", tmp_path / "artifacts")
    options = ("--weights", "random", "--batch", "5", "--as", "fixed")
    done = run("export", "hvt_demo", *options, *root, cwd=place)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifacts" / "fixed").is_dir()
    assert run("quantize", "--int8", "--calibrator", "max", *root, cwd=place).returncode == 0
    done = run(
        "validate", "--data", "imagenet/val", "--backends", "ort", "--json", *root, cwd=place
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["images"] for row in rows if row["accuracy"]} == {24}
    assert {one["latency"]["batch"] for row in rows for one in row["timings"]} == {5}
