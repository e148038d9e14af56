"""The protocol that every runtime follows, and the request that opens one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, PixelsHWC, Signature
from hvt_deploy.runtime.provider_placement import Placement
from hvt_deploy.runtime.variant import Variant

# How many modules' outputs `taps` holds at a time.
TAPS_AT_ONCE = 32


@dataclass(frozen=True)
class Launches:
    """How the timed inferences were put on a GPU."""

    cuda_graph: bool
    """Whether each of them replays a captured CUDA graph."""
    note: str = ""
    """Why there is no CUDA graph, or what lies between two launches; empty if neither."""
    trtexec: str = ""
    """Command of NVIDIA's own benchmark whose GPU time is that of launches back to back."""


@dataclass(frozen=True)
class DeviceCall:
    """An inference on images that are on a GPU already, timed by CUDA events on its stream."""

    time: Callable[[int], float]
    """Milliseconds between two events around so many launches, put on the stream one after the
    other; all are done when it returns."""
    rerun: Callable[[], LogitsNK]
    """Runs it once more; the logits, in memory that held NaN before."""
    launches: Launches
    """How it is launched."""

    def __call__(self) -> float:
        """Run one synchronised inference; its milliseconds."""
        return self.time(1)


# One synchronised inference. A GPU's tells its milliseconds by the GPU's own clock.
BoundCall: TypeAlias = "Callable[[], None] | DeviceCall"


@dataclass(frozen=True)
class BackendRequest:
    """Which artifact to open, and how."""

    variant: Variant
    """Runtime, device, precision and form."""
    path: Path
    """Reference weights (safetensors) for pytorch, an ONNX file for ort, an engine for trt."""
    model: str
    """Name of the model."""
    signature: Signature
    """Names and shapes of the input and the output."""
    threads: int
    """CPU threads of one inference."""
    ordinal: int = 0
    """Which GPU, in CUDA's order."""
    allow_cpu_nodes: bool = False
    """Whether ONNX Runtime may leave nodes to the CPU where a GPU was asked for."""
    profiles: tuple[tuple[int, int, int], ...] = ()
    """MIN, OPT and MAX batch sizes of each profile, where the runtime builds the engine itself."""
    options: ModelOptions = DEFAULT_OPTIONS
    """Options that define the network, for pytorch."""
    timed_batches: tuple[int, ...] = (1,)
    """Batch sizes whose latency is measured: torch.compile compiles for these and no other. With
    none, threads of ONNX Runtime do not spin."""


class Backend(Protocol):
    """An opened model on a runtime. `infer` and `bind` take any batch size the artifact allows."""

    name: str

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W)."""
        ...

    def bind(self, images_NCHW: ImagesNCHW) -> BoundCall:
        """A call that runs one synchronised inference on these images, already on the device."""
        ...

    def close(self) -> None:
        """Free the session, engine and device memory."""
        ...


@runtime_checkable
class PlacedBackend(Protocol):
    """A backend that leaves its nodes to several providers; `placement` is None where there is only
    one.
    """

    placement: Placement | None


class TappedBackend(Backend, Protocol):
    """A backend that can be looked into."""

    def taps(
        self, images_NCHW: ImagesNCHW, paths: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The outputs of the modules at `paths` for images (N, 3, H, W), in that order; `model` is
        the whole model.

        A module without exactly one output tensor is left out. Not more than TAPS_AT_ONCE are held
        at a time.
        """
        ...


@runtime_checkable
class PixelsBackend(Protocol):
    """An opened model whose preprocessing is in its graph: it takes images as they were decoded."""

    name: str

    def infer_pixels(self, images: Sequence[PixelsHWC]) -> LogitsNK:
        """Logits (N, K) in float32 for RGB images (H, W, 3) of any sizes."""
        ...

    def preprocess(self, image: PixelsHWC) -> ImagesNCHW:
        """The preprocessed input of the network for one image: (1, 3, H, W)."""
        ...

    def close(self) -> None:
        """Free the session."""
        ...


AnyBackend: TypeAlias = Backend | PixelsBackend
