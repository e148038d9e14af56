"""`export`: checkpoint -> ONNX with proven parity, unless that was done before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TypeVar

from hvt_deploy.commands.config import config_of, config_of_file, read_preprocessing
from hvt_deploy.commands.exported_graph import Exported, describe_exported, find_exported
from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.run_config import (
    CalibrationConfig,
    EngineConfig,
    RunConfig,
    ValidationConfig,
    load_config,
    with_absolute_folder,
    with_flags,
)
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder, now, open_folder
from hvt_deploy.models.exported import spec_of_config
from hvt_deploy.models.int8_defaults import find_int8_defaults

T = TypeVar("T")
_YAML = (".yaml", ".yml")
# PyTorch and its exporter have state of the process, which threads would share.
_ONE_THREAD = Lock()


@dataclass(frozen=True)
class AskedModel:
    """The model of an export as it was asked for; what is None is the model's own."""

    name: str
    """A name, `timm:NAME`, `module:factory`, an ONNX file, a configuration's YAML file, or the JSON
    file of an HVT's configuration."""
    image_size: tuple[int, int] | None
    """(height, width) in pixels."""
    options: ModelOptions
    """Options that some models take."""
    num_classes: int | None = None
    """Classes of the head."""
    preprocessing: str | None = None
    """Settings as `read_preprocessing` takes them."""


def configure_export(
    asked: AskedModel,
    settings: Mapping[str, object],
    config_file: Path | None,
    workspace: Path,
    slug: str | None,
    ui: Ui,
) -> tuple[ModelFolder, RunConfig]:
    """The folder of an export, and its configuration: that of `config_file`, else the model's, with
    what was asked for and `settings` by dotted key in it.

    Without `slug` the folder has the model's name. Raises BadInput for an unknown model, and for a
    file, a size or options that do not fit it.
    """
    size, classes = asked.image_size, asked.num_classes
    own_name = Path(asked.name).stem if asked.name.endswith((*_YAML, ".json")) else None
    if asked.name.endswith(_YAML) and config_file is None:
        config_file = Path(asked.name)
        asked = replace(asked, name=load_config(config_file).model)
    if config_file is not None:
        if asked.options != DEFAULT_OPTIONS:
            raise BadInput(
                "Window or carrier token sizes were given with a configuration, which has its own.",
                f"Set `options` in {config_file}, or leave --config out.",
            )
        config = config_of_file(config_file, asked.name, classes, ui)
    else:
        config = config_of(asked.name, size, asked.options, classes, ui)
    prepared = read_preprocessing(asked.preprocessing) if asked.preprocessing else {}
    sections = {f"preprocessing.{key}": value for key, value in prepared.items()}
    more = {"num_classes": classes, **sections, "preprocessing.image_size": size}
    config = with_absolute_folder(with_flags(config, {**settings, **more}))
    usual = own_name or spec_of_config(config).slug
    return open_folder(workspace, usual if slug is None else slug), config


def export(
    folder: ModelFolder,
    config: RunConfig,
    class_names: Path | None,
    ui: Ui,
    *,
    force: bool = False,
) -> Exported:
    """Export `config.model` into `folder`; the earlier manifest stays until everything is proven.

    A graph that was exported from the same inputs is taken, unless `force` asks for another export;
    it is the newest export then. Raises BadInput for weights or options that do not fit,
    MissingEnvironment where PyTorch, memory or disk lack, CheckFailed for a broken contract or
    parity, ToolFailure where the exporter or a simplifier fails.
    """
    config = _with_recorded_images(folder, config)
    if not force and folder.exists():
        before = _take_exported(folder, config, class_names, ui)
        if before is not None:
            return before
    if (source := config.options.onnx_file) is not None:
        from hvt_deploy.commands.graph_import import import_graph

        return import_graph(folder, config, source, class_names, ui)
    require("torch", extra="export")
    from hvt_deploy.commands.graph_export import export_graph

    with _ONE_THREAD:
        return export_graph(folder, config, class_names, ui)


def _with_recorded_images(folder: ModelFolder, config: RunConfig) -> RunConfig:
    """`config` with the calibration images of the model's export before, unless it names others:
    other weights are calibrated on them, too.
    """
    try:
        recorded = folder.read().config
    except BadInput:  # there is none, or exporting again repairs it
        return config
    if recorded.model != config.model or config.calibration != CalibrationConfig():
        return config
    return replace(config, calibration=recorded.calibration)


def _take_exported(
    folder: ModelFolder, config: RunConfig, class_names: Path | None, ui: Ui
) -> Exported | None:
    """The graph that was exported before, now the newest export; None where there is none."""
    with folder.lock():
        manifest = find_exported(folder, config, class_names, ui)
        if manifest is None:
            return None
        exported = describe_exported(folder, manifest, before=True)
        settings = _settings_of_later_verbs(config, manifest.config)
        folder.commit(replace(manifest, exported=now(), config=settings))
    ui.say(
        f"Exported before, from the same weights with the same settings: {exported.path.name}. "
        "hvt-deploy export --force exports it again."
    )
    return exported


def _settings_of_later_verbs(asked: RunConfig, recorded: RunConfig) -> RunConfig:
    """`asked`, but where it has a section of later verbs as it is by default, the recorded one:
    `quantize` writes there which recipe it used.
    """

    def choose(asked: T, default: T, recorded: T) -> T:
        return recorded if asked == default else asked

    recipe = find_int8_defaults(spec_of_config(asked).family)
    return replace(
        asked,
        quantization=choose(asked.quantization, recipe, recorded.quantization),
        engine=choose(asked.engine, EngineConfig(), recorded.engine),
        validation=choose(asked.validation, ValidationConfig(), recorded.validation),
    )
