"""`doctor` says what opened, not what is installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from stub_libcuda.machines import MACHINES

from hvt_deploy.commands import doctor
from hvt_deploy.core.gpus import Gpu, GpuSearch
from hvt_deploy.runtime.probe import ProbeResult, probe_in_child
from hvt_deploy.runtime.providers import working_providers
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo

SCRIPT = (
    "import json; from dataclasses import asdict; from hvt_deploy.runtime.probe import *;"
    "print(json.dumps(asdict(probe_in_child('cuda'))))"
)


def probe_cuda(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**MACHINES["L4"].start(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return ProbeResult(**json.loads(done.stdout))


def test_cuda_is_opened_and_memory_copied_there_and_back(tmp_path):
    assert probe_cuda(tmp_path) == ProbeResult(True, "opens; 1 MiB copied there and back")
    failed = probe_cuda(tmp_path, STUB_CUDA_FAIL="cuStreamSynchronize:1:719")
    assert not failed.works
    assert "CUDA_ERROR_LAUNCH_FAILED" in failed.text


def test_the_providers_that_start_are_listed_by_a_child():
    assert probe_in_child("providers") == ProbeResult(True, ", ".join(working_providers()))
    assert "CPUExecutionProvider" in working_providers()


WORKS = {
    "providers": ProbeResult(True, "CUDAExecutionProvider, CPUExecutionProvider"),
    "cuda": ProbeResult(True, "opens"),
    "tensorrt": ProbeResult(True, "its runtime starts"),
    "pytorch": ProbeResult(True, "runs on the GPU with CUDA 13.0"),
}
BROKEN = "CUDA does not start: the driver is too old."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "engines on the GPU in TensorRT 10.13.3, ONNX Runtime on the GPU"),
        (
            {"providers": ProbeResult(True, "CPUExecutionProvider")},
            "engines on the GPU in TensorRT 10.13.3, ONNX Runtime on the CPU",
        ),
        (
            {"cuda": ProbeResult(False, BROKEN)},
            f"ONNX Runtime on the GPU; engines are skipped: {BROKEN}",
        ),
        (
            {"tensorrt": ProbeResult(False, "libnvinfer.so.10 is missing")},
            "ONNX Runtime on the GPU; engines are skipped: libnvinfer.so.10 is missing",
        ),
    ],
)
def test_a_validation_is_promised_what_opened(tmp_path, monkeypatch, changes, expected):
    search = GpuSearch((Gpu("NVIDIA L4", "8.9", 23034, "13.0"),))
    opened = {**WORKS, **changes}
    monkeypatch.setattr(doctor, "search_gpus", lambda: search)
    monkeypatch.setattr(doctor, "available_flavours", lambda: (FlavourInfo("tensorrt", "10.13.3"),))
    monkeypatch.setattr(doctor, "probe_in_child", lambda part: opened[part])
    found = doctor.check_machine(tmp_path)
    assert found.abilities[-1].why == expected
    assert found.facts["CUDA"] == opened["cuda"].text
    assert found.facts["tensorrt"] == f"10.13.3: {opened['tensorrt'].text}"
    assert found.facts["PyTorch on the GPU"] == opened["pytorch"].text


@pytest.mark.parametrize(
    ("gpu", "build", "run"),
    [
        (
            Gpu("NVIDIA H100", "9.0", 81079, "13.0"),
            "TensorRT-RTX, ahead of time for RTX cards: it does not know the NVIDIA H100",
            "ONNX Runtime on the GPU; engines are skipped: "
            "TensorRT-RTX does not know the NVIDIA H100",
        ),
        (
            Gpu("NVIDIA L4", "8.9", 23034, "13.0"),
            "TensorRT-RTX, for this GPU",
            "engines on the GPU in TensorRT-RTX 1.7.1, ONNX Runtime on the GPU",
        ),
    ],
)
def test_tensorrt_rtx_promises_nothing_on_a_card_that_it_does_not_know(
    tmp_path, monkeypatch, gpu, build, run
):
    rtx = FlavourInfo("tensorrt_rtx", "1.7.1")
    opened = {**WORKS, "tensorrt_rtx": ProbeResult(True, "its runtime starts")}
    monkeypatch.setattr(doctor, "search_gpus", lambda: GpuSearch((gpu,)))
    monkeypatch.setattr(doctor, "available_flavours", lambda: (rtx,))
    monkeypatch.setattr(doctor, "probe_in_child", lambda part: opened[part])
    abilities = {one.verb: one.why for one in doctor.check_machine(tmp_path).abilities}
    assert abilities["build-trt"] == build
    assert abilities["validate"] == run
