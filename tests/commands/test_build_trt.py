"""`build-trt` on real TensorRT-RTX builds: the audit of an engine; a false label is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser
from typer.testing import CliRunner

from hvt_deploy.cli import app
from hvt_deploy.commands import build_trt as build_step
from hvt_deploy.commands.build_trt import build_from_graph, check_int8
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.engine_costs import sum_up
from hvt_deploy.commands.explain_build import explain_build
from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.errors import BadInput, CheckFailed
from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.manifest import Manifest, WeightsRecord
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder, now
from hvt_deploy.graph.analysis.engine_audit import ByPrecision
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.runtime.selection import select_backends
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.passport import read_passport

FC1, FC2 = 64 * 64, 64 * 64  # MACs for an image

PLAIN = """g (float[N,3,8,8] images) => (float[N,64] logits) {
    ["stem/Flatten"] flat = Flatten(images)
    ["stem/MatMul"] x = MatMul(flat, stem)
    ["blocks.0.mlp.fc1/MatMul"] a = MatMul(x, one)
    ["blocks.0.mlp.act/Relu"] r = Relu(a)
    ["blocks.0.mlp.fc2/MatMul"] logits = MatMul(r, two)
}"""
QUANTIZED = """g (float[N,3,8,8] images) => (float[N,64] logits) {
    ["stem/Flatten"] flat = Flatten(images)
    ["stem/MatMul"] x = MatMul(flat, stem)
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    od = DequantizeLinear<axis = 1>(one, ws, wz)
    ["blocks.0.mlp.fc1/MatMul"] a = MatMul(xd, od)
    ["blocks.0.mlp.act/Relu"] r = Relu(a)
    rq = QuantizeLinear(r, s, z)
    rd = DequantizeLinear(rq, s, z)
    td = DequantizeLinear<axis = 1>(two, ws, wz)
    ["blocks.0.mlp.fc2/MatMul"] logits = MatMul(rd, td)
}"""


def graph(text):
    random = np.random.default_rng(0)
    quantized = "QuantizeLinear" in text
    weights = random.integers(-90, 90, (2, 64, 64))
    arrays = {"stem": random.standard_normal((192, 64)).astype(np.float32) / 14}
    arrays |= dict(
        zip(("one", "two"), weights.astype(np.int8 if quantized else np.float32), strict=True)
    )
    if quantized:
        arrays |= {"s": np.float32(0.02), "z": np.int8(0), "ws": np.full(64, 0.01, np.float32)}
        arrays |= {"wz": np.zeros(64, np.int8)}
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 19]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
    )
    return model


def workspace(root, text, precision="int8"):
    """A model whose artifact of `precision` is the graph of `text`, made from a calibration."""
    folder = ModelFolder(root / "net")
    config = with_flags(
        config_of("fdvit_demo"), {"engine.flavour": "rtx", "engine.workspace_mib": 256}
    )
    manifest = Manifest(
        slug="net",
        model="fdvit_demo",
        exported=now(),
        signature=Signature((8, 8), 64),
        preprocessing=Preprocessing((8, 8)),
        class_names=tuple(map(str, range(64))),
        wnids=None,
        config=config,
        weights=WeightsRecord("random", "", untrained=True),
        artifacts={},
    )
    with folder.staging() as staged:
        (staged / "ranges.json").write_text("{}")
        (staged / "calibration.json").write_text('{"files": []}')
        manifest = folder.add(manifest, "calibration", staged, "ranges.json", "again")
    with folder.staging() as staged:
        path = staged / f"net.{precision}.onnx"
        save_onnx(graph(text), path)
        folder.add(manifest, precision, staged, path.name, "again", parents=["calibration"])
    return folder, config


def test_audit_and_passport_of_an_int8_engine(tmp_path):
    folder, config = workspace(tmp_path, QUANTIZED)
    config = with_flags(config, {"engine.profiles": [(1, 2, 4), (1, 1, 1)]})
    built = build_from_graph(folder, config, "int8", SilentUi(), min_int8=1.0)
    assert built.audit.macs == ByPrecision(int8=FC1 + FC2, fp32=192 * 64)
    assert built.audit.int8_share == 1
    assert {(g.stage, g.role) for g in built.audit.groups} >= {
        ("stem", "stem"),
        ("0", "fc1"),
        ("0", "fc2"),
    }
    manifest, passport = folder.read(), read_passport(built.path)
    artifact = manifest.artifacts["engine-int8-rtx-sm86-b1-2-4-b1-1-1"]
    assert passport.audit == built.audit
    assert passport.onnx_sha256 == manifest.artifacts["int8"].sha256
    assert (
        passport.calibration_sha256 == manifest.artifacts["calibration"].files["calibration.json"]
    )
    assert passport.engine_sha256 == artifact.sha256
    assert [str(profile) for profile in passport.profiles] == ["1,2,4", "1,1,1"]
    assert passport.tool_versions["onnx"]
    assert manifest.engines == {
        "engine-int8-rtx-sm86-b1-2-4-b1-1-1": EngineFacts(
            precision="int8",
            flavour="tensorrt_rtx",
            version=passport.version,
            compute_capabilities=("8.6",),
            gpu="",
            profiles=((1, 2, 4), (1, 1, 1)),
            build_s=built.seconds,
            workspace_mib=256,
            costs=tuple(map(sum_up, built.costs)),
        )
    }
    assert passport.costs == built.costs
    assert artifact.remake == (
        "hvt-deploy build-trt net --precision int8 --profile 1,2,4 --profile 1,1,1 "
        "--compute-capability 8.6 --flavour rtx"
    )


@pytest.mark.parametrize("min_int8", [None, 0.0, 0.9])
def test_int8_label_on_a_graph_without_q_dq_is_refused(tmp_path, min_int8):
    folder, config = workspace(tmp_path, PLAIN)
    with pytest.raises(
        CheckFailed, match=r"labelled INT8.* 0\.0% run as INT8 \(0\.0% of all MACs\)"
    ) as caught:
        build_from_graph(folder, config, "int8", SilentUi(), min_int8)
    assert caught.value.exit_code == 1
    for name in ("stem/MatMul", "blocks.0.mlp.fc1/MatMul", "blocks.0.mlp.fc2/MatMul"):
        assert f"{name}: no Q/DQ" in caught.value.message
    assert set(folder.read().artifacts) == {"calibration", "int8"}  # the engine was not kept


def test_product_whose_q_dq_the_engine_cannot_use_is_named(tmp_path):
    """A weight with a scale per row has no INT8 kernel: the engine reads INT8, converts it and
    multiplies in FP32.
    """
    text = QUANTIZED.replace("DequantizeLinear<axis = 1>(two", "DequantizeLinear<axis = 0>(two")
    folder, config = workspace(tmp_path, text)
    with pytest.raises(CheckFailed, match=r"50\.0% run as INT8 .*expected 90\.0%") as caught:
        build_from_graph(folder, config, "int8", SilentUi(), 0.9)
    assert "blocks.0.mlp.fc2/MatMul: fp32" in caught.value.message
    assert "fc1" not in caught.value.message
    assert build_from_graph(folder, config, "int8", SilentUi(), 0.5).audit.int8_share == 0.5


def test_what_cannot_be_told_is_neither_refused_nor_passed_by_a_gate():
    audit = replace(audit_layers(()), kernels=4, layers=ByPrecision(int8=2, fp16=2))
    check_int8("e", audit, (), None)
    with pytest.raises(CheckFailed, match="is unknown: the MACs of its graph are not known"):
        check_int8("e", audit, (), 0.5)
    with pytest.raises(CheckFailed, match="expected more than nothing"):
        check_int8("e", replace(audit, layers=ByPrecision(fp16=4)), (), None)
    unreadable = replace(audit, kernels=0)
    check_int8("e", unreadable, (), None)
    with pytest.raises(CheckFailed, match="its layers cannot be read"):
        check_int8("e", unreadable, (), 0.5)


def test_explaining_builds_nothing(tmp_path):
    folder, config = workspace(tmp_path, QUANTIZED)
    before = folder.read()
    found = explain_build(
        folder, with_flags(config, {"engine.profiles": [(1, 8, 32), (1, 1, 1)]}), "int8"
    )
    assert (found.graph, found.engine, found.replaces) == (
        "net.int8.onnx",
        "net.int8.rtx-sm86-b1-8-32-b1-1-1.engine",
        False,
    )
    assert found.profiles == ("1,8,32", "1,1,1")
    assert dict(found.facts)["compute capability"] == "8.6 (built ahead of time)"
    assert explain_build(folder, config, "fp16").graph == ""
    assert "made first" in dict(explain_build(folder, config, "fp16").facts)["graph"]
    assert folder.read() == before


H100, L4 = (Gpu("NVIDIA H100", "9.0", 81079, "13.0"), Gpu("NVIDIA L4", "8.9", 22478, "13.0"))


@pytest.mark.parametrize(
    ("gpu", "named", "capabilities", "where"),
    [
        (L4, (), ("8.9",), "this machine's GPU"),
        (L4, ("8.6",), ("8.6",), "built ahead of time"),
        (L4, ("8.6", "8.9"), ("8.6", "8.9"), "this machine's GPU"),
        (H100, (), ("8.6",), "built ahead of time"),
    ],
)
def test_rtx_builds_for_what_is_named_else_for_a_gpu_that_it_knows(
    *, tmp_path, monkeypatch, gpu, named, capabilities, where
):
    folder, config = workspace(tmp_path, QUANTIZED)
    monkeypatch.setattr("hvt_deploy.commands.build_target.find_gpus", lambda: (gpu,))
    found = explain_build(
        folder, with_flags(config, {"engine.compute_capabilities": list(named)}), "int8"
    )
    assert found.compute_capabilities == capabilities
    assert where in dict(found.facts)["compute capability"]


def test_engine_built_for_another_than_the_unknown_gpu_here_names_no_gpu(tmp_path, monkeypatch):
    folder, config = workspace(tmp_path, QUANTIZED)
    monkeypatch.setattr("hvt_deploy.commands.build_target.find_gpus", lambda: (H100,))
    built = build_from_graph(folder, config, "int8", SilentUi())
    assert built.ahead_of_time
    assert read_passport(built.path).gpu == ""
    assert "--compute-capability 8.6" in folder.read().artifacts["engine-int8-rtx-sm86"].remake


def test_edited_passport_stops_a_validation_with_what_was_edited(tmp_path):
    from hvt_deploy.evaluation.candidates import plan_rows

    folder, config = workspace(tmp_path, QUANTIZED)
    engine = build_from_graph(folder, config, "int8", SilentUi()).path
    sidecar = engine.with_name(f"{engine.name}.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "version": "9.9"}))
    manifest = folder.read()
    manifest = Manifest(
        **{
            **vars(manifest),
            "artifacts": {**manifest.artifacts, "pytorch": manifest.artifacts["int8"]},
        }
    )
    with pytest.raises(BadInput, match=r"its field 'version' says .9\.9") as caught:
        plan_rows(folder, manifest, config.validation)
    assert "--profile 1,8,32" in caught.value.hint


def command_line(root, *arguments):
    """`hvt-deploy build-trt` in this process."""
    return CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["build-trt", *arguments, "--workspace", str(root)]
    )


TWO_PROFILES = ("--profile", "1,2,4", "--profile", "1,1,1")


def test_builds_go_on_after_a_failure_and_end_with_the_exit_code_of_the_worst(tmp_path):
    folder, _ = workspace(tmp_path, PLAIN, "fp32")
    wanted = (
        "missing",
        "net",
        "--precision",
        "int8",
        "--precision",
        "fp32",
        "--calib",
        "nowhere",
        *TWO_PROFILES,
    )
    done = command_line(tmp_path, *wanted)
    assert done.exit_code == 2
    assert "Unknown exported model" in done.stderr  # of `missing`
    assert "--calib DIR" in done.stderr  # what the INT8 build of `net` lacks
    assert "net.fp32.rtx-sm86-b1-2-4-b1-1-1.engine" in done.stdout
    assert done.stdout.count("failed") == 2
    artifact = folder.read().artifacts["engine-fp32-rtx-sm86-b1-2-4-b1-1-1"]
    passport = read_passport(folder.file(artifact))
    assert [str(profile) for profile in passport.profiles] == ["1,2,4", "1,1,1"]
    records = json.loads(command_line(tmp_path, *wanted, "--json").stdout)
    assert [(r["model"], r["precision"], r.get("exit_code", 0)) for r in records] == [
        ("missing", "", 2),
        ("net", "fp32", 0),
        ("net", "int8", 2),
    ]
    assert records[1]["audit"]["macs"]["fp32"] == 192 * 64 + FC1 + FC2


def test_a_fault_of_this_program_in_one_build_does_not_lose_the_others(tmp_path, monkeypatch):
    workspace(tmp_path, PLAIN, "fp32")
    audit = build_step.audit_layers

    def faulty(layers, nodes):
        monkeypatch.setattr(build_step, "audit_layers", audit)
        raise IndexError("planted")

    monkeypatch.setattr(build_step, "audit_layers", faulty)
    done = command_line(tmp_path, "net", "net", "--precision", "fp32", *TWO_PROFILES)
    assert done.exit_code == 4
    assert "This is a fault in hvt-deploy: IndexError: planted" in done.stderr
    assert "net.fp32.rtx-sm86-b1-2-4-b1-1-1.engine" in done.stdout


def test_explain_prints_the_plan_of_every_build(tmp_path):
    folder, _ = workspace(tmp_path, PLAIN, "fp32")
    before = folder.read()
    done = command_line(
        tmp_path, "net", "--precision", "fp32", "--int8", "--explain", *TWO_PROFILES
    )
    assert done.exit_code == 0, done.stderr
    for part in (
        "net.fp32.rtx-sm86-b1-2-4-b1-1-1.engine",
        "net.int8.rtx-sm86-b1-2-4-b1-1-1.engine",
        "1,2,4  1,1,1",
        "8.6",
        "made first",
        "256 MiB",
    ):
        assert part in done.stdout
    assert folder.read() == before


def test_one_failed_build_is_its_error(tmp_path):
    workspace(tmp_path, PLAIN, "fp32")
    done = command_line(tmp_path, "net", "--precision", "fp32", "--min-int8", "0.9")
    assert done.exit_code == 2
    assert "Add --int8" in done.stderr
    assert done.stdout == ""


def test_a_build_with_the_same_inputs_is_done_and_engines_of_other_profiles_stand_together(
    tmp_path,
):
    folder, _ = workspace(tmp_path, PLAIN, "fp32")
    build = ("net", "--precision", "fp32")
    first = command_line(tmp_path, *build)
    assert first.exit_code == 0, first.stderr
    engine = Path(first.stdout.splitlines()[0])
    stamp = engine.stat().st_mtime_ns
    again = command_line(tmp_path, *build)
    assert "Built before, from the same graph with the same settings" in again.stderr
    assert engine.stat().st_mtime_ns == stamp
    assert "built before, is taken" in command_line(tmp_path, *build, "--explain").stdout
    other = command_line(tmp_path, *build, "--profile", "1,1,1")
    assert "net.fp32.rtx-sm86-b1-1-1.engine" in other.stdout
    assert set(folder.read().engines) == {"engine-fp32-rtx-sm86", "engine-fp32-rtx-sm86-b1-1-1"}
    rows = {one.variant.name for one in select_backends(folder, folder.read(), with_pytorch=False)}
    assert rows - {"ort fp32"} == {"trt fp32 rtx-sm86", "trt fp32 rtx-sm86-b1-1-1"}
    engine.write_bytes(b"damaged")
    assert "Built before" not in command_line(tmp_path, *build).stderr
    assert "Built before" not in command_line(tmp_path, *build, "--force").stderr
