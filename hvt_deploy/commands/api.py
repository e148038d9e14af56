"""The Python API, which `hvt_deploy` re-exports: `export` and `open` give a Model, whose methods
are the commands of the same names.

A keyword is the command's flag; one that is None leaves what the configuration says. A flag that
can be repeated is a sequence, its keyword a plural (`--profile` is `profiles`). Every method raises
the errors of `hvt_deploy.core.errors`: BadInput for names, values and files that are wrong,
CheckFailed for a gate, a parity or a contract that does not hold, MissingEnvironment for a package,
a GPU, memory or disk that lacks, ToolFailure where an exporter or a builder fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hvt_deploy.commands.arguments import (
    ProgressChoice,
    check_image_size,
    check_options,
    choose_ui,
)
from hvt_deploy.commands.exported_model import Model
from hvt_deploy.core.paths import as_path, as_text
from hvt_deploy.core.types import DEFAULT_WORKSPACE, Simplifier, StrPath

if TYPE_CHECKING:
    from hvt_deploy.graph.export_needs import ExportNeeds


def export(
    model: StrPath,
    *,
    opset: int | None = None,
    weights: StrPath | None = None,
    batch: int | None = None,
    simplifier: Simplifier | None = None,
    class_names: StrPath | None = None,
    as_: str | None = None,
    seed: int | None = None,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    preprocessing: StrPath | None = None,
    window_size: Sequence[int] | None = None,
    carrier_token_size: int | None = None,
    preprocess_in_graph: bool = False,
    force: bool = False,
    workspace: StrPath = DEFAULT_WORKSPACE,
    config: StrPath | None = None,
    progress: ProgressChoice = None,
) -> Model:
    """Export a model to ONNX, verified against PyTorch, as `hvt-deploy export` does.

    `model` is a name that `hvt-deploy models` lists, `timm:NAME`, `module:factory` for your own
    network, an ONNX file, a configuration's YAML file, or an HVT's configuration.json. `weights` is
    "auto", "official", "random" or a checkpoint; `image_size` is (height, width); `as_` names the
    model in the workspace. Exported before from the same inputs, it is taken as it is, unless
    `force` asks for another export.
    """
    from hvt_deploy.commands.export import AskedModel, configure_export
    from hvt_deploy.commands.export import export as run_export

    settings = {
        "export.opset": opset,
        "export.weights": as_text("weights", weights),
        "export.batch": batch,
        "export.simplifier": simplifier,
        "export.seed": seed,
        "export.preprocess_in_graph": preprocess_in_graph or None,
    }
    names, ui = as_path("class_names", class_names), choose_ui(progress)
    asked = AskedModel(
        as_text("model", model),
        check_image_size(image_size),
        check_options(window_size, carrier_token_size),
        num_classes,
        as_text("preprocessing", preprocessing),
    )
    file, place = as_path("config", config), as_path("workspace", workspace)
    folder, chosen = configure_export(asked, settings, file, place, as_, ui)
    done = run_export(folder, chosen, names, ui, force=force)
    return Model(folder, ui, exported_before=done.before)


def plan_export(
    model: StrPath,
    *,
    as_: str | None = None,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    window_size: Sequence[int] | None = None,
    carrier_token_size: int | None = None,
    opset: int | None = None,
    preprocess_in_graph: bool = False,
    workspace: StrPath = DEFAULT_WORKSPACE,
    config: StrPath | None = None,
    progress: ProgressChoice = None,
) -> ExportNeeds:
    """The memory and disk that an export needs, as `hvt-deploy export --dry-run` prints them."""
    from hvt_deploy.commands.export import AskedModel, configure_export
    from hvt_deploy.core.environment import require

    settings = {
        "export.opset": opset,
        "export.preprocess_in_graph": preprocess_in_graph or None,
    }
    asked = AskedModel(
        as_text("model", model),
        check_image_size(image_size),
        check_options(window_size, carrier_token_size),
        num_classes,
    )
    file, place = as_path("config", config), as_path("workspace", workspace)
    folder, chosen = configure_export(asked, settings, file, place, as_, choose_ui(progress))
    require("torch", extra="export")
    from hvt_deploy.commands.graph_export import plan_export

    return plan_export(folder, chosen)


def open(
    model: StrPath | None = None,
    *,
    workspace: StrPath = DEFAULT_WORKSPACE,
    class_names: StrPath | None = None,
    config: StrPath | None = None,
    progress: ProgressChoice = None,
) -> Model:
    """A model that was exported: its name in the workspace, or the path of its folder; None is the
    newest export.

    `class_names` is a file with names that its classes get from now on: graphs and engines stay.
    `config` is a configuration file to use instead of the recorded configuration.
    """
    from hvt_deploy.commands.recorded_names import record_class_names
    from hvt_deploy.core.run_config import check_input, check_model, load_config
    from hvt_deploy.core.workspace import find_model

    root, ui = as_path("workspace", workspace), choose_ui(progress)
    folder = find_model(root, as_text("model", model))
    if model is None:
        ui.say(f"Model: {folder.slug}, the newest export in {root}")
    if (names := as_path("class_names", class_names)) is not None:
        record_class_names(folder, names, ui)
    manifest, file = folder.read(), as_path("config", config)
    if file is None:
        return Model(folder, ui)
    check_model(chosen := load_config(file), manifest.config.model, file)
    check_input(chosen, manifest.config, manifest.signature.num_classes, file)
    return Model(folder, ui, chosen)
