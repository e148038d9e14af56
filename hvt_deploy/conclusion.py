"""From what `validate` measured to the record: rows, gates, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

from hvt_deploy.class_names import ClassNames
from hvt_deploy.config import RunConfig
from hvt_deploy.datasets import ImageFolder, Sample
from hvt_deploy.environment import cpu_count, cpu_name, find_gpus, power_mode, tool_versions
from hvt_deploy.image_answers import ImageAnswers
from hvt_deploy.images import make_thumbnail
from hvt_deploy.measure.accuracy import Accuracy
from hvt_deploy.measure.flips import FlippedImage
from hvt_deploy.measure.latency import speedup_interval
from hvt_deploy.models.registry import get_spec
from hvt_deploy.models.spec import Published
from hvt_deploy.recorded import RecordedLogits
from hvt_deploy.results import DataSummary, Flip, Latency, PixelDifference, Results, Row
from hvt_deploy.rows import Planned
from hvt_deploy.verdict import Judged, judge, write_verdict
from hvt_deploy.workspace import Manifest, now

RESULTS, INT8_CALIBRATION = "results", "int8-calibration"
# ImageNet's validation set, which papers' tables are of: images, classes.
IMAGENET_VAL = (50_000, 1000)


@dataclass(frozen=True)
class Measured:
    """What was measured of each backend by its name. `classes` are the numbers of the classes that were compared."""

    rows: tuple[Planned, ...]
    samples: Sequence[Sample]
    classes: tuple[int, ...]
    accuracy: Mapping[str, Accuracy]
    latency: Mapping[str, Latency]
    unreadable: tuple[str, ...]
    reference_logits: RecordedLogits
    answers: ImageAnswers
    pixels: Mapping[str, PixelDifference]


def conclude(manifest: Manifest, config: RunConfig, images: ImageFolder, measured: Measured) -> Results:
    """Rows, gates and the verdict, as they are recorded."""
    settings, untrained = config.validation, manifest.weights.untrained
    data = DataSummary(
        str(images.path), len(measured.samples) - len(measured.unreadable), len(images.classes), images.mapping,
        settings.seed, settings.limit, measured.unreadable, settings.subset,
    )  # fmt: skip
    published = _published(manifest, data)
    rows = [_row(planned, measured, published) for planned in measured.rows]
    judged = [
        Judged(row, measured.accuracy.get(row.backend), planned.named)
        for row, planned in zip(rows, measured.rows, strict=True)
    ]
    names = ClassNames(manifest.class_names, manifest.wnids)
    return Results(
        model=manifest.model, slug=manifest.slug, created=now(), untrained=untrained, data=data, rows=tuple(rows),
        gates=judge(judged[0], judged[1:], settings, untrained),
        verdict=write_verdict(judged[0], judged[1:], settings.margin, untrained), errors=tuple(_errors(measured)),
        environment=_environment(settings.threads), provenance=_provenance(manifest),
        class_names=tuple(names.short(k) for k in measured.classes),
    )  # fmt: skip


def _errors(measured: Measured) -> Iterator[str]:
    for name, latency in measured.latency.items():
        if not latency.stable:
            yield (
                f"The latency of {name} never became stable, so it proves nothing: is there other work on this machine?"
            )
    for name, accuracy in measured.accuracy.items():
        if accuracy.not_finite:
            yield f"{name} gave logits that are not finite for {accuracy.not_finite} of {accuracy.images} images."


def _environment(threads: int | None) -> dict[str, str]:
    gpus = ", ".join(gpu.name for gpu in find_gpus())
    mode = power_mode()
    return {
        "cpu": cpu_name(), "threads": str(threads or cpu_count()), "gpu": gpus or "none",
        **({"power mode": mode} if mode else {}), **tool_versions(),
    }  # fmt: skip


def _provenance(manifest: Manifest) -> dict[str, str]:
    weights = manifest.weights
    origin = f"{weights.source}{', sha256 ' + weights.sha256 if weights.sha256 else ''}"
    artifacts = {f"{key} sha256": artifact.sha256 for key, artifact in manifest.artifacts.items() if key != RESULTS}
    return {"weights": origin, "exported": manifest.exported, **_int8_recovery(manifest), **artifacts}


def _int8_recovery(manifest: Manifest) -> dict[str, str]:
    """What each pass of INT8 calibration did to the logits."""
    artifact = manifest.artifacts.get(INT8_CALIBRATION)
    if artifact is None:
        return {}
    effects = cast("Mapping[str, str]", artifact.facts["effects"])
    return {f"INT8 {name}": effect for name, effect in effects.items()}


def _published(manifest: Manifest, data: DataSummary) -> Published | None:
    """The paper's figures, where they can be compared: official weights on all of ImageNet's validation set."""
    whole = data.images + len(data.unreadable), data.classes
    if manifest.weights.source != "official" or manifest.wnids is None or data.subset or whole != IMAGENET_VAL:
        return None
    return get_spec(manifest.model, manifest.signature.image_size, manifest.config.options).published


def _row(planned: Planned, measured: Measured, published: Published | None) -> Row:
    row = replace(planned.row, pixel_difference=measured.pixels.get(planned.row.backend))
    accuracy, latency = measured.accuracy.get(row.backend), measured.latency.get(row.backend)
    if accuracy is not None:
        row = _with_accuracy(row, accuracy, measured.samples)
        if published is not None:
            row = replace(row, published_top1=published.top1, published_top5=published.top5)
    if latency is not None:
        reference = measured.latency.get(measured.rows[0].row.backend)
        is_reference = planned is measured.rows[0]
        speedup = None if reference is None or is_reference else speedup_interval(reference, latency)
        throughput = 1000 * latency.batch / latency.median
        row = replace(row, latency_ms=latency, throughput_img_s=throughput, speedup=speedup)
    return row


def _with_accuracy(row: Row, accuracy: Accuracy, samples: Sequence[Sample]) -> Row:
    row = replace(
        row, images=accuracy.images, top1=accuracy.top1, top5=accuracy.top5, classes=accuracy.classes,
        confusions=accuracy.confusions, curves=accuracy.curves,
    )  # fmt: skip
    against = accuracy.against_reference
    if against is None:
        return row
    return replace(
        row, agreement=against.agreement, top1_drop=against.top1_drop, mcnemar_p=against.mcnemar_p,
        sqnr_db=against.sqnr_db, logit_cosine=against.cosine, logit_max_abs=against.max_abs,
        flips=tuple(_flip(flip, samples[flip.index].path) for flip in against.flips),
    )  # fmt: skip


def _flip(flip: FlippedImage, path: Path) -> Flip:
    return Flip(str(path), flip.label, flip.reference, flip.candidate, _thumbnail(path))


@lru_cache(maxsize=256)  # backends often stumble over the same images
def _thumbnail(path: Path) -> str:
    return make_thumbnail(path)
