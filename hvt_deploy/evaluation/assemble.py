"""From what `validate` measured to the record: rows, gates, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from hvt_deploy.core.config import RunConfig
from hvt_deploy.core.environment import cpu_count, cpu_name, find_gpus, power_mode, tool_versions
from hvt_deploy.core.manifest import INT8_CALIBRATION, RESULTS, Int8CalibrationFacts, Manifest
from hvt_deploy.core.workspace import now
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.folders import ImageFolder, Sample
from hvt_deploy.data.images import make_thumbnail
from hvt_deploy.evaluation.accuracy import Accuracy
from hvt_deploy.evaluation.answers import ImageAnswers
from hvt_deploy.evaluation.candidates import REFERENCE, Planned
from hvt_deploy.evaluation.flips import FlippedImage
from hvt_deploy.evaluation.gpu import invalid_clocks
from hvt_deploy.evaluation.latency import speedup_interval
from hvt_deploy.evaluation.record import (
    DataSummary,
    Flip,
    Latency,
    PixelDifference,
    Results,
    Row,
    Timing,
)
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.evaluation.timing import Timings
from hvt_deploy.evaluation.verdict import Judged, compare_precisions, judge, write_verdict
from hvt_deploy.models.registry import get_spec
from hvt_deploy.models.spec import Published

# ImageNet's validation set, which papers' tables are of: images, classes.
IMAGENET_VAL = (50_000, 1000)


@dataclass(frozen=True)
class Measured:
    """What was measured of each backend by its name. `classes` are the numbers of the classes that
    were compared.
    """

    rows: tuple[Planned, ...]
    samples: Sequence[Sample]
    classes: tuple[int, ...]
    accuracy: Mapping[str, Accuracy]
    timings: Timings
    memory_mib: Mapping[str, float]
    unreadable: tuple[str, ...]
    reference_logits: RecordedLogits
    answers: ImageAnswers
    pixels: Mapping[str, PixelDifference]


def conclude(
    manifest: Manifest, config: RunConfig, images: ImageFolder, measured: Measured
) -> Results:
    """Rows, gates and the verdict, as they are recorded."""
    settings, untrained = config.validation, manifest.weights.untrained
    data = DataSummary(
        str(images.path),
        len(measured.samples) - len(measured.unreadable),
        len(images.classes),
        images.mapping,
        settings.seed,
        settings.limit,
        measured.unreadable,
        settings.subset,
    )
    published = _published(manifest, data)
    rows = [_row(planned, measured, published) for planned in measured.rows]
    reference, *candidates = [
        Judged(row, measured.accuracy.get(row.backend), planned.named)
        for row, planned in zip(rows, measured.rows, strict=True)
        if planned is measured.rows[0] or planned.runtime != REFERENCE
    ]
    invalid = " ".join(filter(None, map(invalid_clocks, measured.timings.gpu)))
    names = ClassNames(manifest.class_names, manifest.wnids)
    return Results(
        model=manifest.model,
        slug=manifest.slug,
        created=now(),
        untrained=untrained,
        data=data,
        rows=tuple(rows),
        gates=judge(reference, candidates, settings, untrained, invalid),
        verdict=write_verdict(reference, candidates, settings.margin, untrained),
        errors=tuple(_errors(measured)),
        warnings=measured.timings.warnings,
        comparisons=compare_precisions(rows),
        gpu=measured.timings.gpu,
        invalid=invalid,
        environment=_environment(settings.threads),
        provenance=_provenance(manifest),
        class_names=tuple(names.short(k) for k in measured.classes),
    )


def _errors(measured: Measured) -> Iterator[str]:
    for name, latencies in measured.timings.latency.items():
        for latency in latencies:
            if not latency.stable:
                yield (
                    f"The latency of {name} at batch {latency.batch} never became stable, so it proves nothing: "
                    "is there other work on this machine?"
                )
    for name, accuracy in measured.accuracy.items():
        if accuracy.not_finite:
            yield f"{name} gave logits that are not finite for {accuracy.not_finite} of {accuracy.images} images."


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
    artifacts = {
        f"{key} sha256": artifact.sha256
        for key, artifact in manifest.artifacts.items()
        if key != RESULTS
    }
    return {
        "weights": origin,
        "exported": manifest.exported,
        **_int8_recovery(manifest),
        **artifacts,
    }


def _int8_recovery(manifest: Manifest) -> dict[str, str]:
    """What each pass of INT8 calibration did to the logits."""
    facts = manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts)
    return {f"INT8 {name}": effect for name, effect in facts.effects.items()} if facts else {}


def _published(manifest: Manifest, data: DataSummary) -> Published | None:
    """The paper's figures, where they can be compared: official weights on all of ImageNet's
    validation set.
    """
    whole = data.images + len(data.unreadable), data.classes
    if (
        manifest.weights.source != "official"
        or manifest.wnids is None
        or data.subset
        or whole != IMAGENET_VAL
    ):
        return None
    return get_spec(
        manifest.model, manifest.signature.image_size, manifest.config.options
    ).published


def _row(planned: Planned, measured: Measured, published: Published | None) -> Row:
    name = planned.row.backend
    row = replace(
        planned.row,
        pixel_difference=measured.pixels.get(name),
        memory_mib=measured.memory_mib.get(name),
    )
    accuracy = measured.accuracy.get(name)
    if accuracy is not None:
        row = _with_accuracy(row, accuracy, measured.samples)
        if published is not None:
            row = replace(row, published_top1=published.top1, published_top5=published.top5)
    return _with_latency(row, planned, measured)


def _with_latency(row: Row, planned: Planned, measured: Measured) -> Row:
    latencies = measured.timings.latency.get(row.backend)
    if latencies is None:
        return row
    base = None if planned is measured.rows[0] else _base_of(planned, measured)
    than = {latency.batch: latency for latency in measured.timings.latency[base]} if base else {}
    first, *others = (_timing(latency, than.get(latency.batch)) for latency in latencies)
    return replace(
        row,
        latency_ms=first.latency_ms,
        throughput_img_s=first.throughput_img_s,
        speedup=first.speedup,
        speedup_over=base or "",
        other_batches=tuple(others),
    )


def _timing(latency: Latency, base: Latency | None) -> Timing:
    speedup = None if base is None else speedup_interval(base, latency)
    return Timing(latency, 1000 * latency.batch / latency.median, speedup)


def _base_of(planned: Planned, measured: Measured) -> str | None:
    """What a row's speed-up is over: the fastest PyTorch row of its precision, or of the next one
    that was timed.

    PyTorch's own rows are set against the reference, and so is everything where PyTorch cannot run.
    """
    timed = measured.timings.latency
    reference = measured.rows[0].row.backend
    pytorch = [p.row for p in measured.rows if p.runtime == REFERENCE and p.row.backend in timed]
    if planned.runtime != REFERENCE and pytorch:
        for bits in ("fp32",) if planned.row.precision.startswith("fp32") else ("fp16", "fp32"):
            rows = [row.backend for row in pytorch if row.precision == bits]
            if rows:
                return min(rows, key=lambda name: timed[name][0].median)
    return reference if reference in timed else None


def _with_accuracy(row: Row, accuracy: Accuracy, samples: Sequence[Sample]) -> Row:
    row = replace(
        row,
        images=accuracy.images,
        top1=accuracy.top1,
        top5=accuracy.top5,
        classes=accuracy.classes,
        confusions=accuracy.confusions,
        curves=accuracy.curves,
    )
    against = accuracy.against_reference
    if against is None:
        return row
    return replace(
        row,
        agreement=against.agreement,
        top1_drop=against.top1_drop,
        mcnemar_p=against.mcnemar_p,
        sqnr_db=against.sqnr_db,
        logit_cosine=against.cosine,
        logit_max_abs=against.max_abs,
        flips=tuple(_flip(flip, samples[flip.index].path) for flip in against.flips),
    )


def _flip(flip: FlippedImage, path: Path) -> Flip:
    return Flip(str(path), flip.label, flip.reference, flip.candidate, _thumbnail(path))


@lru_cache(maxsize=256)  # backends often stumble over the same images
def _thumbnail(path: Path) -> str:
    return make_thumbnail(path)
