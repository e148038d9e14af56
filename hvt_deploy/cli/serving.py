"""What leaves the machine: predict, package, bundle, deploy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hvt_deploy.cli.app import app
from hvt_deploy.cli.options import (
    DEFAULT_ROOT,
    AsJson,
    Fp16,
    Int8,
    Model,
    PrecisionOption,
    Root,
    find_exported,
    one_precision,
    open_ui,
    print_json,
    show_results,
)

if TYPE_CHECKING:
    pass


@app.command(epilog="Example: **hvt-deploy predict cat.jpg holiday/ --top 3**")
def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Exported model; without it the newest export.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, ort, trt, pytorch, or a row of `validate`.")
    ] = "auto",
    top: Annotated[int, typer.Option(min=1, help="Classes to show of each image.")] = 5,
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
) -> None:
    """Classify images with an exported model."""
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.predict import predict as run_predict
    from hvt_deploy.evaluation.report.terminal import print_table

    done = run_predict(images, model, root, backend, top, open_ui(as_json))
    if as_json:
        print_json(done)
    else:
        rows = [
            (i.path, ", ".join(f"{k.name} {k.probability:.1%}" for k in i.labels) or i.error)
            for i in done.images
        ]
        print_table(f"{done.model}, {done.backend}", ("image", "classes"), rows, open_console())
    raise typer.Exit(2 if any(image.error for image in done.images) else 0)


@app.command(epilog="Example: **hvt-deploy package fdvit_b --triton model_repository**")
def package(
    model: Model = None,
    triton: Annotated[
        Path, typer.Option(metavar="DIR", help="Write a Triton model repository here.")
    ] = Path("triton"),
    onnx_backend: Annotated[
        Literal["onnxruntime", "python"], typer.Option(help="Triton's backend for ONNX files.")
    ] = "onnxruntime",
    allow_untrained: Annotated[
        bool, typer.Option(help="Package random weights, to try a server.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
) -> None:
    """Write an exported model as a folder that Triton Inference Server takes: image files in, class
    names out.
    """
    from hvt_deploy.commands.package import package_triton

    folder, _ = find_exported(root, model, None, {}, ui := open_ui(as_json))
    done = package_triton(folder, triton, onnx_backend, allow_untrained, ui)
    if as_json:
        print_json(done)
    else:
        typer.echo(
            f"{done.folder}: {', '.join(done.models)}\nSend image files to the model {done.ensemble}."
        )
        if done.pixels_model:
            typer.echo(
                f"Send uint8 pixels (batch, height, width, 3) to the model {done.pixels_model}."
            )


@app.command(epilog="Example: **hvt-deploy bundle fdvit_b --output fdvit_b.tar**")
def bundle(
    model: Model = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: MODEL.tar.")] = None,
    allow_untrained: Annotated[
        bool, typer.Option(help="Bundle random weights, to try a device.")
    ] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Write everything a device needs into one file: graphs, calibration, recorded reference,
    configuration.
    """
    from hvt_deploy.commands.bundle import bundle as run_bundle

    folder, _ = find_exported(root, model, None, {}, ui := open_ui(False))
    typer.echo(str(run_bundle(folder, output or Path(f"{folder.slug}.tar"), allow_untrained, ui)))


@app.command(
    epilog="Example, on a Jetson: **hvt-deploy deploy fdvit_b.tar --int8 --data imagenet/val**"
)
def deploy(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `hvt-deploy bundle` wrote.")],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The images that were recorded.")
    ] = Path("imagenet/val"),
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="`file label` lines for a flat folder.")
    ] = None,
    precision: PrecisionOption = None,
    fp16: Fp16 = False,
    int8: Int8 = False,
    root: Root = DEFAULT_ROOT,
    as_json: AsJson = False,
) -> None:
    """Unpack a bundle, build its engine for this device, validate it, write the report."""
    from hvt_deploy.commands.flows import deploy as run_deploy

    done = run_deploy(
        file, root, one_precision(precision, fp16, int8), data, labels, open_ui(as_json)
    )
    show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)
