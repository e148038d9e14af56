"""What is recorded of one backend: latency, accuracy against labels, fidelity to the reference.

Accuracies, agreements and drops are in percent (points of percent), latencies in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass


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
