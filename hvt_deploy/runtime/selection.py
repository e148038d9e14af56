"""Which artifacts of an exported model can run here, on which device, and why the others cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu, find_gpus
from hvt_deploy.core.manifest import PIXELS, WEIGHTS, GraphKey, Manifest
from hvt_deploy.core.types import Device, Precision
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.runtime.backend_registry import open_backend, open_pixels_backend
from hvt_deploy.runtime.base import AnyBackend, BackendRequest
from hvt_deploy.runtime.tensorrt.flavours import available_flavours
from hvt_deploy.runtime.tensorrt.passport import (
    Machine,
    check_passport,
    describe_other_card,
    read_passport,
)
from hvt_deploy.runtime.tensorrt_provider import find_linked_major
from hvt_deploy.runtime.variant import Form, Variant

# The graphs that ONNX Runtime runs, by artifact key. With a GPU the engine's own INT8 graph runs
# there; without one its accuracy is that of the same Q/DQ with FP32 in the rest, and the CPU has an
# INT8 graph of its own.
_GRAPHS: dict[GraphKey, tuple[Precision, Form]] = {
    "fp32": ("fp32", "plain"),
    "fp16": ("fp16", "plain"),
    "int8": ("int8", "plain"),
    "int8-cpu": ("int8", "cpu"),
    "int8-fp32": ("int8-fp32", "engine-numerics"),
}
_ON_GPU: tuple[GraphKey, ...] = ("fp32", "fp16", "int8")
_ON_CPU: tuple[GraphKey, ...] = ("fp32", "fp16", "int8-cpu", "int8-fp32")
# What ONNX Runtime's TensorRT provider builds itself.
_ON_TENSORRT_PROVIDER: tuple[Precision, ...] = ("fp16", "int8")
_NO_GPU = "There is no NVIDIA GPU here to run it."


@dataclass(frozen=True)
class Selection:
    """One way to run the model on this machine."""

    variant: Variant
    """Runtime, device, precision and form."""
    path: Path
    """The artifact's main file."""
    open: Callable[[], AnyBackend] | None
    """None where it is known beforehand that it cannot run."""
    why_not: str = ""
    """Why it cannot run; empty if it can."""
    audit: EngineAudit | None = None
    """For an engine."""
    note: str = ""
    """A note for readers of its figures; empty if none."""


def select_backends(
    folder: ModelFolder,
    manifest: Manifest,
    *,
    threads: int | None = None,
    allow_cpu_nodes: bool = False,
    timed_batches: tuple[int, ...] = (1,),
) -> tuple[Selection, ...]:
    """PyTorch first, then ONNX Runtime, then engines.

    `threads` of one inference on the CPU, None for every processor; `allow_cpu_nodes`: ONNX Runtime
    may leave nodes to the CPU where there is a GPU; `timed_batches` are the sizes whose latency
    will be measured. Raises BadInput for an artifact that is stale
    or was changed.
    """
    return _Selector(
        folder, manifest, find_gpus(), threads or cpu_count(), allow_cpu_nodes, timed_batches
    ).all()


@dataclass(frozen=True)
class _Selector:
    folder: ModelFolder
    """The model's folder in the workspace."""
    manifest: Manifest
    """Its manifest."""
    gpus: Sequence[Gpu]
    """The GPUs of this machine."""
    threads: int
    """CPU threads of one inference."""
    allow_cpu_nodes: bool
    """Whether ONNX Runtime may leave nodes to the CPU where a GPU was asked for."""
    timed_batches: tuple[int, ...]
    """Batch sizes whose latency is measured."""

    def all(self) -> tuple[Selection, ...]:
        device: Device = "cuda" if self.gpus else "cpu"
        artifacts = self.manifest.artifacts
        found = [*self._pytorch(device)]
        for key in _ON_GPU if self.gpus else _ON_CPU:
            if key in artifacts:
                precision, form = _GRAPHS[key]
                found.append(
                    self._select(self._check(key), Variant("ort", device, precision, form))
                )
        if self.gpus and find_linked_major() is not None:
            found += [
                self._select(self._check(precision), Variant("ort-trt", "cuda", precision))
                for precision in _ON_TENSORRT_PROVIDER
                if precision in artifacts
            ]
        if PIXELS in artifacts:  # on the CPU wherever it is: only its accuracy is asked for
            found.append(self._select(self._check(PIXELS), Variant("ort", "cpu", "fp32", "uint8")))
        return (*found, *(self._engine(key) for key in self.manifest.engines))

    def _pytorch(self, device: Device) -> list[Selection]:
        """The reference, and on a GPU the faster forms that a speed-up has to be quoted against."""
        reference = Variant("pytorch", device, "fp32")
        path = self.folder.file(self.manifest.artifacts[WEIGHTS])
        if importlib.util.find_spec("torch") is None:
            why = "PyTorch is not installed here: pip install 'hvt-deploy[export]'"
            return [Selection(reference, path, None, why)]
        if not path.is_file():
            return [Selection(reference, path, None, f"Its weights are not here: {path}")]
        variants = [reference]
        if device == "cuda":
            variants.append(Variant("pytorch", device, "fp16"))
            variants.append(Variant("pytorch", device, "fp16", "compiled"))
        path = self._check(WEIGHTS)
        return [self._select(path, variant) for variant in variants]

    def _engine(self, key: str) -> Selection:
        """An engine is opened only after its passport was checked: it is code to be executed."""
        artifact = self.manifest.artifacts[key]
        path = self.folder.file(artifact)
        passport = read_passport(path, artifact.remake)
        variant = Variant("trt", "cuda", passport.precision, target=passport.target)
        found = self._select(self._check(key), variant, passport.audit)
        why = _NO_GPU
        if self.gpus:
            machine = Machine(available_flavours(), tuple(self.gpus))
            try:
                check_passport(path, passport, machine, artifact.remake)
            except MissingEnvironment as error:
                why = f"{error.message} {error.hint}"
            else:
                return replace(found, note=describe_other_card(passport, self.gpus[0]))
        return Selection(variant, path, None, why, passport.audit)

    def _check(self, key: str) -> Path:
        return self.folder.open_artifact(self.manifest, key)

    def _select(self, path: Path, variant: Variant, audit: EngineAudit | None = None) -> Selection:
        manifest = self.manifest
        request = BackendRequest(
            variant=variant,
            path=path,
            model=manifest.model,
            signature=manifest.signature,
            threads=self.threads,
            allow_cpu_nodes=self.allow_cpu_nodes,
            profiles=manifest.config.engine.profiles,
            options=manifest.config.options,
            timed_batches=self.timed_batches,
        )
        if variant.form == "uint8":
            return Selection(variant, path, lambda: open_pixels_backend(request))
        return Selection(variant, path, lambda: open_backend(request), audit=audit)
