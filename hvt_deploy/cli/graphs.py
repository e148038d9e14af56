"""From checkpoint to ONNX: export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.completion import complete_models, complete_words
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.inputs import parse_image_size, parse_window_sizes
from hvt_deploy.cli.options import JsonOption, WorkspaceOption
from hvt_deploy.cli.output import open_ui, show_json
from hvt_deploy.core.types import DEFAULT_WORKSPACE, MAX_BATCH, Simplifier

if TYPE_CHECKING:
    from hvt_deploy.commands.exported_graph import Exported
    from hvt_deploy.commands.exported_model import Model
    from hvt_deploy.graph.export_needs import ExportNeeds


@dataclass(frozen=True)
class ExportOptions:
    """Flags of `export`."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name that hvt-deploy models lists, timm:NAME, module:factory (a callable "
            "that returns your own network), an ONNX file, a configuration's YAML file, or an "
            "HVT's configuration.json.",
            autocompletion=complete_models,
        ),
    ]
    opset: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="17", help="ONNX opset, 17 to 22."),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            show_default="auto",
            help="auto, official, random, or the path of a checkpoint.",
            autocompletion=complete_words(("auto", "official", "random")),
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=MAX_BATCH, show_default="any", help="Fixed batch size."
        ),
    ] = None
    simplifier: Annotated[
        Simplifier | None,
        typer.Option(
            metavar=choices(Simplifier), show_default="onnxslim", help="Graph simplifier."
        ),
    ] = None
    class_names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="class_indices.json with the checkpoint, else the folders of --calib",
            help="Class names: one per line, or JSON.",
        ),
    ] = None
    slug: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            show_default="the model's name",
            help="Name of the exported model in the workspace.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="0", help="Seed of random weights."),
    ] = None
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            show_default="the model's",
            help="Input size of faster_vit_*_any_res, timm's and own models, such as 576x960.",
        ),
    ] = None
    num_classes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            show_default="the model's",
            help="Number of classes; your own factory is called with it.",
        ),
    ] = None
    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="SETTINGS",
            show_default="the model's",
            help="Preprocessing: crop_pct=0.9,mean=[0.5,0.5,0.5], a file with that section, or the "
            "model to take it from.",
        ),
    ] = None
    window_size: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N,N",
            show_default="the model's",
            help="Window sizes of faster_vit_*_any_res, per level.",
        ),
    ] = None
    carrier_token_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            show_default="the model's",
            help="Carrier tokens per window side of faster_vit_*_any_res.",
        ),
    ] = None
    preprocess_in_graph: Annotated[
        bool,
        typer.Option(
            "--preprocess-in-graph", help="Also write a graph that takes uint8 images of any size."
        ),
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Export again what was exported from the same inputs.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report the memory and disk space needed.")
    ] = False
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            show_default="the model's",
            help="Configuration file, as hvt-deploy config writes it.",
        ),
    ] = None
    as_json: JsonOption = False


@command_with_options(
    "export",
    ExportOptions,
    "From checkpoint to engine",
    epilog(
        "export fdvit_b --opset 17",
        "export fdvit_b --weights mine.pth --class-names classes.txt",
        "export timm:swin_tiny_patch4_window7_224",
        "export faster_vit_6_224 --dry-run",
    ),
)
def export(options: ExportOptions) -> None:
    """Export a model to ONNX, verified against PyTorch."""
    if options.dry_run:
        _show_needs(_plan(options), options.as_json)
    else:
        _show_exported(_export(options).exported, options.as_json)


def _export(options: ExportOptions) -> Model:
    from hvt_deploy.commands.api import export as export_model

    return export_model(
        options.model,
        opset=options.opset,
        weights=options.weights,
        batch=options.batch,
        simplifier=options.simplifier,
        class_names=options.class_names,
        as_=options.slug,
        seed=options.seed,
        image_size=parse_image_size(options.image_size),
        num_classes=options.num_classes,
        preprocessing=options.preprocessing,
        window_size=parse_window_sizes(options.window_size),
        carrier_token_size=options.carrier_token_size,
        preprocess_in_graph=options.preprocess_in_graph,
        force=options.force,
        workspace=options.workspace,
        config=options.config_file,
        progress=open_ui(options.as_json),
    )


def _plan(options: ExportOptions) -> ExportNeeds:
    from hvt_deploy.commands.api import plan_export

    return plan_export(
        options.model,
        as_=options.slug,
        image_size=parse_image_size(options.image_size),
        num_classes=options.num_classes,
        window_size=parse_window_sizes(options.window_size),
        carrier_token_size=options.carrier_token_size,
        opset=options.opset,
        preprocess_in_graph=options.preprocess_in_graph,
        workspace=options.workspace,
        config=options.config_file,
        progress=open_ui(options.as_json),
    )


def _show_needs(needs: ExportNeeds, as_json: bool) -> None:
    if as_json:
        show_json({**vars(needs), "fits": needs.fits})
        return
    typer.echo(f"{needs.parameters / 1e6:.1f} M parameters")
    for resource, needed, available in (
        ("memory", needs.memory_bytes, needs.available_memory_bytes),
        ("disk", needs.disk_bytes, needs.free_disk_bytes),
    ):
        result = "enough" if needed <= available else "NOT enough"
        typer.echo(
            f"{resource:7}about {needed / 1e9:.1f} GB needed, "
            f"{available / 1e9:.1f} GB available: {result}"
        )


def _show_exported(done: Exported, as_json: bool) -> None:
    pixels_path = str(done.pixels_path) if done.pixels_path else None
    if as_json:
        show_json(
            {
                "slug": done.slug,
                "path": str(done.path),
                "pixels_path": pixels_path,
                "opset": done.opset,
                "parity": done.parity,
                "nodes": done.nodes,
                "untrained": done.untrained,
                "before": done.before,
            }
        )
        return
    typer.echo(
        f"{done.path}  opset {done.opset}, {done.nodes} nodes, "
        f"relative difference from the reference {done.parity.relative_to_largest:.1e}"
    )
    if pixels_path:
        typer.echo(f"{pixels_path}  input uint8 (batch, height, width, 3)")
