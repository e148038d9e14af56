"""Sessions of ONNX Runtime on a chosen provider, opened as every backend here needs them."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime

from hvt_deploy.core.environment import ORT_DISABLED_IN_FP16, ORT_DISABLED_OPTIMIZERS
from hvt_deploy.core.errors import BadInput, HvtDeployError, MissingEnvironment, ToolFailure
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.verbosity import log_severity
from hvt_deploy.graph.quantization.ort_session import keep_int8_exact
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.failures import read_first_line
from hvt_deploy.runtime.providers import load_cuda_libraries
from hvt_deploy.runtime.tensorrt_provider import TENSORRT_PROVIDER, load_tensorrt, make_options
from hvt_deploy.runtime.variant import Variant

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_EXPORT_AGAIN = "Run `hvt-deploy export` again."

# The names of the exceptions (their module has no stable home) that mean: this file is no valid
# model.
_BROKEN_FILE = {"InvalidProtobuf", "InvalidGraph", "NoModel"}


def open_session(
    request: BackendRequest,
    options: onnxruntime.SessionOptions,
    more: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """A session on the request's provider; `more` are further options of that provider.

    Raises as `OrtBackend` does.
    """
    if not request.path.is_file():
        raise BadInput(f"There is no ONNX file {request.path}.", _EXPORT_AGAIN)
    if request.path.stat().st_size == 0:
        raise BadInput(f"{request.path} is not a valid ONNX file: it is empty.", _EXPORT_AGAIN)
    provider, provider_options = provider_of(request.variant), dict(more or {})
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
            disabled_optimizers=_disabled_optimizers(request.variant),
            enable_fallback=0,
        )
    except Exception as error:
        if type(error).__name__ in _BROKEN_FILE:
            raise BadInput(
                f"{request.path} is not a valid ONNX file: {read_first_line(error)}", _EXPORT_AGAIN
            ) from error
        if request.variant.device == "cuda":
            raise _no_provider(provider, read_first_line(error)) from error
        raise describe_failure(request, error) from error
    # A provider that fails to start is replaced by the CPU's without an error.
    if provider not in session.get_providers():
        raise _no_provider(
            provider, "it does not start (CUDA or cuDNN of the wrong version, or no GPU)"
        )
    return session


def provider_of(variant: Variant) -> str:
    """The execution provider that runs a variant."""
    return TENSORRT_PROVIDER if variant.runtime == "ort-trt" else PROVIDERS[variant.device]


def _disabled_optimizers(variant: Variant) -> list[str]:
    half = variant.precision in ("fp16", "int8") and variant.form == "plain"
    return ORT_DISABLED_IN_FP16 if half and variant.device == "cpu" else ORT_DISABLED_OPTIMIZERS


def make_session_options(threads: int, *, spin: bool = True) -> onnxruntime.SessionOptions:
    """Options of a session with this many CPU threads, whichever its provider is.

    Threads that `spin` while they wait for work make a latency shorter and cost up to half as much
    CPU time again.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What it cannot fold or fuse is no warning to a user.
    options.log_severity_level = log_severity()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin between two calls take the cores from the other backends of this process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    keep_int8_exact(options)
    return options


def check_signature(session: onnxruntime.InferenceSession, request: BackendRequest) -> None:
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


def check_images(images_NCHW: ImagesNCHW, request: BackendRequest) -> None:
    """Raise BadInput unless the images are of the shape that the request's graph takes."""
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


def describe_failure(request: BackendRequest, error: Exception) -> HvtDeployError:
    """The error to raise where ONNX Runtime cannot run the request's graph."""
    return ToolFailure(
        f"ONNX Runtime {onnxruntime.__version__} cannot run {request.path}: "
        f"{read_first_line(error)}"
    )
