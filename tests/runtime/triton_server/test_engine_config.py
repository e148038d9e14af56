"""Engines in a Triton repository: which profiles are served, and what their configuration says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run

from hvt_deploy.commands.package import package_triton
from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.manifest import engine_key
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.runtime.triton.served_profiles import ServedProfiles, choose_served_profiles

HERE = Path(__file__).parent
FACTS = EngineFacts("int8", "tensorrt", "10.13.3.9", ("8.9",), "NVIDIA L4", (), 12.5)
MODEL = "fdvit_demo_int8-trt10_13-sm89"
WITH_PROFILES = f"{MODEL}-b1-1-4-b5-16-32"


class Warnings(SilentUi):
    def __init__(self):
        self.said = []

    def warn(self, message):
        self.said.append(message)


@pytest.fixture
def package(tmp_path, exported):
    """Packages the demo model with an engine of these profiles; returns what was packaged, the
    engine's config.pbtxt where it is served, and the warnings.
    """

    def package(*profiles, flavour="tensorrt"):
        folder = exported(tmp_path / "artifacts", "fdvit_demo")
        facts = replace(FACTS, profiles=profiles, flavour=flavour)
        with folder.lock(), folder.staging() as staged:
            (staged / "an.engine").write_bytes(b"plan")
            key = engine_key("int8", "trt10.13-sm89")
            folder.add(folder.read(), key, staged, "an.engine", "build-trt", facts=facts)
        ui = Warnings()
        packaged = package_triton(folder, tmp_path / "repository", "onnxruntime", False, ui)
        configs = (tmp_path / "repository").glob(f"{MODEL}*/config.pbtxt")
        return packaged, next((path.read_text() for path in configs), None), ui.said

    return package


@pytest.mark.parametrize(
    ("profiles", "served"),
    [
        ([(1, 8, 32)], ServedProfiles((0,), (8,), 32)),
        ([(8, 16, 32), (1, 1, 7)], ServedProfiles((0, 1), (1, 16), 32)),
        ([(1, 1, 1), (1, 8, 32)], ServedProfiles((0, 1), (1, 8), 32)),
        ([(1, 4, 8), (1, 4, 64)], ServedProfiles((0, 1), (4,), 64)),
        ([(16, 16, 32), (1, 1, 1), (2, 4, 4)], ServedProfiles((1, 2), (1, 4), 4)),
        ([(4, 8, 16)], None),
        ([], None),
    ],
)
def test_the_profiles_that_are_served_take_every_batch_size_from_1(profiles, served):
    assert choose_served_profiles(profiles) == served


def test_every_profile_of_an_engine_is_served_with_its_own_batch_size_and_cuda_graphs(package):
    packaged, config, warnings = package((1, 1, 4), (5, 16, 32))
    assert packaged.models[1] == WITH_PROFILES
    assert packaged.engine_versions == {WITH_PROFILES: "10.13.3.9"}
    assert config.startswith("# An engine of TensorRT 10.13.3.9: ")
    for line in (
        "max_batch_size: 32\n",
        'instance_group [{ kind: KIND_GPU, count: 1, profile: ["0", "1"] }]',
        "optimization { cuda { graphs: true } }",
        "dynamic_batching { preferred_batch_size: [16], max_queue_delay_microseconds: 500 }",
    ):
        assert line in config
    assert [f"batch_size: {n}," in config for n in (1, 16, 32)] == [True, True, False]
    assert not warnings
    onnx = (packaged.folder / "fdvit_demo_fp32" / "config.pbtxt").read_text()
    assert "graphs" not in onnx
    assert "preferred_batch_size" not in onnx
    ensemble = (packaged.folder / "fdvit_demo" / "config.pbtxt").read_text()
    assert f'model_name: "{WITH_PROFILES}"' in ensemble


@pytest.mark.parametrize(
    ("profiles", "flavour", "served", "warning"),
    [
        ([(1, 4, 4), (8, 8, 8)], "tensorrt", True, "only batch sizes up to 4 are served"),
        ([(4, 8, 16)], "tensorrt", False, "--profile 1,OPT,MAX"),
        ([(1, 8, 32)], "tensorrt_rtx", False, "no backend for TensorRT-RTX"),
    ],
)
def test_what_is_not_served_is_said(package, profiles, flavour, served, warning):
    packaged, config, warnings = package(*profiles, flavour=flavour)
    assert warning in warnings[0]
    assert any(MODEL in name for name in packaged.models) == served == (config is not None)


def test_the_command_says_which_tensorrt_the_server_needs(package, tmp_path):
    package((1, 8, 32))
    done = run("package", "--triton", "second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{MODEL} needs a server with TensorRT 10.13.3.9" in done.stdout


@pytest.mark.slow
def test_tritons_own_client_reads_the_configuration(package, tmp_path):
    packaged, _, _ = package((1, 1, 4), (5, 16, 32))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "tritonclient[grpc]"], check=True)
    command = [python, HERE / "triton_configs.py", packaged.folder]
    parsed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert sorted(parsed) == sorted(packaged.models)
    engine = parsed[WITH_PROFILES]
    assert engine["max_batch_size"] == 32
    assert engine["instance_group"] == [{"kind": "KIND_GPU", "count": 1, "profile": ["0", "1"]}]
    assert engine["optimization"] == {"cuda": {"graphs": True}}
    assert engine["dynamic_batching"]["preferred_batch_size"] == [16]
    assert [sample["batch_size"] for sample in engine["model_warmup"]] == [1, 16]
    assert "optimization" not in parsed["fdvit_demo_fp32"]
