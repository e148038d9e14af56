"""A PyTorch module: eager in float32, the reference of every backend, or in a faster form."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.verbosity import is_verbose
from hvt_deploy.graph.module_graph import ROOT_PATH
from hvt_deploy.runtime.base import TAPS_AT_ONCE, BoundCall, DeviceCall, Launches
from hvt_deploy.runtime.variant import Variant

_EAGER = "No CUDA graph: eager PyTorch launches each kernel by itself."
_OF_COMPILE = "torch.compile captures the CUDA graph, and leaves parts out that it cannot capture."


def can_use_gpu(ordinal: int) -> bool:
    """Whether this build of PyTorch sees the GPU of this number, in CUDA's order."""
    return torch.cuda.is_available() and ordinal < torch.cuda.device_count()


def add_on_gpu() -> str:
    """Run a kernel on the first GPU; the CUDA version of this build.

    Raises MissingEnvironment where it cannot use one.
    """
    if not can_use_gpu(0):
        built = torch.version.cuda
        why = f"for CUDA {built}, which the driver does not run" if built else "without CUDA"
        raise MissingEnvironment(f"PyTorch is built {why}.")
    if float(torch.ones(8, device="cuda").sum()) != 8:
        raise ToolFailure("PyTorch computes a wrong sum on the GPU.")
    return f"runs on the GPU with CUDA {torch.version.cuda}"


class PyTorchBackend:
    """Runs `module` (images (N, 3, H, W) -> logits (N, K)), which it takes over.

    FP16 runs with channels last; the form `compiled` goes through torch.compile, for each batch
    size by itself (CUDA graphs on a GPU).

    Thread count, TF32 and the current GPU are settings of the whole process in PyTorch: the last
    opened backend decides them. Raises MissingEnvironment where CUDA is asked for and cannot be
    used.
    """

    def __init__(self, variant: Variant, module: nn.Module, threads: int, ordinal: int = 0) -> None:
        if variant.device == "cuda" and not can_use_gpu(ordinal):
            raise MissingEnvironment(
                "PyTorch cannot use a CUDA GPU here.",
                "`hvt-deploy doctor` shows the driver and the PyTorch build.",
            )
        torch.set_num_threads(threads)
        # cuDNN's convolutions use TF32 by default, whose 10 bits of mantissa make no reference.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        self.name = variant.name
        self._is_compiled = variant.form == "compiled"
        half = variant.precision == "fp16"
        self._device = torch.device("cpu")
        if variant.device == "cuda":
            self._device = torch.device("cuda", ordinal)
            torch.cuda.set_device(self._device)  # events and streams are of the current one
        self._dtype = torch.float16 if half else torch.float32
        self._format = torch.channels_last if half else torch.contiguous_format
        self._module = module.eval().to(self._device, self._dtype).to(memory_format=self._format)
        self._launches = Launches(cuda_graph=False, note=_EAGER)
        if variant.form == "compiled":
            if not is_verbose():  # a CUDA toolkit without a GPU is worth a line to it
                logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            self._launches = Launches(cuda_graph=True, note=_OF_COMPILE)
            # A size of its own each: the kernels of symbolic sizes are slower.
            self._module.compile(  # pyright: ignore[reportUnknownMemberType]
                mode="reduce-overhead" if variant.device == "cuda" else "default", dynamic=False
            )

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W)."""
        with torch.inference_mode():
            return self._module(self._on_device(images_NCHW)).float().cpu().numpy()

    def bind(self, images_NCHW: ImagesNCHW) -> BoundCall:
        """A call that runs one synchronised inference on these images, already on the device.

        On a GPU it gives the milliseconds between two CUDA events.
        """
        module, images = self._module, self._on_device(images_NCHW)

        def run() -> torch.Tensor:
            with torch.inference_mode():
                return module(images)

        def run_on_cpu() -> None:
            run()

        def rerun() -> LogitsNK:
            return run().float().cpu().numpy()

        if self._is_compiled:  # now, not in the time of a measurement
            run()
        if self._device.type == "cpu":
            return run_on_cpu
        return DeviceCall(partial(_time_on_gpu, run), rerun, self._launches)

    def taps(
        self, images_NCHW: ImagesNCHW, paths: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The outputs of the modules at `paths`, as `TappedBackend.taps` says; those called more
        than once are left out. Every TAPS_AT_ONCE modules cost an inference.
        """
        named = cast("Iterator[tuple[str, nn.Module]]", self._module.named_modules())
        modules = {name or ROOT_PATH: module for name, module in named}
        known = [path for path in paths if path in modules]
        for start in range(0, len(known), TAPS_AT_ONCE):
            chunk = known[start : start + TAPS_AT_ONCE]
            outputs = self._outputs_of({path: modules[path] for path in chunk}, images_NCHW)
            for path in chunk:
                output = outputs[path][0] if len(outputs[path]) == 1 else None
                if isinstance(output, torch.Tensor):
                    yield path, output.float().cpu().numpy()

    def _outputs_of(
        self, modules: dict[str, nn.Module], images_NCHW: ImagesNCHW
    ) -> dict[str, list[object]]:
        """The outputs of each module, call by call, in one inference."""
        given: dict[str, list[object]] = defaultdict(list)

        def keep(path: str) -> Callable[[nn.Module, object, object], None]:
            # A copy: what follows may work in place.
            return lambda _module, _inputs, output: given[path].append(
                output.clone() if isinstance(output, torch.Tensor) else output
            )

        hooks = [module.register_forward_hook(keep(path)) for path, module in modules.items()]
        try:
            self.infer(images_NCHW)
        finally:
            for hook in hooks:
                hook.remove()
        return given

    def close(self) -> None:
        """Let go of the module and give cached GPU memory back."""
        self._module = nn.Identity()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _on_device(self, images_NCHW: ImagesNCHW) -> torch.Tensor:
        # `torch.tensor` copies, and takes read-only arrays, but no negative strides.
        images = torch.tensor(np.ascontiguousarray(images_NCHW), device=self._device)
        return images.to(self._dtype, memory_format=self._format)


def _time_on_gpu(run: Callable[[], torch.Tensor], launches: int) -> float:
    """As `DeviceCall.time` says, on PyTorch's own stream."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(launches):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
