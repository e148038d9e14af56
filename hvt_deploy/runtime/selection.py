"""Which artifacts of an exported model can run here, on which device, and why the others cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.core.device_choice import DeviceChoice
from hvt_deploy.core.environment import inference_threads
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.manifest import GIVEN, PIXELS, WEIGHTS, GraphKey, Manifest
from hvt_deploy.core.types import Device, Precision
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.models.exported import find_changed_code
from hvt_deploy.runtime.backend_registry import open_backend, open_pixels_backend
from hvt_deploy.runtime.base import AnyBackend, BackendRequest
from hvt_deploy.runtime.tensorrt.flavours import available_flavours
from hvt_deploy.runtime.tensorrt.passport import (
    Machine,
    Passport,
    check_passport,
    describe_other_card,
    read_passport,
)
from hvt_deploy.runtime.tensorrt_provider import find_linked_major
from hvt_deploy.runtime.variant import Form, Variant

# The graphs that ONNX Runtime runs, by artifact key. On a GPU the engine's own INT8 graph runs
# there; on a CPU its accuracy is that of the same Q/DQ with FP32 in the rest, and the CPU has an
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
_DEQUANTIZED = "The CUDA provider dequantizes: the products of this graph run in floating point."
_CPU_ONLY = "Engines run on a GPU only, and --device is cpu."


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
    passport: Passport | None = None
    """For an engine."""
    note: str = ""
    """A note for readers of its figures; empty if none."""
    fault: str = ""
    """What speaks against serving it; empty if nothing."""


def select_backends(
    folder: ModelFolder,
    manifest: Manifest,
    *,
    device: DeviceChoice = DeviceChoice(),  # noqa: B008 - a frozen value
    threads: int | None = None,
    allow_cpu_nodes: bool = False,
    timed_batches: tuple[int, ...] = (1,),
    with_pytorch: bool = True,
) -> tuple[Selection, ...]:
    """PyTorch first, then ONNX Runtime, then engines; each runtime on the GPU where it can.

    `threads` of one inference on the CPU, None for `inference_threads`; `allow_cpu_nodes`: ONNX
    Runtime may leave nodes to the CPU where it runs on a GPU; `timed_batches` are the sizes whose
    latency will be measured; without `with_pytorch` PyTorch is neither selected nor imported.
    Raises MissingEnvironment for a GPU that is not there. An artifact is checked when it is opened:
    BadInput where it is stale or was changed.
    """
    selector = _Selector(
        folder,
        manifest,
        device,
        device.find_gpu(),
        threads or inference_threads(),
        allow_cpu_nodes,
        timed_batches,
    )
    reference = selector.select_reference() if with_pytorch else []
    return (*reference, *selector.select_graphs(), *selector.select_engines())


@dataclass(frozen=True)
class _Place:
    """Where a runtime runs."""

    device: Device
    """The device."""
    why_not: str = ""
    """Why it cannot run, where it may run on the GPU only."""
    note: str = ""
    """Why it runs on the CPU where there is a GPU."""


def _why_not_compiled(device: Device) -> str:
    compiler = os.environ.get("CXX") or "g++"
    if device == "cuda" or shutil.which(compiler):
        return ""
    return f"torch.compile needs a C++ compiler on a CPU, and there is no {compiler}."


@dataclass(frozen=True)
class _Selector:
    folder: ModelFolder
    """The model's folder in the workspace."""
    manifest: Manifest
    """Its manifest."""
    choice: DeviceChoice
    """The devices that may be used."""
    gpu: Gpu | None
    """The GPU of that choice."""
    threads: int
    """CPU threads of one inference."""
    allow_cpu_nodes: bool
    """Whether ONNX Runtime may leave nodes to the CPU where a GPU was asked for."""
    timed_batches: tuple[int, ...]
    """Batch sizes whose latency is measured."""

    def select_reference(self) -> list[Selection]:
        """PyTorch in its forms, or the ONNX file that the model was exported from."""
        if self.manifest.reference_key == GIVEN:
            return [self._select_given()]
        return self._select_pytorch()

    def _select_given(self) -> Selection:
        place = self._find_place(self._why_not_ort)
        variant = Variant("ort", place.device, "fp32", "given")
        path = self.folder.file(self.manifest.artifacts[GIVEN])
        if not path.is_file():
            return Selection(variant, path, None, f"The ONNX file is not here: {path}")
        return self._select(GIVEN, variant, place)

    def _select_pytorch(self) -> list[Selection]:
        """The reference, and the faster forms that a speed-up has to be quoted against."""
        path = self.folder.file(self.manifest.artifacts[WEIGHTS])
        why = ""
        if importlib.util.find_spec("torch") is None:
            why = "PyTorch is not installed here: pip install 'hvt-deploy[export]'"
        elif not path.is_file():
            why = f"Its weights are not here: {path}"
        if why:
            device: Device = "cuda" if self.gpu else "cpu"
            return [Selection(Variant("pytorch", device, "fp32"), path, None, why)]
        place = self._find_place(self._why_not_pytorch)
        changes = find_changed_code(self.manifest.config.options)
        place = replace(place, note=f"{place.note} {changes}".strip())
        found = [self._select(WEIGHTS, Variant("pytorch", place.device, "fp32"), place)]
        precisions: tuple[Precision, ...] = (
            ("fp32", "fp16") if place.device == "cuda" else ("fp32",)
        )
        for precision in precisions:
            deployed = Variant("pytorch", place.device, precision, "deployed")
            compiled = replace(deployed, form="compiled")
            found.append(self._select(WEIGHTS, deployed, place))
            why_not = place.why_not or _why_not_compiled(place.device)
            found.append(self._select(WEIGHTS, compiled, replace(place, why_not=why_not)))
        return found

    def select_graphs(self) -> list[Selection]:
        """ONNX Runtime's, of the device that it runs on."""
        artifacts = self.manifest.artifacts
        place = self._find_place(self._why_not_ort)
        found: list[Selection] = []
        for key in _ON_GPU if place.device == "cuda" else _ON_CPU:
            if key in artifacts:
                precision, form = _GRAPHS[key]
                variant = Variant("ort", place.device, precision, form)
                selection = self._select(key, variant, place)
                if fault := self.manifest.find_fault(key):
                    note = f"{selection.note} Not served: {fault}".strip()
                    selection = replace(selection, note=note, fault=fault)
                if place.device == "cuda" and precision == "int8":
                    selection = replace(selection, note=_DEQUANTIZED)
                found.append(selection)
        if place.device == "cuda" and find_linked_major() is not None:
            found += [
                self._select(key, Variant("ort-trt", "cuda", key), place)
                for key in _ON_TENSORRT_PROVIDER
                if key in artifacts
            ]
        if PIXELS in artifacts:  # on the CPU wherever it is: only its accuracy is asked for
            variant = Variant("ort", "cpu", "fp32", "uint8")
            found.append(self._select(PIXELS, variant, _Place("cpu")))
        return found

    def select_engines(self) -> list[Selection]:
        """Engines, which run on a GPU only."""
        return [self._select_engine(key) for key in self.manifest.engines]

    def _select_engine(self, key: str) -> Selection:
        """An engine is opened only after its passport was checked: it is code to be executed."""
        artifact = self.manifest.artifacts[key]
        path = self.folder.file(artifact)
        passport = read_passport(path, artifact.remake)
        variant = Variant("trt", "cuda", passport.precision, target=passport.target)
        found = self._select(key, variant, _Place("cuda"), passport)
        why = _CPU_ONLY if self.choice.kind == "cpu" else _NO_GPU
        if self.gpu is not None:
            try:
                machine = Machine(available_flavours(), (self.gpu,))
                check_passport(path, passport, machine, artifact.remake)
            except MissingEnvironment as error:
                why = f"{error.message} {error.hint}"
            else:
                return replace(found, note=describe_other_card(passport, self.gpu))
        return Selection(variant, path, None, why, passport)

    def _find_place(self, why_not: Callable[[], str]) -> _Place:
        """On the GPU unless `why_not` tells why the runtime cannot use it."""
        if self.gpu is None:
            return _Place("cpu")
        why = why_not()
        if not why:
            return _Place("cuda")
        if self.choice.kind == "cuda":
            return _Place("cuda", why)
        return _Place("cpu", note=f"On the CPU: {why}")

    def _why_not_pytorch(self) -> str:
        from hvt_deploy.runtime.pytorch import can_use_gpu

        if can_use_gpu(self.choice.ordinal):
            return ""
        return "this PyTorch cannot use the GPU (its build, or the driver)."

    def _why_not_ort(self) -> str:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed."
        from hvt_deploy.runtime.providers import CUDA_PROVIDER, why_not_started

        why = why_not_started(CUDA_PROVIDER, self.choice.ordinal)
        return (
            f"the CUDA provider of ONNX Runtime cannot be used: {why.rstrip('.')}." if why else ""
        )

    def _select(
        self, key: str, variant: Variant, place: _Place, passport: Passport | None = None
    ) -> Selection:
        """Artifact `key` as `variant`. It is checked when it is opened, if it is."""
        manifest = self.manifest
        request = BackendRequest(
            variant=variant,
            path=self.folder.file(manifest.artifacts[key]),
            model=manifest.model,
            signature=manifest.signature,
            threads=self.threads,
            ordinal=self.choice.ordinal,
            allow_cpu_nodes=self.allow_cpu_nodes,
            profiles=manifest.config.engine.profiles,
            options=manifest.config.options,
            timed_batches=self.timed_batches,
        )
        if place.why_not:
            return Selection(variant, request.path, None, place.why_not)

        def open_checked() -> AnyBackend:
            self.folder.open_artifact(manifest, key)
            is_pixels = variant.form == "uint8"
            return open_pixels_backend(request) if is_pixels else open_backend(request)

        return Selection(variant, request.path, open_checked, passport=passport, note=place.note)
