"""A Jetson's Python: 3.10 with neither PyTorch nor timm nor onnxsim, in an environment that this
test makes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from stub_libcuda.machines import MACHINES

ROOT = Path(__file__).parents[2]
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))

pytestmark = pytest.mark.slow


def find_python310():
    on_path = shutil.which("python3.10")
    for candidate in ([on_path] if on_path else []) + sorted(
        PYENV.glob("versions/3.10*/bin/python3.10")
    ):
        # pyenv's shim is there for versions that are not switched on.
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return pytest.fail("There is no Python 3.10 on this machine: neither on PATH nor in pyenv.")


@pytest.fixture(scope="module")
def device(packed, tmp_path_factory):
    """A folder with the bundle and the images, and a function that runs `hvt-deploy` there, in
    Python 3.10.
    """
    device = tmp_path_factory.mktemp("device")
    place, _, bundle = packed
    shutil.copy(bundle, device / "hvt_demo.tar")
    shutil.copytree(place / "digits" / "validation", device / "val")
    subprocess.run([find_python310(), "-m", "venv", device / "venv"], check=True)
    bin_folder = device / "venv" / "bin"
    install = [
        bin_folder / "pip",
        "install",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
        f"{ROOT}[cpu,rtx]",
    ]
    subprocess.run(install, check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments, **more):
        command = [bin_folder / "hvt-deploy", *arguments]
        environment = {**kept, "CI": "", "OMP_NUM_THREADS": "1", **more}
        return subprocess.Popen(
            command,
            cwd=device,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return device, run


def finish(process, code=0):
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    return stdout, stderr


def test_the_environment_is_a_jetsons(device):
    folder, _ = device
    code = (
        "import importlib.util, json, platform, onnxruntime\n"
        "names = ('torch', 'timm', 'onnxsim', 'onnxslim', 'onnxscript')\n"
        "found = [n for n in names if importlib.util.find_spec(n)]\n"
        "print(json.dumps([platform.python_version_tuple()[:2], found, onnxruntime.__version__]))"
    )
    done = subprocess.run(
        [folder / "venv/bin/python", "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [["3", "10"], [], "1.23.2"]


def test_deploy_builds_validates_and_reports_and_goes_on_after_a_kill(device):
    folder, run = device
    arguments = ("deploy", "hvt_demo.tar", "--int8", "--data", "val", "--json")
    started = run(*arguments)
    while started.poll() is None and not (folder / "artifacts/hvt_demo/manifest.json").exists():
        pass
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not list(folder.glob("artifacts/hvt_demo/engine-*")), "killed before there was an engine"
    unpacked = {p: p.stat().st_mtime_ns for p in folder.glob("artifacts/hvt_demo/*/*.onnx")}
    assert len(unpacked) == 5
    rows = {row["backend"]: row for row in json.loads(finish(run(*arguments))[0])["rows"]}
    assert {p: p.stat().st_mtime_ns for p in unpacked} == unpacked
    assert rows["ort fp32"]["fidelity"]["agreement"]["estimate"] == 100
    assert rows["ort int8 cpu"]["accuracy"]["top1"]["estimate"] > 90
    assert "no NVIDIA GPU" in rows["trt int8 rtx-sm86"]["skipped"]
    assert len(list(folder.glob("artifacts/hvt_demo/engine-*/*.engine"))) == 1
    for name in ("results.json", "report.html", "report.md"):
        assert len(list(folder.glob(f"artifacts/hvt_demo/results-*/{name}"))) == 1


def test_every_verb_of_a_device_runs(device):
    folder, run = device
    built = json.loads(finish(run("build-trt", "--fp16", "--json"))[0])
    assert built["audit"]["fused_attention"] > 0
    stdout, _ = finish(
        run("validate", "--data", "val", "--limit", "60", "--backends", "ort", "--json")
    )
    assert json.loads(stdout)["rows"][0]["backend"] == "pytorch fp32 (recorded)"
    assert "# hvt_demo" in finish(run("report", "--format", "markdown"))[0]
    abilities = {
        a["verb"]: a["works"] for a in json.loads(finish(run("doctor", "--json"))[0])["abilities"]
    }
    assert abilities == {"export": False, "quantize": True, "build-trt": True, "validate": True}
    inspected = json.loads(finish(run("inspect", "hvt_demo", "--json"))[0])
    assert {"hvt_demo.int8.onnx", "hvt_demo.fp32.onnx"} < set(inspected)
    assert [name for name in inspected if name.endswith(".engine")]
    image = next((folder / "val" / "7").iterdir())
    predicted = json.loads(finish(run("predict", str(image), "--json"))[0])
    assert predicted["images"][0]["labels"][0]["name"] == "7"
    finish(run("package", "--triton", "repository"))
    _, stderr = finish(run("export", "hvt_demo"), code=3)
    assert "hvt-deploy[export]" in stderr


def test_engines_are_verified_with_a_graph_that_was_exported_elsewhere(device, packed, tmp_path):
    """On a pretended Orin, for which TensorRT-RTX builds engines that nothing here can run."""
    folder, run = device
    (graph,) = packed[0].glob("artifacts/hvt_demo/fp32-*/hvt_demo.fp32.onnx")
    machine = MACHINES["Orin in a container"].start(tmp_path)
    stubs = {k: v for k, v in machine.items() if k.startswith(("STUB_", "LD_")) or k == "PATH"}
    sections = "pytorch,tensorrt-rtx,tensorrt"
    arguments = ("doctor", "--verify", "--sections", sections, "--model", str(graph), "--json")
    record = json.loads(finish(run(*arguments, **stubs), code=3)[0])
    assert record["model"] == "hvt_demo.fp32.onnx"
    pytorch, rtx, tensorrt = record["sections"]
    assert pytorch["checks"][0]["why"].startswith("PyTorch runs a model by its name")
    assert "'tensorrt') is not installed" in tensorrt["checks"][0]["why"]
    checks = {check["name"]: check for check in rtx["checks"]}
    assert {check["verdict"] for check in checks.values()} == {"cannot here"}
    assert "does not run here" in checks["fp32"]["why"]
    assert checks["int8"]["measured"]["int8 kernels"] > 0
    named = ("doctor", "--verify", "--sections", "tensorrt-rtx", "--json")
    record = json.loads(finish(run(*named, **stubs), code=3)[0])
    (check,) = record["sections"][0]["checks"]
    assert "--model fdvit_ti.fp32.onnx" in check["why"]
    assert (folder / "verification" / "verification.tensorrt-rtx.json").is_file()
