"""A pretended NVIDIA driver: stand-ins of its libraries that child processes find first."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

SOURCES = {name: Path(__file__).with_name(f"{name}.c") for name in ("libcuda", "libnvidia-ml")}
CARD = "Stub GPU;8.6;64;0000:01:00.0;0a1b0000000000000000000000000001"
# The kinds of objects that the stub counts, in the order of its enum.
KINDS = ("device memory", "pinned memory", "streams", "events", "graphs", "executables", "modules")


@cache
def build_driver() -> Path:
    """The folder with libcuda.so.1 and libnvidia-ml.so.1; compiled once per process."""
    folder = Path(tempfile.mkdtemp(prefix="stub-libcuda-"))
    atexit.register(shutil.rmtree, folder)
    for name, source in SOURCES.items():
        library = f"{name}.so.1"
        options = ["-O1", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", library]
        subprocess.run(["cc", *options, str(source), "-ldl"], check=True, cwd=folder)
    return folder


def pretend_gpus(folder: Path, devices: Sequence[str] = (CARD,), **more: str) -> dict[str, str]:
    """The environment of a child process on a machine with these GPUs (see libcuda.c)."""
    driver, description = build_driver(), folder / "devices.txt"
    description.write_text("".join(f"{device}\n" for device in devices))
    inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    stub = {"LD_LIBRARY_PATH": str(driver), "STUB_CUDA_DEVICES": str(description)}
    return {**inherited, **stub, "STUB_LIBCUDA": str(driver / "libcuda.so.1"), **more}


class Stub:
    """The library as this process has loaded it."""

    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    _kernels: ClassVar[list[object]] = []  # ctypes does not keep them

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["STUB_LIBCUDA"])

    def live(self) -> dict[str, int]:
        """Objects and contexts that were not given back, by kind; zeros are left out."""
        counts = {kind: self._library.stub_count(i) for i, kind in enumerate(KINDS)}
        counts["contexts"] = self._library.stub_count(-1)
        counts["current contexts"] = self._library.stub_count(-2)
        return {kind: count for kind, count in counts.items() if count}

    def launch(self, stream: int, work: Callable[[], None]) -> int:
        """Put `work` on a stream, as a kernel; returns the driver's error."""
        self._kernels.append(self.kernel(lambda _: work()))
        return self._library.stub_launch(ctypes.c_void_p(stream), self._kernels[-1], None)

    def is_capturing(self, stream: int) -> bool:
        """Whether the stream is being captured."""
        status = ctypes.c_int()
        assert self._library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status)) == 0
        return status.value == 1

    def invalidate_capture(self, stream: int) -> None:
        """A call that cannot be captured."""
        self._library.stub_invalidate_capture(ctypes.c_void_p(stream))

    def is_device_memory(self, address: int, size: int) -> bool:
        """Whether it is, and was not freed."""
        return bool(
            self._library.stub_is_device_memory(ctypes.c_void_p(address), ctypes.c_size_t(size))
        )

    def use_illegal_address(self) -> None:
        """Break the context, as a kernel does that uses memory which was freed."""
        self._library.stub_break()
