"""An engine in TensorRT or TensorRT-RTX. Its passport has to be checked before it is opened here:
it is code.

Not run on a GPU by anyone yet (see README): written against the recorded API of each version,
tested on a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import cast

import numpy as np

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.runtime.base import BackendRequest, DeviceCall, Launches
from hvt_deploy.runtime.tensorrt.api import (
    ICudaEngine,
    IExecutionContext,
    RtxICudaEngine,
    RtxTensorRT,
)
from hvt_deploy.runtime.tensorrt.cuda import Cuda, IoBuffers, StagedBuffer
from hvt_deploy.runtime.tensorrt.engine_io import (
    check_io_tensors,
    choose_range,
    deserialize_engine,
    read_batch_ranges,
)
from hvt_deploy.runtime.tensorrt.flavours import open_flavour, start_library
from hvt_deploy.runtime.tensorrt.messages import is_noise, make_logger
from hvt_deploy.runtime.tensorrt.passport import read_passport
from hvt_deploy.runtime.tensorrt.rtx_contexts import RtxContexts
from hvt_deploy.runtime.tensorrt.trtexec import write_trtexec_command


class _BoundInference:
    """One inference on resident images, with everything that its work on the device uses.

    A captured graph replays into the memory of its execution context and into the buffers: they
    live as long as the graph, and are freed after it.
    """

    def __init__(
        self,
        cuda: Cuda,
        context: IExecutionContext,
        launch: Callable[[], None],
        logits: tuple[StagedBuffer, tuple[int, int]],
        resources: ExitStack,
    ) -> None:
        self._cuda = cuda
        self._context: IExecutionContext | None = context
        self._launch: Callable[[], None] | None = launch
        self._logits = logits
        self._resources = resources

    def time(self, launches: int) -> float:
        """As `DeviceCall.time` says."""
        launch = self._check_bound()
        with self._cuda.activate():
            return self._cuda.time(launch, launches)

    def rerun(self) -> LogitsNK:
        """As `DeviceCall.rerun` says."""
        launch, (buffer, shape) = self._check_bound(), self._logits
        with self._cuda.activate():
            self._cuda.upload(np.full(shape, np.nan, np.float32), buffer)
            launch()
            return self._cuda.download(buffer, shape)

    def close(self) -> None:
        """Free the graph, then the buffers, then the context."""
        self._resources.close()
        self._launch = self._context = None

    def _check_bound(self) -> Callable[[], None]:
        if self._launch is None:
            raise ToolFailure("These images are not bound any more.", "Bind them again.")
        return self._launch


class TrtBackend:
    """Runs the engine of a request in the library that its passport names.

    Raises MissingEnvironment where the library, cuda-bindings or a GPU is missing, BadInput for an
    engine of another signature, ToolFailure where TensorRT cannot read or run it.
    """

    def __init__(self, request: BackendRequest) -> None:
        self.name = request.variant.name
        self._request = request
        self._errors: list[str] = []
        if not request.path.is_file():
            raise BadInput(
                f"There is no engine {request.path}.", "Run `hvt-deploy build-trt` again."
            )
        self._flavour = open_flavour(read_passport(request.path).flavour)
        self._cuda = Cuda(request.ordinal)
        with ExitStack() as keep, self._cuda.activate():
            keep.callback(self._cuda.close)
            self._engine = self._deserialize()
            self._ranges = read_batch_ranges(self._engine, request)
            check_io_tensors(self._flavour, self._engine, request)
            self._rtx = self._open_rtx()
            self._context = self._create_context()
            self._profile = 0
            self._buffers = IoBuffers(self._cuda)
            self._bound: _BoundInference | None = None
            self._closed = False
            keep.pop_all()

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W).

        More images than the largest profile takes are run in equal parts. Raises BadInput where no
        profile fits.
        """
        self._check_images(images_NCHW)
        parts = -(-len(images_NCHW) // max(r.max for r in self._ranges))
        split = np.array_split(images_NCHW, parts)
        with self._cuda.activate():
            return np.concatenate([self._infer_part(part) for part in split])

    def bind(self, images_NCHW: ImagesNCHW) -> DeviceCall:
        """A call that runs one synchronised inference on these images, already on the device, timed
        by CUDA events. It ends the call of an earlier `bind`.

        It has a context of its own, so that a captured graph stays valid whatever `infer` runs
        meanwhile.
        """
        self._check_images(images_NCHW)
        chosen = choose_range(self.name, self._ranges, len(images_NCHW))
        self._release_bound()
        with self._cuda.activate(), ExitStack() as stack:
            buffers = stack.enter_context(closing(IoBuffers(self._cuda)))
            context = self._create_context()
            self._select_profile(context, chosen.index)
            self._place(context, images_NCHW, buffers)
            # Once without capturing: TensorRT finishes what a new shape needs in the first call.
            self._execute(context)
            self._cuda.synchronize()
            launch, why_no_graph = partial(self._execute, context), ""
            if self._rtx is None:  # TensorRT-RTX replays graphs of its own, see `RtxContexts`
                try:
                    graph = stack.enter_context(closing(self._cuda.capture(launch)))
                    launch = graph.launch
                except ToolFailure as failure:
                    why_no_graph = f"No CUDA graph: {failure.message}"
                    # The failed capture must not be what the next call continues.
                    self._execute(context)
                    self._cuda.synchronize()
            shape = len(images_NCHW), self._request.signature.num_classes
            logits = (buffers.logits, shape)
            self._bound = _BoundInference(self._cuda, context, launch, logits, stack.pop_all())
        launches = self._describe_launches(len(images_NCHW), chosen.index, why_no_graph)
        return DeviceCall(self._bound.time, self._bound.rerun, launches)

    def close(self) -> None:
        """Free the device memory, contexts, engine and stream."""
        if self._closed:
            return
        self._closed = True
        self._release_bound()
        with self._cuda.activate():
            if self._rtx is not None:
                self._rtx.save()
            del self._context, self._rtx, self._engine, self._runtime  # each needs those after it
            self._buffers.close()
        self._cuda.close()

    def _release_bound(self) -> None:
        if self._bound is not None:
            with self._cuda.activate():
                self._bound.close()
            self._bound = None

    def _describe_launches(self, batch: int, profile: int, why_no_graph: str) -> Launches:
        cuda_graph, request = not why_no_graph, self._request
        command = write_trtexec_command(
            request.path,
            request.signature,
            batch,
            self._flavour.info,
            profile=profile,
            ordinal=request.ordinal,
            cuda_graph=cuda_graph,
        )
        return Launches(cuda_graph, why_no_graph, command)

    def _deserialize(self) -> ICudaEngine:
        trt = self._flavour.trt
        logger = make_logger(trt, self._keep_error)
        self._runtime = start_library(self._flavour, lambda: trt.Runtime(logger), self._errors)
        engine = deserialize_engine(self._runtime, self._request.path)
        if engine is None:
            raise ToolFailure(
                f"{self._flavour.info.title} cannot read {self._request.path.name}: "
                f"{self._reason()}",
                "Build it again on this machine: hvt-deploy build-trt",
            )
        return engine

    def _open_rtx(self) -> RtxContexts | None:
        """For TensorRT-RTX; what it compiles is kept next to the engine, and removed with it."""
        if self._flavour.info.name == "tensorrt_rtx":
            trt, engine = (
                cast("RtxTensorRT", self._flavour.trt),
                cast("RtxICudaEngine", self._engine),
            )
            path = self._request.path
            return RtxContexts(trt, engine, path.with_name(f"{path.name}.runtime-cache"))
        return None

    def _create_context(self) -> IExecutionContext:
        create = self._rtx.create if self._rtx else self._engine.create_execution_context
        context = create()
        if context is None:
            raise ToolFailure(
                f"{self._flavour.info.title} cannot prepare {self._request.path.name}: "
                f"{self._reason()}",
                "The GPU's memory may be full; `hvt-deploy doctor` shows it.",
            )
        return context

    def _infer_part(self, images: ImagesNCHW) -> LogitsNK:
        chosen = choose_range(self.name, self._ranges, len(images))
        if chosen.index != self._profile:
            self._select_profile(self._context, chosen.index)
            self._profile = chosen.index
        self._place(self._context, images, self._buffers)
        self._execute(self._context)
        shape = len(images), self._request.signature.num_classes
        return self._cuda.download(self._buffers.logits, shape)

    def _select_profile(self, context: IExecutionContext, index: int) -> None:
        if not context.set_optimization_profile_async(index, self._cuda.stream):
            raise self._cannot_run()
        self._cuda.synchronize()

    def _place(self, context: IExecutionContext, images: ImagesNCHW, buffers: IoBuffers) -> None:
        """Copy images to the device and set the addresses of images and logits."""
        signature = self._request.signature
        if not context.set_input_shape(signature.input_name, images.shape):
            raise self._cannot_run()
        shape = (*context.get_tensor_shape(signature.output_name),)
        if shape != (len(images), signature.num_classes):
            raise ToolFailure(
                f"{self.name} would give logits of shape {shape} for {len(images)} images."
            )
        buffers.images.reserve(4 * images.size)
        buffers.logits.reserve(4 * len(images) * signature.num_classes)
        self._cuda.upload(images, buffers.images)
        for name, buffer in (
            (signature.input_name, buffers.images),
            (signature.output_name, buffers.logits),
        ):
            if not context.set_tensor_address(name, buffer.device.address):
                raise self._cannot_run()

    def _execute(self, context: IExecutionContext) -> None:
        if not context.execute_async_v3(self._cuda.stream):
            raise self._cannot_run()

    def _check_images(self, images_NCHW: ImagesNCHW) -> None:
        expected = self._request.signature.images_shape(max(len(images_NCHW), 1))
        if images_NCHW.shape != expected:
            raise BadInput(
                f"{self.name} takes images of shape (N, {', '.join(map(str, expected[1:]))}), "
                f"N at least 1, got {images_NCHW.shape}."
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
