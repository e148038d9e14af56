"""`doctor`: checks what this machine supports and what is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.environment import (
    cpu_count,
    cpu_flags,
    cpu_name,
    free_disk_bytes,
    int8_saturates,
    tool_versions,
)
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu, name_driver, search_gpus
from hvt_deploy.runtime.probe import Part, ProbeResult, probe_in_child
from hvt_deploy.runtime.tensorrt.flavours import (
    FlavourInfo,
    available_flavours,
    known_capabilities,
)

SATURATES = (
    "no VNNI: products of 8 bits are summed in 16 bits and saturate. hvt-deploy avoids that "
    "(session.x64quantprecision of ONNX Runtime; set it in your own program too), at the cost of "
    "speed."
)

# Parts that are opened where there is a GPU, apart from the TensorRT libraries, as facts name them.
_ON_GPU: dict[Part, str] = {"cuda": "CUDA", "pytorch": "PyTorch on the GPU"}


@dataclass(frozen=True)
class Ability:
    """Whether a command works here."""

    verb: str
    """Name of the command."""
    works: bool
    """Whether it will work."""
    why: str
    """The component that will be used, or the one that is missing."""


@dataclass(frozen=True)
class Diagnosis:
    """The capabilities of this machine."""

    facts: dict[str, str]
    """Hardware and versions, by name."""
    abilities: tuple[Ability, ...]
    """One per command."""


def check_machine(workspace: Path) -> Diagnosis:
    """Look at packages, GPUs and disk, and open each runtime as a validation would."""
    search, flavours = search_gpus(), available_flavours()
    gpus = search.gpus
    installed = [f for f in flavours if isinstance(f, FlavourInfo)]
    opened = open_parts(bool(gpus), installed)
    providers = opened.get("providers", ProbeResult(False, "none"))
    facts = {
        "cpu": f"{cpu_name()}, {cpu_count()} threads",
        "int8 on the cpu": SATURATES if int8_saturates(cpu_flags()) else "sums are exact",
        "gpu": ", ".join(map(_describe_gpu, gpus)) or f"none: {search.why_none}",
        "driver": _describe_driver(gpus[0]) if gpus else "none",
        "free disk": f"{free_disk_bytes(workspace) / 1e9:.1f} GB",
        "ONNX Runtime providers": providers.text,
        **{f.what: f"no: {f.why}" for f in flavours if not isinstance(f, FlavourInfo)},
        **{f.name: _describe_flavour(f, opened) for f in installed},
        **{title: opened[part].text for part, title in _ON_GPU.items() if part in opened},
        **tool_versions(),
    }
    stranger = _name_stranger(gpus, installed)
    build = _check_build(bool(gpus), installed, stranger)
    run = _check_run(bool(gpus), installed, opened, stranger)
    return Diagnosis(facts, (_export(), _quantize(), build, run))


def open_parts(has_gpu: bool, installed: Sequence[FlavourInfo]) -> dict[Part, ProbeResult]:
    """How each installed part opened, each in its own process; those of a GPU only with one."""
    parts: list[Part] = []
    if importlib.util.find_spec("onnxruntime") is not None:
        parts.append("providers")
    if has_gpu:
        parts.append("cuda")
        parts.extend(f.name for f in installed)
        if importlib.util.find_spec("torch") is not None:
            parts.append("pytorch")
    return {part: probe_in_child(part) for part in parts}


def _describe_gpu(gpu: Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB)"


def _describe_driver(gpu: Gpu) -> str:
    return f"{name_driver() or 'version unknown'}, for CUDA {gpu.cuda_version} and older"


def _describe_flavour(flavour: FlavourInfo, opened: Mapping[Part, ProbeResult]) -> str:
    result = opened.get(flavour.name)
    return f"{flavour.version}: {result.text}" if result else flavour.version


def _missing(modules: dict[str, str]) -> list[str]:
    return [
        f"{name} (pip install 'hvt-deploy[{extra}]')"
        for name, extra in modules.items()
        if importlib.util.find_spec(name) is None
    ]


def _export() -> Ability:
    needed = {
        "torch": "export",
        "onnxscript": "export",
        "onnxslim": "export",
        "einops": "export",
        "safetensors": "export",
        "onnxruntime": "cpu",
    }
    missing = _missing(needed)
    return Ability(
        "export", not missing, f"missing: {', '.join(missing)}" if missing else "PyTorch on the CPU"
    )


def _quantize() -> Ability:
    missing = _missing({"onnxruntime": "cpu"})
    return Ability(
        "quantize",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "ONNX Runtime on the CPU",
    )


def _name_stranger(gpus: Sequence[Gpu], installed: Sequence[FlavourInfo]) -> str:
    """The first GPU, if TensorRT-RTX is installed and does not know it; else empty."""
    if not gpus or "tensorrt_rtx" not in {f.name for f in installed}:
        return ""
    try:
        known = known_capabilities("tensorrt_rtx")
    except MissingEnvironment:
        return ""  # its own line says why
    return "" if gpus[0].compute_capability in known else gpus[0].name


def _check_build(has_gpu: bool, installed: Sequence[FlavourInfo], stranger: str) -> Ability:
    names = {f.name for f in installed}
    if has_gpu and "tensorrt" in names:
        return Ability("build-trt", True, "TensorRT, for this GPU")
    if "tensorrt_rtx" in names:
        target = "for this GPU" if has_gpu else "ahead of time for RTX cards"
        if stranger:
            target = f"ahead of time for RTX cards: it does not know the {stranger}"
        return Ability("build-trt", True, f"TensorRT-RTX, {target}")
    lacking = (
        "TensorRT or TensorRT-RTX"
        if has_gpu
        else "a GPU with TensorRT, or TensorRT-RTX to build ahead of time"
    )
    return Ability("build-trt", False, f"missing: {lacking} (pip install 'hvt-deploy[rtx]')")


def _check_run(
    has_gpu: bool,
    installed: Sequence[FlavourInfo],
    opened: Mapping[Part, ProbeResult],
    stranger: str,
) -> Ability:
    providers = opened.get("providers", ProbeResult(False, ""))
    place = "GPU" if "CUDAExecutionProvider" in providers.text else "CPU"
    graphs = f"ONNX Runtime on the {place}" if providers.works else ""
    usable = [f for f in installed if not (stranger and f.name == "tensorrt_rtx")]
    started = [f.title for f in usable if f.name in opened and opened[f.name].works]
    if has_gpu and started and opened["cuda"].works:
        engines = f"engines on the GPU in {' and '.join(started)}"
        return Ability("validate", True, ", ".join(filter(None, (engines, graphs))))
    if graphs:
        why = _why_no_engine(has_gpu, usable, opened)
        if not why:
            why = f"TensorRT-RTX does not know the {stranger}" if stranger else "no TensorRT"
        return Ability("validate", True, f"{graphs}; engines are skipped: {why}")
    return Ability("validate", False, "missing: onnxruntime (pip install 'hvt-deploy[cpu]')")


def _why_no_engine(
    has_gpu: bool, installed: Sequence[FlavourInfo], opened: Mapping[Part, ProbeResult]
) -> str:
    if not has_gpu:
        return "no GPU"
    if not opened["cuda"].works:
        return opened["cuda"].text
    return "; ".join(opened[f.name].text for f in installed)
