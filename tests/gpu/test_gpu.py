"""Every backend of a GPU against PyTorch on the CPU: the same logits, and their latencies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from engines import Engines
from exported import IMAGES, PRECISIONS, EnginePrecision, Exported, Record

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.types import FlavourChoice, Runtime
from hvt_deploy.evaluation.gpu_reading import open_gpu_reader
from hvt_deploy.evaluation.latency import measure_latency
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.runtime.base import Backend, BoundCall
from hvt_deploy.runtime.tensorrt.passport import read_passport
from hvt_deploy.runtime.variant import Form

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

FLAVOURS: tuple[FlavourChoice, ...] = ("tensorrt", "rtx")
# Two runs of one engine, or of its graph in ONNX Runtime with FP32 for FP16.
REPEATED_SQNR_DB = 40.0
NUMERICS_SQNR_DB = 25.0


def build_or_skip(engines: Engines, flavour: FlavourChoice, precision: EnginePrecision) -> Path:
    """The engine; skips where the library is missing or does not know this GPU (TensorRT-RTX knows
    RTX cards only).
    """
    try:
        return engines.build(flavour, precision)
    except MissingEnvironment as error:
        pytest.skip(error.message)
    except BadInput as error:
        if "compute capability" in error.message:
            pytest.skip(error.message)
        raise


def open_or_skip(
    exported: Exported, runtime: Runtime, precision: EnginePrecision, path: Path
) -> Backend:
    """The backend on the GPU; skips with the reason where its package has no CUDA here."""
    try:
        return exported.open(runtime, "cuda", precision, path)
    except MissingEnvironment as error:
        pytest.skip(f"{error.message} {error.hint}")


def check_logits(
    backend: Backend, exported: Exported, precision: EnginePrecision, record: Record
) -> None:
    """The logits of PyTorch in every batch size, as nearly as the precision allows."""
    for batch in (IMAGES, 5, 1):
        parity = compare_logits(
            exported.logits_NK[:batch], backend.infer(exported.images_NCHW[:batch])
        )
        least = exported.least_sqnr_db[precision]
        record(backend=backend.name, batch=batch, parity=parity, least_sqnr_db=least)
        assert parity.sqnr_db >= least


def test_pytorch_on_cuda(exported: Exported, record: Record) -> None:
    with closing(open_or_skip(exported, "pytorch", "fp32", exported.weights)) as backend:
        check_logits(backend, exported, "fp32", record)


@pytest.mark.parametrize("form", ["plain", "compiled"])
def test_faster_forms_of_pytorch(exported: Exported, record: Record, form: Form) -> None:
    with closing(exported.open("pytorch", "cuda", "fp16", exported.weights, form)) as backend:
        check_logits(backend, exported, "fp16", record)
        milliseconds = backend.bind(exported.images_NCHW[:1])()
        assert milliseconds is not None
        assert 0 < milliseconds < 1000


def test_nvml_reads_clocks_power_temperature_and_memory(record: Record) -> None:
    reader = open_gpu_reader(find_gpus()[0])
    assert reader.read is not None, reader.notes
    reading = reader.read()
    record(nvml=reading, notes=reader.notes)
    assert reading is not None
    assert 100 < reading.sm_mhz < 4000
    assert 10 < reading.temperature_c < 110
    assert reading.memory_mib > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnxruntime_on_cuda(
    exported: Exported, record: Record, precision: EnginePrecision
) -> None:
    with closing(open_or_skip(exported, "ort", precision, exported.onnx(precision))) as backend:
        check_logits(backend, exported, precision, record)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_engine(
    exported: Exported,
    engines: Engines,
    record: Record,
    flavour: FlavourChoice,
    precision: EnginePrecision,
) -> None:
    engine = build_or_skip(engines, flavour, precision)
    with closing(open_or_skip(exported, "trt", precision, engine)) as backend:
        check_logits(backend, exported, precision, record)
        # More than the largest profile takes; the parts must come back in order.
        twice = np.concatenate([exported.images_NCHW, exported.images_NCHW[::-1]])
        logits = backend.infer(twice)
        assert compare_logits(logits[:IMAGES], logits[IMAGES:][::-1]).sqnr_db >= REPEATED_SQNR_DB
    passport = read_passport(engine)
    record(
        backend=f"{flavour} {precision}",
        engine=engine.name,
        version=passport.version,
        audit=passport.audit,
    )
    assert passport.audit.kernels > 0
    assert (passport.audit.layers.int8 > 0) == (precision == "int8")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_engine_runs_the_numerics_of_its_own_graph(
    exported: Exported, engines: Engines, record: Record, flavour: FlavourChoice
) -> None:
    """The row `int8 engine numerics` (the engine's Q/DQ graph in ONNX Runtime), by which `validate`
    judges INT8 engines without a GPU, holds on the GPU.
    """
    engine = build_or_skip(engines, flavour, "int8")
    with ExitStack() as stack:
        ort = stack.enter_context(
            closing(exported.open("ort", "cpu", "int8", exported.onnx("int8-fp32")))
        )
        trt = stack.enter_context(closing(open_or_skip(exported, "trt", "int8", engine)))
        parity = compare_logits(ort.infer(exported.images_NCHW), trt.infer(exported.images_NCHW))
    record(backend=trt.name, against=ort.name, parity=parity)
    assert parity.sqnr_db >= NUMERICS_SQNR_DB


@pytest.mark.parametrize("batch", [1, 8])
def test_latency(exported: Exported, engines: Engines, record: Record, batch: int) -> None:
    """All backends interleaved on resident inputs; an FP16 engine is faster than eager PyTorch."""
    images = exported.images_NCHW[:batch]
    bound: dict[str, BoundCall] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:

        def bind(name: str, open_backend: Callable[[], Backend]) -> None:
            try:
                backend = stack.enter_context(closing(open_backend()))
                bound[name] = backend.bind(images)
            except (MissingEnvironment, BadInput) as error:
                skipped[name] = error.message

        bind("pytorch fp32", partial(exported.open, "pytorch", "cuda", "fp32", exported.weights))
        for precision in PRECISIONS:
            onnx = exported.onnx(precision)
            bind(f"ort {precision}", partial(exported.open, "ort", "cuda", precision, onnx))
            for flavour in FLAVOURS:
                bind(
                    f"{flavour} {precision}",
                    partial(_open_engine, exported, engines, flavour, precision),
                )
        latencies = measure_latency(bound, batch)
    for name, latency in latencies.items():
        record(backend=name, batch=batch, median_ms=latency.median, p99_ms=latency.p99)
        record(backend=name, batch=batch, stable=latency.stable)
    record(batch=batch, skipped=skipped)
    if {"tensorrt fp16", "pytorch fp32"} <= set(latencies):
        assert latencies["tensorrt fp16"].median < latencies["pytorch fp32"].median


def _open_engine(
    exported: Exported, engines: Engines, flavour: FlavourChoice, precision: EnginePrecision
) -> Backend:
    return exported.open("trt", "cuda", precision, engines.build(flavour, precision))
