from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from ort_graphs import WEIGHT, H, K, W, expected, images, linear, request, save_graph

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.graph.quantization import ort_session
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.provider_placement import Placement


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_are_those_of_the_graph_at_any_batch(tmp_path: Path, batch: int) -> None:
    backend = OrtBackend(request(linear(tmp_path / "m.onnx")))
    logits = backend.infer(images(batch))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(images(batch)), rtol=1e-4, atol=1e-4)
    backend.close()


def test_half_logits_come_back_as_float32(tmp_path: Path) -> None:
    backend = OrtBackend(request(linear(tmp_path / "m.onnx", half=True)))
    logits = backend.infer(images(2))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(images(2)), atol=0.05)


def test_bound_call_runs_on_the_images_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[onnxruntime.OrtValue] = []
    allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def remember(*args: object) -> onnxruntime.OrtValue:
        outputs.append(allocate(*args))
        return outputs[-1]

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", remember)
    backend = OrtBackend(request(linear(tmp_path / "m.onnx")))
    run = backend.bind(images(3))
    backend.bind(images(2))()
    assert run() is None
    np.testing.assert_allclose(outputs[0].numpy(), expected(images(3)), rtol=1e-4, atol=1e-4)


def test_views_that_are_not_contiguous_give_the_same_logits(tmp_path: Path) -> None:
    backend = OrtBackend(request(linear(tmp_path / "m.onnx")))
    backwards = images(4)[::-1]
    np.testing.assert_allclose(backend.infer(backwards), expected(backwards), rtol=1e-4, atol=1e-4)
    backend.bind(backwards)()


@pytest.mark.parametrize("call", [OrtBackend.infer, OrtBackend.bind])
def test_images_of_another_size_or_batch_are_bad_input(
    tmp_path: Path, call: Callable[..., object]
) -> None:
    fixed = OrtBackend(request(linear(tmp_path / "fixed.onnx", batch=2), batch=2))
    with pytest.raises(BadInput, match=r"takes images of shape \(2, 3, 6, 4\), got \(3, 3, 6, 4\)"):
        call(fixed, images(3))
    with pytest.raises(BadInput, match=r"got \(2, 3, 4, 6\)"):
        call(fixed, images(2).transpose(0, 1, 3, 2))


def test_graph_of_another_signature_is_bad_input(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    with pytest.raises(
        BadInput,
        match=r"expected 'logits' of shape \(N, 7\), it has 'logits' of shape \(batch, 5\)",
    ):
        OrtBackend(request(path, classes=7))


def test_graph_whose_batch_is_baked_in_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"expected 'images' of shape \(N, 3, 6, 4\), it has .* \(1, 3, 6, 4\)"
    ):
        OrtBackend(request(linear(tmp_path / "m.onnx", batch=1)))


def test_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no ONNX file .*gone\.onnx") as caught:
        OrtBackend(request(tmp_path / "gone.onnx"))
    assert "hvt-deploy export" in caught.value.hint


@pytest.mark.parametrize("keep", [0, 100, 0.9])
def test_broken_file_is_bad_input(tmp_path: Path, keep: float) -> None:
    path = linear(tmp_path / "m.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(BadInput, match=r"m\.onnx is not a valid ONNX file"):
        OrtBackend(request(path))


def test_garbage_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(BadInput, match="not a valid ONNX file"):
        OrtBackend(request(path))


def test_operator_without_a_kernel_is_a_tool_failure_that_names_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["sum"], transB=1),
        helper.make_node("Cast", ["sum"], ["narrow"], to=TensorProto.BFLOAT16),
        helper.make_node("Exp", ["narrow"], ["exp"], name="head/exp"),
        helper.make_node("Cast", ["exp"], ["logits"], to=TensorProto.FLOAT),
    ]
    path = save_graph(tmp_path / "m.onnx", nodes, {"weight": WEIGHT})
    with pytest.raises(ToolFailure, match=r"ONNX Runtime [\d.]+ cannot run .*Exp"):
        OrtBackend(request(path))


def test_float_bias_of_a_quantized_layer_survives(tmp_path: Path) -> None:
    """With scales this small ONNX Runtime's int32 bias overflows: see `ORT_DISABLED_OPTIMIZERS`."""
    weight_scale = np.full(K, 1e-9, np.float32)
    weights = {
        "scale": np.array(1 / 64, np.float32),
        "zero": np.array(0, np.int8),
        "weight": np.random.default_rng(0).integers(-127, 128, WEIGHT.shape).astype(np.int8),
        "weight_scale": weight_scale,
        "weight_zero": np.zeros(K, np.int8),
        "bias": np.linspace(-1.5, 1.5, K, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["flat_q"]),
        helper.make_node("DequantizeLinear", ["flat_q", "scale", "zero"], ["flat_dq"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["weight_dq"], axis=0
        ),
        helper.make_node("Gemm", ["flat_dq", "weight_dq", "bias"], ["sum"], transB=1),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["sum_q"]),
        helper.make_node("DequantizeLinear", ["sum_q", "scale", "zero"], ["logits"]),
    ]
    backend = OrtBackend(request(save_graph(tmp_path / "m.onnx", nodes, weights)))
    np.testing.assert_allclose(
        backend.infer(images(2)), np.tile(weights["bias"], (2, 1)), atol=1 / 64
    )


@pytest.mark.parametrize(
    ("dtype", "zero"), [(np.int8, 0), (np.uint8, 128)], ids=["signed", "unsigned"]
)
def test_products_of_the_largest_values_do_not_saturate(
    tmp_path: Path, dtype: type, zero: int
) -> None:
    """With 16-bit sums, which x86 CPUs without VNNI have otherwise, each logit would be a hundredth
    of its value.
    """
    weights = {
        "scale": np.array(1 / 127, np.float32),
        "zero": np.array(zero, dtype),
        "weight": np.full(WEIGHT.T.shape, 127, np.int8),
        "weight_scale": np.full(K, 1 / 127, np.float32),
        "weight_zero": np.zeros(K, np.int8),
    }
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["flat_q"]),
        helper.make_node("DequantizeLinear", ["flat_q", "scale", "zero"], ["flat_dq"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["weight_dq"], axis=1
        ),
        helper.make_node("MatMul", ["flat_dq", "weight_dq"], ["logits"]),
    ]
    backend = OrtBackend(request(save_graph(tmp_path / "m.onnx", nodes, weights)))
    ones = np.ones_like(images(2))
    np.testing.assert_allclose(backend.infer(ones), np.full((2, K), 3 * H * W), rtol=1e-5)


def test_cuda_without_its_provider_is_missing_environment(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.fail("This test is for a CPU build of ONNX Runtime, which `make test` installs.")
    with pytest.raises(MissingEnvironment, match="cannot use its CUDAExecutionProvider") as caught:
        OrtBackend(request(linear(tmp_path / "m.onnx"), device="cuda"))
    assert "hvt-deploy[gpu]" in caught.value.hint


def test_cuda_that_is_only_said_to_be_available_is_missing_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime-gpu without a GPU: it lists the provider, and the session runs on the
    CPU.
    """
    real_session = onnxruntime.InferenceSession
    options_seen: list[onnxruntime.SessionOptions] = []

    def falls_back(
        path: Path, options: onnxruntime.SessionOptions, **_: object
    ) -> onnxruntime.InferenceSession:
        options_seen.append(options)
        return real_session(path, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(MissingEnvironment, match="does not start"):
        OrtBackend(request(linear(tmp_path / "m.onnx"), device="cuda"))
    everywhere = Placement({"a": "CUDAExecutionProvider"})
    monkeypatch.setattr("hvt_deploy.runtime.ort.prove_placement", lambda _: everywhere)
    with pytest.raises(MissingEnvironment, match="does not start"):
        OrtBackend(request(linear(tmp_path / "m.onnx"), device="cuda"))
    assert options_seen[1].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert capsys.readouterr().out == ""


@pytest.fixture
def options_seen(monkeypatch: pytest.MonkeyPatch) -> list[onnxruntime.SessionOptions]:
    """The options of every session that is opened."""
    real_session = onnxruntime.InferenceSession
    seen: list[onnxruntime.SessionOptions] = []

    def remember(
        path: Path, options: onnxruntime.SessionOptions, **rest: object
    ) -> onnxruntime.InferenceSession:
        seen.append(options)
        return real_session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    return seen


def test_threads_are_as_asked_and_stop_spinning(
    tmp_path: Path, options_seen: list[onnxruntime.SessionOptions]
) -> None:
    before = threading.active_count()
    OrtBackend(request(linear(tmp_path / "m.onnx")))
    assert (options_seen[0].intra_op_num_threads, options_seen[0].inter_op_num_threads) == (1, 1)
    assert options_seen[0].get_session_config_entry("session.force_spinning_stop") == "1"
    assert threading.active_count() == before


def test_only_without_vnni_weights_become_unsigned(
    tmp_path: Path, options_seen: list[onnxruntime.SessionOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With VNNI the exact mode is slower for nothing, and ONNX Runtime 1.31 cannot open some graphs
    in it.
    """
    for flags in ({"avx2"}, {"avx2", "avx_vnni"}):
        monkeypatch.setattr(ort_session, "cpu_flags", lambda flags=flags: flags)
        OrtBackend(request(linear(tmp_path / "m.onnx")))
    assert options_seen[0].get_session_config_entry("session.x64quantprecision") == "1"
    with pytest.raises(RuntimeError, match="x64quantprecision"):
        options_seen[1].get_session_config_entry("session.x64quantprecision")
