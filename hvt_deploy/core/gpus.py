"""The NVIDIA GPUs of this machine, asked of the CUDA driver through ctypes.

The driver's answer is what TensorRT, PyTorch and ONNX Runtime will see: in their order, within
CUDA_VISIBLE_DEVICES, MIG instances and Jetsons in containers. nvidia-smi knows none of these.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

_MAJOR, _MINOR = 75, 76  # cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
# The oldest CUDA with a TensorRT that is supported here (10.3), as cuDriverGetVersion gives it.
_OLDEST_CUDA = 12_000
_NAME_BYTES = 256
_SMI_LIMIT_S = 10


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, or an instance of one (MIG), as CUDA sees it."""

    name: str
    """Product name."""
    compute_capability: str
    """For example "8.6"."""
    memory_mib: int
    """Total memory, MiB."""
    cuda_version: str
    """The newest CUDA that the driver supports: "13.0"."""
    pci_bus_id: str = ""
    """For example "0000:17:00.0"; a MIG instance has that of its GPU."""
    uuid: str = ""
    """Without the prefix GPU- or MIG-."""


@dataclass(frozen=True)
class GpuSearch:
    """The GPUs that can be used, in CUDA's order."""

    gpus: tuple[Gpu, ...]
    """In the order of CUDA's device numbers."""
    why_none: str = ""
    """Why there are none; empty where there are some."""


class _DriverError(Exception):
    """A call of libcuda that failed, with its own words."""


@cache
def search_gpus() -> GpuSearch:
    """Ask the driver, once per process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return GpuSearch((), "there is no NVIDIA driver (libcuda.so.1)")
    try:
        return _ask(driver)
    except _DriverError as error:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is '{visible}')"
        return GpuSearch((), f"the NVIDIA driver reports: {error}{hidden}")


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that can be used here, in CUDA's order; `search_gpus` says why there are none."""
    return search_gpus().gpus


@cache
def name_driver() -> str:
    """The driver's own version, by nvidia-smi, asked once per process; empty where it does not
    answer.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        answer = subprocess.run(
            [command, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SMI_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    is_version = answer.returncode == 0 and lines and lines[0][0].isdigit()
    return lines[0] if is_version else ""


def _ask(driver: ctypes.CDLL) -> GpuSearch:
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if version.value < _OLDEST_CUDA:
        oldest = _OLDEST_CUDA // 1000
        why = f"the NVIDIA driver is too old: it supports CUDA {cuda}, {oldest}.0 is needed"
        return GpuSearch((), why)
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    gpus = tuple(_describe(driver, ordinal, cuda) for ordinal in range(count.value))
    return GpuSearch(gpus, "" if gpus else "the NVIDIA driver sees no GPU")


def _describe(driver: ctypes.CDLL, ordinal: int, cuda: str) -> Gpu:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    _call(driver, "cuDeviceGet", ctypes.byref(device), ordinal)
    name, bus, uuid = (ctypes.create_string_buffer(_NAME_BYTES) for _ in range(3))
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(size), device)
    _call(driver, "cuDeviceGetPCIBusId", bus, _NAME_BYTES, device)
    _call(driver, "cuDeviceGetUuid_v2", uuid, device)
    major, minor = (_read_attribute(driver, attribute, device) for attribute in (_MAJOR, _MINOR))
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        memory_mib=size.value >> 20,
        cuda_version=cuda,
        pci_bus_id=bus.value.decode(errors="replace"),
        uuid=_format_uuid(uuid.raw[:16]),
    )


def _read_attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return value.value


def _format_uuid(content: bytes) -> str:
    digits = content.hex()
    return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def _call(driver: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Raises _DriverError where the call fails or is not in this driver."""
    try:
        error = int(getattr(driver, name)(*arguments))
    except AttributeError:
        raise _DriverError(f"it has no {name}") from None
    if error:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(error, ctypes.byref(text))
        raise _DriverError((text.value or b"an unknown error").decode() + f" ({name}: {error})")
