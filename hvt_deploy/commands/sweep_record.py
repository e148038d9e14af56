"""The record of a sweep: the validations of all its models in one, and its reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.core.files import write_whole, writing_to
from hvt_deploy.core.types import Skipped
from hvt_deploy.core.workspace import now
from hvt_deploy.evaluation.record import DataSummary, Results, Row
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown
from hvt_deploy.evaluation.scores import Latency

_NO_FRONT = "No backend has an accuracy and a latency that is proven."
IN_TURN = "Latencies were measured interleaved within a model, one model after the other."


@dataclass(frozen=True)
class Failure:
    """A step of one model that failed."""

    what: str
    """The step, for example "export"."""
    why: str
    """The message of the error."""
    exit_code: int
    """The exit code that the step alone would have had."""


@dataclass(frozen=True)
class SweptModel:
    """The outcome of one model."""

    model: str
    """Name of the model."""
    results: Results | None
    """Its last validation; None if there was none."""
    exit_code: int
    """The exit code of that validation, or of the step that failed."""
    failures: tuple[Failure, ...]
    """The steps that failed."""


@dataclass(frozen=True)
class Swept:
    """The result of `sweep`."""

    results: Results
    """The record: the validations of all models in one."""
    folder: Path
    """Holds `results.json`, `report.md` and `report.html`."""
    models: tuple[SweptModel, ...]
    """One for each model, in the order given."""

    @property
    def exit_code(self) -> int:
        """The worst of all steps: the largest."""
        failed = (failure.exit_code for model in self.models for failure in model.failures)
        return max((*failed, *(model.exit_code for model in self.models)))


def conclude_sweep(
    patterns: Sequence[str], data: Path, models: Sequence[SweptModel], output: Path
) -> Swept:
    """One record of every row of every model, and its reports, in `output`."""
    done = [model.results for model in models if model.results is not None]
    rows = [row for results in done for row in _rows(results)]
    data_summary = done[0].data if done else DataSummary(str(data), 0, 0, "", 0)
    results = Results(
        model=f"sweep of {', '.join(patterns)}",
        slug="sweep",
        created=now(),
        untrained=bool(done) and all(one.untrained for one in done),
        data=data_summary,
        rows=tuple(rows),
        gates=tuple(replace(g, backend=f"{r.slug} {g.backend}") for r in done for g in r.gates),
        verdict=_verdict(models, rows),
        skipped=tuple(
            Skipped(f"{model.model} {failure.what}", failure.why)
            for model in models
            for failure in model.failures
        ),
        warnings=(
            *_prefixed(done, {one.slug: one.warnings for one in done}),
            *_of_untrained(done),
            IN_TURN,
        ),
        errors=tuple(_prefixed(done, {one.slug: one.errors for one in done})),
        environment=done[0].environment if done else {},
        provenance={
            f"{one.slug} {key}": value for one in done for key, value in one.provenance.items()
        },
    )
    # A backend's name begins with its model's here, so that reports need not put it before the name
    # once more.
    shown = replace(results, rows=tuple(replace(row, model=results.model) for row in rows))
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        results.write(output / "results.json")
        write_whole(output / "report.md", render_markdown(shown))
        write_whole(output / "report.html", render_html(shown))
    return Swept(results, output, tuple(models))


def _rows(results: Results) -> Iterable[Row]:
    """A model's rows under its name. What is known of single classes and images stays in the
    model's own report.
    """
    for row in results.rows:
        accuracy, fidelity = row.accuracy, row.fidelity
        if accuracy is not None:
            accuracy = replace(accuracy, classes=None, confusions=(), curves=())
        yield replace(
            row,
            backend=f"{results.slug} {row.backend}",
            # An accuracy that means nothing is not shown next to others.
            accuracy=None if results.untrained else accuracy,
            fidelity=fidelity and replace(fidelity, flips=()),
            timings=tuple(
                replace(timing, latency=_without_windows(timing.latency)) for timing in row.timings
            ),
        )


def _without_windows(latency: Latency) -> Latency:
    gpu = latency.gpu and replace(latency.gpu, windows_ms=())
    return replace(latency, samples_ms=(), windows_ms=(), gpu=gpu)


def _prefixed(done: Sequence[Results], lines: Mapping[str, Sequence[str]]) -> Iterable[str]:
    return (f"{results.slug}: {line}" for results in done for line in lines[results.slug])


def _of_untrained(done: Sequence[Results]) -> Iterable[str]:
    return (
        f"{one.slug} has random weights: its accuracy means nothing and is left out."
        for one in done
        if one.untrained
    )


def _verdict(models: Sequence[SweptModel], rows: Sequence[Row]) -> str:
    """Which backends no other beats in accuracy and latency at once, and what failed."""
    timed = sorted(
        (latency.median / latency.batch, -row.accuracy.top1.estimate, row.backend)
        for row in rows
        if row.accuracy is not None and row.timing is not None and not row.timing.latency_fault
        for latency in [row.timing.latency]
    )
    best = [one for i, one in enumerate(timed) if all(one[1] < other[1] for other in timed[:i])]
    front = ", ".join(
        f"{name} ({-top1:.2f} % at {latency:.3g} ms an image)" for latency, top1, name in best
    )
    failed = [f"{model.model} ({failure.what})" for model in models for failure in model.failures]
    return " ".join(
        [
            f"{len(models)} models, {sum(row.skipped is None for row in rows)} backends ran.",
            f"By their estimates none is faster and as accurate as: {front}."
            if front
            else _NO_FRONT,
            f"Failed: {', '.join(failed)}." if failed else "Nothing failed.",
        ]
    )
