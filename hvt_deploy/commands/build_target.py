"""Library, compute capabilities and profiles of a build: `build-trt --explain` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import Gpu, find_gpus
from hvt_deploy.core.manifest import Manifest, engine_key
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.types import Int8Target, Precision
from hvt_deploy.core.workspace import ModelFolder, is_fresh
from hvt_deploy.runtime.tensorrt.flavours import (
    FlavourInfo,
    format_engine_tag,
    known_capabilities,
)
from hvt_deploy.runtime.tensorrt.plan import (
    Profile,
    choose_capabilities,
    choose_flavour,
    name_engine_file,
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
        """The part of names that says where the engine runs."""
        return format_engine_tag(self.flavour, self.capabilities)


@dataclass(frozen=True)
class Explained:
    """A build that was not done."""

    model: str
    """Name of the exported model."""
    precision: str
    """Precision of the graph."""
    graph: str
    """File name of the graph, "" where it has to be made first."""
    library: str
    """The library, with its version."""
    compute_capabilities: tuple[str, ...]
    """GPUs it would run on."""
    ahead_of_time: bool
    """Whether it would be built without the GPU it is for."""
    profiles: tuple[str, ...]
    """MIN,OPT,MAX of each profile."""
    workspace_mib: int
    """Memory that TensorRT may use for tactics, MiB."""
    engine: str
    """File name of the engine."""
    replaces: bool
    """Whether it would replace an engine that is there."""

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The plan as it is read."""
        where = "built ahead of time" if self.ahead_of_time else "this machine's GPU"
        return (
            (
                "graph",
                self.graph
                or f"made first: hvt-deploy quantize {self.model} --precision {self.precision}",
            ),
            ("library", self.library),
            ("compute capability", f"{', '.join(self.compute_capabilities)} ({where})"),
            ("profiles MIN,OPT,MAX", "  ".join(self.profiles) or "none, the batch size is fixed"),
            ("workspace", f"{self.workspace_mib} MiB"),
            (
                "engine",
                f"{self.engine}{' (replaces the one that is there)' if self.replaces else ''}",
            ),
        )


def explain_build(folder: ModelFolder, config: RunConfig, precision: Precision) -> Explained:
    """The build that `build_trt` would do. Raises what makes it impossible before it starts."""
    manifest = folder.read()
    target = find_target(config, manifest)
    key = engine_key(precision, target.tag)
    return Explained(
        model=folder.slug,
        precision=precision,
        graph=folder.open_artifact(manifest, precision).name
        if is_fresh(manifest, precision)
        else "",
        library=target.flavour.title,
        compute_capabilities=target.capabilities,
        ahead_of_time=not target.gpus,
        profiles=tuple(map(str, target.profiles)),
        workspace_mib=config.engine.workspace_mib,
        engine=name_engine_file(folder.slug, precision, target.flavour, target.capabilities),
        replaces=key in manifest.artifacts,
    )


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
