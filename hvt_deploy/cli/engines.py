"""From graphs to engines: build-trt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import app
from hvt_deploy.cli.options import (
    DEFAULT_ROOT,
    AsJson,
    Calib,
    CalibImages,
    ConfigFile,
    Fp16,
    Int8,
    Root,
    find_exported,
    named_precisions,
    open_ui,
    print_json,
    show_error,
)
from hvt_deploy.core.types import FlavourChoice

if TYPE_CHECKING:
    from hvt_deploy.commands.build_trt import Built
    from hvt_deploy.commands.flows import Attempt
    from hvt_deploy.core.config import RunConfig
    from hvt_deploy.core.workspace import ModelFolder


@app.command(
    "build-trt",
    epilog="Examples: **hvt-deploy build-trt --int8 --calib imagenet/train --min-int8 0.9**, "
    "**hvt-deploy build-trt fdvit_b hvt_s_0 --fp16 --int8 --profile 1,8,32 --profile 1,1,1 --explain**",
)
def build_trt(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Without one the newest export."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="fp32|fp16|int8|int8-fp32", help="Repeatable; `int8` has FP16 in the rest."
        ),
    ] = None,
    fp16: Fp16 = False,
    int8: Int8 = False,
    calib: Calib = None,
    calib_images: CalibImages = None,
    flavour: Annotated[FlavourChoice | None, typer.Option(help="TensorRT library.")] = None,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="Without a GPU: what to build for.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="MIN,OPT,MAX", help="Batch sizes; repeatable, all in one engine."),
    ] = None,
    min_int8: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Gate: share of the MACs with Q/DQ that must run as INT8."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Only say what would be built.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Build strongly typed TensorRT engines, quantizing first where that is needed, and audit their
    layers.
    """
    from hvt_deploy.commands.flows import build_matrix
    from hvt_deploy.runtime.tensorrt.plan import parse_profile

    profiles = [(p.min, p.opt, p.max) for p in map(parse_profile, profile)] if profile else None
    flags = {
        "calibration.folder": calib,
        "calibration.images": calib_images,
        "engine.flavour": flavour,
        "engine.compute_capabilities": compute_capability,
        "engine.profiles": profiles,
    }
    asked = named_precisions(
        [*(precision or []), *(["fp16"] if fp16 else []), *(["int8"] if int8 else [])]
    )
    ui = open_ui(as_json)

    def open_model(name: str | None) -> tuple[ModelFolder, RunConfig]:
        return find_exported(root, name, config_file, flags, ui)

    attempts = build_matrix(models or [None], asked, open_model, ui, min_int8, explain=explain)
    _show_attempts(attempts, as_json)
    raise typer.Exit(max(attempt.error.exit_code if attempt.error else 0 for attempt in attempts))


def _show_attempts(attempts: Sequence[Attempt], as_json: bool) -> None:
    """One build in full, or the reason why there is none; several as a table."""
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_table

    single = attempts[0] if len(attempts) == 1 else None
    if single and single.error:
        raise single.error
    if as_json:
        records = [_record_of(attempt) for attempt in attempts]
        print_json(records[0] if single else records)
    elif single and single.built:
        _show_built(single.built)
    elif any(attempt.built for attempt in attempts):
        columns = (
            "model",
            "precision",
            "engine",
            "kernels",
            "MACs",
            "of Q/DQ INT8",
            "attention",
            "s",
        )
        print_table("Builds", columns, map(_row_of, attempts), open_console())
    for attempt in () if as_json else attempts:
        if attempt.explained:
            print_table(
                f"{attempt.model} {attempt.precision}",
                ("", "plan"),
                attempt.explained.facts,
                open_console(),
            )
        elif attempt.error:
            show_error(attempt.error)


def _show_built(built: Built) -> None:
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_audit

    typer.echo(str(built.path))
    print_audit(built.audit, open_console())
    if built.ahead_of_time:
        typer.echo(
            f"This engine runs only in {built.flavour} on RTX cards of compute capability "
            f"{', '.join(built.compute_capabilities)}; for Jetson or TensorRT run build-trt there."
        )


def _record_of(attempt: Attempt) -> dict[str, object]:
    named: dict[str, object] = {"model": attempt.model, "precision": attempt.precision}
    if attempt.error:
        return {
            **named,
            "error": attempt.error.message,
            "hint": attempt.error.hint,
            "exit_code": attempt.error.exit_code,
        }
    if attempt.built:
        built = attempt.built
        return {
            **named,
            "path": str(built.path),
            "flavour": built.flavour,
            "audit": built.audit,
            "seconds": built.seconds,
        }
    return {**named, **vars(attempt.explained)}


def _row_of(attempt: Attempt) -> tuple[str, ...]:
    from hvt_deploy.evaluation.report.engine_layers import precision_shares, quantized_share

    built = attempt.built
    if built is None:
        return attempt.model, attempt.precision, "failed, see below", *[""] * 5
    audit = built.audit
    return (
        attempt.model,
        attempt.precision,
        built.path.name,
        str(audit.kernels),
        precision_shares(audit.macs),
        quantized_share(audit),
        f"{audit.fused_attention}/{audit.attention_blocks}",
        f"{built.seconds:.0f}",
    )
