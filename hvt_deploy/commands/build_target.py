"""Library, compute capabilities and profiles of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu, find_gpus
from hvt_deploy.core.manifest import Manifest
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.types import Int8Target
from hvt_deploy.runtime.tensorrt.flavours import (
    FlavourInfo,
    format_engine_tag,
    known_capabilities,
)
from hvt_deploy.runtime.tensorrt.plan import (
    Profile,
    choose_capabilities,
    choose_flavour,
    parse_capabilities,
)


@dataclass(frozen=True)
class Target:
    """The target that an engine is built for."""

    flavour: FlavourInfo
    """The library that builds and runs it."""
    capabilities: tuple[str, ...]
    """Compute capabilities ("8.6")."""
    gpus: tuple[Gpu, ...]
    """This machine's GPUs; empty for a build ahead of time."""
    profiles: tuple[Profile, ...]
    """Optimization profiles; empty for a graph of fixed batch size."""

    @property
    def tag(self) -> str:
        """The part of names that says where the engine runs, and with which profiles."""
        profiles = [profile.batches for profile in self.profiles]
        return format_engine_tag(self.flavour, self.capabilities, profiles)


def find_target(config: RunConfig, manifest: Manifest) -> Target:
    """The target of an engine: the configured compute capabilities, or this machine's GPU.

    Raises MissingEnvironment where no library can build here, BadInput for a missing profile or
    capabilities that cannot be built for.
    """
    gpus = find_gpus()
    named = parse_capabilities(config.engine.compute_capabilities)
    flavour = _choose_library(config, gpus)
    known = known_capabilities(flavour.name)
    capabilities = choose_capabilities(flavour.name, gpus, named, known)
    if gpus and gpus[0].compute_capability not in capabilities:
        gpus = ()
    return Target(flavour, capabilities, gpus, _profiles(config, manifest))


def find_int8_target(config: RunConfig) -> Int8Target:
    """The library that INT8 graphs are placed for: the one that builds here, else TensorRT-RTX."""
    if config.engine.flavour != "auto":
        return config.engine.flavour
    try:
        flavour = _choose_library(config, find_gpus())
    except MissingEnvironment:
        return "rtx"
    return "rtx" if flavour.name == "tensorrt_rtx" else "tensorrt"


def _choose_library(config: RunConfig, gpus: Sequence[Gpu]) -> FlavourInfo:
    named = parse_capabilities(config.engine.compute_capabilities)
    for_others = bool(named) and named != tuple(gpu.compute_capability for gpu in gpus[:1])
    return choose_flavour(config.engine.flavour, bool(gpus), for_other_gpus=for_others)


def _profiles(config: RunConfig, manifest: Manifest) -> tuple[Profile, ...]:
    if manifest.signature.batch is not None:
        return ()
    if not config.engine.profiles:
        raise BadInput(
            "An ONNX file with any batch size needs a profile.", "Example: --profile 1,8,32"
        )
    return tuple(Profile(*profile) for profile in config.engine.profiles)
