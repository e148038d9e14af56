"""Section `onnxruntime`: ONNX Runtime's CUDA provider against PyTorch in FP32 on the CPU."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import numpy as np

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.verification.bound_timing import time_bound
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect
from hvt_deploy.evaluation.verification.verified_graphs import (
    ENGINE_PRECISIONS,
    EnginePrecision,
    VerifiedGraphs,
    compare_with_reference,
    prepare_graphs,
)
from hvt_deploy.runtime.base import Backend, BackendRequest, PlacedBackend
from hvt_deploy.runtime.variant import Variant

_PROVIDER = "CUDAExecutionProvider"
_BATCH, _LAUNCHES = 8, 50
# Each session chooses its convolution algorithms by itself.
_SAME_SQNR_DB = 40.0


def check_onnxruntime(checks: CheckList, model: str, folder: Path) -> None:
    """Logits, placement and CUDA graph of each graph, and latencies.

    FP32 in TF32 would be at 63 dB, and fails.
    """
    graphs = prepare_graphs(model, folder)
    for precision in ENGINE_PRECISIONS:
        with checks.check(precision) as measured, closing(_open(graphs, precision)) as backend:
            _check_placement(backend, measured)
            compare_with_reference(backend, graphs, precision, measured)
        with checks.check(f"{precision} as a CUDA graph") as measured:
            compare_captured(_request(graphs, precision), graphs.images_NCHW[:_BATCH], measured)
    for batch in (1, 8):
        with checks.check(f"latency, batch {batch}") as measured, ExitStack() as stack:
            bound = {
                precision: stack.enter_context(closing(_open(graphs, precision))).bind(
                    graphs.images_NCHW[:batch]
                )
                for precision in ENGINE_PRECISIONS
            }
            time_bound(bound, batch, measured)


def compare_captured(
    request: BackendRequest, images_NCHW: ImagesNCHW, measured: dict[str, Fact]
) -> None:
    """Raises CheckFailed unless a CUDA graph is captured and replays the logits of a run without,
    the same again each time; which of the two is faster is only measured.
    """
    # Imports ONNX Runtime, without which the section cannot be done and has not failed.
    from hvt_deploy.runtime.ort_cuda import OrtCudaCall, bind_on_gpu

    with ExitStack() as stack:
        plain = stack.enter_context(closing(OrtCudaCall(request, images_NCHW, with_graph=False)))
        captured = stack.enter_context(closing(bind_on_gpu(request, images_NCHW)))
        calls = {"plain": plain.call, "captured": captured.call}
        for name, call in calls.items():
            measured[f"{name} median_ms"] = median(call() for _ in range(_LAUNCHES))
            measured[f"{name} back to back_ms"] = call.time(_LAUNCHES) / _LAUNCHES
            measured[f"{name} note"] = call.launches.note
        expect(captured.call.launches.cuda_graph, captured.call.launches.note)
        eager_NK, replayed_NK = plain.call.rerun(), captured.call.rerun()
        again_NK = captured.call.rerun()
    expect(bool(np.isfinite(replayed_NK).all()), "A replay left logits that it did not write.")
    expect(np.array_equal(replayed_NK, again_NK), "Two replays give other logits.")
    measured["sqnr_db"] = sqnr_db = compare_logits(eager_NK, replayed_NK).sqnr_db
    expect(sqnr_db >= _SAME_SQNR_DB, f"A replay differs from a run without: {sqnr_db:.1f} dB.")


def _request(graphs: VerifiedGraphs, precision: EnginePrecision) -> BackendRequest:
    variant = Variant("ort", "cuda", precision)
    path, threads = graphs.onnx(precision), cpu_count()
    return BackendRequest(variant, path, graphs.model, graphs.signature, threads)


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
