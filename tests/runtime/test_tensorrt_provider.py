"""ONNX Runtime's TensorRT provider on an ONNX Runtime without one: a file stands for its library,
the stand-in for TensorRT.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import onnxruntime
import pytest
from fake_tensorrt import FakeTensorRT, World
from ort_graphs import H, W, linear, request

from hvt_deploy.core import device_choice
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu, GpuSearch
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.runtime import providers, selection
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.tensorrt_provider import find_linked_major, load_tensorrt, make_options
from hvt_deploy.runtime.variant import Variant

PROFILES = ((1, 8, 32), (1, 1, 1))


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU build of ONNX Runtime whose provider is linked with TensorRT 10."""
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    content = b"\x7fELF\0libcudart.so.13\0libnvinfer.so.10\0libnvinfer_plugin.so.10\0"
    (package / "capi/libonnxruntime_providers_tensorrt.so").write_bytes(content)
    spec = ModuleSpec("onnxruntime", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)


def provider_request(path: Path, batch: int | None = None) -> BackendRequest:
    variant = Variant("ort-trt", "cuda", "fp16")
    return replace(request(path, batch=batch), variant=variant, profiles=PROFILES)


def test_major_version_is_that_of_the_library(linked) -> None:
    assert find_linked_major() == 10


def test_the_library_is_read_once(linked, monkeypatch) -> None:
    assert find_linked_major() == 10
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("It is read again."))
    assert find_linked_major() == 10


def test_cpu_build_has_no_provider() -> None:
    assert find_linked_major() is None
    with pytest.raises(MissingEnvironment, match="has no TensorRT provider") as caught:
        load_tensorrt()
    assert "hvt-deploy[gpu]" in caught.value.hint


def test_tensorrt_of_the_same_major_version_is_loaded(linked, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(World("10.3.0")))
    load_tensorrt()


def test_tensorrt_of_another_major_version_is_missing_environment(linked, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(World("11.4.0.106")))
    with pytest.raises(MissingEnvironment) as caught:
        load_tensorrt()
    assert caught.value.message == (
        "ONNX Runtime's TensorRT provider is linked with TensorRT 10; here is TensorRT 11.4.0.106."
    )


def test_engines_are_built_for_every_profile_once_a_process() -> None:
    options = dict(make_options(provider_request(Path("m.onnx"))))
    assert options["trt_profile_min_shapes"] == f"images:1x3x{H}x{W},images:1x3x{H}x{W}"
    assert options["trt_profile_opt_shapes"] == f"images:8x3x{H}x{W},images:1x3x{H}x{W}"
    assert options["trt_profile_max_shapes"] == f"images:32x3x{H}x{W},images:1x3x{H}x{W}"
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert make_options(provider_request(Path("other.onnx"))) == options


def test_precision_is_left_to_the_graph_and_a_fixed_batch_needs_no_profile() -> None:
    options = make_options(provider_request(Path("m.onnx"), batch=4))
    assert not [name for name in options if "profile" in name]
    assert not [name for name in options if "fp16" in name or "int8" in name]


def test_session_gets_the_graph_as_it_is_and_falls_back_to_nothing(
    tmp_path: Path, linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_session, seen = onnxruntime.InferenceSession, []

    def falls_back(path: Path, options: onnxruntime.SessionOptions, **rest: object) -> object:
        seen.append((options, rest))
        return real_session(path, providers=["CPUExecutionProvider"])

    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(World("10.3.0")))
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(MissingEnvironment, match="cannot use its TensorrtExecutionProvider"):
        OrtBackend(provider_request(linear(tmp_path / "m.onnx")))
    ((options, rest),) = seen
    wanted = provider_request(tmp_path / "m.onnx")
    options_given = {"device_id": "0", **make_options(wanted)}
    assert rest["providers"] == [("TensorrtExecutionProvider", options_given)]
    disabled = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.graph_optimization_level == disabled


@pytest.mark.parametrize("has_provider", [True, False])
def test_rows_are_of_the_graphs_whose_precision_the_provider_keeps(
    tmp_path: Path, exported, monkeypatch, has_provider: bool
) -> None:
    folder = exported(tmp_path, "fdvit_demo")
    manifest = folder.read()
    half = {"fp16": manifest.artifacts["fp32"]}
    manifest = replace(manifest, artifacts={**manifest.artifacts, **half})
    search = GpuSearch((Gpu("NVIDIA L4", "8.9", 23034, "13.0"),))
    monkeypatch.setattr(device_choice, "search_gpus", lambda: search)
    monkeypatch.setattr(providers, "why_not_started", lambda *_: "")
    monkeypatch.setattr(selection, "find_linked_major", lambda: 10 if has_provider else None)
    rows = [one.row for one in plan_rows(folder, manifest, manifest.config.validation)]
    names = [row.backend for row in rows if row.variant.runtime == "ort-trt"]
    assert names == (["ort-trt fp16"] if has_provider else [])
