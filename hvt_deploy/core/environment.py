"""Packages, processor, memory and disk of this machine, found without heavy imports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

from hvt_deploy.core.errors import MissingEnvironment

# The distributions whose versions belong into every record, in the order they are shown.
_VERSIONED = (
    "hvt-deploy",
    "numpy",
    "pillow",
    "onnx",
    "torch",
    "timm",
    "onnxscript",
    "onnx-ir",
    "onnxsim",
    "onnxslim",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
)
# ONNX Runtime's optimizers that no session uses. This one turns the float bias of a Q/DQ layer into
# an int32 one, and an engine has the float bias. A graph made for the CPU has int32 biases of its
# own. Ours are right with it too (`graph/quantization/bias_separation.py`); others overflow.
ORT_DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]
# Those that no session on the CPU uses for a graph with FP16. This one swaps Transpose and Cast,
# which the CPU's kernels need before an FP16 product, and leaves nodes without a schema where it
# cannot fuse them after all: opening the session then crashes (onnxruntime issue 28392). Graphs
# written here have such a Transpose elsewhere (`graph/transpose_order.py`), others' have not. In
# FP32 it saves faster_vit_0_224 1 % of its time.
ORT_DISABLED_IN_FP16 = [*ORT_DISABLED_OPTIMIZERS, "MatmulTransposeFusion"]


def require(module: str, extra: str) -> None:
    """Raise MissingEnvironment with the pip line unless `module` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise MissingEnvironment(
            f"This needs the Python package '{module}', which is not installed.",
            f"Install it: pip install 'hvt-deploy[{extra}]'",
        )


def tool_versions() -> dict[str, str]:
    """Versions of the installed packages that decide results, by distribution name."""
    found = {name: _find_version(name) for name in _VERSIONED}
    versions = {name: version for name, version in found.items() if version}
    return {"python": platform.python_version(), **versions}


@cache
def _find_version(distribution: str) -> str | None:
    """Reading a package's whole description for it takes milliseconds."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name as the kernel reports it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="ignore").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The instruction sets of the processor, as the kernel names them; empty if unknown."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="ignore").splitlines() if info.is_file() else []
    return frozenset(
        next(
            (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), ""
        ).split()
    )


def int8_saturates(flags: Collection[str]) -> bool:
    """Whether a CPU with these `cpu_flags` sums products of 8 bits in 16 bits, which saturate.

    AVX2's and AVX-512's vpmaddubsw does; VNNI sums in 32 bits, as ARM does.
    """
    return "avx2" in flags and not {"avx512_vnni", "avx_vnni"} & set(flags)


def cpu_count() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def inference_threads() -> int:
    """CPU threads of one inference where the user gave no number: every processor, or fewer where
    OMP_NUM_THREADS says so.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cpu_count(), int(asked)) if asked.isdigit() and int(asked) else cpu_count()


def free_disk_bytes(path: Path) -> int:
    """Free bytes on the disk that holds `path` or its nearest existing parent."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def available_memory_bytes() -> int:
    """Memory that can be taken now without swapping, within the limit of a container."""
    return min(1024 * read_meminfo_kib()["MemAvailable"], _left_of_cgroup_limit())


def read_meminfo_kib() -> dict[str, int]:
    """The memory of the whole system as the kernel reports it, KiB: "MemTotal", "MemAvailable"."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _left_of_cgroup_limit() -> int:
    """Of the version 2 control group; cached files do not count, for the kernel drops them."""
    try:
        group = (
            Path("/proc/self/cgroup")
            .read_text(encoding="utf-8")
            .rpartition("::")[2]
            .strip()
            .lstrip("/")
        )
        folder = Path("/sys/fs/cgroup") / group
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        pairs = (
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        )
        cached = next(int(value) for name, value in pairs if name == "inactive_file")
    except (OSError, ValueError, StopIteration):  # no version 2, or the limit is "max"
        return sys.maxsize
    return max(0, limit - used + cached)


def check_free_disk(path: Path, needed_bytes: int) -> None:
    """Raise MissingEnvironment unless `needed_bytes` are free where `path` will be written."""
    free = free_disk_bytes(path)
    if free < needed_bytes:
        raise MissingEnvironment(
            f"Writing to {path} needs {needed_bytes / 1e9:.2f} GB, "
            f"only {free / 1e9:.2f} GB are free.",
            "Free some space or choose another folder with --workspace DIR.",
        )


def check_working_folder() -> None:
    """Raise MissingEnvironment if the working directory was deleted: no relative path would lead
    anywhere.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise MissingEnvironment(
            "The working directory was deleted.", "Change to another one: cd DIR"
        ) from None


def resident_mib() -> float:
    """The memory that this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def is_jetson(device_tree: Path = Path("/proc/device-tree")) -> bool:
    """Whether this is an NVIDIA Tegra: its kernel or its device tree says so.

    Containers may hide the device tree. Being aarch64 says nothing: Grace and other servers are.
    """
    compatible = device_tree / "compatible"
    named = compatible.read_text(errors="ignore") if compatible.is_file() else ""
    return platform.release().endswith("-tegra") or "nvidia,tegra" in named


def power_mode(sys_folder: Path = Path("/sys")) -> str:
    """A Jetson's power mode and the clocks of its GPU and first CPU; empty on other machines.

    A clock below its maximum is not locked (`jetson_clocks` does that), and latencies then vary.
    """
    tool = shutil.which("nvpmodel")
    if tool is None:
        return ""
    try:
        said = subprocess.run(
            [tool, "-q"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "nvpmodel does not answer"
    mode = " ".join(
        line.partition(":")[2].strip() for line in said.splitlines() if "Power Mode" in line
    )
    gpus = sorted(sys_folder.glob("class/devfreq/*gpu*/cur_freq"))
    clocks = [
        _clock(path.parent.name, path, path.with_name("max_freq"), 1_000_000) for path in gpus
    ]
    for path in sys_folder.glob("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"):
        clocks.append(_clock("cpu", path, path.with_name("scaling_max_freq"), 1000))
    return ", ".join([mode or "unknown", *clocks])


def _clock(what: str, now: Path, largest: Path, per_mhz: int) -> str:
    try:
        found = [int(path.read_text(encoding="ascii")) // per_mhz for path in (now, largest)]
    except (OSError, ValueError):
        return f"{what} unknown"
    return f"{what} {found[0]} of {found[1]} MHz"
