"""The libraries that build and run engines, `tensorrt` and `tensorrt_rtx`: which are installed, and
the only place that imports them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from hvt_deploy.core.environment import is_jetson
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.files import hash_bytes
from hvt_deploy.core.run_config import DEFAULT_PROFILES
from hvt_deploy.core.types import FlavourName, Skipped
from hvt_deploy.runtime.tensorrt.api import RtxTensorRT, TensorRT

T = TypeVar("T")

# File names have a limit: of more batch sizes than fit here, names have a hash.
_LONGEST_BATCHES = 80
FLAVOURS: tuple[FlavourName, ...] = ("tensorrt", "tensorrt_rtx")

_TITLES: dict[FlavourName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_EXTRAS: dict[FlavourName, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
_DISTRIBUTIONS: dict[FlavourName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


@dataclass(frozen=True)
class FlavourInfo:
    """An installed library.

    Attributes:
        name: the Python module.
        version: the module's `__version__`.
    """

    name: FlavourName
    version: str

    @property
    def title(self) -> str:
        """NVIDIA's product name and the version: "TensorRT-RTX 1.7.1.116"."""
        return f"{_TITLES[self.name]} {self.version}"


@dataclass(frozen=True)
class Flavour:
    """An imported library.

    Attributes:
        info: its name and version.
        trt: the module.
    """

    info: FlavourInfo
    trt: TensorRT


def available_flavours() -> tuple[FlavourInfo | Skipped, ...]:
    """Both libraries, in the order they are preferred; found without importing them."""
    return tuple(_find_flavour(name) for name in FLAVOURS)


def open_flavour(name: FlavourName) -> Flavour:
    """Import a library. Raises MissingEnvironment with the line that installs it."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        reason = (
            "is not installed"
            if importlib.util.find_spec(name) is None
            else f"does not load ({error})"
        )
        raise MissingEnvironment(
            f"The Python package '{name}' {reason}.", install_hint(name)
        ) from error
    return Flavour(FlavourInfo(name, str(module.__version__)), cast("TensorRT", module))


def start_library(flavour: Flavour, construct: Callable[[], T], errors: Sequence[str]) -> T:
    """The builder or runtime that `construct` makes.

    Raises MissingEnvironment with the last of `errors`, its logger's, where there is none.
    """
    try:
        return construct()
    except TypeError as error:  # pybind11 raises it for a constructor that returns nothing
        raise MissingEnvironment(
            f"{flavour.info.title} cannot start here: {errors[-1] if errors else error}",
            "It needs an NVIDIA GPU and a driver that fits; `hvt-deploy doctor` shows them.",
        ) from error


def known_capabilities(name: FlavourName) -> tuple[str, ...]:
    """The compute capabilities that a library can build for without the GPU: none for TensorRT.

    Raises MissingEnvironment where TensorRT-RTX cannot be imported.
    """
    if name == "tensorrt_rtx":
        return list_rtx_capabilities(cast("RtxTensorRT", open_flavour(name).trt))
    return ()


def list_rtx_capabilities(trt: RtxTensorRT) -> tuple[str, ...]:
    """The compute capabilities ("8.6") of TensorRT-RTX, in order."""
    names = (name for name in dir(trt.ComputeCapability) if name.startswith("SM"))
    return tuple(f"{n // 10}.{n % 10}" for n in sorted(int(name[2:]) for name in names))


def install_hint(name: FlavourName) -> str:
    """How to get a library on this machine."""
    if platform.machine() != "aarch64":
        return f"Install it: pip install 'hvt-deploy[{_EXTRAS[name]}]'"
    if name == "tensorrt_rtx":
        return "TensorRT-RTX is not published for aarch64."
    source = (
        "On a Jetson TensorRT comes with JetPack: sudo apt install python3-libnvinfer"
        if is_jetson()
        else "On an aarch64 server use NVIDIA's container nvcr.io/nvidia/tensorrt, or install "
        "python3-libnvinfer from NVIDIA's apt repository"
    )
    return f"{source}, and make the virtual environment with --system-site-packages."


def format_engine_tag(
    flavour: FlavourInfo,
    compute_capabilities: Sequence[str],
    profiles: Sequence[tuple[int, int, int]] = (),
) -> str:
    """The part of a name that says where an engine runs, and with which profiles unless they are
    the default: `rtx-sm86`, `trt10.13-sm87`, `rtx-sm86-b1-1-1` for MIN 1, OPT 1 and MAX 1.
    """
    prefix = (
        "rtx"
        if flavour.name == "tensorrt_rtx"
        else "trt" + ".".join(flavour.version.split(".")[:2])
    )
    parts = [prefix, *(f"sm{c.replace('.', '')}" for c in compute_capabilities)]
    if tuple(profiles) != DEFAULT_PROFILES:
        batches = [f"b{smallest}-{opt}-{largest}" for smallest, opt, largest in profiles]
        long = len("-".join(batches)) > _LONGEST_BATCHES
        parts += [f"b{hash_bytes('-'.join(batches).encode())[:8]}"] if long else batches
    return "-".join(parts)


def _find_flavour(name: FlavourName) -> FlavourInfo | Skipped:
    if importlib.util.find_spec(name) is None:
        return Skipped(_TITLES[name], f"not installed. {install_hint(name)}")
    for distribution in _DISTRIBUTIONS[name]:
        try:
            return FlavourInfo(name, importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            continue
    try:  # not installed by pip: only the module knows its version
        return open_flavour(name).info
    except MissingEnvironment as error:
        return Skipped(_TITLES[name], f"{error.message} {error.hint}")
