"""Every backend of a GPU against PyTorch on the CPU: the same logits, and how long they take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from exported import PRECISIONS, Exported

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.types import Runtime
from hvt_deploy.evaluation.gpu import open_nvml
from hvt_deploy.evaluation.latency import measure_latency
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.runtime.base import Backend
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, available_flavours
from hvt_deploy.runtime.tensorrt.passport import read_passport

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

# Random weights leave nothing to be robust against: these are the bounds of the formats, not of a
# trained model.
LEAST_SQNR_DB = {"fp32": 80.0, "fp16": 40.0, "int8": 15.0}
FLAVOURS = ("tensorrt", "rtx")
Build = Callable[[str, str], Path]


def engine_or_skip(engines: Build, flavour: str, precision: str) -> Path:
    """The engine; skips where the library is missing or does not know this GPU (TensorRT-RTX knows
    RTX cards only).
    """
    try:
        return engines(flavour, precision)
    except MissingEnvironment as error:
        pytest.skip(error.message)
    except BadInput as error:
        if "compute capability" in error.message:
            pytest.skip(error.message)
        raise


def open_or_skip(exported: Exported, runtime: Runtime, precision: str, path: Path) -> Backend:
    """The backend on the GPU; skips with the reason where its package has no CUDA here."""
    try:
        return exported.open(runtime, "cuda", precision, path)
    except MissingEnvironment as error:
        pytest.skip(f"{error.message} {error.hint}")


def check_logits(
    backend: Backend, exported: Exported, precision: str, record: Callable[..., None]
) -> None:
    """Same logits as PyTorch in every batch size, within what the precision allows."""
    for batch in (16, 5, 1):
        parity = compare_logits(
            exported.logits_NK[:batch], backend.infer(exported.images_NCHW[:batch])
        )
        record(backend=backend.name, batch=batch, parity=parity)
        assert parity.sqnr_db >= LEAST_SQNR_DB[precision]


def test_pytorch_on_cuda(exported: Exported, record) -> None:
    with closing(open_or_skip(exported, "pytorch", "fp32", exported.folder)) as backend:
        check_logits(backend, exported, "fp32", record)


@pytest.mark.parametrize("form", ["fp16", "fp16-compiled"])
def test_faster_forms_of_pytorch(exported: Exported, record, form: str) -> None:
    with closing(open_or_skip(exported, "pytorch", form, exported.folder)) as backend:
        check_logits(backend, exported, "fp16", record)
        milliseconds = backend.bind(exported.images_NCHW[:1])()
        assert milliseconds is not None
        assert 0 < milliseconds < 1000


def test_nvml_reads_clocks_power_temperature_and_memory(record) -> None:
    read = open_nvml()
    assert read is not None
    reading = read()
    record(nvml=reading)
    assert reading is not None
    assert 100 < reading.sm_mhz < 4000
    assert 10 < reading.temperature_c < 110
    assert reading.memory_mib > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnxruntime_on_cuda(exported: Exported, record, precision: str) -> None:
    with closing(open_or_skip(exported, "ort", precision, exported.onnx(precision))) as backend:
        check_logits(backend, exported, precision, record)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_engine(exported: Exported, engines: Build, record, flavour: str, precision: str) -> None:
    engine = engine_or_skip(engines, flavour, precision)
    with closing(open_or_skip(exported, "trt", precision, engine)) as backend:
        check_logits(backend, exported, precision, record)
        # More than the largest profile takes; the parts must come back in order.
        twice = np.concatenate([exported.images_NCHW, exported.images_NCHW[::-1]])
        logits = backend.infer(twice)
        assert compare_logits(logits[:16], logits[16:][::-1]).sqnr_db >= LEAST_SQNR_DB["fp16"]
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
    exported: Exported, engines: Build, record, flavour: str
) -> None:
    """What validate says without a GPU of an INT8 engine (its Q/DQ graph in ONNX Runtime) holds on
    the GPU.
    """
    engine = engine_or_skip(engines, flavour, "int8")
    with ExitStack() as stack:
        ort = stack.enter_context(
            closing(exported.open("ort", "cpu", "int8", exported.onnx("int8-fp32")))
        )
        trt = stack.enter_context(closing(open_or_skip(exported, "trt", "int8", engine)))
        parity = compare_logits(ort.infer(exported.images_NCHW), trt.infer(exported.images_NCHW))
    record(backend=trt.name, against=ort.name, parity=parity)
    assert parity.sqnr_db >= 25.0


@pytest.mark.parametrize("batch", [1, 8])
def test_latency(exported: Exported, engines: Build, record, batch: int) -> None:
    """All backends interleaved on resident inputs; an FP16 engine is faster than eager PyTorch."""
    installed = {f.name for f in available_flavours() if isinstance(f, FlavourInfo)}
    images = exported.images_NCHW[:batch]
    with ExitStack() as stack:
        eager = stack.enter_context(
            closing(open_or_skip(exported, "pytorch", "fp32", exported.folder))
        )
        bound, skipped = {"pytorch fp32": eager.bind(images)}, {}
        for precision in PRECISIONS:
            for name, path in (
                (f"ort {precision}", lambda p=precision: exported.onnx(p)),
                *((f"{f} {precision}", lambda f=f, p=precision: engines(f, p)) for f in FLAVOURS),
            ):
                try:
                    runtime: Runtime = "ort" if name.startswith("ort") else "trt"
                    backend = stack.enter_context(
                        closing(exported.open(runtime, "cuda", precision, path()))
                    )
                    bound[name] = backend.bind(images)
                except (MissingEnvironment, BadInput) as error:
                    skipped[name] = error.message
        latencies = measure_latency(bound, batch)
    for name, latency in latencies.items():
        record(
            backend=name,
            batch=batch,
            median_ms=latency.median,
            p99_ms=latency.p99,
            stable=latency.stable,
        )
    record(batch=batch, skipped=skipped)
    if "tensorrt" in installed:
        assert latencies["tensorrt fp16"].median < latencies["pytorch fp32"].median
