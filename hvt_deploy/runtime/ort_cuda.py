"""A bound inference of ONNX Runtime on a GPU, with the stream and the clock of an engine's.

A session of its own runs on a stream of ours, its input and output in memory of ours, and is timed
by our events: ONNX Runtime and TensorRT are compared by one clock. Not run on a GPU by anyone yet
(see README): written against ONNX Runtime's source and its issues, tested on a stand-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import onnxruntime

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.runtime.base import BackendRequest, DeviceCall, Launches
from hvt_deploy.runtime.failures import breaks_cuda, read_first_line
from hvt_deploy.runtime.ort_session import (
    describe_failure,
    make_session_options,
    open_session,
    provider_of,
)
from hvt_deploy.runtime.tensorrt.cuda import Cuda, CudaFailure, IoBuffers
from hvt_deploy.runtime.tensorrt_provider import TENSORRT_PROVIDER

# Two plain runs, which allocate, and the one that is captured; later versions do all in the first.
_RUNS_UNTIL_CAPTURED = 3
_WAITS = "Each launch was done when it returned: back to back there is a pause between two."


class OrtCudaCall:
    """A session whose runs read and write the same memory, and what it needs.

    Raises MissingEnvironment without cuda-bindings, ToolFailure where ONNX Runtime cannot run the
    graph, or cannot capture it `with_graph`.
    """

    def __init__(
        self,
        request: BackendRequest,
        images_NCHW: ImagesNCHW,
        *,
        with_graph: bool,
        why_no_graph: str = "",
    ) -> None:
        self._request = request
        self._shape = (len(images_NCHW), request.signature.num_classes)
        self._options = _make_run_options()
        self._session: onnxruntime.InferenceSession | None = None
        self._binding: onnxruntime.IOBinding | None = None
        self._cuda = Cuda(request.ordinal)
        with ExitStack() as keep, self._cuda.activate():
            keep.callback(self._cuda.close)
            self._buffers = IoBuffers(self._cuda)
            keep.callback(self._free)
            self._place(images_NCHW)
            try:
                self._open(with_graph)
            except Exception as error:
                raise _drop_frames(error) from error.__cause__
            note = why_no_graph or (_WAITS if self._waits() else "")
            self._keep = keep.pop_all()
        self.call = DeviceCall(self._time, self._rerun, Launches(with_graph, note))

    def close(self) -> None:
        """Free the session with its captured graph, then the memory, then the stream."""
        self._keep.close()

    def _time(self, launches: int) -> float:
        self._check_bound()
        with self._cuda.activate():
            return self._cuda.time(self._launch, launches)

    def _rerun(self) -> LogitsNK:
        self._check_bound()
        with self._cuda.activate():
            self._cuda.upload(np.full(self._shape, np.nan, np.float32), self._buffers.logits)
            self._launch()
            return self._cuda.download(self._buffers.logits, self._shape)

    def _open(self, with_graph: bool) -> None:
        """Open the session, and run it until nothing is allocated and all is captured."""
        request = self._request
        options = _make_provider_options(request, self._cuda.stream, with_graph)
        self._session = open_session(request, make_session_options(request.threads), options)
        self._binding = self._bind(self._session)
        for _ in range(_RUNS_UNTIL_CAPTURED):
            self._launch()
            self._cuda.synchronize()

    def _launch(self) -> None:
        session, binding = self._check_bound()
        try:
            session.run_with_iobinding(binding, self._options)
        except Exception as error:
            raise describe_failure(self._request, error) from error

    def _check_bound(self) -> tuple[onnxruntime.InferenceSession, onnxruntime.IOBinding]:
        if self._session is None or self._binding is None:
            raise ToolFailure("These images are not bound any more.", "Bind them again.")
        return self._session, self._binding

    def _waits(self) -> bool:
        """Whether a run returns only when it is done, although it was told not to wait: nothing is
        on the stream any more then.
        """
        self._launch()
        is_idle = self._cuda.is_idle()
        self._cuda.synchronize()
        return is_idle

    def _place(self, images_NCHW: ImagesNCHW) -> None:
        self._buffers.images.reserve(4 * images_NCHW.size)
        self._buffers.logits.reserve(4 * self._shape[0] * self._shape[1])
        self._cuda.upload(images_NCHW, self._buffers.images)
        self._cuda.synchronize()

    def _bind(self, session: onnxruntime.InferenceSession) -> onnxruntime.IOBinding:
        signature, binding = self._request.signature, session.io_binding()
        where = "cuda", self._request.ordinal, np.float32
        images_shape = signature.images_shape(self._shape[0])
        images, logits = self._buffers.images.device, self._buffers.logits.device
        binding.bind_input(signature.input_name, *where, images_shape, images.address)
        binding.bind_output(signature.output_name, *where, self._shape, logits.address)
        return binding

    def _free(self) -> None:
        with self._cuda.activate():
            self._binding = None
            self._session = None
            self._buffers.close()


def bind_on_gpu(request: BackendRequest, images_NCHW: ImagesNCHW) -> OrtCudaCall:
    """The inference of these images as a captured CUDA graph, or without where none can be
    captured.

    ONNX Runtime captures where every node is on the provider; each later run of the session replays
    the graph, whatever is bound: so that session sees no other images. Raises as `OrtCudaCall`
    does.
    """
    try:
        return OrtCudaCall(request, images_NCHW, with_graph=True)
    except CudaFailure:  # of our own calls: the GPU's memory is full, or CUDA is out of order
        raise
    except Exception as error:
        if breaks_cuda(error):
            raise
        why = f"No CUDA graph: {_read_cause(error)}"
    return OrtCudaCall(request, images_NCHW, with_graph=False, why_no_graph=why)


def _drop_frames(error: Exception) -> Exception:
    """Without the frames in which it and its cause arose: they would keep the session, which must
    not outlive its stream.
    """
    if error.__cause__ is not None:
        error.__cause__.__traceback__ = None
    return error.with_traceback(None)


def _read_cause(error: Exception) -> str:
    cause = error.__cause__
    return read_first_line(cause if isinstance(cause, Exception) else error)


def _make_provider_options(
    request: BackendRequest, stream: int, with_graph: bool
) -> Mapping[str, str]:
    options = {"user_compute_stream": str(stream)}
    if with_graph:
        by_tensorrt = provider_of(request.variant) == TENSORRT_PROVIDER
        options["trt_cuda_graph_enable" if by_tensorrt else "enable_cuda_graph"] = "1"
    return options


def _make_run_options() -> onnxruntime.RunOptions:
    """A run returns when its work is on the stream; replays heed that since pull request 28686 of
    ONNX Runtime only, and never in its TensorRT provider.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
