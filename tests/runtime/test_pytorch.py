from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.tensors import Signature
from hvt_deploy.models import create_model
from hvt_deploy.runtime import pytorch
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.pytorch import PyTorchBackend
from hvt_deploy.runtime.variant import Variant

FP32 = Variant("pytorch", "cpu", "fp32")


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype(np.float32)


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 7)
    )


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_are_those_of_the_module_in_eval_mode(batch: int) -> None:
    with torch.no_grad():
        expected = tiny().eval()(torch.from_numpy(images(batch))).numpy()
    logits = PyTorchBackend(FP32, tiny().train(), threads=1).infer(images(batch))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_module_of_another_dtype_runs_in_float32() -> None:
    backend = PyTorchBackend(FP32, tiny().double(), threads=1)
    logits = backend.infer(images(2))
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, PyTorchBackend(FP32, tiny(), threads=1).infer(images(2)))


def test_read_only_and_strided_images_are_taken_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    backend = PyTorchBackend(FP32, tiny(), threads=1)
    batch = images(3)
    batch.setflags(write=False)
    np.testing.assert_allclose(
        backend.infer(batch[::-1].copy()), backend.infer(batch)[::-1], rtol=1e-5, atol=1e-6
    )
    backend.infer(batch[::-1])
    assert not recwarn.list


def test_the_half_form_runs_in_float16_with_channels_last() -> None:
    class Watching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype == torch.float16
            assert x.is_contiguous(memory_format=torch.channels_last)
            return x

    module = nn.Sequential(Watching(), tiny())
    logits = PyTorchBackend(Variant("pytorch", "cpu", "fp16"), module, 1).infer(images(3))
    assert logits.dtype == np.float32
    exact = PyTorchBackend(FP32, tiny(), threads=1).infer(images(3))
    assert 0 < np.abs(logits - exact).max() < 5e-3


class Recorder(nn.Module):
    """Remembers what reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[np.ndarray, bool, int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(
            (x.numpy().copy(), torch.is_inference_mode_enabled(), torch.get_num_threads())
        )
        return x.mean(dim=(2, 3))


def test_bound_call_runs_once_on_a_copy_of_the_images() -> None:
    module = Recorder()
    backend = PyTorchBackend(FP32, module, threads=1)
    batch = images(2)
    run = backend.bind(batch)
    original = batch.copy()
    batch[:] = 0
    assert run() is None
    assert len(module.seen) == 1
    seen, is_inference, threads = module.seen[0]
    np.testing.assert_array_equal(seen, original)
    assert is_inference
    assert threads == 1
    backend.close()
    run()  # what is bound outlives the backend


def test_reference_is_never_computed_in_tf32() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    PyTorchBackend(FP32, tiny(), threads=1)
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_cuda_that_is_not_there_is_missing_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingEnvironment, match="CUDA") as caught:
        PyTorchBackend(Variant("pytorch", "cuda", "fp32"), tiny(), threads=1)
    assert "doctor" in caught.value.hint


def test_taps_give_each_modules_output_and_leave_out_what_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hvt_deploy.runtime.pytorch.TAPS_AT_ONCE", 2)
    module = tiny().eval()
    backend = PyTorchBackend(
        FP32, nn.Sequential(module, shared := nn.ReLU(inplace=True), shared), 1
    )
    taps = dict(backend.taps(images(2), ["0.0", "0.4", "nowhere", "0", "1", "model"]))
    assert list(taps) == ["0.0", "0.4", "0", "model"], (
        "a module that is called twice has no one output"
    )
    with torch.no_grad():
        x = torch.from_numpy(images(2))
        np.testing.assert_allclose(taps["0.0"], module[0](x).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(taps["0"], module(x).numpy(), rtol=1e-5, atol=1e-6)
    assert taps["0.4"].min() < 0, "what works in place afterwards changes nothing"
    np.testing.assert_array_equal(taps["model"], backend.infer(images(2)))


def test_launches_on_a_gpu_lie_between_two_events_and_are_waited_for_once(monkeypatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.name = f"event {sum(call.startswith('made') for call in done)}"
            done.append(f"made {self.name}")

        def record(self) -> None:
            done.append(self.name)

        def synchronize(self) -> None:
            done.append(f"wait for {self.name}")

        def elapsed_time(self, end: Event) -> float:
            return 1.0 if (self.name, end.name) == ("event 0", "event 1") else -1.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert pytorch._time_on_gpu(lambda: done.append("run"), 3) == 1.0
    assert done[2:] == ["event 0", *["run"] * 3, "event 1", "wait for event 1"]


def test_the_compiler_says_nothing_of_a_cuda_toolkit_without_a_gpu(monkeypatch):
    said = logging.getLogger("torch.utils.cpp_extension")
    monkeypatch.setattr(said, "level", logging.WARNING)
    PyTorchBackend(Variant("pytorch", "cpu", "fp32", "compiled"), torch.nn.Linear(2, 2), 1)
    assert not said.isEnabledFor(logging.WARNING)


@pytest.mark.slow
def test_the_compiled_form_is_compiled_before_it_is_timed(tmp_path, monkeypatch):
    """Half a minute of compiling is not in the first timed run."""
    monkeypatch.delenv("CXX", raising=False)
    path = tmp_path / "weights.safetensors"
    save_file(create_model("hvt_demo").state_dict(), path)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    logits = []
    for form in ("plain", "deployed", "compiled"):
        variant = Variant("pytorch", "cpu", "fp32", form)
        backend = open_backend(
            BackendRequest(variant, path, "hvt_demo", Signature((32, 32), 10), 1)
        )
        call = backend.bind(image)
        start = time.perf_counter()
        call()
        assert time.perf_counter() - start < 1
        logits.append(backend.infer(image))
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(logits[2], logits[0], rtol=1e-3, atol=1e-4)
