"""`sweep`: which models to run, what of them is done already, and one record of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from hvt_deploy.commands.build_trt import build_engine_if_possible
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.validate import Validated, validate
from hvt_deploy.core.errors import BadInput, as_failure, unknown_name
from hvt_deploy.core.files import writing_to
from hvt_deploy.core.manifest import RESULTS
from hvt_deploy.core.run_config import RunConfig, with_flags
from hvt_deploy.core.types import Precision, Skipped
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder, is_fresh, now, open_folder
from hvt_deploy.evaluation.record import DataSummary, Results, Row, read_results
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.registry import list_specs

T = TypeVar("T")
_NO_FRONT = "No backend has accuracy and latency."
IN_TURN = "Latencies were measured interleaved within a model, one model after the other."


@dataclass(frozen=True)
class Failure:
    """A step of one model that did not work, why, and the exit code it would have had alone."""

    what: str
    why: str
    exit_code: int


@dataclass(frozen=True)
class SweptModel:
    """One model: the last validation, where there is one, with its exit code, and what failed on
    the way.
    """

    model: str
    results: Results | None
    exit_code: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Swept:
    """The record of a sweep, the folder that holds `results.json`, `report.md` and `report.html`,
    and the models.
    """

    results: Results
    folder: Path
    models: tuple[SweptModel, ...]

    @property
    def exit_code(self) -> int:
        """The worst of all steps: the largest."""
        failed = (failure.exit_code for model in self.models for failure in model.failures)
        return max((*failed, *(model.exit_code for model in self.models)))


def sweep(
    patterns: Sequence[str],
    precisions: Sequence[Precision],
    data: Path,
    labels: Path | None,
    flags: Mapping[str, object],
    root: Path,
    output: Path,
    ui: Ui,
) -> Swept:
    """Export, quantize, build and validate every model that `patterns` stand for; one record of all
    in `output`.

    A step that fails is recorded and the rest goes on; what was done before and is still right is
    not done again. `flags` are settings by dotted key, for every model. Raises BadInput for a
    pattern that stands for no model.
    """
    models = match_models(patterns)
    swept: list[SweptModel] = []
    for number, model in enumerate(models, start=1):
        ui.say(f"[{number}/{len(models)}] {model}")
        swept.append(_sweep_one(model, precisions, data, labels, flags, root, ui))
    return conclude_sweep(patterns, data, swept, output)


def _sweep_one(
    model: str,
    precisions: Sequence[Precision],
    data: Path,
    labels: Path | None,
    flags: Mapping[str, object],
    root: Path,
    ui: Ui,
) -> SweptModel:
    failures: list[Failure] = []

    def attempt(what: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as error:  # a fault in one model is no reason to lose the others
            failed = as_failure(error)
        ui.warn(f"{model}, {what}: {failed.message} {failed.hint}".strip())
        failures.append(Failure(what, f"{failed.message} {failed.hint}".strip(), failed.exit_code))
        return None

    folder = attempt("export", lambda: _find_or_export(model, flags, root, ui))
    if folder is None:
        return SweptModel(model, None, 0, tuple(failures))
    config = with_flags(folder.read().config, flags)
    for precision in precisions:
        attempt(precision, lambda p=precision: _make(folder, config, p, ui))
    if (results := last_validation(folder, config, data)) is not None:
        ui.say("Validated before.")
        return SweptModel(
            model, results, Validated(results, folder.path).exit_code, tuple(failures)
        )
    done = attempt("validate", lambda: validate(folder, config, data, labels, ui))
    if done is None:
        return SweptModel(model, None, 0, tuple(failures))
    return SweptModel(model, done.results, done.exit_code, tuple(failures))


def _find_or_export(model: str, flags: Mapping[str, object], root: Path, ui: Ui) -> ModelFolder:
    """The folder of a model, exported with these settings now or before."""
    from hvt_deploy.commands.export import export

    config = with_flags(config_of(model), flags)
    folder = open_folder(root, spec_of_config(config).slug)
    if is_exported(folder, config):
        ui.say(f"Exported before: {folder.path}")
    else:
        export(folder, config, None, ui)
    return folder


def _make(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> None:
    from hvt_deploy.commands.quantize import quantize

    if precision != "fp32":  # which is there since the export
        quantize(folder, config, precision, ui)
    build_engine_if_possible(folder, config, precision, ui)


def match_models(patterns: Sequence[str]) -> tuple[str, ...]:
    """The models that one of `patterns` (shell wildcards, or `timm:NAME`) stands for, in the order
    of `models`.

    Raises BadInput for a pattern that stands for none.
    """
    names = [spec.name for spec in list_specs()]
    for pattern in patterns:
        if not pattern.startswith("timm:") and not any(fnmatch(name, pattern) for name in names):
            raise unknown_name("model", pattern, names)
    if not patterns:
        raise BadInput("No model was named.", "Example: --models 'fdvit_*,faster_vit_0*'")
    matched = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    return (
        *matched,
        *dict.fromkeys(pattern for pattern in patterns if pattern.startswith("timm:")),
    )


def is_exported(folder: ModelFolder, config: RunConfig) -> bool:
    """Whether an export with the same settings is there, and can be read."""
    try:
        manifest = folder.read()
    except BadInput:
        return False
    return is_fresh(manifest, "fp32") and manifest.config.export == config.export


def last_validation(folder: ModelFolder, config: RunConfig, data: Path) -> Results | None:
    """The recorded validation, if it is of the artifacts that are there now, of `data` and of the
    same settings.
    """
    manifest = folder.read()
    artifact = manifest.artifacts.get(RESULTS)
    if artifact is None or not folder.file(artifact).is_file():
        return None
    results, settings = read_results(folder.file(artifact)), config.validation
    seen = (
        results.data.limit,
        results.data.seed,
        results.data.subset,
        Path(results.data.path).resolve(),
    )
    wanted = settings.limit, settings.seed, settings.subset, data.resolve()
    validated = {
        key: results.provenance.get(f"{key} sha256") for key in manifest.artifacts if key != RESULTS
    }
    there = {key: artifact.sha256 for key, artifact in manifest.artifacts.items() if key != RESULTS}
    return results if seen == wanted and validated == there else None


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
        (output / "report.md").write_text(render_markdown(shown), encoding="utf-8")
        (output / "report.html").write_text(render_html(shown), encoding="utf-8")
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
                replace(timing, latency=replace(timing.latency, samples_ms=(), windows_ms=()))
                for timing in row.timings
            ),
        )


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
        if row.accuracy is not None and row.timing is not None
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
            f"None is faster and as accurate as: {front}." if front else _NO_FRONT,
            f"Failed: {', '.join(failed)}." if failed else "Nothing failed.",
        ]
    )
