"""ONNX Runtime's TensorRT provider: whether it fits the TensorRT that is installed, its options.

It builds an engine of its own when a session opens. Without precision options its network is
strongly typed, so the graph decides the precision, as in the engines of `build-trt`; TF32 cannot be
switched off, which is why no FP32 graph runs there. Not run on a GPU by anyone yet (see README).
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.tensorrt.flavours import open_flavour

TENSORRT_PROVIDER = "TensorrtExecutionProvider"
_LIBRARY = "capi/libonnxruntime_providers_tensorrt.so"


def find_linked_major() -> int | None:
    """The major version of TensorRT that the installed provider is linked with; None for a build
    of ONNX Runtime without it.
    """
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        return None
    library = Path(found.origin).parent / _LIBRARY
    return _read_linked_major(library) if library.is_file() else None


@cache
def _read_linked_major(library: Path) -> int | None:
    """Mapped, not read: of a library of some MiB only the pages up to the name are touched."""
    with library.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        linked = re.search(rb"libnvinfer\.so\.(\d+)", content)
        return None if linked is None else int(linked[1])


def load_tensorrt() -> None:
    """Import TensorRT, whose libraries the provider then finds.

    Raises MissingEnvironment where it is not installed or of another major version.
    """
    linked = find_linked_major()
    if linked is None:
        raise MissingEnvironment(
            "This ONNX Runtime has no TensorRT provider.",
            "Its GPU build has: pip uninstall onnxruntime, then pip install 'hvt-deploy[gpu]'",
        )
    installed = open_flavour("tensorrt").info
    if int(installed.version.partition(".")[0]) != linked:
        raise MissingEnvironment(
            f"ONNX Runtime's TensorRT provider is linked with TensorRT {linked}; "
            f"here is {installed.title}.",
            "An engine of `hvt-deploy build-trt` runs in the TensorRT that is here.",
        )


def make_options(request: BackendRequest) -> Mapping[str, str]:
    """The provider's options: batch sizes of the request's profiles, engines built once a process.

    Without profiles it would build again for every new batch size.
    """
    folder = _engine_folder().name
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }
    signature = request.signature
    if signature.batch is None and request.profiles:
        for place, limit in enumerate(("min", "opt", "max")):
            options[f"trt_profile_{limit}_shapes"] = ",".join(
                f"{signature.input_name}:{'x'.join(map(str, signature.images_shape(sizes[place])))}"
                for sizes in request.profiles
            )
    return options


@cache
def _engine_folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends: an engine from elsewhere is code, and is not looked for."""
    return tempfile.TemporaryDirectory(prefix="hvt-deploy-")
