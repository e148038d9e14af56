"""The record of a validation: what `results.json` holds and every report is made from.

Accuracies, agreements and drops are in percent (points of percent), latencies in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import Skipped
from hvt_deploy.graph.analysis.audit_types import EngineAudit
from hvt_deploy.runtime.variant import Variant

SCHEMA_VERSION = 2

GateName = Literal["max-top1-drop", "min-speedup", "max-latency-ms"]
GateStatus = Literal["passed", "failed", "not proven", "skipped"]
SpeedOutcome = Literal["faster", "no difference", "slower", "not proven"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one inference of a batch."""

    batch: int
    min: float
    median: float
    p90: float
    p99: float
    samples_ms: tuple[float, ...] = ()
    """The single runs, for distributions."""
    windows_ms: tuple[float, ...] = ()
    """The medians of the windows, in the order of rounds: window i of every backend of a run was
    measured in the same round."""
    stable: bool = True
    """False where the median still moved when the time was over."""

    @property
    def throughput_img_s(self) -> float:
        """Images per second at the median."""
        return 1000 * self.batch / self.median


@dataclass(frozen=True)
class Timing:
    """The latency of a backend at one batch size, and how it compares."""

    latency: Latency
    speedup: Interval | None = None
    """How many times as fast as `speedup_over` at the same batch size."""
    speedup_over: str = ""
    """The backend that the speed-up is over; empty where there is none."""


@dataclass(frozen=True)
class ClassCounts:
    """Images by class, in the order of `Results.class_names`."""

    images: tuple[int, ...]
    correct: tuple[int, ...]
    """Images of the class that were answered right: recall is correct / images."""
    answered: tuple[int, ...]
    """How often the backend answered the class: precision is correct / answered."""
    lost: tuple[int, ...]
    """Images that only the reference got right."""
    gained: tuple[int, ...]
    """Images that only this backend got right."""


@dataclass(frozen=True)
class Confusion:
    """How many images of class `label` were taken for `answer`."""

    label: int
    answer: int
    images: int


@dataclass(frozen=True)
class Curve:
    """How well the score of a class, its log-odds, tells its images from the others.

    Rates are fractions, from the strictest threshold to the loosest.
    """

    label: int | None
    """None pools all classes."""
    roc_auc: float
    average_precision: float
    """The sum of precision times the step in recall."""
    false_positive_rate: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """A class and its softmax probability (0 to 1); both None where the logits are not finite."""

    label: int | None
    probability: float | None


@dataclass(frozen=True)
class Flip:
    """An image for which this backend and the reference answer different classes."""

    path: str
    label: int
    reference: Answer
    candidate: Answer
    thumbnail: str = ""
    """A JPEG in base64."""


@dataclass(frozen=True)
class Top1Drop:
    """The reference's top-1 minus this backend's, image by image: positive is worse."""

    points: Interval
    """Tango's score interval of the paired difference, in points of percent."""
    reference_only: int
    """Images that only the reference got right."""
    candidate_only: int
    """Images that only this backend got right."""
    mcnemar_p: float
    """McNemar's exact test of no difference."""


@dataclass(frozen=True)
class Accuracy:
    """The answers of a backend against the labels, in percent."""

    images: int
    top1: Interval
    top5: Interval | None
    """None where there are five classes or fewer."""
    drop: Top1Drop | None
    """None for the reference itself."""
    not_finite: int
    """Images whose logits are not all finite; each counts as wrong."""
    classes: ClassCounts | None = None
    """Counts of each class; None in the record of a sweep."""
    confusions: tuple[Confusion, ...] = ()
    curves: tuple[Curve, ...] = ()
    """For up to 20 classes."""
    chance: float = 0.0
    """Top-1 of always answering the most frequent class of these images."""


@dataclass(frozen=True)
class Fidelity:
    """The logits of a backend against the reference's, whatever the labels are."""

    agreement: Interval
    """Share of images for which both answer the same class, in percent."""
    sqnr_db: float
    """Signal-to-quantization-noise ratio of all logits."""
    cosine: float | None
    """Cosine of the angle between all logits of both."""
    max_abs: float | None
    """Largest absolute difference of a logit; None where one is not finite."""
    flips: tuple[Flip, ...] = ()
    """The most telling images for which the answers differ."""


@dataclass(frozen=True)
class PixelDifference:
    """Preprocessed pixels against the exact pipeline's, in steps of a pixel's 256 values."""

    largest: float
    mean: float


@dataclass(frozen=True)
class Row:
    """One backend. A None is a measurement that this row does not have."""

    model: str
    backend: str
    """Display name: that of the variant, in a sweep with the model's in front."""
    variant: Variant
    artifact: str | None
    """File name of the weights, graph or engine."""
    images: int = 0
    """Images that went through the backend."""
    accuracy: Accuracy | None = None
    fidelity: Fidelity | None = None
    """None for the reference itself."""
    timings: tuple[Timing, ...] = ()
    """One for each batch size; gates are judged by the first."""
    memory_mib: float | None = None
    """Added by opening the backend and by its first inference."""
    pixel_difference: PixelDifference | None = None
    """For a graph with its preprocessing."""
    audit: EngineAudit | None = None
    """For an engine."""
    placement: Mapping[str, str] = field(default_factory=dict[str, str])
    """Execution provider of each node, where ONNX Runtime ran on a GPU."""
    note: str = ""
    required: bool = False
    """Whether the user named it with --backends, so that it must run."""
    skipped: str | None = None
    """Why the backend did not run."""

    @property
    def timing(self) -> Timing | None:
        """At the batch size that gates and comparisons are of: the first."""
        return self.timings[0] if self.timings else None


@dataclass(frozen=True)
class Gate:
    """A limit the user set, judged for one row by the end of its interval, in a sentence."""

    name: GateName
    backend: str
    limit: float
    status: GateStatus
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """Whether a lower precision is worth it: the speed of a backend over that of `than`."""

    backend: str
    than: str
    batch: int
    ratio: Interval | None
    outcome: SpeedOutcome
    sentence: str


@dataclass(frozen=True)
class GpuState:
    """The GPU while latencies of one batch size were measured.

    A pair is the lowest and the highest reading.
    """

    name: str
    batch: int
    sm_mhz: tuple[int, int]
    power_w: tuple[float, float]
    temperature_c: tuple[int, int]
    throttling: tuple[str, ...]
    """Reasons for lower clocks that were active at any time."""
    clock_movement: float
    """Range of the SM clock in percent of its highest value."""


@dataclass(frozen=True)
class DataSummary:
    """The images of a validation."""

    path: str
    images: int
    classes: int
    class_mapping: str
    """How folders became classes."""
    seed: int
    limit: int | None = None
    unreadable: tuple[str, ...] = ()
    """Files that could not be decoded, and were left out."""
    subset: str | None = None
    """A benchmark set with fewer classes than the model: only their logits were compared."""


@dataclass(frozen=True)
class PublishedAccuracy:
    """Top-1 and top-5 as the paper gives them, in percent."""

    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class Results:
    """A whole validation, or the validations of a sweep."""

    model: str
    slug: str
    created: str
    untrained: bool
    """Whether the weights are random, so that accuracy means nothing."""
    data: DataSummary
    rows: tuple[Row, ...]
    """The reference first."""
    gates: tuple[Gate, ...]
    verdict: str
    """The sentences on top of every report."""
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    errors: tuple[str, ...] = ()
    """Measurements that failed: their numbers prove nothing."""
    comparisons: tuple[Comparison, ...] = ()
    gpu: tuple[GpuState, ...] = ()
    invalid: str = ""
    """Why no latency counts, where the GPU's clocks moved."""
    class_names: tuple[str, ...] = ()
    """Of the compared classes, in the order that counts, confusions, curves and answers use."""
    published: PublishedAccuracy | None = None
    """Of the paper, where these images and weights are the paper's."""
    skipped: tuple[Skipped, ...] = ()
    """Steps of a sweep that failed."""
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        text = json.dumps(to_plain(self), indent=2, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read a `results.json`.

    Raises BadInput if it is missing, of another shape or of another schema version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "Run `hvt-deploy validate --data DIR` first."
        raise BadInput(f"No results at {path}.", hint) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not a results file: {error}.") from None
    fields = cast("dict[str, object]", data if isinstance(data, dict) else {})
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{path} has schema version {version}, this hvt-deploy reads {SCHEMA_VERSION}.",
            "Validate again: hvt-deploy validate --data DIR",
        )
    return from_plain(Results, fields, str(path))
