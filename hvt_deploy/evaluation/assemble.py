"""From measured rows to the record: speed-ups, gates, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hvt_deploy.core.environment import cpu_count, cpu_name, power_mode, tool_versions
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.manifest import INT8_CALIBRATION, RESULTS, Int8CalibrationFacts, Manifest
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.workspace import now
from hvt_deploy.evaluation.claims import find_latency_fault, find_ratio_fault
from hvt_deploy.evaluation.latency import speedup_interval
from hvt_deploy.evaluation.record import DataSummary, PublishedAccuracy, Results, Row
from hvt_deploy.evaluation.scores import Fault, Latency, Timing
from hvt_deploy.evaluation.timing import Timings
from hvt_deploy.evaluation.verdict import compare_precisions, judge, write_verdict
from hvt_deploy.models.exported import spec_of_manifest

# ImageNet's validation set, which papers' tables are of: images, classes.
IMAGENET_VAL = (50_000, 1000)
_OTHER_DEVICE = (
    "{} ran on another device, which says nothing of the model. Install a PyTorch that can use the "
    "GPU."
)


@dataclass(frozen=True)
class Measured:
    """A validation before it is judged."""

    rows: tuple[Row, ...]
    """With their accuracy, the reference first."""
    timings: Timings
    """Latencies of the backends, by display name."""
    data: DataSummary
    """The images that were used."""
    class_names: tuple[str, ...]
    """Of the classes that were compared."""


def conclude(manifest: Manifest, config: RunConfig, measured: Measured) -> Results:
    """The whole record: every row with its speed-ups, gates and the verdict."""
    settings, untrained = config.validation, manifest.weights.untrained
    rows = add_timings(measured.rows, measured.timings)
    reference = rows[0]
    candidates = [row for row in rows[1:] if row.variant.runtime != "pytorch"]
    return Results(
        model=manifest.model,
        slug=manifest.slug,
        created=now(),
        untrained=untrained,
        data=measured.data,
        rows=rows,
        gates=judge(reference, candidates, settings, untrained),
        verdict=write_verdict(reference, candidates, settings.margin, untrained),
        errors=tuple(_errors(rows)),
        warnings=(*measured.timings.warnings, *_list_faults(rows)),
        comparisons=compare_precisions(rows),
        environment=_environment(settings.threads),
        provenance=_provenance(manifest),
        class_names=measured.class_names,
        published=_published(manifest, measured.data),
    )


def add_timings(rows: Sequence[Row], timings: Timings) -> tuple[Row, ...]:
    """The rows with their latencies, or why they have none, and their speed-ups.

    A speed-up is over the fastest PyTorch row on the same device and of the same precision, or of
    the next one that was timed. PyTorch's own rows are compared with the reference, and so is
    everything where PyTorch cannot run. Where PyTorch ran on the other device only, the speed-up is
    over that, and marked.
    """
    latency = timings.latency
    return tuple(
        replace(
            row,
            timings=tuple(_timings(row, rows, latency)) if row.backend in latency else (),
            not_timed=timings.not_timed.get(row.backend, ""),
        )
        for row in rows
    )


def _timings(
    row: Row, rows: Sequence[Row], latency: Mapping[str, Sequence[Latency]]
) -> Iterator[Timing]:
    base = None if row is rows[0] else _base_of(row, rows, latency)
    of_base = {one.batch: one for one in latency[base]} if base else {}
    same_device = {r.backend for r in rows if r.variant.device == row.variant.device}
    for one in latency[row.backend]:
        than = of_base.get(one.batch)
        fault = find_ratio_fault(than, one) if than else None
        if base is not None and base not in same_device:
            fault = Fault("not proven", _OTHER_DEVICE.format(base))
        speedup = than and speedup_interval(than, one)
        yield Timing(one, speedup, base or "", fault, find_latency_fault(one))


def _base_of(row: Row, rows: Sequence[Row], latency: Mapping[str, Sequence[Latency]]) -> str | None:
    timed = [r for r in rows if r.variant.runtime == "pytorch" and r.backend in latency]
    pytorch = [r for r in timed if r.variant.device == row.variant.device] or timed
    if row.variant.runtime != "pytorch" and pytorch:
        for bits in ("fp32",) if row.variant.precision == "fp32" else ("fp16", "fp32"):
            names = [r.backend for r in pytorch if r.variant.precision == bits]
            if names:
                return min(names, key=lambda name: latency[name][0].median)
    return rows[0].backend if rows[0].backend in latency else None


def _errors(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.accuracy and row.accuracy.not_finite:
            yield (
                f"{row.backend} gave logits that are not finite for {row.accuracy.not_finite} of "
                f"{row.images} images."
            )


def _list_faults(rows: Sequence[Row]) -> Iterator[str]:
    """Why latencies and speed-ups prove nothing, a sentence each."""
    for row in rows:
        for timing in row.timings:
            at = f"{row.backend} at batch {timing.latency.batch}"
            if timing.latency_fault:
                yield f"The latency of {at} proves nothing. {timing.latency_fault}"
            fault = timing.speedup_fault
            if fault is not None and fault.why != timing.latency_fault:
                yield f"The speed-up of {at} is {fault.mark}. {fault.why}"


def _environment(threads: int | None) -> dict[str, str]:
    gpus = ", ".join(gpu.name for gpu in find_gpus())
    mode = power_mode()
    return {
        "cpu": cpu_name(),
        "threads": str(threads or cpu_count()),
        "gpu": gpus or "none",
        **({"power mode": mode} if mode else {}),
        **tool_versions(),
    }


def _provenance(manifest: Manifest) -> dict[str, str]:
    weights = manifest.weights
    origin = f"{weights.source}{', sha256 ' + weights.sha256 if weights.sha256 else ''}"
    return {
        "weights": origin,
        "exported": manifest.exported,
        **_int8_recovery(manifest),
        **{
            f"{key} sha256": artifact.sha256
            for key, artifact in manifest.artifacts.items()
            if key != RESULTS
        },
    }


def _int8_recovery(manifest: Manifest) -> dict[str, str]:
    """The effect of each pass of INT8 calibration on the logits."""
    facts = manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts)
    return {f"INT8 {name}": effect for name, effect in facts.effects.items()} if facts else {}


def _published(manifest: Manifest, data: DataSummary) -> PublishedAccuracy | None:
    """The paper's figures, where they can be compared.

    That is for official weights under the published preprocessing on all of ImageNet's validation
    set.
    """
    whole = data.images + len(data.unreadable), data.classes
    official = manifest.weights.source == "official" and manifest.wnids is not None
    if not official or data.subset or whole != IMAGENET_VAL:
        return None
    spec = spec_of_manifest(manifest)
    if manifest.preprocessing != spec.preprocessing:
        return None
    return spec.published and PublishedAccuracy(spec.published.top1, spec.published.top5)
