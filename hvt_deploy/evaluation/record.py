"""The record of a validation: what `results.json` holds and every report is made from.

Accuracies, agreements and drops are in percent (points of percent), latencies in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.graph.analysis.audit_types import EngineAudit

SCHEMA_VERSION = 1

GateStatus = Literal["passed", "failed", "not proven", "skipped"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one inference of `batch` images. `samples_ms` are the single runs, for
    distributions.

    `windows_ms` are the medians of the windows, in the order of rounds: window i of every backend
    of a run was measured in the same round. `stable` is False where the median still moved when the
    time was over.
    """

    batch: int
    min: float
    median: float
    p90: float
    p99: float
    samples_ms: tuple[float, ...] = ()
    windows_ms: tuple[float, ...] = ()
    stable: bool = True


@dataclass(frozen=True)
class ClassCounts:
    """Images by class, in the order of `Results.class_names`.

    Of a class's `images`, `correct` were answered right; `answered` counts how often the backend
    gave the class, so recall is correct / images and precision correct / answered. `lost` are
    images that only the reference got right, `gained` those that only this backend did.
    """

    images: tuple[int, ...]
    correct: tuple[int, ...]
    answered: tuple[int, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]


@dataclass(frozen=True)
class Confusion:
    """How many images of class `label` were taken for `answer`."""

    label: int
    answer: int
    images: int


@dataclass(frozen=True)
class Curve:
    """How well the score of class `label` tells its images from the others; `label` None pools all
    classes.

    The score is the log-odds of the class. Rates are fractions, from the strictest threshold to the
    loosest. `average_precision` is the sum of precision times the step in recall.
    """

    label: int | None
    roc_auc: float
    average_precision: float
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
    """An image that this backend answers otherwise than the reference. `thumbnail` is a JPEG in
    base64.
    """

    path: str
    label: int
    reference: Answer
    candidate: Answer
    thumbnail: str = ""


@dataclass(frozen=True)
class Timing:
    """One batch size: its latency, the images per second at the median, and the speed-up over
    `Row.speedup_over`.
    """

    latency_ms: Latency
    throughput_img_s: float
    speedup: Interval | None = None


@dataclass(frozen=True)
class PixelDifference:
    """How far preprocessed pixels are from those of the exact pipeline, in steps of a pixel's 256
    values.
    """

    largest: float
    mean: float


@dataclass(frozen=True)
class Row:
    """One backend. `top1_drop` is reference minus this backend, so positive is worse. `audit` is
    that of an engine.

    `sqnr_db`, `logit_cosine` and `logit_max_abs` compare all logits with the reference's. `speedup`
    is over the fastest PyTorch row of the same precision, which `speedup_over` names. `latency_ms`,
    `throughput_img_s` and `speedup` are those of the first batch size, `other_batches` holds the
    rest. `memory_mib` is what opening the backend and one inference took. `flips` are the most
    telling of the images on which the answers differ. `placement` has the provider of each node
    where ONNX Runtime ran on a GPU. A None is a thing this row does not have; `skipped` says why
    the whole row is empty.
    """

    model: str
    backend: str
    device: str
    precision: str
    artifact: str | None
    images: int = 0
    top1: Interval | None = None
    top5: Interval | None = None
    agreement: Interval | None = None
    top1_drop: Interval | None = None
    mcnemar_p: float | None = None
    sqnr_db: float | None = None
    latency_ms: Latency | None = None
    throughput_img_s: float | None = None
    speedup: Interval | None = None
    pixel_difference: PixelDifference | None = None
    skipped: str | None = None
    note: str = ""
    audit: EngineAudit | None = None
    speedup_over: str = ""
    logit_cosine: float | None = None
    logit_max_abs: float | None = None
    published_top1: float | None = None
    published_top5: float | None = None
    memory_mib: float | None = None
    other_batches: tuple[Timing, ...] = ()
    classes: ClassCounts | None = None
    confusions: tuple[Confusion, ...] = ()
    curves: tuple[Curve, ...] = ()
    flips: tuple[Flip, ...] = ()
    placement: Mapping[str, str] = field(default_factory=dict[str, str])


GateName = Literal["max-top1-drop", "min-speedup", "max-latency-ms"]


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
    """Whether a lower precision is worth it: how many times as fast as `than` the `backend` is, in
    a sentence.
    """

    backend: str
    than: str
    batch: int
    ratio: Interval | None
    outcome: Literal["faster", "no difference", "slower", "not proven"]
    sentence: str


@dataclass(frozen=True)
class GpuState:
    """What the GPU did while latencies of one batch size were measured; a pair is the lowest and
    the highest reading.

    `throttling` are the reasons for lower clocks that were active at any time. `clock_movement` is
    the range of the SM clock in percent of its highest value.
    """

    name: str
    batch: int
    sm_mhz: tuple[int, int]
    power_w: tuple[float, float]
    temperature_c: tuple[int, int]
    throttling: tuple[str, ...]
    clock_movement: float


@dataclass(frozen=True)
class DataSummary:
    """The images a validation saw. `unreadable` are files that could not be decoded, and were left
    out.

    `subset` names a benchmark set whose classes are fewer than the model's: only their logits were
    compared.
    """

    path: str
    images: int
    classes: int
    class_mapping: str
    seed: int
    limit: int | None = None
    unreadable: tuple[str, ...] = ()
    subset: str | None = None


@dataclass(frozen=True)
class Results:
    """A whole validation. `verdict` is the sentence on top of every report; rows[0] is the
    reference.

    `errors` are measurements that failed: their numbers stand there and prove nothing. `invalid`
    says why no latency counts, where the GPU's clocks moved. `class_names` are those of the classes
    that were compared, in the order that `ClassCounts`, `Confusion`, `Curve` and `Answer` number
    them.
    """

    model: str
    slug: str
    created: str
    untrained: bool
    data: DataSummary
    rows: tuple[Row, ...]
    gates: tuple[Gate, ...]
    verdict: str
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    errors: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    gpu: tuple[GpuState, ...] = ()
    invalid: str = ""
    class_names: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        path.write_text(
            json.dumps(to_plain(self), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_results(path: Path) -> Results:
    """Read a `results.json`. Raises BadInput if it is missing or of another shape."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"No results at {path}.", "Run `hvt-deploy validate --data DIR` first."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not a results file: {error}.") from None
    return from_plain(Results, data, str(path))
