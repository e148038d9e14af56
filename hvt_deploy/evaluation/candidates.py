"""Which backends a validation compares: a row for each artifact and the runtime that can run it
here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.core.config import ValidationConfig
from hvt_deploy.core.environment import Gpu, cpu_count, find_gpus
from hvt_deploy.core.errors import BadInput, MissingEnvironment, unknown_name
from hvt_deploy.core.manifest import (
    PIXELS,
    RECORDED,
    WEIGHTS,
    EngineFacts,
    GraphFacts,
    Manifest,
    RecordedFacts,
)
from hvt_deploy.core.types import Device, Runtime
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.reference_logits import RecordedLogits, read_recorded
from hvt_deploy.runtime.base import AnyBackend, BackendRequest
from hvt_deploy.runtime.registry import open_backend, open_pixels_backend
from hvt_deploy.runtime.tensorrt.flavours import available_flavours
from hvt_deploy.runtime.tensorrt.passport import Machine, check_passport, read_passport

REFERENCE: Runtime = "pytorch"
EMULATED = (
    "FP16 is emulated by ONNX Runtime on a CPU: its latency says nothing and is not measured."
)
NUMERICS = "The engine's own Q/DQ graph with FP32 in the rest: accuracy only."
CPU_VARIANT = "The same recipe and ranges in the form that ONNX Runtime's CPU kernels are fast on."
# The row of the graph that `export --preprocess-in-graph` writes.
PIXELS_ROW = "ort fp32 uint8"
PIXELS_NOTE = (
    "Preprocessing in the graph, from uint8 pixels of any size; its speed is not measured."
)
RECORDED_NOTE = "Logits that PyTorch gave on another machine."
NO_ENGINE = "No engine was built yet: hvt-deploy build-trt"


@dataclass(frozen=True)
class Planned:
    """A row to fill. `open` is None where it is known beforehand that it cannot run; `row.skipped`
    then says why.

    `recorded` stands for a reference that cannot run here: its logits of these images.
    """

    runtime: Runtime
    row: Row
    open: Callable[[], AnyBackend] | None = None
    timed: bool = True
    named: bool = False
    recorded: RecordedLogits | None = None


def plan_rows(
    folder: ModelFolder, manifest: Manifest, settings: ValidationConfig
) -> tuple[Planned, ...]:
    """The reference first, then ONNX Runtime, then engines.

    Raises BadInput for an artifact that is stale or changed, and for an unknown name in --backends.
    """
    gpus = find_gpus()
    device: Device = "cuda" if gpus else "cpu"
    rows = [_reference(folder, manifest, settings, device)]
    keys = ("fp32", "fp16", "int8") if gpus else ("fp32", "fp16", "int8-cpu", "int8-fp32")
    if gpus and rows[0].open is not None:
        rows += [
            _faster_pytorch(folder, manifest, settings, form) for form in ("fp16", "fp16-compiled")
        ]
    names = {
        "int8-cpu": ("ort int8 cpu", CPU_VARIANT),
        "int8-fp32": ("int8 engine numerics", NUMERICS),
    }
    for key in keys:
        if key in manifest.artifacts:
            note = EMULATED if key == "fp16" and not gpus else ""
            name, note = names.get(key, (f"ort {key}", note))
            row = _row(folder, manifest, settings, "ort", device, name, key, note)
            rows.append(replace(row, timed=key != "int8-fp32" and note != EMULATED))
    if PIXELS in manifest.artifacts:  # on the CPU wherever it is: only its accuracy is asked for
        row = _row(folder, manifest, settings, "ort", "cpu", PIXELS_ROW, PIXELS, PIXELS_NOTE)
        rows.append(replace(row, timed=False))
    engines = list(manifest.engines)
    for key in engines:
        rows.append(_engine_row(folder, manifest, settings, key, gpus))
    if not engines:
        missing = Row(manifest.model, "trt", "cuda", "any", None, skipped=NO_ENGINE)
        rows.append(Planned("trt", missing))
    return _chosen(rows, settings.backends)


def _row(
    folder: ModelFolder,
    manifest: Manifest,
    settings: ValidationConfig,
    runtime: Runtime,
    device: Device,
    name: str,
    key: str,
    note: str,
) -> Planned:
    path = folder.open_artifact(manifest, key)
    facts = manifest.artifacts[key].facts
    precision = facts.precision if isinstance(facts, (GraphFacts, EngineFacts)) else "fp32"
    request = BackendRequest(
        name=name,
        runtime=runtime,
        device=device,
        precision=precision,
        path=path,
        model=manifest.model,
        signature=manifest.signature,
        threads=settings.threads or cpu_count(),
        allow_cpu_nodes=settings.allow_cpu_nodes,
    )
    row = Row(manifest.model, name, device, precision, path.name, note=note)
    if key == PIXELS:
        return Planned(runtime, row, lambda: open_pixels_backend(request))
    return Planned(
        runtime, row, lambda: open_backend(request, lambda _: _open_reference(manifest, path))
    )


def _reference(
    folder: ModelFolder, manifest: Manifest, settings: ValidationConfig, device: Device
) -> Planned:
    """PyTorch, or where it cannot run what was recorded of it."""
    can_run = (
        importlib.util.find_spec("torch") is not None
        and folder.file(manifest.artifacts[WEIGHTS]).is_file()
    )
    if can_run or RECORDED not in manifest.artifacts:
        return _row(folder, manifest, settings, "pytorch", device, "pytorch fp32", WEIGHTS, "")
    path, artifact = folder.open_artifact(manifest, RECORDED), manifest.artifacts[RECORDED]
    facts = manifest.facts(RECORDED, RecordedFacts)
    if facts is None or facts.preprocessing != manifest.preprocessing:
        raise BadInput(
            "The reference was recorded with another preprocessing.", f"Run: {artifact.remake}"
        )
    row = Row(
        manifest.model, f"{REFERENCE} fp32 (recorded)", "cpu", "fp32", path.name, note=RECORDED_NOTE
    )
    return Planned(REFERENCE, row, timed=False, recorded=read_recorded(path))


def _faster_pytorch(
    folder: ModelFolder, manifest: Manifest, settings: ValidationConfig, form: str
) -> Planned:
    """PyTorch at its best on a GPU, which a speed-up has to be quoted against: float16, channels
    last.
    """
    path = folder.open_artifact(manifest, WEIGHTS)
    name = f"pytorch {form.replace('-', ' ')}"
    request = BackendRequest(
        name=name,
        runtime=REFERENCE,
        device="cuda",
        precision=form,
        path=path,
        model=manifest.model,
        signature=manifest.signature,
        threads=settings.threads or cpu_count(),
    )
    row = Row(manifest.model, name, "cuda", "fp16", path.name, note="Channels last.")
    return Planned(
        REFERENCE, row, lambda: open_backend(request, lambda _: _open_reference(manifest, path))
    )


def _engine_row(
    folder: ModelFolder,
    manifest: Manifest,
    settings: ValidationConfig,
    key: str,
    gpus: Sequence[Gpu],
) -> Planned:
    """An engine is only opened after its passport was checked: it is code that the library would
    execute.
    """
    artifact = manifest.artifacts[key]
    engine = folder.file(artifact)
    passport = read_passport(engine, artifact.remake)
    planned = _row(
        folder, manifest, settings, "trt", "cuda", f"trt {key.removeprefix('engine-')}", key, ""
    )
    planned = replace(planned, row=replace(planned.row, audit=passport.audit))
    if not gpus:
        return replace(
            planned,
            open=None,
            row=replace(planned.row, skipped="There is no NVIDIA GPU here to run it."),
        )
    try:
        check_passport(
            engine, passport, Machine(available_flavours(), tuple(gpus)), artifact.remake
        )
    except MissingEnvironment as error:
        return replace(
            planned, open=None, row=replace(planned.row, skipped=f"{error.message} {error.hint}")
        )
    return planned


def _open_reference(manifest: Manifest, path: Path):  # noqa: ANN202 - torch may not be installed here
    from hvt_deploy.models.registry import get_spec
    from hvt_deploy.models.weights.load import load_model

    spec = get_spec(manifest.model, manifest.signature.image_size, manifest.config.options)
    model, _ = load_model(spec, path, manifest.signature.num_classes)
    return model


def _chosen(rows: Sequence[Planned], names: Sequence[str] | None) -> tuple[Planned, ...]:
    """The rows that --backends names, by runtime or by row, and always the reference."""
    if names is None:
        return tuple(rows)
    known = {row.runtime for row in rows} | {row.row.backend for row in rows}
    for name in names:
        if name not in known:
            raise unknown_name("backend", name, known)
    marked = [replace(r, named=r.runtime in names or r.row.backend in names) for r in rows]
    return tuple(r for r in marked if r.named or r.runtime == REFERENCE)
