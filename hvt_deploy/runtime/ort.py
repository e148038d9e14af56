"""An ONNX file in ONNX Runtime, on the CPU or through the CUDA provider."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hvt_deploy.core.environment import cpu_flags, int8_saturates
from hvt_deploy.core.errors import BadInput, HvtDeployError, MissingEnvironment, ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Device
from hvt_deploy.graph.module_graph import ModuleGraph
from hvt_deploy.runtime.base import TAPS_AT_ONCE, BackendRequest
from hvt_deploy.runtime.failures import read_first_line
from hvt_deploy.runtime.provider_placement import Placement, read_placement, refuse_elsewhere
from hvt_deploy.runtime.providers import load_cuda_libraries
from hvt_deploy.runtime.tensorrt_provider import TENSORRT_PROVIDER, load_tensorrt, make_options
from hvt_deploy.runtime.variant import Variant

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_EXPORT_AGAIN = "Run `hvt-deploy export` again."

# The names of the exceptions (their module has no stable home) that mean: this file is no valid
# model.
_BROKEN_FILE = {"InvalidProtobuf", "InvalidGraph", "NoModel"}

# Turns the float bias of a Q/DQ layer into an int32 one. Where the scales are tiny (FP16 Q/DQ
# graphs) that overflows to wrong logits, and an engine has the float bias. A graph made for the CPU
# has int32 biases of its own.
_DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]


class OrtBackend:
    """Runs the ONNX file of a request; precision is the file's.

    Raises BadInput for a file that is missing, broken or of another signature, MissingEnvironment
    where the device's provider does not work here or leaves nodes to the CPU (unless the request
    allows that), ToolFailure where ONNX Runtime cannot run the graph.
    """

    def __init__(self, request: BackendRequest) -> None:
        self.name = request.variant.name
        self._request = request
        self.placement = None if request.variant.device == "cpu" else prove_placement(request)
        if self.placement is not None and not request.allow_cpu_nodes:
            refuse_elsewhere(self.placement, _provider_of(request.variant), request.variant.name)
        self._session = _open_session(request, _session_options(request.threads))
        _check_signature(self._session, request)

    def infer(self, images_NCHW: ImagesNCHW) -> LogitsNK:
        """Logits (N, K) in float32 for preprocessed images (N, 3, H, W)."""
        signature = self._request.signature
        _check_images(images_NCHW, self._request)
        try:
            (logits_NK,) = self._session.run(
                [signature.output_name], {signature.input_name: images_NCHW}
            )
        except Exception as error:
            raise _cannot_run(self._request, error) from error
        return np.asarray(logits_NK, np.float32)

    def bind(self, images_NCHW: ImagesNCHW) -> Callable[[], None]:
        """A call that runs one synchronised inference on these images, already on the device.

        Input and output live in buffers of the device that are allocated once.
        """
        signature, session = self._request.signature, self._session
        device = self._request.variant.device
        _check_images(images_NCHW, self._request)
        ordinal = self._request.ordinal if device == "cuda" else 0
        images = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(images_NCHW), device, ordinal
        )
        shape = (len(images_NCHW), signature.num_classes)
        logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, np.float32, device, ordinal
        )
        binding = session.io_binding()
        binding.bind_ortvalue_input(signature.input_name, images)
        binding.bind_ortvalue_output(signature.output_name, logits)

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        try:
            run()
        except Exception as error:
            raise _cannot_run(self._request, error) from error
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
        known = [path for path in paths if path in graph.outputs]
        for start in range(0, len(known), TAPS_AT_ONCE):
            chunk = known[start : start + TAPS_AT_ONCE]
            tensors = list(dict.fromkeys(graph.outputs[path] for path in chunk))
            part, folder = graph.cut((), tensors), self._request.path.parent
            outputs = run_part(
                part, images, self._request.variant.device, self._request.threads, folder
            )
            for path in chunk:
                yield path, outputs[graph.outputs[path]].astype(np.float32)

    def close(self) -> None:
        """Free the session."""
        del self._session


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
    options = _session_options(threads)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    names = [value.name for value in part.graph.output]
    try:
        session = onnxruntime.InferenceSession(
            part.SerializeToString(),
            options,
            providers=[_PROVIDERS[device]],
            disabled_optimizers=_DISABLED_OPTIMIZERS,
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
        options = _session_options(request.threads)
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = _open_session(replace(request, allow_cpu_nodes=True), options)
        _check_signature(session, request)
        images = np.zeros(request.signature.images_shape(request.signature.batch or 1), np.float32)
        try:
            session.run([request.signature.output_name], {request.signature.input_name: images})
        except Exception as error:
            raise _cannot_run(request, error) from error
        return read_placement(Path(session.end_profiling()))


def _open_session(
    request: BackendRequest, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    if not request.path.is_file():
        raise BadInput(f"There is no ONNX file {request.path}.", _EXPORT_AGAIN)
    if request.path.stat().st_size == 0:
        raise BadInput(f"{request.path} is not a valid ONNX file: it is empty.", _EXPORT_AGAIN)
    provider, provider_options = _provider_of(request.variant), dict[str, str]()
    if provider not in onnxruntime.get_available_providers():
        raise _no_provider(
            provider,
            f"this ONNX Runtime has only {', '.join(onnxruntime.get_available_providers())}",
        )
    if request.variant.device == "cuda":
        load_cuda_libraries()
        provider_options["device_id"] = str(request.ordinal)
    if provider == TENSORRT_PROVIDER:
        load_tensorrt()
        provider_options.update(make_options(request))
        # TensorRT gets the graph as it is in the file.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif request.variant.device == "cuda":
        provider_options["use_tf32"] = "0"  # on by default: FP32 products with 10 bits of mantissa
    if request.variant.device != "cpu" and not request.allow_cpu_nodes:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            request.path,
            options,
            providers=[(provider, provider_options)],
            disabled_optimizers=_DISABLED_OPTIMIZERS,
            enable_fallback=0,
        )
    except Exception as error:
        if type(error).__name__ in _BROKEN_FILE:
            raise BadInput(
                f"{request.path} is not a valid ONNX file: {read_first_line(error)}", _EXPORT_AGAIN
            ) from error
        if request.variant.device == "cuda":
            raise _no_provider(provider, read_first_line(error)) from error
        raise _cannot_run(request, error) from error
    # A provider that fails to start is replaced by the CPU's without an error.
    if provider not in session.get_providers():
        raise _no_provider(
            provider, "it does not start (CUDA or cuDNN of the wrong version, or no GPU)"
        )
    return session


def _provider_of(variant: Variant) -> str:
    return TENSORRT_PROVIDER if variant.runtime == "ort-trt" else _PROVIDERS[variant.device]


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: what it cannot fold or fuse is no warning to a user
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin between two calls take the cores from the other backends of this process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if int8_saturates(cpu_flags()):
        # Signed Q/DQ saturate too, for the optimizer makes them unsigned. This makes the weights
        # unsigned as well, whose kernel is exact. With VNNI it would only be slower, and some
        # graphs of other quantizers then fail.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _check_signature(session: onnxruntime.InferenceSession, request: BackendRequest) -> None:
    """Raise BadInput unless the graph takes and gives what the request says; symbolic dimensions
    fit any size.
    """
    signature = request.signature
    expected_in = (signature.batch, 3, *signature.image_size)
    expected_out = (signature.batch, signature.num_classes)
    found_in = {i.name: tuple(i.shape) for i in session.get_inputs()}
    found_out = {o.name: tuple(o.shape) for o in session.get_outputs()}
    for name, expected, found in (
        (signature.input_name, expected_in, found_in),
        (signature.output_name, expected_out, found_out),
    ):
        if name not in found or not _fits(found[name], expected):
            raise BadInput(
                f"{request.path}: expected '{name}' of shape {_shown(expected)}, it has "
                f"{', '.join(f'{n!r} of shape {_shown(s)}' for n, s in found.items())}.",
                _EXPORT_AGAIN,
            )


def _fits(found: tuple[int | str | None, ...], expected: tuple[int | None, ...]) -> bool:
    if len(found) != len(expected):
        return False
    return all(e == f or not isinstance(f, int) for f, e in zip(found, expected, strict=True))


def _shown(shape: tuple[int | str | None, ...]) -> str:
    return f"({', '.join('N' if d is None else str(d) for d in shape)})"


def _check_images(images_NCHW: ImagesNCHW, request: BackendRequest) -> None:
    signature = request.signature
    expected = signature.images_shape(signature.batch or len(images_NCHW))
    if images_NCHW.shape != expected:
        raise BadInput(
            f"{request.variant.name} takes images of shape {expected}, got {images_NCHW.shape}."
        )


def _no_provider(provider: str, why: str) -> HvtDeployError:
    return MissingEnvironment(
        f"ONNX Runtime cannot use its {provider}: {why.rstrip('.')}.",
        "It needs an NVIDIA GPU, the CUDA and cuDNN of its version and its GPU build: "
        "pip uninstall onnxruntime, then pip install 'hvt-deploy[gpu]' "
        "'onnxruntime-gpu[cuda,cudnn]' (on a Jetson: the build of its JetPack).",
    )


def _cannot_run(request: BackendRequest, error: Exception) -> HvtDeployError:
    return ToolFailure(
        f"ONNX Runtime {onnxruntime.__version__} cannot run {request.path}: "
        f"{read_first_line(error)}"
    )
