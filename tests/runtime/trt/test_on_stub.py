"""The CUDA layer and the engine backend on NVIDIA's own Python bindings with a stub of libcuda."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from stub_libcuda import pretend_gpus

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.runtime.tensorrt.cuda import Cuda

TESTS = Path(__file__).with_name("on_stub")


def test_cuda_layer_and_engine_backend_on_the_stub(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(TESTS)],
        env=pretend_gpus(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    ran = {str(case.get("classname")) for case in ElementTree.parse(report).iter("testcase")}
    assert {name.rpartition(".")[2] for name in ran} == {path.stem for path in TESTS.glob("test_*")}


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_without_a_driver_the_environment_is_missing(monkeypatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(MissingEnvironment, match="CUDA does not start") as caught:
        Cuda()
    assert "doctor" in caught.value.hint
