"""`sweep`: export, quantize, build and validate many models; finished steps are not repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from hvt_deploy.commands.benchmark import (
    Benchmark,
    BenchmarkRow,
    benchmark_model,
    describe_machine,
)
from hvt_deploy.commands.build_trt import build_engine_if_possible
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.recorded_names import names_of
from hvt_deploy.commands.sweep_record import Failure, Swept, SweptModel, conclude_sweep
from hvt_deploy.commands.validate import validate
from hvt_deploy.commands.validated import Validated
from hvt_deploy.core.errors import BadInput, HvtDeployError, as_failure, unknown_name
from hvt_deploy.core.files import writing_to
from hvt_deploy.core.manifest import RESULTS, is_results
from hvt_deploy.core.model_options import is_onnx_file
from hvt_deploy.core.run_config import RunConfig, with_flags
from hvt_deploy.core.types import Precision
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder, find_model, open_folder
from hvt_deploy.data.class_names import ClassNames, default_class_names
from hvt_deploy.data.folders import open_image_folder
from hvt_deploy.data.sampling import draw_stratified_sample
from hvt_deploy.evaluation.answer_parts import AnswerParts
from hvt_deploy.evaluation.record import Results, read_results
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.factory.spec import is_factory
from hvt_deploy.models.registry import list_specs

T = TypeVar("T")


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
    pattern that stands for no model, for images that fit none of the models and for an `output`
    that is a file, before any work.
    """
    models = match_models(patterns)
    if output.exists() and not output.is_dir():  # hours later it would be found out
        raise BadInput(f"{output} is not a folder.", "Give another: sweep --output DIR")
    _check_data(models, data, labels, flags, root)
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
    swept: list[SweptModel] = []
    for number, model in enumerate(models, start=1):
        ui.say(f"[{number}/{len(models)}] {model}")
        swept.append(_sweep_one(model, precisions, data, labels, flags, root, ui))
    return conclude_sweep(patterns, data, swept, output)


def benchmark(
    patterns: Sequence[str],
    precisions: Sequence[Precision],
    flags: Mapping[str, object],
    root: Path,
    output: Path,
    ui: Ui,
) -> Benchmark:
    """Export, quantize and build every model that `patterns` stand for as `sweep` does, then time
    every backend that runs here; nothing is validated, so no images are needed, but for INT8.

    The record, its table and its plot are in `output`. Raises BadInput for a pattern that stands
    for no model.
    """
    models = match_models(patterns)
    rows, warnings = list[BenchmarkRow](), list[str]()
    failures: list[tuple[str, Failure]] = []
    for number, model in enumerate(models, start=1):
        ui.say(f"[{number}/{len(models)}] {model}")
        attempts = _Attempts(model, ui)
        made = _make_all(model, precisions, flags, root, attempts, ui)
        if made is not None:
            timed = attempts.run("benchmark", lambda made=made: benchmark_model(*made, ui))
            rows += timed[0] if timed else ()
            warnings += timed[1] if timed else ()
        failures += [(model, failure) for failure in attempts.failures]
    done = Benchmark(
        tuple(rows), tuple(dict.fromkeys(warnings)), tuple(failures), describe_machine()
    )
    done.write(output)
    return done


def _check_data(
    models: Sequence[str],
    data: Path,
    labels: Path | None,
    flags: Mapping[str, object],
    root: Path,
) -> None:
    refused: list[BadInput] = []
    for model in models:
        try:
            names, config = _names_of(model, flags, root)
        except HvtDeployError:  # told when its turn comes
            continue
        try:
            open_image_folder(data, names, len(names), labels, config.validation.subset)
        except BadInput as error:
            refused.append(error)
    if len(refused) == len(models):
        raise refused[0]


def _names_of(model: str, flags: Mapping[str, object], root: Path) -> tuple[ClassNames, RunConfig]:
    """The classes of a model, of its export if there is one."""
    folder, config = _open(model, flags, root)
    if folder.exists():
        return names_of(folder.read()), config
    return default_class_names(config.num_classes), config


def _open(model: str, flags: Mapping[str, object], root: Path) -> tuple[ModelFolder, RunConfig]:
    """The folder that a model is exported to, and with which settings; of a user's own one that was
    exported before, those of that export.
    """
    if _is_own(model):
        with suppress(BadInput):
            folder = find_model(root, model)
            return folder, with_flags(folder.read().config, flags)
    config = with_flags(config_of(model), flags)
    return open_folder(root, spec_of_config(config).slug), config


def _sweep_one(
    model: str,
    precisions: Sequence[Precision],
    data: Path,
    labels: Path | None,
    flags: Mapping[str, object],
    root: Path,
    ui: Ui,
) -> SweptModel:
    attempts = _Attempts(model, ui)
    made = _make_all(model, precisions, flags, root, attempts, ui)
    if made is None:
        return SweptModel(model, None, 0, tuple(attempts.failures))
    folder, config = made
    if (results := last_validation(folder, config, data, labels)) is not None:
        ui.say("Validated before.")
        code = Validated(results, folder.path).exit_code
        return SweptModel(model, results, code, tuple(attempts.failures))
    done = attempts.run("validate", lambda: validate(folder, config, data, labels, ui))
    if done is None:
        return SweptModel(model, None, 0, tuple(attempts.failures))
    return SweptModel(model, done.results, done.exit_code, tuple(attempts.failures))


class _Attempts:
    """The steps of one model: one that fails is kept in `failures`, and is no reason to lose the
    others.
    """

    def __init__(self, model: str, ui: Ui) -> None:
        self.failures: list[Failure] = []
        self._model, self._ui = model, ui

    def run(self, what: str, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where it fails."""
        try:
            return work()
        except Exception as error:
            failed = as_failure(error)
        why = f"{failed.message} {failed.hint}".strip()
        self._ui.warn(f"{self._model}, {what}: {why}")
        self.failures.append(Failure(what, why, failed.exit_code))
        return None


def _make_all(
    model: str,
    precisions: Sequence[Precision],
    flags: Mapping[str, object],
    root: Path,
    attempts: _Attempts,
    ui: Ui,
) -> tuple[ModelFolder, RunConfig] | None:
    """Export a model and make its graphs and engines; None where it cannot be exported."""
    folder = attempts.run("export", lambda: _export(model, flags, root, ui))
    if folder is None:
        return None
    config = with_flags(folder.read().config, flags)
    for precision in precisions:
        attempts.run(precision, lambda p=precision: _make(folder, config, p, ui))
    return folder, config


def _export(model: str, flags: Mapping[str, object], root: Path, ui: Ui) -> ModelFolder:
    """The folder of a model, exported with these settings now or before."""
    folder, config = _open(model, flags, root)
    export(folder, config, None, ui)
    return folder


def _make(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> None:
    from hvt_deploy.commands.quantize import quantize

    if precision != "fp32":  # which is there since the export
        quantize(folder, config, precision, ui)
    build_engine_if_possible(folder, config, precision, ui)


def match_models(patterns: Sequence[str]) -> tuple[str, ...]:
    """The models that one of `patterns` (shell wildcards, `timm:NAME`, `module:factory` or an ONNX
    file) stands for, in the order of `models`.

    Raises BadInput for a pattern that stands for none.
    """
    names = [spec.name for spec in list_specs()]
    others = [p for p in patterns if p.startswith("timm:") or _is_own(p)]
    for pattern in patterns:
        if pattern not in others and not any(fnmatch(name, pattern) for name in names):
            raise unknown_name("model", pattern, names)
    if not patterns:
        raise BadInput("No model was named.", "Example: --models 'fdvit_*,faster_vit_0*'")
    matched = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    return (*matched, *dict.fromkeys(others))


def _is_own(model: str) -> bool:
    """Whether a model is a user's own, by its factory or its ONNX file."""
    return is_factory(model) or is_onnx_file(model)


def last_validation(
    folder: ModelFolder, config: RunConfig, data: Path, labels: Path | None
) -> Results | None:
    """The recorded validation, if it is of the artifacts and images that are there now, and of the
    same settings.
    """
    with folder.reading() as manifest:
        artifact = manifest.artifacts.get(RESULTS)
        if artifact is None or not folder.file(artifact).is_file():
            return None
        results, settings = read_results(folder.file(artifact)), config.validation
    seen = results.data.limit, results.data.seed, results.data.subset
    wanted = settings.limit, settings.seed, settings.subset
    there = {key: a.sha256 for key, a in manifest.artifacts.items() if not is_results(key)}
    validated = {key: results.sha256_of(key) for key in there}
    if seen != wanted or validated != there:
        return None
    count, batch = manifest.signature.num_classes, manifest.signature.batch
    try:
        images = open_image_folder(data, names_of(manifest), count, labels, settings.subset)
    except BadInput:  # said when they are validated on
        return None
    samples = draw_stratified_sample(images.samples, settings.limit, settings.seed)
    parts = AnswerParts(folder.path, images.path, samples, batch or settings.batch_size, {})
    return results if parts.hash_images() == results.data.sha256 else None
