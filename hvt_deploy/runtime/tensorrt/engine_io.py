"""An engine's file, the signature of its inputs and outputs, and the batch sizes it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.tensorrt.api import ICudaEngine, IRuntime
from hvt_deploy.runtime.tensorrt.flavours import Flavour


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes of one optimization profile of the engine.

    Attributes:
        index: number of the profile in the engine.
        min: the smallest batch.
        opt: the batch that kernels are tuned for.
        max: the largest batch.
    """

    index: int
    min: int
    opt: int
    max: int


def deserialize_engine(runtime: IRuntime, path: Path) -> ICudaEngine | None:
    """The engine in a file, which is mapped and not read: it is never in memory twice. None where
    the library refuses it.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return runtime.deserialize_cuda_engine(content)


def choose_range(name: str, ranges: Sequence[BatchRange], batch: int) -> BatchRange:
    """The profile tuned nearest to `batch` images. Raises BadInput where none takes so many."""
    fitting = [r for r in ranges if r.min <= batch <= r.max]
    if not fitting:
        accepted = ", ".join(f"{r.min} to {r.max}" for r in ranges)
        raise BadInput(
            f"{name} takes batches of {accepted} images, not {batch}.",
            f"Build it with --profile 1,{batch},{batch}, or choose another batch size.",
        )
    return min(fitting, key=lambda r: (abs(r.opt - batch), r.max))


def read_batch_ranges(engine: ICudaEngine, request: BackendRequest) -> tuple[BatchRange, ...]:
    """The batch sizes of every profile; an engine of fixed batch has only that size."""
    name = request.signature.input_name
    if name not in _list_tensors(engine):
        raise _describe_mismatch(engine, request)
    batch = engine.get_tensor_shape(name)[0]
    if batch != -1:
        return (BatchRange(0, batch, batch, batch),)
    shapes = [
        engine.get_tensor_profile_shape(name, i) for i in range(engine.num_optimization_profiles)
    ]
    return tuple(BatchRange(i, *(shape[0] for shape in limits)) for i, limits in enumerate(shapes))


def check_io_tensors(flavour: Flavour, engine: ICudaEngine, request: BackendRequest) -> None:
    """Raise BadInput unless the engine takes and gives what the request says, in float32."""
    trt, signature = flavour.trt, request.signature
    expected = {
        signature.input_name: (trt.TensorIOMode.INPUT, (3, *signature.image_size)),
        signature.output_name: (trt.TensorIOMode.OUTPUT, (signature.num_classes,)),
    }
    if set(_list_tensors(engine)) != set(expected):
        raise _describe_mismatch(engine, request)
    for name, (mode, rest) in expected.items():
        shape = (*engine.get_tensor_shape(name),)
        fits = (
            engine.get_tensor_mode(name) == mode
            and engine.get_tensor_dtype(name) == trt.DataType.FLOAT
        )
        if not fits or shape[1:] != rest:
            raise _describe_mismatch(engine, request)


def _list_tensors(engine: ICudaEngine) -> Sequence[str]:
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def _describe_mismatch(engine: ICudaEngine, request: BackendRequest) -> BadInput:
    signature = request.signature
    height, width = signature.image_size
    found = ", ".join(
        f"'{name}' of shape {(*engine.get_tensor_shape(name),)} in {engine.get_tensor_dtype(name)}"
        for name in _list_tensors(engine)
    )
    return BadInput(
        f"{request.path.name}: expected '{signature.input_name}' of shape "
        f"(N, 3, {height}, {width}) and '{signature.output_name}' of shape "
        f"(N, {signature.num_classes}) in float32; it has {found}.",
        "Run `hvt-deploy build-trt` again.",
    )
