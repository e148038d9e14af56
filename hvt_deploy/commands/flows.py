"""What takes several steps: each function only calls steps in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from hvt_deploy.commands import build_trt as build_step
from hvt_deploy.commands.bundle import unpack
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.sweep import (
    Failure,
    Swept,
    SweptModel,
    conclude_sweep,
    is_exported,
    last_validation,
    match_models,
)
from hvt_deploy.commands.validate import Validated, validate
from hvt_deploy.core.config import RunConfig, with_flags
from hvt_deploy.core.errors import (
    BadInput,
    HvtDeployError,
    MissingEnvironment,
    as_failure,
    unknown_name,
)
from hvt_deploy.core.manifest import RECORDED, RecordedFacts
from hvt_deploy.core.types import Precision
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder, is_fresh, open_folder
from hvt_deploy.evaluation.budget_record import BudgetRequest

if TYPE_CHECKING:
    from hvt_deploy.commands.budget import Budgeted

T = TypeVar("T")
# Finds the exported model of a name, and its configuration with the flags of the command line.
OpenModel: TypeAlias = Callable[["str | None"], "tuple[ModelFolder, RunConfig]"]

DEMO_FAMILIES = ("fdvit", "faster_vit", "dfvt", "hvt")


@dataclass(frozen=True)
class Attempt:
    """One build of several: what was built or would be, or why not. `precision` is "" if there is
    no such model.
    """

    model: str
    precision: str
    built: build_step.Built | None = None
    explained: build_step.Explained | None = None
    error: HvtDeployError | None = None


def build_trt(
    folder: ModelFolder,
    config: RunConfig,
    precision: Precision,
    ui: Ui,
    min_int8: float | None = None,
) -> build_step.Built:
    """Make the graphs of `precision` where they are not there yet, then build the engine."""
    _make_graphs(folder, config, precision, ui)
    return build_step.build_trt(folder, config, precision, ui, min_int8)


def _make_graphs(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> None:
    if precision != "fp32":  # which is there since the export
        from hvt_deploy.commands.quantize import quantize

        quantize(folder, config, precision, ui)


def build_matrix(
    models: Sequence[str | None],
    precisions: Sequence[Precision],
    open_model: OpenModel,
    ui: Ui,
    min_int8: float | None = None,
    *,
    explain: bool = False,
) -> tuple[Attempt, ...]:
    """Build every model (None: the newest export) in every precision, by default that of its
    configuration.

    A build that fails is noted, and the next one starts. With `explain` nothing is built.
    """
    attempts: list[Attempt] = []
    for model in models:
        try:
            folder, config = open_model(model)
        except Exception as error:
            attempts.append(Attempt(model or "", "", error=as_failure(error)))
            continue
        wanted: tuple[Precision, ...] = tuple(
            dict.fromkeys(precisions or [config.engine.precision])
        )
        for precision in wanted:
            try:
                _check_gate(min_int8, wanted)
                if explain:
                    explained = build_step.explain_build(folder, config, precision)
                    attempts.append(Attempt(folder.slug, precision, explained=explained))
                else:
                    built = build_trt(folder, config, precision, ui, min_int8)
                    attempts.append(Attempt(folder.slug, precision, built=built))
            except Exception as error:  # a fault in one build is no reason to lose the others
                attempts.append(Attempt(folder.slug, precision, error=as_failure(error)))
    return tuple(attempts)


def _check_gate(min_int8: float | None, precisions: Sequence[Precision]) -> None:
    if min_int8 is not None and not any(precision.startswith("int8") for precision in precisions):
        raise BadInput(
            f"--min-int8 says what an INT8 engine must be, and only {', '.join(precisions)} is asked for.",
            "Add --int8.",
        )


def quantize_within(
    folder: ModelFolder, config: RunConfig, request: BudgetRequest, ui: Ui
) -> Budgeted:
    """Find the recipe inside an accuracy budget, then make the INT8 graphs by it."""
    from hvt_deploy.commands.budget import quantize_within as find_recipe
    from hvt_deploy.commands.quantize import quantize

    found = find_recipe(folder, config, request, ui)
    quantize(folder, replace(config, quantization=found.recipe), "int8", ui)
    return found


def deploy(
    bundle: Path, root: Path, precision: Precision | None, data: Path, labels: Path | None, ui: Ui
) -> Validated:
    """Unpack a bundle, build the engine of this device, validate against the recorded reference.

    Run again after an interruption it goes on: what was unpacked or built is taken as it is.
    """
    folder = unpack(bundle, root, ui)
    manifest = folder.read()
    wanted = precision or manifest.config.engine.precision
    _engine_if_possible(folder, manifest.config, wanted, ui)
    config, recorded = manifest.config, manifest.facts(RECORDED, RecordedFacts)
    if recorded is not None:
        validation = replace(
            config.validation,
            limit=recorded.limit,
            seed=recorded.seed,
            subset=recorded.subset,
        )
        config = replace(config, validation=validation)
    return validate(folder, config, data, labels, ui)


def run_demo(output: Path, family: str, ui: Ui) -> Validated:
    """Export, quantize, build and validate a family's small trained model on handwritten digits,
    under `output`.
    """
    from hvt_deploy.commands.export import export
    from hvt_deploy.data.digits import write_digits

    if family not in DEMO_FAMILIES:
        raise unknown_name("family", family, DEMO_FAMILIES)
    digits = write_digits(output / "digits")
    ui.say(f"Images: {digits.validation.parent}")
    flags = {
        "calibration.folder": str(digits.calibration),
        "validation.batch_size": 32,
        "validation.margin": 1.0,
    }
    config = with_flags(config_of(f"{family}_demo"), flags)
    folder = open_folder(output / "artifacts", config.model)
    exported = export(folder, config, None, ui)
    ui.say(f"Exported {exported.path}, {exported.contract.nodes} nodes")
    _make(folder, config, "int8", ui)
    return validate(folder, config, digits.validation, None, ui)


def _make(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> None:
    """The graphs and the engine of a precision. That no engine can be built here is told and is no
    failure.
    """
    _make_graphs(folder, config, precision, ui)
    _engine_if_possible(folder, config, precision, ui)


def _engine_if_possible(
    folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui
) -> None:
    """Build an engine from graphs that are there, unless it was built before.

    That no engine can be built here is told and is no failure: `validate` skips it as well.
    """
    manifest = folder.read()
    before = [
        key
        for key, engine in manifest.engines.items()
        if engine.precision == precision and is_fresh(manifest, key)
    ]
    if before:
        ui.say(f"Built before: {', '.join(before)}")
        return
    try:
        built = build_step.build_trt(folder, config, precision, ui)
        ui.say(
            f"Built {built.path}: {built.audit.kernels} kernels, {built.audit.layers.int8} INT8 layers"
        )
    except MissingEnvironment as error:
        ui.warn(f"No {precision} engine: {error.message} {error.hint}")


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

    folder = attempt("export", lambda: _exported(model, flags, root, ui))
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


def _exported(model: str, flags: Mapping[str, object], root: Path, ui: Ui) -> ModelFolder:
    """The folder of a model, exported with these settings now or before."""
    from hvt_deploy.commands.export import export
    from hvt_deploy.models.registry import get_spec

    config = with_flags(config_of(model), flags)
    folder = open_folder(
        root, get_spec(config.model, config.preprocessing.image_size, config.options).slug
    )
    if is_exported(folder, config):
        ui.say(f"Exported before: {folder.path}")
    else:
        export(folder, config, None, ui)
    return folder
