"""Section `pytorch`: PyTorch on a GPU against PyTorch in FP32 on the CPU."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path

from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.model_options import is_onnx_file
from hvt_deploy.core.types import Device
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.verification.bound_timing import time_bound
from hvt_deploy.evaluation.verification.checks import CheckList, Fact, expect
from hvt_deploy.evaluation.verification.torch_cuda import tf32_allowed
from hvt_deploy.evaluation.verification.verified_graphs import (
    EnginePrecision,
    VerifiedGraphs,
    compare_with_reference,
    prepare_graphs,
)
from hvt_deploy.runtime.variant import Form

# TF32 keeps 10 of 23 bits of mantissa: 78 dB less for a single product.
_TF32_COSTS_DB = 10.0
_TF32_SINCE = (8, 0)
_FORMS: tuple[tuple[EnginePrecision, Form], ...] = (
    ("fp32", "plain"),
    ("fp16", "deployed"),
    ("fp16", "compiled"),
)


def check_pytorch(checks: CheckList, model: str, folder: Path, device: Device = "cuda") -> None:
    """FP32 without TF32, FP16 and compiled FP16; on a GPU their latencies.

    Raises MissingEnvironment for a graph, which PyTorch does not run.
    """
    if is_onnx_file(model):
        raise MissingEnvironment("PyTorch runs a model by its name, and a graph was given.")
    graphs = prepare_graphs(model, folder)
    for precision, form in _FORMS:
        if device == "cpu" and form == "compiled":
            continue  # it needs a C++ compiler
        with (
            checks.check(_name(precision, form)) as measured,
            closing(graphs.open("pytorch", device, precision, graphs.weights, form)) as backend,
        ):
            compare_with_reference(backend, graphs, precision, measured)
    if device == "cpu":
        return
    with checks.check("TF32 is seen") as measured:
        _check_tf32(graphs, measured)
    with checks.check("events against the host's clock") as measured:
        _check_events(graphs, measured)
    for batch in (1, 8):
        with checks.check(f"latency, batch {batch}") as measured, ExitStack() as stack:
            bound = {
                _name(precision, form): stack.enter_context(
                    closing(graphs.open("pytorch", device, precision, graphs.weights, form))
                ).bind(graphs.images_NCHW[:batch])
                for precision, form in _FORMS
            }
            time_bound(bound, batch, measured)


def _name(precision: EnginePrecision, form: Form) -> str:
    return precision if form == "plain" else f"{precision} {form}"


def _check_tf32(graphs: VerifiedGraphs, measured: dict[str, Fact]) -> None:
    """The comparison with PyTorch on the CPU would notice TF32: with it the SQNR is lower."""
    capability = find_gpus()[0].compute_capability
    if tuple(map(int, capability.split("."))) < _TF32_SINCE:
        raise MissingEnvironment(f"Compute capability {capability} has no TF32.")
    images_NCHW, logits_NK = graphs.images_NCHW, graphs.logits_NK
    with closing(graphs.open("pytorch", "cuda", "fp32", graphs.weights)) as backend:
        without_db = compare_logits(logits_NK, backend.infer(images_NCHW)).sqnr_db
        with tf32_allowed():
            with_db = compare_logits(logits_NK, backend.infer(images_NCHW)).sqnr_db
    measured.update({"without sqnr_db": without_db, "with TF32 sqnr_db": with_db})
    expect(
        without_db - with_db >= _TF32_COSTS_DB,
        f"TF32 changes the SQNR from {without_db:.1f} to {with_db:.1f} dB only.",
    )


def _check_events(graphs: VerifiedGraphs, measured: dict[str, Fact]) -> None:
    """The time between two events is not longer than the call that waits for them."""
    with closing(graphs.open("pytorch", "cuda", "fp32", graphs.weights)) as backend:
        call = backend.bind(graphs.images_NCHW)
        call()
        started = time.perf_counter()
        event_ms = call()
        host_ms = (time.perf_counter() - started) * 1000
    expect(event_ms is not None, "The call gives no time of the GPU.")
    measured.update(event_ms=event_ms or 0.0, host_ms=host_ms)
    expect(0 < (event_ms or 0.0) <= host_ms, f"{event_ms} ms by events, {host_ms:.3f} by the host.")
