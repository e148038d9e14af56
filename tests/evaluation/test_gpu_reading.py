"""GPUs as the driver's libraries report them, on NVIDIA's own NVML bindings with stubs below."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stub_libcuda.machines import MACHINES, PretendedMachine

from hvt_deploy.core.gpus import Gpu, name_driver
from hvt_deploy.evaluation.gpu_reading import open_gpu_reader

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from hvt_deploy.core.gpus import name_driver, search_gpus
from hvt_deploy.evaluation.gpu_reading import open_gpu_reader
search = search_gpus()
assert search_gpus() is search, "the driver is asked once"
answer = {"why_none": search.why_none, "gpus": list(map(asdict, search.gpus)), "readings": []}
for gpu in search.gpus:
    reader = open_gpu_reader(gpu, Path("/nothing"))
    reading = reader.read and reader.read()
    answer["readings"].append([reading and asdict(reading), reader.notes])
answer["heavy"] = sorted({"torch", "onnxruntime", "numpy"} & set(sys.modules))
print(json.dumps(answer | {"driver": name_driver()}))
"""
THROTTLED = ["software power cap", "software thermal slowdown"]


def ask(machine: PretendedMachine, folder: Path) -> dict:
    command = [sys.executable, "-c", SCRIPT]
    environment = machine.start(folder)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def read(mhz: int) -> dict:
    fields = {"power_w": 214.5, "temperature_c": 61, "throttling": THROTTLED, "memory_mib": 512.0}
    return {"sm_mhz": mhz, **fields}


def test_a_card_is_as_cuda_and_nvml_name_it(tmp_path: Path) -> None:
    answer = ask(MACHINES["H100"], tmp_path)
    (gpu,) = answer["gpus"]
    assert gpu == {
        "name": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "memory_mib": 81079,
        "cuda_version": "13.0",
        "pci_bus_id": "0000:19:00.0",
        "uuid": "0a1b0000-0000-0000-0000-000000000100",
    }
    assert answer["readings"] == [[read(1100), []]]
    assert answer["driver"] == "580.65.06"
    assert answer["heavy"] == []


@pytest.mark.parametrize(
    ("name", "found", "clocks"),
    [
        ("two mixed cards", ["NVIDIA H100 80GB HBM3", "NVIDIA L4"], [1100, 1200]),
        ("the second of two", ["NVIDIA L4"], [1200]),
        ("MIG", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb"], [1100]),
    ],
)
def test_cudas_order_and_choice_count_and_nvml_reads_the_same_card(
    tmp_path: Path, name: str, found: list[str], clocks: list[int]
) -> None:
    answer = ask(MACHINES[name], tmp_path)
    assert [gpu["name"] for gpu in answer["gpus"]] == found
    assert [reading["sm_mhz"] for reading, _ in answer["readings"]] == clocks


def test_card_is_chosen_by_its_uuid_too(tmp_path: Path) -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "GPU-0a1b0000-0000-0000-0000-000000000200"}
    devices = MACHINES["two mixed cards"].devices
    answer = ask(PretendedMachine(devices, environment=visible), tmp_path)
    assert [gpu["name"] for gpu in answer["gpus"]] == ["NVIDIA L4"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("driver too old", "the NVIDIA driver is too old: it supports CUDA 11.4, 12.0 is needed"),
        (
            "hidden",
            "the NVIDIA driver reports: no CUDA-capable device is detected (cuInit: 100) "
            "(CUDA_VISIBLE_DEVICES is '-1')",
        ),
    ],
)
def test_machine_without_a_usable_gpu_says_why(tmp_path: Path, name: str, why: str) -> None:
    answer = ask(MACHINES[name], tmp_path)
    assert (answer["gpus"], answer["why_none"]) == ([], why)


def test_what_nvml_lacks_is_noted_and_the_rest_is_read(tmp_path: Path) -> None:
    lacking = {
        "nvmlDeviceGetPowerUsage": 3,
        "nvmlDeviceGetCurrentClocksEventReasons": 13,  # before 535: only under its old name
        "nvmlDeviceGetMemoryInfo": 3,
    }
    text = ",".join(f"{name}={error}" for name, error in lacking.items())
    machine = PretendedMachine(MACHINES["L4"].devices, environment={"STUB_NVML_LACKS": text})
    ((reading, notes),) = ask(machine, tmp_path)["readings"]
    assert reading == {
        **read(1100),
        "power_w": 0.0,
        "throttling": ["hardware thermal slowdown"],
        "memory_mib": 0.0,
    }
    assert notes == [
        "NVML does not report the power of NVIDIA L4: Not Supported.",
        "NVML does not report the memory of NVIDIA L4: Not Supported.",
    ]


def test_card_that_nvml_cannot_read_has_no_reader(tmp_path: Path) -> None:
    answer = ask(MACHINES["Orin in a container"], tmp_path)
    assert answer["gpus"][0]["name"] == "Orin"
    ((reading, notes),) = answer["readings"]
    assert reading is None
    assert len(notes) == 1
    assert notes[0].startswith("NVML: ")
    assert answer["driver"] == "", "nvidia-smi says N/A"


def test_jetson_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    hwmon = "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    files = {
        "class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
        "class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "class/thermal/thermal_zone0/temp": "70000\n",
        "class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "class/thermal/thermal_zone1/temp": "61500\n",
        f"{hwmon}/in1_label": "VDD_GPU_SOC\n",
        f"{hwmon}/in1_input": "5000\n",
        f"{hwmon}/curr1_input": "2500\n",
        f"{hwmon}/in2_label": "VDD_CPU_CV\n",
        f"{hwmon}/in2_input": "5000\n",
        f"{hwmon}/curr2_input": "1000\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    orin = Gpu("Orin", "8.7", 7620, "12.6", "0000:00:00.0")
    reader = open_gpu_reader(orin, tmp_path)
    assert reader.read is not None
    reading = reader.read()
    assert reading is not None
    assert (reading.sm_mhz, reading.power_w, reading.temperature_c) == (1300, 12.5, 61)
    assert reading.memory_mib > 0
    (tmp_path / "class/devfreq/17000000.gpu/cur_freq").write_text("\n")
    assert reader.read() is None


def test_nvidia_smi_that_does_not_answer_in_time_names_no_driver(
    tmp_path: Path, monkeypatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("hvt_deploy.core.gpus._SMI_LIMIT_S", 0.2)
    name_driver.cache_clear()
    assert name_driver() == ""
    name_driver.cache_clear()
