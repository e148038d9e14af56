"""An ONNX file in ONNX Runtime, on the CPU or through the CUDA provider."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hvt_deploy.core.environment import ORT_DISABLED_IN_FP16
from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Device
from hvt_deploy.graph.module_graph import ModuleGraph
from hvt_deploy.runtime.base import TAPS_AT_ONCE, BackendRequest, BoundCall
from hvt_deploy.runtime.failures import read_first_line
from hvt_deploy.runtime.ort_cuda import OrtCudaCall, bind_on_gpu
from hvt_deploy.runtime.ort_session import (
    PROVIDERS,
    check_images,
    check_signature,
    describe_failure,
    make_session_options,
    open_session,
    provider_of,
)
from hvt_deploy.runtime.provider_placement import Placement, read_placement, refuse_elsewhere


class OrtBackend:
    """Runs the ONNX file of a request; precision is the file's.

    `outputs` are the tensors of modules by path, as another graph names them; without it the file's
    node names tell.

    Raises BadInput for a file that is missing, broken or of another signature, MissingEnvironment
    where the device's provider does not work here or leaves nodes to the CPU (unless the request
    allows that), ToolFailure where ONNX Runtime cannot run the graph.
    """

    def __init__(self, request: BackendRequest, outputs: Mapping[str, str] | None = None) -> None:
        self.name = request.variant.name
        self._request = request
        self._outputs = outputs
        self.placement = None if request.variant.device == "cpu" else prove_placement(request)
        if self.placement is not None and not request.allow_cpu_nodes:
            refuse_elsewhere(self.placement, provider_of(request.variant), request.variant.name)
        options = make_session_options(request.threads, spin=bool(request.timed_batches))
        self._session = open_session(request, options)
        check_signature(self._session, request)
        self._bound: OrtCudaCall | None = None

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W)."""
        signature = self._request.signature
        check_images(images_NCHW, self._request)
        try:
            (logits_NK,) = self._session.run(
                [signature.output_name], {signature.input_name: images_NCHW}
            )
        except Exception as error:
            raise describe_failure(self._request, error) from error
        return np.asarray(logits_NK, np.float32)

    def bind(self, images_NCHW: ImagesNCHW) -> BoundCall:
        """A call that runs one synchronised inference on these images, already on the device.

        Input and output live in buffers of the device that are allocated once. On a GPU the call of
        an earlier `bind` ends, see `bind_on_gpu`.
        """
        check_images(images_NCHW, self._request)
        if self._request.variant.device == "cuda":
            self._release_bound()
            self._bound = bind_on_gpu(self._request, images_NCHW)
            return self._bound.call
        return self._bind_on_cpu(images_NCHW)

    def _bind_on_cpu(self, images_NCHW: ImagesNCHW) -> BoundCall:
        signature, session = self._request.signature, self._session
        images = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images_NCHW))
        shape = (len(images_NCHW), signature.num_classes)
        logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input(signature.input_name, images)
        binding.bind_ortvalue_output(signature.output_name, logits)

        def run() -> None:
            session.run_with_iobinding(binding)

        try:
            run()
        except Exception as error:
            raise describe_failure(self._request, error) from error
        return run

    def taps(
        self, images_NCHW: ImagesNCHW, paths: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The outputs of the modules at `paths`, as `TappedBackend.taps` says.

        Every TAPS_AT_ONCE of them are outputs of a graph of their own. ONNX Runtime does not fuse
        across outputs.
        """
        graph = ModuleGraph(self._request.path)
        images = {self._request.signature.input_name: images_NCHW}
        outputs = graph.outputs if self._outputs is None else self._outputs
        known = [path for path in paths if graph.knows(outputs.get(path, ""))]
        for start in range(0, len(known), TAPS_AT_ONCE):
            chunk = known[start : start + TAPS_AT_ONCE]
            tensors = list(dict.fromkeys(outputs[path] for path in chunk))
            part, folder = graph.cut((), tensors), self._request.path.parent
            values = run_part(
                part, images, self._request.variant.device, self._request.threads, folder
            )
            for path in chunk:
                yield path, values[outputs[path]].astype(np.float32)

    def close(self) -> None:
        """Free the session, and on a GPU what is bound."""
        self._release_bound()
        del self._session

    def _release_bound(self) -> None:
        if self._bound is not None:
            self._bound.close()
            self._bound = None


def run_part(
    part: onnx.ModelProto,
    inputs: Mapping[str, NDArray[Any]],
    device: Device,
    threads: int,
    folder: Path,
) -> dict[str, NDArray[Any]]:
    """The outputs, by name, of a small graph such as `ModuleGraph.cut` makes; `folder` has its
    weights' file, if any.

    Raises ToolFailure where ONNX Runtime cannot run it.
    """
    options = make_session_options(threads)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    names = [value.name for value in part.graph.output]
    try:
        session = onnxruntime.InferenceSession(
            part.SerializeToString(),
            options,
            providers=[PROVIDERS[device]],
            disabled_optimizers=ORT_DISABLED_IN_FP16,
            enable_fallback=0,
        )
        return dict(zip(names, map(np.asarray, session.run(names, dict(inputs))), strict=True))
    except Exception as error:
        raise ToolFailure(
            f"ONNX Runtime cannot compute {', '.join(names)}: {read_first_line(error)}"
        ) from error


def prove_placement(request: BackendRequest) -> Placement:
    """Where each node runs: a session of its own is profiled for one inference of black images.

    Raises as `OrtBackend` does, save that nodes may be on the CPU.
    """
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as folder:
        options = make_session_options(request.threads)
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = open_session(replace(request, allow_cpu_nodes=True), options)
        check_signature(session, request)
        images = np.zeros(request.signature.images_shape(request.signature.batch or 1), np.float32)
        try:
            session.run([request.signature.output_name], {request.signature.input_name: images})
        except Exception as error:
            raise describe_failure(request, error) from error
        return read_placement(Path(session.end_profiling()))
