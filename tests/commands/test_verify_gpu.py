"""`doctor --verify`: its child processes, on this machine and on pretended GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from stub_libcuda.machines import MACHINES

from hvt_deploy.commands import verify_gpu
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.gpus import Gpu, GpuSearch
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.evaluation.verification.sections import SECTION_NAMES, SECTIONS

ROOT = Path(__file__).parents[2]
SANITIZER = """#!/bin/sh
while [ "$1" != "{python}" ]; do shift; done
"$@" || exit 9
echo '========= ERROR SUMMARY: {errors} errors'
"""


def run(folder: Path, environment: dict[str, str], *options: str) -> tuple[int, dict, str]:
    """Exit code, the record and the messages of `doctor --verify`."""
    command = ["doctor", "--verify", "--output", str(folder / "out"), *options]
    done = subprocess.run(
        [sys.executable, "-m", "hvt_deploy", *command],
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    record = json.loads((folder / "out" / "verification.json").read_text())
    return done.returncode, record, done.stdout + done.stderr


def verdicts(section: dict) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in section["checks"]}


@pytest.mark.parametrize("hidden", [{}, {"CUDA_VISIBLE_DEVICES": "-1"}])
def test_without_a_gpu_every_section_says_so(tmp_path: Path, hidden: dict[str, str]) -> None:
    code, record, output = run(tmp_path, {**os.environ, **hidden})
    assert code == 3
    assert [section["section"] for section in record["sections"]] == [*SECTION_NAMES]
    assert {section["verdict"] for section in record["sections"]} == {"cannot here"}
    assert record["verified_rows"] == []
    assert "There is no NVIDIA GPU here" in record["sections"][0]["checks"][0]["why"]
    assert "There is no NVIDIA GPU here" in " ".join(output.split())
    written = {path.name for path in (tmp_path / "out").iterdir()}
    each = {f"verification.{name}.json" for name in SECTION_NAMES}
    assert written == {"verification.json", *each}


@pytest.mark.parametrize("out", ["results of today", ""])
def test_gpu_check_writes_to_out_or_to_the_results_of_the_checkout(
    tmp_path: Path, out: str
) -> None:
    scripts = tmp_path / "benchmarks"
    scripts.mkdir()
    for name in ("gpu_check.py", "records.py"):
        shutil.copy(ROOT / "benchmarks" / name, scripts)
    done = subprocess.run(
        [sys.executable, str(scripts / "gpu_check.py"), "device"],
        env={**os.environ, "OUT": out and str(tmp_path / out)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout.startswith("device: cannot here")
    folder = tmp_path / (out or "benchmarks/results")
    assert (folder / "verification.device.json").is_file()


def test_device_and_cuda_on_a_pretended_h100(tmp_path: Path) -> None:
    environment = MACHINES["H100"].start(tmp_path)
    sanitizer = tmp_path / "compute-sanitizer"  # the folder is on the PATH
    sanitizer.write_text(SANITIZER.format(python=sys.executable, errors=0))
    sanitizer.chmod(0o755)
    code, record, output = run(tmp_path, environment, "--sections", "cuda,device")
    assert code == 0, output
    device, cuda = record["sections"]
    assert verdicts(device) == {
        "NVML, GPU 0": "verified",
        "clocks, power, temperature, memory in use": "verified",
        "PyTorch": "cannot here",  # its runtime API does not run on a stub
    }
    assert device["checks"][0]["measured"]["driver"] == "580.65.06"
    assert verdicts(cuda) == {
        "memory back at start": "verified",
        "context given back": "verified",
        "copies": "verified",
        "copies of another thread": "verified",
        "full memory": "verified",
        "captured graph": "verified",
        "events": "verified",
        "PyTorch's events": "cannot here",
        "memory shared with PyTorch": "cannot here",
        "error of a kernel": "verified",
        "compute-sanitizer": "verified",
    }
    measured = {check["name"]: check["measured"] for check in cuda["checks"]}
    assert measured["events"]["event_ms"] == measured["events"]["kernel_ms"] == 20
    assert measured["memory back at start"]["lost_mib"] == 0
    assert "0 errors" in measured["compute-sanitizer"]["summary"]
    assert record["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3"
    assert record["verified_rows"] == [SECTIONS[n].readme_row for n in ("device", "cuda")]


def test_what_the_libraries_disagree_on_has_failed(tmp_path: Path) -> None:
    """NVML names another compute capability of the second card; nothing can be captured."""
    lies = {"STUB_NVML_LIES": "nvmlDeviceGetCudaComputeCapability"}
    fails = {"STUB_CUDA_FAIL": "cuGraphInstantiate:1:2"}
    environment = {**MACHINES["two mixed cards"].start(tmp_path), **lies, **fails}
    sanitizer = tmp_path / "compute-sanitizer"
    sanitizer.write_text("#!/bin/sh\necho '========= Error: Device not supported'\nexit 1\n")
    sanitizer.chmod(0o755)
    code, record, _ = run(tmp_path, environment, "--sections", "device,cuda")
    assert code == 1
    device, cuda = record["sections"]
    assert verdicts(device)["NVML, GPU 1"] == "failed"
    assert "libcuda gives the compute_capability '8.9', NVML '1.1'" in device["checks"][1]["why"]
    assert verdicts(cuda)["memory back at start"] == "failed"
    assert "cuGraphInstantiate failed" in cuda["checks"][0]["why"]
    assert verdicts(cuda)["copies"] == "verified"
    assert cuda["checks"][-1]["why"] == "compute-sanitizer cannot observe the GPU here."
    assert verdicts(cuda)["compute-sanitizer"] == "cannot here"
    assert record["verified_rows"] == []


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import time; print('began', flush=True); time.sleep(60)", "It was stopped after 1 s."),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "It was ended by SIGSEGV."),
        ("raise SystemExit(5)", "It ended with 5."),
    ],
)
def test_section_that_takes_too_long_or_dies_has_failed(
    tmp_path: Path, monkeypatch, module: str, why: str
) -> None:
    (tmp_path / "section_stand_in.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(verify_gpu, "_CHILD", "section_stand_in")
    monkeypatch.setitem(SECTIONS, "cuda", replace(SECTIONS["cuda"], limit_s=1))
    search = GpuSearch((Gpu("NVIDIA H100", "9.0", 81559, "13.0"),))
    monkeypatch.setattr(verify_gpu, "search_gpus", lambda: search)
    done = verify_gpu.verify_gpu(("cuda",), "fdvit_demo", tmp_path / "out", SilentUi())
    (section,) = done.sections
    assert (section.verdict, section.checks[-1].why) == ("failed", why)
    assert done.exit_code == 1
    assert ("began" in section.log_end) == ("sleep" in module)


STAND_IN = """
import json, os, sys, time
job, report = json.loads(sys.argv[1]), sys.argv[2]
if job["section"] == "cuda":
    open("sleeps", "w").close()
    time.sleep(60)
if job["section"] == "pytorch":
    os.abort()
open(report, "w").write(json.dumps([{"name": "one", "verdict": "verified"}]))
"""
RUN = """
import sys
from pathlib import Path
from hvt_deploy.commands import verify_gpu
from hvt_deploy.core.gpus import Gpu, GpuSearch
from hvt_deploy.core.ui import SilentUi
verify_gpu._CHILD = "section_stand_in"
verify_gpu.search_gpus = lambda: GpuSearch((Gpu("NVIDIA H100", "9.0", 81559, "13.0"),))
names = ("device", "cuda", "pytorch", "onnxruntime")
verify_gpu.verify_gpu(names, "fdvit_demo", Path("out"), SilentUi(), float(sys.argv[1]))
"""


def start(folder: Path, limit_s: float) -> subprocess.Popen[bytes]:
    """Four sections: the second hangs and the third dies."""
    (folder / "section_stand_in.py").write_text(STAND_IN)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
    return subprocess.Popen([sys.executable, "-c", RUN, str(limit_s)], cwd=folder, env=environment)


def test_the_run_ends_in_time_and_a_section_that_hangs_leaves_time_for_the_others(
    tmp_path: Path,
) -> None:
    started = time.monotonic()
    assert start(tmp_path, 3).wait() == 0
    assert time.monotonic() - started < 5
    record = json.loads((tmp_path / "out" / "verification.json").read_text())
    found = {section["section"]: section for section in record["sections"]}
    assert {name: one["verdict"] for name, one in found.items()} == {
        "device": "verified",
        "cuda": "failed",
        "pytorch": "failed",
        "onnxruntime": "verified",
    }
    assert 1 < found["cuda"]["seconds"] < 2
    assert found["pytorch"]["checks"][-1]["why"] == "It was ended by SIGABRT."
    for name, one in found.items():
        assert json.loads((tmp_path / "out" / f"verification.{name}.json").read_text()) == one


def test_what_was_verified_is_kept_where_the_run_is_killed_and_no_section_outlives_it(
    tmp_path: Path,
) -> None:
    process = start(tmp_path, 100)
    wait_for((tmp_path / "sleeps").is_file)
    (child,) = find_children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    record = json.loads((tmp_path / "out" / "verification.json").read_text())
    (section,) = record["sections"]
    assert (section["section"], section["verdict"]) == ("device", "verified")


def wait_for(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def find_children(parent: int) -> list[str]:
    """Those of its main thread."""
    return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()


def test_a_model_that_cannot_be_verified_is_refused_before_anything_runs(
    tmp_path: Path, exported_graph
) -> None:
    """Exit code 2, and no verdict."""
    half = onnx.load(exported_graph("fdvit_demo"))
    half.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["x"], ["y"]))
    (tmp_path / "empty.onnx").touch()
    onnx.save(half, tmp_path / "int8.onnx")
    for model, why in {
        "absent.onnx": r"absent\.onnx is missing",
        "empty.onnx": r"empty\.onnx is not an FP32 graph",
        "int8.onnx": r"int8\.onnx is not an FP32 graph",
        "nosuch": "Unknown model 'nosuch'",
    }.items():
        given = str(tmp_path / model) if model.endswith(".onnx") else model
        with pytest.raises(BadInput, match=why):
            verify_gpu.verify_gpu(("cuda",), given, tmp_path / "out", SilentUi())
    assert not (tmp_path / "out").exists()


def test_unknown_section() -> None:
    with pytest.raises(BadInput, match="Unknown section 'cudnn'") as caught:
        verify_gpu.parse_sections("device,cudnn")
    assert "onnxruntime" in caught.value.hint
