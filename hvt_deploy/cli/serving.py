"""Commands that use an exported model or move it elsewhere: predict, package, bundle, deploy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command
from hvt_deploy.cli.completion import complete_exported, complete_words
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.inputs import choose_precision
from hvt_deploy.cli.options import (
    NEWEST_EXPORT,
    ClassNamesOption,
    DeviceOption,
    Fp16Option,
    Int8Option,
    JsonOption,
    LabelsOption,
    ModelArgument,
    WorkspaceOption,
)
from hvt_deploy.cli.output import open_ui, show_json, show_results, show_table
from hvt_deploy.core.types import DEFAULT_IMAGES, DEFAULT_WORKSPACE, OnnxPlatform, Precision

if TYPE_CHECKING:
    from hvt_deploy.commands.package import Packaged
    from hvt_deploy.commands.predict import Predictions

DeployedPrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        metavar=choices(Precision),
        show_default="that of the bundle",
        help="int8 is INT8 with FP16 in the rest, int8-fp32 INT8 with FP32 in the rest.",
    ),
]

PredictingModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        show_default=NEWEST_EXPORT,
        help="Exported model.",
        autocompletion=complete_exported,
    ),
]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="auto, ort, trt, pytorch, or the name of a row of validate.",
        autocompletion=complete_words(("auto", "ort", "trt", "pytorch")),
    ),
]
AllowUntrainedOption = Annotated[
    bool,
    typer.Option("--allow-untrained", help="Accept random weights, to test a server or a device."),
]


@command(
    "predict",
    "Use and move",
    epilog(
        "predict cat.jpg holiday/ --top 3",
        "predict cat.jpg --model fdvit_b --backend 'ort int8 cpu' --json",
    ),
)
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images or folders.")],
    model: PredictingModelOption = None,
    backend: BackendOption = "auto",
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Number of classes per image.")] = 5,
    device: DeviceOption = None,
    class_names: ClassNamesOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Classify images with an exported model."""
    from hvt_deploy.commands.api import open as open_model
    from hvt_deploy.commands.predict import predict as run_predict

    ui = open_ui(as_json)
    exported = open_model(model, workspace=workspace, class_names=class_names, progress=ui)
    done = run_predict(images, exported.path, workspace, backend, top, ui, device or "auto")
    _show_predictions(done, as_json)
    raise typer.Exit(2 if any(image.error for image in done.images) else 0)


def _show_predictions(done: Predictions, as_json: bool) -> None:
    if as_json:
        show_json(done)
        return
    rows = [
        (i.path, ", ".join(f"{k.name} {k.probability:.1%}" for k in i.labels) or i.error)
        for i in done.images
    ]
    show_table(f"{done.model}, {done.backend}", ("image", "classes"), rows)


@command(
    "package",
    "Use and move",
    epilog(
        "package fdvit_b --triton model_repository",
        "package fdvit_b --onnx-backend python",
    ),
)
def package(
    model: ModelArgument = None,
    triton: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the Triton model repository.")
    ] = Path("triton"),
    onnx_backend: Annotated[
        OnnxPlatform,
        typer.Option(metavar=choices(OnnxPlatform), help="Triton backend for ONNX files."),
    ] = "onnxruntime",
    allow_untrained: AllowUntrainedOption = False,
    class_names: ClassNamesOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Write a model repository for Triton Inference Server.

    Image files go in, class names come out.
    """
    from hvt_deploy.commands.api import open as open_model

    ui = open_ui(as_json)
    exported = open_model(model, workspace=workspace, class_names=class_names, progress=ui)
    done = exported.package(triton, onnx_backend=onnx_backend, allow_untrained=allow_untrained)
    _show_packaged(done, as_json)


def _show_packaged(done: Packaged, as_json: bool) -> None:
    if as_json:
        show_json(done)
        return
    typer.echo(f"{done.folder}: {', '.join(done.models)}")
    for line in done.sentences:
        typer.echo(line)


@command("bundle", "Use and move", epilog("bundle fdvit_b --output fdvit_b.tar"))
def bundle(
    model: ModelArgument = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="MODEL.tar", help="Bundle to write."),
    ] = None,
    allow_untrained: AllowUntrainedOption = False,
    class_names: ClassNamesOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Pack a model into one file, for a device.

    It holds the graphs, the calibration, the reference logits and the configuration.
    """
    from hvt_deploy.commands.api import open as open_model

    ui = open_ui(False)
    exported = open_model(model, workspace=workspace, class_names=class_names, progress=ui)
    typer.echo(str(exported.bundle(output, allow_untrained=allow_untrained)))


@command("deploy", "Use and move", epilog("deploy fdvit_b.tar --int8 --data imagenet/val"))
def deploy(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="File of hvt-deploy bundle.")],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The images that validate --record used.")
    ] = DEFAULT_IMAGES,
    labels: LabelsOption = None,
    precision: DeployedPrecisionOption = None,
    fp16: Fp16Option = False,
    int8: Int8Option = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Unpack a bundle on a device, build its engine, validate it.

    Run again, it goes on where it was.
    """
    from hvt_deploy.commands.deploy import deploy as run_deploy

    chosen = choose_precision(precision, fp16, int8)
    done = run_deploy(file, workspace, chosen, data, labels, open_ui(as_json))
    show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)
