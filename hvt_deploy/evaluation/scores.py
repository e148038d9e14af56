"""The record of one backend: latency, accuracy against labels, fidelity to the reference.

Accuracies, agreements and drops are in percent (points of percent), latencies in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvt_deploy.runtime.base import Launches

Clock = Literal["host", "CUDA events"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    """The estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class GpuState:
    """A GPU during the windows of one latency. A pair is the lowest and the highest reading."""

    name: str
    """Product name of the GPU."""
    sm_mhz: tuple[int, int]
    """SM clock, MHz."""
    median_sm_mhz: float
    """Its median over the windows."""
    power_w: tuple[float, float]
    """Power draw, W."""
    temperature_c: tuple[int, int]
    """Temperature of the GPU, degrees Celsius."""
    throttling: tuple[str, ...] = ()
    """Reasons for lower clocks that were active after any window."""


@dataclass(frozen=True)
class GpuTiming:
    """Inferences launched back to back on a GPU, which hides what lies between two launches."""

    back_to_back_ms: float
    """Time between two events around many launches over their number: the median of the windows."""
    windows_ms: tuple[float, ...]
    """The same of each window, in the order of rounds."""
    launches: Launches
    """How every timed inference was launched."""
    state: GpuState | None = None
    """The GPU in the windows of this latency; None where it could not be read."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one synchronised inference of a batch."""

    batch: int
    """Images in a batch."""
    min: float
    """The fastest run, ms."""
    median: float
    """Median of the runs, ms."""
    p90: float
    """90th percentile, ms."""
    p99: float
    """99th percentile, ms."""
    samples_ms: tuple[float, ...] = ()
    """The single runs, for distributions."""
    windows_ms: tuple[float, ...] = ()
    """The medians of the windows, in the order of rounds: window i of every backend of a run was
    measured in the same round."""
    stable: bool = True
    """False where the median still moved when the time was over."""
    clock: Clock = "host"
    """The clock that it was measured by."""
    gpu: GpuTiming | None = None
    """Of a GPU: the time without launch gaps."""
    others_share: float | None = None
    """The share, 0 to 1, of the CPUs that other processes had meanwhile. None where it is unknown
    or slows nothing: on a GPU, and with one thread, which takes a processor that is free."""

    @property
    def throughput_img_s(self) -> float:
        """Images per second: at the median, on a GPU back to back."""
        return 1000 * self.batch / (self.gpu.back_to_back_ms if self.gpu else self.median)


@dataclass(frozen=True)
class Fault:
    """Why a speed-up cannot be claimed."""

    mark: Literal["not proven", "at the power limit"]
    """Written next to it: one at the power limit stands, but passes no gate."""
    why: str
    """A sentence for the reader."""


@dataclass(frozen=True)
class Timing:
    """The latency of a backend at one batch size, and how it compares."""

    latency: Latency
    """Milliseconds for one batch."""
    speedup: Interval | None = None
    """How many times as fast as `speedup_over` at the same batch size."""
    speedup_over: str = ""
    """The backend that the speed-up is over; empty where there is none."""
    over_reference: Interval | None = None
    """How many times as fast as the reference; None where that is not proven."""
    speedup_fault: Fault | None = None
    """Why the speed-up cannot be claimed; None where it can."""
    latency_fault: str = ""
    """Why the latency by itself proves nothing; empty where it may."""


@dataclass(frozen=True)
class ClassCounts:
    """Images by class, in the order of `Results.class_names`."""

    images: tuple[int, ...]
    """Images of the class."""
    correct: tuple[int, ...]
    """Images of the class that were predicted correctly: recall is correct / images."""
    answered: tuple[int, ...]
    """Images that were predicted as the class: precision is correct / answered."""
    lost: tuple[int, ...]
    """Images that only the reference got right."""
    gained: tuple[int, ...]
    """Images that only this backend got right."""


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were predicted as another."""

    label: int
    """Class that the images belong to."""
    answer: int
    """Class that was predicted."""
    images: int
    """Number of images."""


@dataclass(frozen=True)
class Curve:
    """ROC and precision-recall curve of one class; the score is its log-odds.

    Areas are exact. Rates are fractions, from the strictest threshold to the loosest; of many
    thresholds those of at most 320 points are kept.
    """

    label: int | None
    """None pools all classes."""
    roc_auc: float
    """Area under the ROC curve, 0 to 1."""
    average_precision: float
    """The sum of precision times the step in recall."""
    false_positive_rate: tuple[float, ...]
    """Images of other classes above the threshold over all images of other classes."""
    recall: tuple[float, ...]
    """Images of the class above the threshold over all images of the class."""
    precision: tuple[float, ...]
    """Images of the class above the threshold over all images above it."""


@dataclass(frozen=True)
class Answer:
    """A prediction; both fields are None if the logits are not finite."""

    label: int | None
    """Predicted class."""
    probability: float | None
    """Its softmax probability, 0 to 1."""


@dataclass(frozen=True)
class Flip:
    """An image whose predicted class differs between this backend and the reference."""

    path: str
    """Path of the image in its folder."""
    label: int
    """Class that the image belongs to."""
    reference: Answer
    """Prediction of the reference."""
    candidate: Answer
    """Prediction of this backend."""
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
    """The accuracy of a backend against the labels."""

    images: int
    """Number of images."""
    top1: Interval
    """Top-1, percent."""
    top5: Interval | None
    """None where there are five classes or fewer."""
    drop: Top1Drop | None
    """None for the reference itself."""
    not_finite: int
    """Images whose logits are not all finite; each counts as wrong."""
    classes: ClassCounts | None = None
    """Counts of each class; None in the record of a sweep."""
    confusions: tuple[Confusion, ...] = ()
    """The most frequent pairs of class and wrong prediction."""
    curves: tuple[Curve, ...] = ()
    """For up to 20 classes."""
    chance: float = 0.0
    """Top-1 of always predicting the most frequent class of these images."""


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
    """Largest absolute difference of a logit; None where one is not finite, here or in the
    reference."""
    flips: tuple[Flip, ...] = ()
    """The images with different predictions that differ most in probability."""
