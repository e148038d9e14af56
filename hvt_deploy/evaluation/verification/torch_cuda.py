"""PyTorch's view of the GPU, to compare the CUDA layer with. Raises MissingEnvironment without it.

PyTorch is the second witness: it reaches the same devices, streams and memory by the runtime API.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import MissingEnvironment

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchGpu:
    """A GPU as PyTorch describes it."""

    name: str
    """Product name."""
    compute_capability: str
    """For example "8.6"."""
    memory_mib: int
    """Total memory, MiB."""
    uuid: str
    """Without a prefix."""


def list_torch_gpus() -> tuple[TorchGpu, ...]:
    """The GPUs in PyTorch's order."""
    torch = _import_torch()
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return tuple(
        TorchGpu(gpu.name, f"{gpu.major}.{gpu.minor}", gpu.total_memory >> 20, str(gpu.uuid))
        for gpu in found
    )


def time_with_torch(stream: int, enqueue: Callable[[], None]) -> float:
    """Milliseconds between two of PyTorch's events around the work put on this stream."""
    torch = _import_torch()
    external = torch.cuda.ExternalStream(stream)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record(external)
    enqueue()
    end.record(external)
    end.synchronize()
    return start.elapsed_time(end)


def read_with_torch(address: int, count: int) -> NDArray[np.float32]:
    """`count` float32 values at an address of the GPU's memory, by PyTorch; (count,)."""
    torch = _import_torch()
    values: torch.Tensor = torch.as_tensor(_DeviceArray(address, count), device="cuda")
    return values.cpu().numpy()


@contextmanager
def tf32_allowed() -> Generator[None]:
    """TF32 in place of FP32 within the block, as PyTorch's defaults for convolutions have it."""
    torch = _import_torch()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False


class _DeviceArray:
    """Memory of another library, as https://numba.readthedocs.io/en/stable/cuda/
    cuda_array_interface.html (version 2) describes it.
    """

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,),
            "typestr": "<f4",
            "data": (address, False),
            "version": 2,
        }


def _import_torch() -> ModuleType:
    require("torch", extra="export")
    import torch

    if not torch.cuda.is_available():
        raise MissingEnvironment("PyTorch cannot use a CUDA GPU here.")
    return torch
