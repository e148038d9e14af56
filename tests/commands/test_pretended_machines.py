"""The commands on machines with pretended GPUs: stubs of the driver's libraries and of nvidia-smi
below NVIDIA's own Python bindings, and a stand-in of TensorRT.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from stub_libcuda.machines import MACHINES

from hvt_deploy.evaluation.verification.sections import SECTION_NAMES

TESTS = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("work_on_machines.py")
EXPLAIN = "build-trt --precision fp32 --explain"
BUILD = "build-trt --precision fp32"
VALIDATE = "validate --data digits --limit 60 --threads 1 --latency-batch 1"
PREDICT = "predict digits/7 --top 1"


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    answers: exit code, standard output and standard error, by command.
    device: the checks of `doctor --verify` in its section `device`.
    engines: the checks of its section `tensorrt` on a graph that was exported elsewhere.
    gpu_tests: outcome of each test of tests/gpu, and why it was skipped or failed.
    left: objects on the GPU that were not given back.
    torch: whether PyTorch was imported.
    """

    answers: dict[str, tuple[int, str, str]]
    device: list[dict]
    engines: list[dict]
    gpu_tests: dict[str, tuple[str, str]]
    left: dict[str, int]
    torch: bool

    def __getitem__(self, command: str) -> dict:
        code, output, errors = self.answers[command]
        assert code == 0, errors
        return json.loads(output)

    def engine_row(self) -> dict:
        """The row of the engine in the record that `validate` wrote."""
        (row,) = (row for row in self["validate"]["rows"] if row["variant"]["runtime"] == "trt")
        return row

    def gpu_state(self) -> dict:
        """The GPU in the windows of the engine."""
        return self.engine_row()["timings"][0]["latency"]["gpu"]["state"]

    def check_engine(self, name: str) -> None:
        """The engine ran in `validate` and `predict`, with the logits of the reference."""
        row = self.engine_row()
        assert (row["backend"], row["skipped"]) == (name, None)
        assert row["accuracy"]["top1"] == self["validate"]["rows"][0]["accuracy"]["top1"]
        assert row["timings"][0]["latency"]["median"] >= 1.0, "a millisecond a kernel, by events"
        predicted = self["predict"]
        assert predicted["backend"] == name
        assert {one["labels"][0]["name"] for one in predicted["images"]} == {"7"}


# The commands by machine. The last ones find the engine that was built on another machine.
RUNS = {
    "H100": ("doctor", BUILD, VALIDATE, PREDICT),
    "L4": ("doctor", BUILD, VALIDATE, PREDICT),
    "Orin in a container": ("doctor", BUILD, VALIDATE, PREDICT),
    "MIG": ("doctor", BUILD, VALIDATE, PREDICT),
    "two mixed cards": ("doctor", BUILD, VALIDATE, PREDICT),
    "driver too old": ("doctor", EXPLAIN, VALIDATE, PREDICT),
    "hidden": ("doctor", EXPLAIN, VALIDATE, PREDICT),
    "the second of two": (EXPLAIN, VALIDATE, f"{PREDICT} --backend trt"),
    "H200": (VALIDATE, PREDICT),
}
# The compute capability of the second card.
LIES = {"two mixed cards": {"STUB_NVML_LIES": "nvmlDeviceGetCudaComputeCapability"}}
BUILT_ON = {"the second of two": "two mixed cards", "H200": "H100"}


@pytest.fixture(scope="module")
def outcomes(recorded, tmp_path_factory) -> dict[str, Outcome]:
    """By machine, the answers on a model with recorded logits instead of PyTorch's weights."""
    source, _ = recorded
    place = tmp_path_factory.mktemp("machines")
    machines, environment = [], {}
    for name, commands in RUNS.items():
        folder = place / BUILT_ON.get(name, name)
        if not folder.exists():
            shutil.copytree(source / "elsewhere", folder / "artifacts")
            shutil.copytree(source / "digits" / "validation", folder / "digits")
        (place / f"{name} stub").mkdir()
        environment = MACHINES[name].start(place / f"{name} stub") | LIES.get(name, {})
        version = {"STANDIN_TENSORRT": "10.3.0" if "Orin" in name else "10.13.3.9"}
        machine = {"commands": commands, "environment": environment | version}
        answers = {"folder": str(folder), "answers": str(place / f"{name}.json")}
        machines.append(machine | answers | {"verifies": "Orin" in name})
    paths = (TESTS.parent, TESTS, TESTS / "runtime" / "trt")
    common = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "GPU_CHECK_MODEL": "hvt_demo"}
    common["TESTS"] = str(TESTS)
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "LD_LIBRARY_PATH": environment["LD_LIBRARY_PATH"], **common},
        input=json.dumps(machines),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: json.loads((place / f"{name}.json").read_text()) for name in RUNS}
    return {name: Outcome(**fields) for name, fields in found.items()}


@pytest.mark.parametrize("machine", RUNS)
def test_nothing_is_left_on_the_gpu_and_pytorch_is_not_needed(outcomes, machine: str) -> None:
    assert outcomes[machine].left == {}
    assert not outcomes[machine].torch


def test_h100(outcomes) -> None:
    found = outcomes["H100"]
    facts = found["doctor"]["facts"]
    assert facts["gpu"] == "NVIDIA H100 80GB HBM3 (compute capability 9.0, 81079 MiB)"
    assert facts["driver"] == "580.65.06, for CUDA 13.0 and older"
    assert facts["tensorrt"] == "10.13.3.9: stands in"
    assert facts["CUDA"] == "opens; 1 MiB copied there and back"
    promised = found["doctor"]["abilities"][-1]["why"]
    assert promised == "engines on the GPU in TensorRT 10.13.3.9, ONNX Runtime on the CPU"
    assert found["build-trt"]["flavour"] == "TensorRT 10.13.3.9"
    found.check_engine("trt fp32 trt10.13-sm90")
    record = found["validate"]
    assert record["environment"]["gpu"] == "NVIDIA H100 80GB HBM3"
    latency = found.engine_row()["timings"][0]["latency"]
    assert latency["clock"] == "CUDA events"
    assert latency["gpu"]["back_to_back_ms"] == 1.0, "a millisecond a kernel, by events"
    launches, state = latency["gpu"]["launches"], latency["gpu"]["state"]
    assert launches["cuda_graph"]
    assert "trtexec --loadEngine=" in launches["trtexec"]
    assert "--shapes=images:1x3x" in launches["trtexec"]
    assert (state["sm_mhz"], state["power_w"]) == ([1100, 1100], [214.5, 214.5])
    assert state["throttling"] == ["software power cap", "software thermal slowdown"]
    fault = found.engine_row()["timings"][0]["latency_fault"]
    assert "held at 1100 MHz by: software power cap" in fault
    assert [check["verdict"] for check in found.device] == ["verified"] * 2
    assert found.device[0]["measured"]["pci_bus_id"] == "0000:19:00.0"


def test_engine_of_another_card_of_the_same_compute_capability_runs_with_a_note(outcomes) -> None:
    found = outcomes["H200"]
    found.check_engine("trt fp32 trt10.13-sm90")
    note = "Built on NVIDIA H100 80GB HBM3 and run on NVIDIA H200: "
    assert found.engine_row()["note"].startswith(note)
    assert outcomes["H100"].engine_row()["note"] == ""


def test_l4_without_a_power_meter(outcomes) -> None:
    found = outcomes["L4"]
    assert "NVIDIA L4 (compute capability 8.9" in found["doctor"]["facts"]["gpu"]
    found.check_engine("trt fp32 trt10.13-sm89")
    note = "NVML does not report the power of NVIDIA L4: Not Supported."
    assert note in found["validate"]["warnings"]
    assert found.gpu_state()["power_w"] == [0.0, 0.0]


def test_orin_in_a_container(outcomes) -> None:
    found = outcomes["Orin in a container"]
    facts = found["doctor"]["facts"]
    assert facts["gpu"] == "Orin (compute capability 8.7, 7620 MiB)"
    assert facts["driver"] == "version unknown, for CUDA 12.6 and older"
    found.check_engine("trt fp32 trt10.3-sm87")
    warnings = " ".join(found["validate"]["warnings"])
    assert "NVML: " in warnings
    assert "The clocks of Orin could not be read" in warnings


def test_mig_instance(outcomes) -> None:
    found = outcomes["MIG"]
    assert "NVIDIA H100 80GB HBM3 MIG 1g.10gb (" in found["doctor"]["facts"]["gpu"]
    found.check_engine("trt fp32 trt10.13-sm90")
    assert found.gpu_state()["sm_mhz"] == [1100, 1100], "the clock of its GPU"


def test_two_mixed_cards(outcomes) -> None:
    """The first that CUDA names is used; for the other one the engine is refused."""
    both = outcomes["two mixed cards"]
    gpus = both["doctor"]["facts"]["gpu"]
    assert gpus.index("H100") < gpus.index("L4"), "nvidia-smi would say L4 first"
    both.check_engine("trt fp32 trt10.13-sm90")
    second = outcomes["the second of two"]
    assert second["build-trt"]["compute_capabilities"] == ["8.9"]
    assert second["build-trt"]["engine"] == "hvt_demo.fp32.trt10.13-sm89.engine"
    why = "The engine is for compute capability 9.0; the NVIDIA L4 here has 8.9."
    assert why in "".join(map(str, second.answers["validate"]))
    code, _, errors = second.answers["predict"]
    assert code == 3
    assert why in errors


@pytest.mark.parametrize(
    ("machine", "why"),
    [("driver too old", "it supports CUDA 11.4"), ("hidden", "CUDA_VISIBLE_DEVICES is '-1'")],
)
def test_no_gpu_that_can_be_used(outcomes, machine: str, why: str) -> None:
    found = outcomes[machine]
    facts = found["doctor"]["facts"]
    assert facts["gpu"].startswith("none: ")
    assert why in facts["gpu"]
    assert facts["driver"] == "none"
    assert found["build-trt"]["ahead_of_time"]
    assert found.engine_row()["skipped"]
    assert found["predict"]["backend"] == "ort fp32"
    assert found.device == []


@pytest.mark.parametrize(
    ("machine", "outcome", "why"),
    [
        ("H100", "passed", ""),
        ("L4", "passed", ""),
        ("MIG", "passed", ""),
        ("the second of two", "passed", ""),
        ("two mixed cards", "failed", "libcuda gives the compute_capability '8.9', NVML '1.1'"),
        ("Orin in a container", "skipped", "The clocks of Orin cannot be read."),
        ("driver too old", "skipped", "there is no NVIDIA GPU here: the NVIDIA driver is too old"),
        ("hidden", "skipped", "there is no NVIDIA GPU here: the NVIDIA driver reports"),
    ],
)
def test_gpu_tests_follow_the_verdicts_of_the_sections(
    outcomes, machine: str, outcome: str, why: str
) -> None:
    found = outcomes[machine].gpu_tests
    assert tuple(found) == SECTION_NAMES
    assert found["device"][0] == outcome
    assert why in found["device"][1]
    assert {found[name][0] for name in SECTION_NAMES[1:]} == {"skipped"}


def test_engines_are_verified_on_a_jetson_from_a_graph_that_was_exported_elsewhere(
    outcomes,
) -> None:
    checks = {check["name"]: check for check in outcomes["Orin in a container"].engines}
    trtexec = checks.pop("latency against trtexec")
    assert (trtexec["verdict"], trtexec["why"][:7]) == ("cannot here", "trtexec")
    assert {check["verdict"] for check in checks.values()} == {"verified"}, checks
    assert checks["fp32"]["measured"]["reference"] == "ONNX Runtime"
    assert checks["int8"]["measured"]["int8 kernels"] > 0
    assert checks["INT8 against FP16, batch 8"]["measured"]["fp16 batch 8 median_ms"] >= 1.0
