from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from torch import nn

from hvt_deploy.core.errors import BadInput, HvtDeployError, MissingEnvironment
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import Runtime
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.registry import open_backend


def request(runtime: Runtime, path: Path = Path("weights.safetensors")) -> BackendRequest:
    return BackendRequest(
        f"{runtime} row", runtime, "cpu", "fp32", path, "tiny", Signature((4, 4), 48), threads=1
    )


def test_the_module_comes_from_whoever_knows_the_models() -> None:
    asked: list[BackendRequest] = []

    def open_module(wanted: BackendRequest) -> nn.Module:
        asked.append(wanted)
        return nn.Flatten()

    backend = open_backend(request("pytorch"), open_module)
    batch = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(backend.infer(batch), batch.reshape(2, 48))
    assert backend.name == "pytorch row"
    assert asked == [request("pytorch")]


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
        open_backend(request(runtime), lambda _: nn.Identity())
    assert f"pip install 'hvt-deploy[{extra}]'" in caught.value.hint


def test_nothing_heavy_is_imported_until_a_backend_is_opened() -> None:
    code = (
        "import sys, hvt_deploy.runtime.registry, hvt_deploy.evaluation.accuracy, hvt_deploy.evaluation.latency\n"
        "print([m for m in ('torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'timm', 'scipy') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
