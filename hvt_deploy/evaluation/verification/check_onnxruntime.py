"""Section `onnxruntime`: ONNX Runtime's CUDA provider against PyTorch in FP32 on the CPU."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from hvt_deploy.evaluation.verification.bound_timing import time_bound
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect
from hvt_deploy.evaluation.verification.verified_graphs import (
    ENGINE_PRECISIONS,
    EnginePrecision,
    VerifiedGraphs,
    compare_with_reference,
    prepare_graphs,
)
from hvt_deploy.runtime.base import Backend, PlacedBackend

_PROVIDER = "CUDAExecutionProvider"


def check_onnxruntime(checks: CheckList, model: str, folder: Path) -> None:
    """Logits and placement of each graph, and latencies.

    FP32 in TF32 would be at 63 dB, and fails.
    """
    graphs = prepare_graphs(model, folder)
    for precision in ENGINE_PRECISIONS:
        with checks.check(precision) as measured, closing(_open(graphs, precision)) as backend:
            _check_placement(backend, measured)
            compare_with_reference(backend, graphs, precision, measured)
    for batch in (1, 8):
        with checks.check(f"latency, batch {batch}") as measured, ExitStack() as stack:
            bound = {
                precision: stack.enter_context(closing(_open(graphs, precision))).bind(
                    graphs.images_NCHW[:batch]
                )
                for precision in ENGINE_PRECISIONS
            }
            time_bound(bound, batch, measured)


def _open(graphs: VerifiedGraphs, precision: EnginePrecision) -> Backend:
    return graphs.open("ort", "cuda", precision)


def _check_placement(backend: Backend, measured: dict[str, Fact]) -> None:
    """Every node runs on the GPU."""
    placement = backend.placement if isinstance(backend, PlacedBackend) else None
    expect(placement is not None, "Where its nodes ran is not known.")
    if placement is not None:
        measured["placement"] = placement.sentence
        elsewhere = placement.outside(_PROVIDER)
        expect(not elsewhere, f"Not on {_PROVIDER}: {', '.join(elsewhere)}.")
