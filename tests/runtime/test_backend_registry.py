from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hvt_deploy.core.errors import BadInput, HvtDeployError, MissingEnvironment
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import Runtime
from hvt_deploy.models import create_model
from hvt_deploy.runtime.backend_registry import open_backend
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.variant import Variant


def request(runtime: Runtime, path: Path = Path("weights.safetensors")) -> BackendRequest:
    return BackendRequest(
        Variant(runtime, "cpu", "fp32"), path, "hvt_demo", Signature((32, 32), 10), threads=1
    )


def test_pytorch_loads_the_reference_form_that_the_request_names(tmp_path: Path) -> None:
    model, path = create_model("hvt_demo"), tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    backend = open_backend(request("pytorch", path))
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(backend.infer(images), expected, rtol=1e-4, atol=1e-5)
    assert backend.name == "pytorch fp32"


def test_torch_compile_sees_the_timed_sizes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[dict[str, object]] = []
    sizes: set[int] = set()

    def compile_(self: torch.nn.Module, **options: object) -> None:
        compiled.append(options)
        self.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    path = tmp_path / "weights.safetensors"
    save_file(create_model("hvt_demo").state_dict(), path)
    variant = Variant("pytorch", "cpu", "fp32", "compiled")
    backend = open_backend(replace(request("pytorch", path), variant=variant, timed_batches=(1, 4)))
    images = np.random.default_rng(0).standard_normal((6, 3, 32, 32)).astype(np.float32)
    plain = open_backend(request("pytorch", path)).infer(images)
    np.testing.assert_allclose(backend.infer(images), plain, rtol=1e-4, atol=1e-5)
    backend.bind(images[:1])()
    assert compiled == [{"mode": "default", "dynamic": False}]
    assert sizes == {1, 4}


def test_every_runtime_has_an_opener(tmp_path: Path) -> None:
    for runtime in get_args(Runtime):
        with pytest.raises((HvtDeployError, ValueError)):
            open_backend(request(runtime, tmp_path / "missing"))


def test_onnx_runtime_needs_no_module(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no ONNX file"):
        open_backend(request("ort", tmp_path / "missing.onnx"))


@pytest.mark.parametrize(
    ("runtime", "package", "extra"), [("pytorch", "torch", "export"), ("ort", "onnxruntime", "cpu")]
)
def test_missing_package_gives_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, runtime: Runtime, package: str, extra: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else real(name)
    )
    with pytest.raises(MissingEnvironment, match=f"'{package}'") as caught:
        open_backend(request(runtime))
    assert f"pip install 'hvt-deploy[{extra}]'" in caught.value.hint


def test_nothing_heavy_is_imported_until_a_backend_is_opened() -> None:
    code = (
        "import sys, hvt_deploy.runtime.backend_registry, hvt_deploy.evaluation.accuracy\n"
        "import hvt_deploy.evaluation.latency\n"
        "heavy = ('torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'timm', 'scipy')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
