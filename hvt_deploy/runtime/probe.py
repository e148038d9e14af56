"""Whether a part that runs models really opens here: `python -m hvt_deploy.runtime.probe`.

In a process of its own: a library that crashes, or that takes the GPU's memory, takes nothing else
with it. An installed package proves nothing: its driver, CUDA or cuDNN may be missing or too old.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from hvt_deploy.core.errors import HvtDeployError, ToolFailure
from hvt_deploy.core.types import FlavourName
from hvt_deploy.core.worker import answer, run_in_child
from hvt_deploy.runtime.failures import explain_failure
from hvt_deploy.runtime.tensorrt.cuda import Cuda, StagedBuffer
from hvt_deploy.runtime.tensorrt.flavours import open_flavour, start_library
from hvt_deploy.runtime.tensorrt.messages import make_logger

PROBE_MODULE = "hvt_deploy.runtime.probe"
_FOUND = "found: "

Part = Literal["cuda", "providers", "tensorrt", "tensorrt_rtx", "pytorch"]


@dataclass(frozen=True)
class Probe:
    """Open a part on the first GPU, or ONNX Runtime's providers wherever they run."""

    part: Part
    """The part to open."""


@dataclass(frozen=True)
class ProbeResult:
    """How that went."""

    works: bool
    """Whether it opened."""
    text: str
    """Names of ONNX Runtime's providers, separated by commas; else in words what was done, or why
    it does not open."""


def probe_in_child(part: Part) -> ProbeResult:
    """Open a part in a child process."""
    found: list[str] = []

    def takes(line: str) -> bool:
        is_answer = line.startswith(_FOUND)
        if is_answer:
            found.append(line.removeprefix(_FOUND).strip())
        return is_answer

    try:
        run_in_child(PROBE_MODULE, Probe(part), takes)
    except HvtDeployError as error:
        return ProbeResult(False, " ".join(explain_failure(error).split()))
    return ProbeResult(True, "".join(found))


def _probe(probe: Probe) -> None:
    try:
        sys.stdout.write(f"{_FOUND}{_PARTS[probe.part]()}\n")
    except HvtDeployError:
        raise
    except Exception as error:
        raise ToolFailure(explain_failure(error)) from error


def _open_cuda() -> str:
    sent = np.arange(2**18, dtype=np.float32)
    with closing(Cuda()) as cuda, cuda.activate(), closing(StagedBuffer(cuda)) as buffer:
        buffer.reserve(sent.nbytes)
        cuda.upload(sent, buffer)
        buffer_view = buffer.view(sent.shape)
        cuda.synchronize()
        buffer_view[...] = 0  # what comes back is the device's copy
        came_back = cuda.download(buffer, sent.shape)
    if not np.array_equal(sent, came_back):
        raise ToolFailure("A copy to the GPU and back changed what was copied.")
    return "opens; 1 MiB copied there and back"


def _open_providers() -> str:
    from hvt_deploy.runtime.providers import working_providers

    return ", ".join(working_providers())


def _open_tensorrt(name: FlavourName) -> str:
    flavour = open_flavour(name)
    errors: list[str] = []

    def keep(is_error: bool, is_warning: bool, message: str) -> None:
        if is_error:
            errors.append(message)

    logger = make_logger(flavour.trt, keep)
    start_library(flavour, lambda: flavour.trt.Runtime(logger), errors)
    return "its runtime starts"


def _open_pytorch() -> str:
    from hvt_deploy.runtime.pytorch import add_on_gpu

    return add_on_gpu()


_PARTS: dict[Part, Callable[[], str]] = {
    "cuda": _open_cuda,
    "providers": _open_providers,
    "tensorrt": partial(_open_tensorrt, "tensorrt"),
    "tensorrt_rtx": partial(_open_tensorrt, "tensorrt_rtx"),
    "pytorch": _open_pytorch,
}


if __name__ == "__main__":
    sys.exit(answer(Probe, _probe))
