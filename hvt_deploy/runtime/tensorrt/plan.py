"""The decisions of a build, made before anything runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.types import FlavourChoice, FlavourName, Skipped
from hvt_deploy.runtime.tensorrt.flavours import (
    FlavourInfo,
    available_flavours,
    install_hint,
)

# The target of TensorRT-RTX where none is named and no GPU that it knows is here: GeForce RTX 30.
_AHEAD_OF_TIME = "8.6"
_NEEDS_GPU = "TensorRT builds an engine on the GPU that will run it"


@dataclass(frozen=True)
class Profile:
    """The batch sizes of an optimization profile. Raises BadInput unless 1 ≤ min ≤ opt ≤ max.

    Attributes:
        min: the smallest batch that the engine accepts.
        opt: the batch that kernels are tuned for.
        max: the largest batch that the engine accepts.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise BadInput(
                f"Profile {self} is not in order: expected 1 ≤ MIN ≤ OPT ≤ MAX batch sizes.",
                "Example: --profile 1,8,32",
            )

    @property
    def batches(self) -> tuple[int, int, int]:
        """MIN, OPT and MAX."""
        return self.min, self.opt, self.max

    def __str__(self) -> str:
        return f"{self.min},{self.opt},{self.max}"


@dataclass(frozen=True)
class BuildPlan:
    """One build.

    Attributes:
        onnx: the graph to build from.
        engine: the engine file to write.
        flavour: the library to build with.
        compute_capabilities: the targets ("8.6") of TensorRT-RTX; TensorRT builds for the GPU it
            runs on, whose capability this then is.
        profiles: optimization profiles; empty for an ONNX file of fixed batch size.
        workspace_mib: the most scratch memory that a kernel may take.
        timing_cache: read where it exists and written after the build; None keeps nothing.
    """

    onnx: Path
    engine: Path
    flavour: FlavourName
    compute_capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    workspace_mib: int
    timing_cache: Path | None = None


def parse_profile(text: str) -> Profile:
    """`"1,8,32"` as MIN, OPT and MAX batch size. Raises BadInput."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if match is None:
        raise BadInput(
            f"'{text}' is not a profile: expected three batch sizes MIN,OPT,MAX.",
            "Example: --profile 1,8,32",
        )
    return Profile(*map(int, match.groups()))


def parse_compute_capability(text: str) -> str:
    """A compute capability as "8.6", from `8.6`, `86` or `sm86`. Raises BadInput."""
    match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())
    if match is None:
        raise BadInput(
            f"'{text}' is not a compute capability.", "Example: --compute-capability 8.6"
        )
    return f"{int(match[1])}.{match[2]}"


def choose_flavour(
    asked: FlavourChoice,
    gpu_present: bool,
    available: Sequence[FlavourInfo | Skipped] | None = None,
    *,
    for_other_gpus: bool = False,
) -> FlavourInfo:
    """The library to build with: the one asked for, or the one that can build here.

    With a GPU `auto` takes TensorRT where it is installed; without one, or for other GPUs than
    this machine's, only TensorRT-RTX can build, ahead of time. Raises MissingEnvironment where the
    library or the GPU it needs is missing.
    """
    found = available_flavours() if available is None else available
    installed = {f.name: f for f in found if isinstance(f, FlavourInfo)}
    name: FlavourName = "tensorrt" if asked == "tensorrt" else "tensorrt_rtx"
    if (
        asked == "auto"
        and "tensorrt" in installed
        and ((gpu_present and not for_other_gpus) or "tensorrt_rtx" not in installed)
    ):
        name = "tensorrt"
    if name not in installed:
        raise MissingEnvironment(
            _describe_missing(asked, gpu_present), _choose_install_hint(asked, gpu_present)
        )
    if name == "tensorrt" and not gpu_present:
        raise MissingEnvironment(
            f"{_NEEDS_GPU}, and there is no NVIDIA GPU here.",
            "Run build-trt on that machine; or build ahead of time for RTX cards with "
            f"--flavour rtx ({install_hint('tensorrt_rtx')}).",
        )
    return installed[name]


def parse_capabilities(named: Sequence[str]) -> tuple[str, ...]:
    """Compute capabilities as "8.6". Raises BadInput for one that cannot be read or is repeated."""
    capabilities = tuple(parse_compute_capability(text) for text in named)
    if len(set(capabilities)) < len(capabilities):
        raise BadInput(
            f"Expected different compute capabilities, got {', '.join(capabilities)}.",
            "Example: --compute-capability 8.6 --compute-capability 8.9",
        )
    return capabilities


def choose_capabilities(
    flavour: FlavourName, gpus: Sequence[Gpu], named: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    """The compute capabilities an engine is for: those `named` ("8.6"), else the first GPU's.

    TensorRT-RTX, which builds for the `known` ones, builds ahead of time where there is no GPU of
    these. Raises BadInput where TensorRT should build for another GPU than this machine's.
    """
    own = gpus[0].compute_capability if gpus else ""
    if flavour == "tensorrt_rtx":
        return tuple(named) or (own if own in known else _AHEAD_OF_TIME,)
    if not own:
        raise MissingEnvironment(f"{_NEEDS_GPU}, and there is none here.")
    if tuple(named) not in {(), (own,)}:
        raise BadInput(
            f"{_NEEDS_GPU}: the {gpus[0].name} here has compute capability {own}, "
            f"not {', '.join(named)}.",
            "Leave --compute-capability out; or build ahead of time for RTX cards with "
            "--flavour rtx.",
        )
    return (own,)


def name_engine_file(slug: str, precision: str, tag: str) -> str:
    """`fdvit_b.int8.rtx-sm86.engine`, by the tag that `format_engine_tag` makes."""
    return f"{slug}.{precision}.{tag}.engine"


def _describe_missing(asked: FlavourChoice, gpu_present: bool) -> str:
    if asked == "tensorrt":
        return "TensorRT (Python package 'tensorrt') is not installed."
    if asked == "rtx":
        return "TensorRT-RTX (Python package 'tensorrt_rtx') is not installed."
    if gpu_present:
        return "Neither TensorRT nor TensorRT-RTX is installed."
    return (
        "There is no NVIDIA GPU here, and TensorRT-RTX, which builds engines without one, "
        "is not installed."
    )


def _choose_install_hint(asked: FlavourChoice, gpu_present: bool) -> str:
    if asked == "tensorrt" or (asked == "auto" and gpu_present):
        return install_hint("tensorrt")
    return install_hint("tensorrt_rtx")
