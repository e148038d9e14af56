"""The sections of `doctor --verify` that run models, on stand-ins of TensorRT and of a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stub_libcuda.machines import MACHINES

TESTS = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
import gpu_standins
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.evaluation.verification import bound_timing, check_engines
from hvt_deploy.evaluation.verification.check_onnxruntime import check_onnxruntime
from hvt_deploy.evaluation.verification.check_pytorch import check_pytorch
from hvt_deploy.evaluation.verification.checks import CheckList
from short_timings import measure_shortly
from stub_libcuda import Stub

bound_timing.measure_latency = lambda bound, batch, **_: measure_shortly(
    bound, batch, budget_s=3 if batch == 1 else 0.1
)
folder, model = Path(sys.argv[1]), "fdvit_demo"
found = {name: [] for name in ("pytorch", "onnxruntime", "rtx", "tensorrt")}
check_pytorch(CheckList(found["pytorch"].append), model, folder, "cpu")
check_onnxruntime(CheckList(found["onnxruntime"].append), model, folder)
check_engines.check_engines(CheckList(found["tensorrt"].append), "tensorrt", model, folder)
check_engines.ENGINE_PRECISIONS = ("int8",)  # the others would only take longer
check_engines.check_engines(CheckList(found["rtx"].append), "rtx", model, folder)
found["left"] = Stub().live()
(folder / "answer.json").write_text(json.dumps(to_plain(found)))
"""
TRTEXEC = """#!/bin/sh
echo "$@" > {log}
echo '[I] GPU Compute Time: min = 0.9 ms, max = 1.2 ms, mean = 1.0 ms, median = 1.01 ms, p'
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """The checks of each section on a pretended H100, by name; TensorRT is a stand-in."""
    folder = tmp_path_factory.mktemp("sections")
    paths = (TESTS.parent, TESTS, TESTS / "runtime" / "trt")
    environment = {
        **MACHINES["H100"].start(folder),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "GPU_CHECK_MODEL": "fdvit_demo",
        "STANDIN_WRONG": "fp32",
    }
    trtexec = folder / "trtexec"  # the folder is on the PATH
    trtexec.write_text(TRTEXEC.format(log=folder / "trtexec.log"))
    trtexec.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads((folder / "answer.json").read_text())
    left = answer.pop("left")
    by_name = {s: {check["name"]: check for check in checks} for s, checks in answer.items()}
    return {**by_name, "left": left, "trtexec": (folder / "trtexec.log").read_text()}


def verdicts(checks: dict) -> dict[str, str]:
    return {name: check["verdict"] for name, check in checks.items()}


def test_nothing_is_left_on_the_gpu(found) -> None:
    assert found["left"] == {}


def test_pytorch_on_the_cpu(found) -> None:
    assert verdicts(found["pytorch"]) == {"fp32": "verified", "fp16 deployed": "verified"}
    measured = found["pytorch"]["fp32"]["measured"]
    assert measured["least sqnr_db"] == 90
    assert min(measured[f"batch {n} sqnr_db"] for n in (16, 5, 1)) > 120


def test_onnxruntime_without_its_cuda_provider_cannot_be_checked(found) -> None:
    assert set(verdicts(found["onnxruntime"]).values()) == {"cannot here"}
    assert "CUDAExecutionProvider" in found["onnxruntime"]["fp32"]["why"]


def test_engines_of_tensorrt_and_one_that_is_wrong_by_a_percent(found) -> None:
    assert verdicts(found["tensorrt"]) == {
        "fp32": "failed",
        "fp16": "verified",
        "int8": "verified",
        "numerics of the INT8 graph": "verified",
        "INT8 against FP16, batch 1": "verified",
        "INT8 against FP16, batch 8": "verified",
        "INT8 against FP16, batch 32": "verified",
        "latency against trtexec": "verified",
    }
    assert "SQNR against PyTorch 40.0 < 90.0 dB" in found["tensorrt"]["fp32"]["why"]
    assert found["tensorrt"]["int8"]["measured"]["int8 kernels"] > 0


def test_int8_is_timed_against_fp16_and_trtexec_gets_the_same_shape(found) -> None:
    measured = found["tensorrt"]["INT8 against FP16, batch 1"]["measured"]
    assert measured["fp16 batch 1 median_ms"] == 1.0, "a kernel of the stub takes a millisecond"
    assert measured["int8 batch 1 times as fast"] == 1.0
    assert measured["int8 batch 1 times as fast, 95 %"] == "1.000 to 1.000"
    assert (measured["predicted time ratio"], measured["measured time ratio"]) == (0.5, 1.0)
    measured = found["tensorrt"]["INT8 against FP16, batch 32"]["measured"]
    assert "predicted time ratio" not in measured, "it is no profile's OPT"
    measured = found["tensorrt"]["latency against trtexec"]["measured"]
    assert (measured["ours batch 8 back to back_ms"], measured["trtexec median_ms"]) == (1.0, 1.01)
    assert "--shapes=images:8x3x" in found["trtexec"]
    assert "--useProfile=1" in found["trtexec"], "the first profile takes one image only"
    assert "--useCudaGraph" in found["trtexec"]


def test_tensorrt_rtx_that_does_not_know_the_card_builds_but_cannot_run(found) -> None:
    check = found["rtx"]["int8"]
    assert set(verdicts(found["rtx"]).values()) == {"cannot here"}
    assert "cannot build for compute capability 9.0" in check["measured"]["refused"]
    assert check["measured"]["int8 kernels"] > 0, "built without a named compute capability"
    assert "does not run here" in check["why"]
