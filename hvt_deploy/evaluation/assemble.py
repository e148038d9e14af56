"""From measured rows to the record: speed-ups, gates, the verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hvt_deploy.core.environment import cpu_name, inference_threads, power_mode, tool_versions
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.manifest import (
    CALIBRATION,
    INT8_CALIBRATION,
    CalibrationFacts,
    Int8CalibrationFacts,
    Manifest,
    is_results,
)
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.workspace import now
from hvt_deploy.evaluation.calibration_promise import find_broken_promises
from hvt_deploy.evaluation.claims import find_latency_fault, find_ratio_fault
from hvt_deploy.evaluation.image_answers import ImageAnswers
from hvt_deploy.evaluation.latency import speedup_interval
from hvt_deploy.evaluation.record import DataSummary, PublishedAccuracy, Results, Row
from hvt_deploy.evaluation.scores import Fault, Interval, Latency, Timing
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
    answers: ImageAnswers
    """The answer to each image, by backend."""
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
    candidates = [row for row in rows[1:] if not row.variant.is_reference]
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
        warnings=(
            *measured.timings.warnings,
            *_list_faults(rows),
            *find_broken_promises(manifest, rows, measured.answers),
        ),
        comparisons=compare_precisions(rows),
        environment=_environment(settings.threads),
        provenance=_provenance(manifest),
        class_names=measured.class_names,
        published=_published(manifest, measured.data),
    )


def add_timings(rows: Sequence[Row], timings: Timings) -> tuple[Row, ...]:
    """The rows with their latencies, or why they have none, and their speed-ups.

    A speed-up is over the fastest form of PyTorch on the same device at that batch size: of FP32
    for a backend in FP32, of any precision for others. PyTorch's own rows are compared with the
    reference, and so is everything where PyTorch cannot run. Where PyTorch ran on the other device
    only, the speed-up is over that, and marked. The ratio to the reference stands next to it.
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
    by_size = {name: {one.batch: one for one in latencies} for name, latencies in latency.items()}
    reference = rows[0]
    for one in latency[row.backend]:
        than = None if row is reference else _find_base(row, rows, by_size, one.batch)
        base = by_size[than.backend][one.batch] if than else None
        fault = find_ratio_fault(base, one) if base else None
        if than is not None and than.variant.device != row.variant.device:
            fault = Fault("not proven", _OTHER_DEVICE.format(than.backend))
        of_reference = by_size.get(reference.backend, {}).get(one.batch)
        yield Timing(
            one,
            base and speedup_interval(base, one),
            than.backend if than else "",
            _over_reference(row, reference, of_reference, one),
            fault,
            find_latency_fault(one),
        )


def _over_reference(
    row: Row, reference: Row, of_reference: Latency | None, latency: Latency
) -> Interval | None:
    """The proven ratio to the reference on the same device."""
    if of_reference is None or row is reference or reference.variant.device != row.variant.device:
        return None
    is_proven = find_ratio_fault(of_reference, latency) is None
    return speedup_interval(of_reference, latency) if is_proven else None


def _find_base(
    row: Row, rows: Sequence[Row], by_size: Mapping[str, Mapping[int, Latency]], batch: int
) -> Row | None:
    """The row that a speed-up at this batch size is over."""
    timed = [r for r in rows if batch in by_size.get(r.backend, {})]
    pytorch = [r for r in timed if r.variant.runtime == "pytorch"]
    pytorch = [r for r in pytorch if r.variant.device == row.variant.device] or pytorch
    if row.variant.precision == "fp32":
        pytorch = [r for r in pytorch if r.variant.precision == "fp32"]
    if row.variant.runtime != "pytorch" and pytorch:
        return min(pytorch, key=lambda r: by_size[r.backend][batch].median)
    return rows[0] if rows[0] in timed else None


def _errors(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.accuracy and row.accuracy.not_finite:
            yield (
                f"{row.backend} gave logits that are not finite for {row.accuracy.not_finite} of "
                f"{row.images} images."
            )


def _list_faults(rows: Sequence[Row]) -> Iterator[str]:
    """Why latencies and speed-ups prove nothing: a sentence for each reason and batch size."""
    latencies: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    speedups: defaultdict[tuple[int, Fault], list[str]] = defaultdict(list)
    for row in rows:
        for timing in row.timings:
            batch, fault = timing.latency.batch, timing.speedup_fault
            if timing.latency_fault:
                latencies[batch, timing.latency_fault].append(row.backend)
            if fault is not None and fault.why != timing.latency_fault:
                speedups[batch, fault].append(row.backend)
    for (batch, why), names in latencies.items():
        what, verb = ("latencies", "prove") if len(names) > 1 else ("latency", "proves")
        yield f"The {what} of {', '.join(names)} at batch {batch} {verb} nothing. {why}"
    for (batch, fault), names in speedups.items():
        what = "speed-ups" if len(names) > 1 else "speed-up"
        verb = "are" if len(names) > 1 else "is"
        yield f"The {what} of {', '.join(names)} at batch {batch} {verb} {fault.mark}. {fault.why}"


def _environment(threads: int | None) -> dict[str, str]:
    gpus = ", ".join(gpu.name for gpu in find_gpus())
    mode = power_mode()
    return {
        "cpu": cpu_name(),
        "threads": str(threads or inference_threads()),
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
        **_calibration(manifest),
        **{
            f"{key} sha256": artifact.sha256
            for key, artifact in manifest.artifacts.items()
            if not is_results(key)
        },
    }


def _calibration(manifest: Manifest) -> dict[str, str]:
    """What speaks against the images, and the effect of each pass of INT8 on the logits."""
    measured = manifest.facts(CALIBRATION, CalibrationFacts)
    facts = manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts)
    health = {"calibration images": " ".join(measured.health)} if measured else {}
    effects = {f"INT8 {name}": effect for name, effect in facts.effects.items()} if facts else {}
    return {name: text for name, text in (health | effects).items() if text}


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
