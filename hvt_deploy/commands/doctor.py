"""`doctor`: checks what this machine supports and what is missing."""

from __future__ import annotations

import importlib.util
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
from hvt_deploy.core.gpus import Gpu, name_driver, search_gpus
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, available_flavours

SATURATES = (
    "no VNNI: products of 8 bits are summed in 16 bits and saturate. hvt-deploy avoids that "
    "(session.x64quantprecision of ONNX Runtime; set it in your own program too), at the cost of "
    "speed."
)


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
    """Look at packages, providers, GPUs and disk."""
    search, flavours = search_gpus(), available_flavours()
    gpus = search.gpus
    installed = [f for f in flavours if isinstance(f, FlavourInfo)]
    providers = _providers()
    facts = {
        "cpu": f"{cpu_name()}, {cpu_count()} threads",
        "int8 on the cpu": SATURATES if int8_saturates(cpu_flags()) else "sums are exact",
        "gpu": ", ".join(map(_describe_gpu, gpus)) or f"none: {search.why_none}",
        "driver": _describe_driver(gpus[0]) if gpus else "none",
        "free disk": f"{free_disk_bytes(workspace) / 1e9:.1f} GB",
        "ONNX Runtime providers": ", ".join(providers) or "none",
        **{f.what if not isinstance(f, FlavourInfo) else f.name: _flavour(f) for f in flavours},
        **tool_versions(),
    }
    return Diagnosis(
        facts,
        (
            _export(),
            _quantize(),
            _check_build(bool(gpus), installed),
            _check_run(bool(gpus), providers, installed),
        ),
    )


def _describe_gpu(gpu: Gpu) -> str:
    return f"{gpu.name} (compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB)"


def _describe_driver(gpu: Gpu) -> str:
    return f"{name_driver() or 'version unknown'}, for CUDA {gpu.cuda_version} and older"


def _flavour(flavour: object) -> str:
    return (
        flavour.version
        if isinstance(flavour, FlavourInfo)
        else f"no: {getattr(flavour, 'why', '')}"
    )


def _providers() -> tuple[str, ...]:
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    from hvt_deploy.runtime.providers import working_providers

    return working_providers()


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


def _check_build(has_gpu: bool, installed: list[FlavourInfo]) -> Ability:
    names = {f.name for f in installed}
    if has_gpu and "tensorrt" in names:
        return Ability("build-trt", True, "TensorRT, for this GPU")
    if "tensorrt_rtx" in names:
        return Ability(
            "build-trt", True, "TensorRT-RTX" + ("" if has_gpu else ", ahead of time for RTX cards")
        )
    lacking = (
        "TensorRT or TensorRT-RTX"
        if has_gpu
        else "a GPU with TensorRT, or TensorRT-RTX to build ahead of time"
    )
    return Ability("build-trt", False, f"missing: {lacking} (pip install 'hvt-deploy[rtx]')")


def _check_run(has_gpu: bool, providers: tuple[str, ...], installed: list[FlavourInfo]) -> Ability:
    if has_gpu and installed:
        return Ability("validate", True, "engines on the GPU, ONNX Runtime")
    if providers:
        return Ability(
            "validate",
            True,
            "ONNX Runtime; engines are skipped: " + ("no TensorRT" if has_gpu else "no GPU"),
        )
    return Ability("validate", False, "missing: onnxruntime (pip install 'hvt-deploy[cpu]')")
