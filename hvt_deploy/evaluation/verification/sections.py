"""The sections of a verification, cheapest first, and the lines of the README that each settles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hvt_deploy.evaluation.verification.checks import CheckList

SectionName = Literal[
    "device", "cuda", "pytorch", "onnxruntime", "tensorrt-rtx", "tensorrt", "demo"
]
SECTION_NAMES: tuple[SectionName, ...] = get_args(SectionName)
# Small enough that a section ends within its time, with every kind of node.
DEFAULT_MODEL = "fdvit_ti"


@dataclass(frozen=True)
class SectionJob:
    """A section to run."""

    section: SectionName
    """Which one."""
    model: str
    """Name of the model whose graphs and engines are compared, or the file of its FP32 graph."""
    folder: Path
    """Graphs, engines and the demo are written here; the sections share it."""


@dataclass(frozen=True)
class Section:
    """A part of the verification that runs in a process of its own."""

    limit_s: int
    """It is stopped after so many seconds."""
    readme_row: str
    """The line of the README's table "Not verified yet" that it settles."""
    run: Callable[[CheckList, SectionJob], None]
    """Does the checks. Raises what prevents all of them."""


def _device(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_device import check_device

    check_device(checks)


def _cuda(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_cuda import check_cuda

    check_cuda(checks)


def _pytorch(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_pytorch import check_pytorch

    check_pytorch(checks, job.model, job.folder)


def _onnxruntime(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_onnxruntime import check_onnxruntime

    check_onnxruntime(checks, job.model, job.folder)


def _tensorrt_rtx(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_engines import check_engines

    check_engines(checks, "rtx", job.model, job.folder)


def _tensorrt(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_engines import check_engines

    check_engines(checks, "tensorrt", job.model, job.folder)


def _demo(checks: CheckList, job: SectionJob) -> None:
    from hvt_deploy.evaluation.verification.check_demo import check_demo

    check_demo(checks, job.folder)


SECTIONS: Mapping[SectionName, Section] = {
    "device": Section(60, "GPUs, their clocks and power, as libcuda and NVML report them", _device),
    "cuda": Section(180, "the CUDA layer: memory, copies, events, captured graphs", _cuda),
    "pytorch": Section(420, "PyTorch on CUDA: FP32 without TF32, FP16, compiled", _pytorch),
    "onnxruntime": Section(300, "ONNX Runtime's CUDA provider", _onnxruntime),
    "tensorrt-rtx": Section(
        420,
        "TensorRT-RTX engines run, INT8 and FP16 timed; whether their traffic predicted it",
        _tensorrt_rtx,
    ),
    "tensorrt": Section(
        1800,  # a Jetson builds for minutes
        "engines of the full TensorRT are built and run, INT8 and FP16 timed; "
        "whether their traffic predicted it",
        _tensorrt,
    ),
    "demo": Section(420, "`demo` on a GPU", _demo),
}
# Lines that need several sections on one kind of machine.
JETSON_ROW = "Jetson"
JETSON_SECTIONS: tuple[SectionName, ...] = ("device", "cuda", "tensorrt")


def list_readme_rows(verified: Collection[SectionName], *, on_jetson: bool) -> tuple[str, ...]:
    """The lines of the README that these sections settle."""
    rows = [SECTIONS[name].readme_row for name in SECTION_NAMES if name in verified]
    if on_jetson and set(JETSON_SECTIONS) <= set(verified):
        rows.append(JETSON_ROW)
    return tuple(rows)
