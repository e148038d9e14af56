"""A small program of the CUDA layer, for compute-sanitizer: copies, a kernel, a captured graph.

With the argument `fault` a kernel writes to address 0, and the error is printed by its name: after
it nothing else can run in this process.
"""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np

from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.evaluation.verification.checks import expect
from hvt_deploy.evaluation.verification.nvrtc_kernels import NvrtcKernels
from hvt_deploy.runtime.tensorrt.cuda import Cuda, CudaFailure, StagedBuffer

_COUNT = 1000


def replay_scaling(cuda: Cuda, kernels: NvrtcKernels) -> None:
    """Upload values, double them by a captured graph three times, download them.

    Raises CheckFailed where capturing ran something or the values are wrong.
    """
    values = np.linspace(-1, 1, _COUNT, dtype=np.float32)

    def enqueue() -> None:
        kernels.scale(buffer.device.address, 2, _COUNT)

    with closing(StagedBuffer(cuda)) as buffer:
        buffer.reserve(4 * _COUNT)
        cuda.upload(values, buffer)
        with closing(cuda.capture(enqueue)) as graph:
            captured = cuda.download(buffer, values.shape)
            expect(np.array_equal(captured, values), "Capturing ran the kernel.")
            for _ in range(3):
                graph.launch()
            replayed = cuda.download(buffer, values.shape)
            expect(np.array_equal(replayed, 8 * values), "Replaying gave other values.")


def _provoke_fault(cuda: Cuda, kernels: NvrtcKernels) -> str:
    """The name of the error that writing to address 0 gives; "" where nothing fails."""
    try:
        kernels.scale(0, 2, _COUNT)
        cuda.synchronize()
    except CudaFailure as failure:
        return failure.error
    return ""


def main() -> None:
    """Run the program that the first argument names."""
    with closing(Cuda()) as cuda, cuda.activate():
        kernels = NvrtcKernels(cuda, find_gpus()[0].compute_capability)
        if sys.argv[1:] == ["fault"]:
            print(_provoke_fault(cuda, kernels))  # noqa: T201 - its answer
            return
        with closing(kernels):
            replay_scaling(cuda, kernels)


if __name__ == "__main__":
    main()
