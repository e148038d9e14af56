"""`build-trt --explain`: a build as it would be done."""

from __future__ import annotations

from dataclasses import dataclass

from hvt_deploy.commands.build_target import find_target
from hvt_deploy.commands.built_engine import find_built
from hvt_deploy.core.freshness import is_fresh
from hvt_deploy.core.manifest import engine_key
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.types import Precision
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.runtime.tensorrt.plan import name_engine_file


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
    before: bool
    """Whether the same engine is there already."""

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
            ("engine", f"{self.engine}{self._fate}"),
        )

    @property
    def _fate(self) -> str:
        if self.before:
            return " (built before, is taken; --force builds it again)"
        return " (replaces the one that is there)" if self.replaces else ""


def explain_build(folder: ModelFolder, config: RunConfig, precision: Precision) -> Explained:
    """The build that `build_trt` would do. Raises what makes it impossible before it starts."""
    manifest = folder.read()
    target = find_target(config, manifest)
    built = find_built(folder, manifest, precision, target, config.engine.workspace_mib)
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
        engine=name_engine_file(folder.slug, precision, target.tag),
        replaces=built is None and engine_key(precision, target.tag) in manifest.artifacts,
        before=built is not None,
    )
