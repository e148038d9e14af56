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
from hvt_deploy.core.files import write_whole
from hvt_deploy.core.records import read_record
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import Skipped
from hvt_deploy.evaluation.scores import Accuracy, Fidelity, Interval, Timing
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.runtime.variant import Variant

SCHEMA_VERSION = 3

GateName = Literal["max-top1-drop", "min-speedup", "max-latency-ms"]
GateStatus = Literal["passed", "failed", "not proven", "skipped"]
SpeedOutcome = Literal["faster", "no difference", "slower", "not proven"]
DropOutcome = Literal["equal", "better", "worse", "not proven"]


@dataclass(frozen=True)
class PixelDifference:
    """Preprocessed pixels against the exact pipeline's, in steps of a pixel's 256 values."""

    largest: float
    """Largest absolute difference."""
    mean: float
    """Mean absolute difference."""


@dataclass(frozen=True)
class Row:
    """One backend; a measurement that was not made is None."""

    model: str
    """Name of the model."""
    backend: str
    """Display name: that of the variant, in a sweep with the model's in front."""
    variant: Variant
    """Runtime, device, precision and form of the backend."""
    artifact: str | None
    """File name of the weights, graph or engine."""
    images: int = 0
    """Images that went through the backend."""
    accuracy: Accuracy | None = None
    """None where no accuracy was measured."""
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
    costs: tuple[ProfileCost, ...] = ()
    """For an engine: its cost at the batch of each profile, next to that of FP16."""
    placement: Mapping[str, str] = field(default_factory=dict[str, str])
    """Execution provider of each node, where ONNX Runtime ran on a GPU."""
    note: str = ""
    """A note for readers of the row; empty if none."""
    required: bool = False
    """Whether the user named it with --backends, so that it must run."""
    skipped: str | None = None
    """Why the backend did not run, or was ended by an error."""
    not_timed: str = ""
    """Why it has no latency at one of the batch sizes."""

    @property
    def is_missing(self) -> bool:
        """Whether it did not run, or none of its latencies could be measured."""
        return self.skipped is not None or bool(self.not_timed and not self.timings)

    @property
    def timing(self) -> Timing | None:
        """At the batch size that gates and comparisons are of: the first."""
        return self.timings[0] if self.timings else None


@dataclass(frozen=True)
class Gate:
    """A limit set by the user, checked for one row against the whole confidence interval."""

    name: GateName
    """The limit's name, as the option is called."""
    backend: str
    """Display name of the backend."""
    limit: float
    """The user's limit: points, times, or milliseconds, by `name`."""
    status: GateStatus
    """Whether the whole interval is within the limit."""
    sentence: str
    """The judgement for a reader."""


@dataclass(frozen=True)
class Comparison:
    """Whether a lower precision is faster: the speed of a backend over that of `than`."""

    backend: str
    """Display name of the backend with the lower precision."""
    than: str
    """Display name of the backend that it is compared with."""
    batch: int
    """Batch size of both latencies."""
    ratio: Interval | None
    """Speed of `backend` over that of `than`; None where it cannot be computed."""
    outcome: SpeedOutcome
    """Faster, slower or neither, by the whole interval."""
    sentence: str
    """The outcome for a reader."""
    predicted: float | None = None
    """Of two engines: bytes that `backend` moves over those of `than`, by the list of layers; the
    time of one over the other's is 1 / `ratio`."""


@dataclass(frozen=True)
class DataSummary:
    """The images of a validation."""

    path: str
    """Folder of the images."""
    images: int
    """Number of images that were validated."""
    classes: int
    """Number of classes among them."""
    class_mapping: str
    """How folders became classes."""
    seed: int
    """Seed of the sample."""
    limit: int | None = None
    """Size that the sample was limited to; None for all images."""
    unreadable: tuple[str, ...] = ()
    """Files that could not be decoded, and were left out."""
    subset: str | None = None
    """A benchmark set with fewer classes than the model: only their logits were compared."""
    sha256: str = ""
    """Of the images and their labels, as they were validated."""


@dataclass(frozen=True)
class PublishedAccuracy:
    """Top-1 and top-5 as the paper gives them, in percent."""

    top1: float | None
    """Percent; None if the paper does not give it."""
    top5: float | None
    """Percent; None if the paper does not give it."""


@dataclass(frozen=True)
class Results:
    """A whole validation, or the validations of a sweep."""

    model: str
    """Name of the model; in a sweep those of all models."""
    slug: str
    """Name of the model's folder in the workspace."""
    created: str
    """Date and time, ISO 8601 with offset."""
    untrained: bool
    """Whether the weights are random, so that accuracy means nothing."""
    data: DataSummary
    """The images that were used."""
    rows: tuple[Row, ...]
    """The reference first."""
    gates: tuple[Gate, ...]
    """One for each limit and backend that it was judged for."""
    verdict: str
    """The sentences on top of every report."""
    warnings: tuple[str, ...] = ()
    """Sentences about the run that limit its numbers."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Machine and versions of tools, by name."""
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    """Weights and artifacts: origin and hash, by name."""
    errors: tuple[str, ...] = ()
    """Measurements that failed: their numbers prove nothing."""
    comparisons: tuple[Comparison, ...] = ()
    """Whether a lower precision is faster, one for each pair of backends."""
    class_names: tuple[str, ...] = ()
    """Of the compared classes, in the order that counts, confusions, curves and answers use."""
    published: PublishedAccuracy | None = None
    """Of the paper, where these images and weights are the paper's."""
    skipped: tuple[Skipped, ...] = ()
    """Steps of a sweep that failed."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record's format."""

    def sha256_of(self, key: str) -> str | None:
        """The hash of artifact `key` as it was validated; None where there was none."""
        return self.provenance.get(f"{key} sha256")

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        text = json.dumps(to_plain(self), indent=2, allow_nan=False)
        write_whole(path, text + "\n")


def read_results(path: Path) -> Results:
    """Read a `results.json`.

    Raises BadInput if it is missing, of another shape or of another schema version.
    """
    again = "hvt-deploy validate --data DIR"
    try:
        fields = read_record(path, SCHEMA_VERSION, f"Validate again: {again}")
    except FileNotFoundError:
        raise BadInput(f"No results at {path}.", f"Run `{again}` first.") from None
    return from_plain(Results, fields, str(path))
