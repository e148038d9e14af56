"""An engine in TensorRT or TensorRT-RTX. Its passport has to be checked before it is opened here:
it is code.

Not run on a GPU by anyone yet (see README): written against the recorded API of each version,
tested on a stand-in.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import cast

import numpy as np

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.runtime.base import BackendRequest, BoundCall
from hvt_deploy.runtime.tensorrt.api import (
    ICudaEngine,
    IExecutionContext,
    RtxICudaEngine,
    RtxTensorRT,
)
from hvt_deploy.runtime.tensorrt.cuda import Cuda, DeviceBuffer
from hvt_deploy.runtime.tensorrt.flavours import Flavour, open_flavour
from hvt_deploy.runtime.tensorrt.messages import is_noise, make_logger
from hvt_deploy.runtime.tensorrt.passport import read_passport


@dataclass(frozen=True)
class _BatchRange:
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


class TrtBackend:
    """Runs the engine of a request in the library that its passport names.

    Raises MissingEnvironment where the library, cuda-python or a GPU is missing, BadInput for an
    engine of another signature, ToolFailure where TensorRT cannot read or run it.
    """

    def __init__(self, request: BackendRequest) -> None:
        self.name = request.name
        self._request = request
        self._errors: list[str] = []
        if not request.path.is_file():
            raise BadInput(
                f"There is no engine {request.path}.", "Run `hvt-deploy build-trt` again."
            )
        self._flavour = open_flavour(read_passport(request.path).flavour)
        with ExitStack() as stack:
            self._cuda = stack.enter_context(closing(Cuda()))
            self._engine = self._deserialize()
            self._ranges = _read_batch_ranges(self._engine, request)
            _check_io_tensors(self._flavour, self._engine, request)
            self._context = self._create_context()
            self._profile = 0
            self._resources = stack.pop_all()

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W).

        More images than the largest profile takes are run in equal parts. Raises BadInput where no
        profile fits.
        """
        self._check_images(images_NCHW)
        count = len(images_NCHW)
        parts = -(-count // max(r.max for r in self._ranges))
        images = np.ascontiguousarray(images_NCHW, np.float32)
        return np.concatenate([self._infer_part(part) for part in np.array_split(images, parts)])

    def bind(self, images_NCHW: ImagesNCHW) -> BoundCall:
        """A call that runs one synchronised inference on these images, already on the device, timed
        by CUDA events.

        It has a context of its own, so that a captured graph stays valid whatever `infer` runs
        meanwhile.
        """
        self._check_images(images_NCHW)
        images = np.ascontiguousarray(images_NCHW, np.float32)
        chosen = self._choose_range(len(images))
        context = self._create_context()
        self._select_profile(context, chosen.index)
        source, target = self._place(context, images)
        self._resources.enter_context(closing(source))
        self._resources.enter_context(closing(target))
        # Once without capturing: TensorRT finishes what a new shape needs in the first call.
        self._execute(context)
        self._cuda.synchronize()
        if (
            self._flavour.info.name == "tensorrt"
        ):  # TensorRT-RTX captures graphs itself, see `create_rtx_context`
            graph = self._cuda.capture(lambda: context.execute_async_v3(self._cuda.stream))
            if graph is not None:
                self._resources.enter_context(closing(graph))
                return lambda: self._cuda.time(graph.launch)
            self._execute(context)  # the failed capture must not be what the next call continues
        return lambda: self._cuda.time(lambda: self._execute(context))

    def close(self) -> None:
        """Free the device memory, contexts, engine and stream."""
        self._resources.close()
        del self._context, self._engine

    def _deserialize(self) -> ICudaEngine:
        trt = self._flavour.trt
        self._runtime = trt.Runtime(make_logger(trt, self._keep_error))
        engine = self._runtime.deserialize_cuda_engine(self._request.path.read_bytes())
        if engine is None:
            raise ToolFailure(
                f"{self._flavour.info.title} cannot read {self._request.path.name}: "
                f"{self._reason()}",
                "Build it again on this machine: hvt-deploy build-trt",
            )
        return engine

    def _create_context(self) -> IExecutionContext:
        if self._flavour.info.name == "tensorrt_rtx":
            context = create_rtx_context(
                cast("RtxTensorRT", self._flavour.trt), cast("RtxICudaEngine", self._engine)
            )
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise ToolFailure(
                f"{self._flavour.info.title} cannot prepare {self._request.path.name}: "
                f"{self._reason()}",
                "The GPU's memory may be full; `hvt-deploy doctor` shows it.",
            )
        return context

    def _infer_part(self, images: ImagesNCHW) -> LogitsNK:
        chosen = self._choose_range(len(images))
        if chosen.index != self._profile:
            self._select_profile(self._context, chosen.index)
            self._profile = chosen.index
        source, target = self._place(self._context, images)
        logits_NK = np.empty((len(images), self._request.signature.num_classes), np.float32)
        with closing(source), closing(target):
            self._execute(self._context)
            self._cuda.download(target, logits_NK)
        return logits_NK

    def _choose_range(self, batch: int) -> _BatchRange:
        fitting = [r for r in self._ranges if r.min <= batch <= r.max]
        if not fitting:
            ranges = ", ".join(f"{r.min} to {r.max}" for r in self._ranges)
            raise BadInput(
                f"{self.name} takes batches of {ranges} images, not {batch}.",
                f"Build it with --profile 1,{batch},{batch}, or choose another batch size.",
            )
        return min(fitting, key=lambda r: (abs(r.opt - batch), r.max))

    def _select_profile(self, context: IExecutionContext, index: int) -> None:
        if not context.set_optimization_profile_async(index, self._cuda.stream):
            raise self._cannot_run()
        self._cuda.synchronize()

    def _place(
        self, context: IExecutionContext, images: ImagesNCHW
    ) -> tuple[DeviceBuffer, DeviceBuffer]:
        """Copy images to the device and tell the context where they are and where the logits go."""
        signature = self._request.signature
        if not context.set_input_shape(signature.input_name, images.shape):
            raise self._cannot_run()
        shape = tuple(context.get_tensor_shape(signature.output_name))
        if shape != (len(images), signature.num_classes):
            raise ToolFailure(
                f"{self.name} would give logits of shape {shape} for {len(images)} images."
            )
        with ExitStack() as stack:
            source = stack.enter_context(closing(self._cuda.malloc(images.nbytes)))
            target = stack.enter_context(
                closing(self._cuda.malloc(4 * len(images) * signature.num_classes))
            )
            self._cuda.upload(images, source)
            for name, buffer in ((signature.input_name, source), (signature.output_name, target)):
                if not context.set_tensor_address(name, buffer.address):
                    raise self._cannot_run()
            stack.pop_all()
        return source, target

    def _execute(self, context: IExecutionContext) -> None:
        if not context.execute_async_v3(self._cuda.stream):
            raise self._cannot_run()

    def _check_images(self, images_NCHW: ImagesNCHW) -> None:
        expected = self._request.signature.images_shape(max(len(images_NCHW), 1))
        if images_NCHW.shape != expected:
            raise BadInput(
                f"{self.name} takes images of shape {expected}, got {images_NCHW.shape}."
            )

    def _keep_error(self, is_error: bool, is_warning: bool, message: str) -> None:
        if is_error and not is_noise(message):
            self._errors.append(message)

    def _reason(self) -> str:
        return self._errors[-1] if self._errors else "it gave no reason."

    def _cannot_run(self) -> ToolFailure:
        return ToolFailure(
            f"{self._flavour.info.title} cannot run {self._request.path.name}: {self._reason()}"
        )


def create_rtx_context(trt: RtxTensorRT, engine: RtxICudaEngine) -> IExecutionContext | None:
    """A context that compiles the kernels of a shape when it first sees it, and then replays them
    as a CUDA graph.

    By default TensorRT-RTX runs slower generic kernels meanwhile: a latency measured then is not
    the engine's.
    """
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


def _read_batch_ranges(engine: ICudaEngine, request: BackendRequest) -> tuple[_BatchRange, ...]:
    """The batch sizes of every profile; an engine of fixed batch has only that size."""
    name = request.signature.input_name
    if name not in _list_tensors(engine):
        raise _describe_mismatch(engine, request)
    batch = engine.get_tensor_shape(name)[0]
    if batch != -1:
        return (_BatchRange(0, batch, batch, batch),)
    shapes = [
        engine.get_tensor_profile_shape(name, i) for i in range(engine.num_optimization_profiles)
    ]
    return tuple(
        _BatchRange(i, *(int(shape[0]) for shape in limits)) for i, limits in enumerate(shapes)
    )


def _check_io_tensors(flavour: Flavour, engine: ICudaEngine, request: BackendRequest) -> None:
    """Raise BadInput unless the engine takes and gives what the request says, in float32."""
    trt, signature = flavour.trt, request.signature
    expected = {
        signature.input_name: (trt.TensorIOMode.INPUT, (3, *signature.image_size)),
        signature.output_name: (trt.TensorIOMode.OUTPUT, (signature.num_classes,)),
    }
    if set(_list_tensors(engine)) != set(expected):
        raise _describe_mismatch(engine, request)
    for name, (mode, rest) in expected.items():
        shape = tuple(engine.get_tensor_shape(name))
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
        f"'{name}' of shape {tuple(engine.get_tensor_shape(name))} "
        f"in {engine.get_tensor_dtype(name)}"
        for name in _list_tensors(engine)
    )
    return BadInput(
        f"{request.path.name}: expected '{signature.input_name}' of shape "
        f"(N, 3, {height}, {width}) and '{signature.output_name}' of shape "
        f"(N, {signature.num_classes}) in float32; it has {found}.",
        "Run `hvt-deploy build-trt` again.",
    )
