"""Which rows a machine with a GPU is asked for, and on which device each runtime runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvt_deploy.core import device_choice
from hvt_deploy.core.device_choice import DeviceChoice, parse_device
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu, GpuSearch
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.runtime import providers, pytorch, selection
from hvt_deploy.runtime.selection import select_backends

L4, H100 = Gpu("NVIDIA L4", "8.9", 23034, "13.0"), Gpu("NVIDIA H100", "9.0", 81559, "13.0")
NO_CUDA = "this ONNX Runtime has only CPUExecutionProvider"
CPU_ROWS = [
    "pytorch fp32 cpu",
    "pytorch fp32 deployed cpu",
    "pytorch fp32 compiled cpu",
    "ort fp32 cpu",
]
GPU_ROWS = [
    "pytorch fp32 cuda",
    "pytorch fp32 deployed cuda",
    "pytorch fp32 compiled cuda",
    "pytorch fp16 deployed cuda",
    "pytorch fp16 compiled cuda",
    "ort fp32 cuda",
]


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("workspace"), "hvt_demo")


@pytest.fixture
def machine(monkeypatch):
    """A machine with these GPUs, whose PyTorch and ONNX Runtime may use them."""

    def make(*gpus, torch=True, ort=True):
        search = GpuSearch(gpus, "" if gpus else "there is no NVIDIA driver")
        monkeypatch.setattr(device_choice, "search_gpus", lambda: search)
        monkeypatch.setattr(pytorch, "can_use_gpu", lambda n: torch and n < len(gpus))
        monkeypatch.setattr(providers, "why_not_started", lambda *_: "" if ort else NO_CUDA)

    return make


def planned(folder, device="auto"):
    settings = replace(folder.read().config.validation, device=device)
    found = plan_rows(folder, folder.read(), settings)
    return [one.row for one in found if one.row.variant.runtime != "trt"]


def places(rows):
    return [f"{row.backend} {row.variant.device}" for row in rows]


def test_with_a_gpu_each_runtime_runs_where_it_can(folder, machine):
    machine()
    assert places(planned(folder)) == CPU_ROWS
    machine(L4)
    rows = planned(folder)
    assert places(rows) == GPU_ROWS
    assert not any(row.skipped for row in rows)
    assert {row.note for row in rows if row.variant.form == "plain"} == {""}
    machine(L4, torch=False, ort=False)
    rows = planned(folder)
    assert places(rows) == CPU_ROWS
    assert "this PyTorch cannot use the GPU" in rows[0].note
    assert NO_CUDA in rows[-1].note
    assert [row.backend for row in rows if row.skipped] == ["pytorch fp32 compiled"]
    machine(L4, torch=False)
    assert places(planned(folder)) == [*CPU_ROWS[:-1], GPU_ROWS[-1]]


def test_a_qdq_graph_on_the_cuda_provider_is_said_to_be_dequantized(folder, machine):
    machine(L4)
    manifest = folder.read()
    graphs = {**manifest.artifacts, "int8": manifest.artifacts["fp32"]}
    found = plan_rows(folder, replace(manifest, artifacts=graphs), manifest.config.validation)
    notes = {one.row.variant.precision: one.row.note for one in found[5:] if one.row.note}
    assert notes == {
        "int8": "The CUDA provider dequantizes: the products of this graph run in floating point."
    }


def test_the_device_that_is_named_is_taken_or_the_row_is_skipped(folder, machine):
    machine(L4)
    assert places(planned(folder, "cpu")) == CPU_ROWS
    machine(L4, ort=False)
    *pytorch_rows, ort = planned(folder, "cuda")
    assert not any(row.skipped for row in pytorch_rows)
    assert NO_CUDA in ort.skipped
    machine(L4, torch=False)
    *pytorch_rows, ort = planned(folder, "cuda:0")
    assert (pytorch_rows[0].variant.device, ort.skipped) == ("cuda", None)
    assert all("cannot use the GPU" in row.skipped for row in pytorch_rows)


def test_a_gpu_that_is_not_there_is_a_missing_environment(folder, machine):
    machine()
    with pytest.raises(MissingEnvironment, match="cuda:0 here: there is no NVIDIA driver"):
        planned(folder, "cuda")
    machine(L4)
    with pytest.raises(MissingEnvironment, match="cuda:1 here: CUDA sees 1"):
        planned(folder, "cuda:1")
    machine(L4, H100)
    assert places(planned(folder, "cuda:1")) == GPU_ROWS
    assert DeviceChoice("cuda", 1).find_gpu() == H100
    assert DeviceChoice("auto").find_gpu() == L4
    assert DeviceChoice("cpu").find_gpu() is None


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""])
def test_another_device_is_bad_input(text):
    with pytest.raises(BadInput, match="device") as caught:
        parse_device(text)
    assert "cuda:N" in caught.value.hint
    assert parse_device("cuda:2") == DeviceChoice("cuda", 2)


def test_naming_pytorch_does_not_demand_what_torch_compile_cannot_do(folder, machine):
    machine()
    settings = replace(folder.read().config.validation, device="cpu", backends=("pytorch",))
    found = plan_rows(folder, folder.read(), settings)
    assert {one.row.backend: one.row.required for one in found} == {
        "pytorch fp32": True,
        "pytorch fp32 deployed": True,
        "pytorch fp32 compiled": False,
    }
    assert "C++ compiler" in found[2].row.skipped
    assert [one.counted for one in found] == [True, False, False]


def test_every_backend_is_opened_with_the_threads_of_the_record(folder, machine, monkeypatch):
    machine()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    opened = []
    monkeypatch.setattr(selection, "open_backend", lambda request: opened.append(request.threads))
    for one in select_backends(folder, folder.read()):
        if one.open is not None:
            one.open()
    assert len(opened) == 3
    assert set(opened) == {1}
