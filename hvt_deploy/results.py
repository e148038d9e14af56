"""The record of a validation: what `results.json` holds and every report is made from.

Accuracies, agreements and drops are in percent (points of percent), latencies in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hvt_deploy.errors import BadInput
from hvt_deploy.records import from_plain, to_plain

SCHEMA_VERSION = 1

GateStatus = Literal["passed", "failed", "not proven", "skipped"]


@dataclass(frozen=True)
class Skipped:
    """A thing not done, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one inference of `batch` images. `samples_ms` are the single runs, for distributions.

    `windows_ms` are the medians of the windows, in the order of rounds: window i of every backend of a run was
    measured in the same round. `stable` is False where the median still moved when the time was over.
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
class Row:
    """One backend. `top1_drop` is reference minus this backend, so positive is worse.

    A None is a thing this row does not have; `skipped` says why the whole row is empty.
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
    skipped: str | None = None
    note: str = ""


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
class DataSummary:
    """The images a validation saw. `unreadable` are files that could not be decoded, and were left out.

    `subset` names a benchmark set whose classes are fewer than the model's: only their logits were compared.
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
    """A whole validation. `verdict` is the sentence on top of every report; rows[0] is the reference."""

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
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        path.write_text(json.dumps(to_plain(self), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read a `results.json`. Raises BadInput if it is missing or of another shape."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"No results at {path}.", "Run `hvt-deploy validate --data DIR` first.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is not a results file: {error}.") from None
    return from_plain(Results, data, str(path))
