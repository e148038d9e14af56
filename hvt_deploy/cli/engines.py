"""From graphs to TensorRT engines: build-trt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import command_with_options
from hvt_deploy.cli.completion import complete_exported, complete_words
from hvt_deploy.cli.help import choices, epilog
from hvt_deploy.cli.inputs import check_precisions
from hvt_deploy.cli.options import (
    NEWEST_EXPORT,
    NO_GATE,
    CalibrationImagesOption,
    CalibrationOption,
    ConfigOption,
    Fp16Option,
    Int8Option,
    JsonOption,
    WorkspaceOption,
)
from hvt_deploy.cli.output import open_ui, show_error, show_json, show_table
from hvt_deploy.core.types import DEFAULT_WORKSPACE, PRECISIONS, FlavourChoice, Precision

if TYPE_CHECKING:
    from hvt_deploy.commands.build_many import Attempt
    from hvt_deploy.commands.built_engine import Built
    from hvt_deploy.commands.engine_gates import EngineGates
    from hvt_deploy.commands.explain_build import Explained
    from hvt_deploy.commands.exported_model import Model

BUILD_COLUMNS = (
    "model",
    "precision",
    "engine",
    "kernels",
    "MACs",
    "Q/DQ MACs run as INT8",
    "fused attention",
    "MiB",
    "of FP16's",
    "seconds",
)


@dataclass(frozen=True)
class BuildOptions:
    """Flags of `build-trt`."""

    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            show_default=NEWEST_EXPORT,
            help="Exported models.",
            autocompletion=complete_exported,
        ),
    ] = None
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar=choices(Precision),
            show_default="fp16",
            help="int8 is INT8 with FP16 in the rest, int8-fp32 with FP32. Repeatable.",
            autocompletion=complete_words(PRECISIONS),
        ),
    ] = None
    fp16: Fp16Option = False
    int8: Int8Option = False
    calib: CalibrationOption = None
    calib_images: CalibrationImagesOption = None
    flavour: Annotated[
        FlavourChoice | None,
        typer.Option(
            metavar=choices(FlavourChoice),
            show_default="auto, the one that builds here",
            help="TensorRT library to build with.",
        ),
    ] = None
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X.Y",
            show_default="the GPU here, else 8.6",
            help="Target GPU of TensorRT-RTX, such as 8.6. Repeatable.",
        ),
    ] = None
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MIN,OPT,MAX",
            show_default="1,8,32",
            help="Batch sizes of an optimization profile. Repeatable, all in one engine.",
        ),
    ] = None
    min_int8: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            show_default="more than 0",
            help="Gate: share of the MACs with Q/DQ that must run as INT8, 0 to 1.",
        ),
    ] = None
    min_int8_of_all: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            show_default=NO_GATE,
            help="Gate: share of all MACs that must run as INT8, 0 to 1.",
        ),
    ] = None
    max_traffic: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            min=0,
            show_default=NO_GATE,
            help="Gate: bytes that an INT8 engine may move, as a ratio to FP16, such as 0.9.",
        ),
    ] = None
    explain: Annotated[bool, typer.Option("--explain", help="Only print the build plan.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Build again what was built from the same inputs.")
    ] = False
    workspace: WorkspaceOption = DEFAULT_WORKSPACE
    config_file: ConfigOption = None
    as_json: JsonOption = False


@command_with_options(
    "build-trt",
    BuildOptions,
    "From checkpoint to engine",
    epilog(
        "build-trt --int8 --calib imagenet/train --min-int8 0.9",
        "build-trt --int8 --max-traffic 0.9 --compute-capability 8.9",
        "build-trt fdvit_b hvt_s_0 --fp16 --int8 --profile 1,8,32",
        "build-trt --int8 --explain",
        terms=("passport", "reformat", "traffic"),
    ),
)
def build_trt(options: BuildOptions) -> None:
    """Build TensorRT engines and audit their layers.

    Engines are strongly typed: the graph decides each layer's precision. Graphs that are not there
    yet are made first, as by quantize.
    """
    from hvt_deploy.commands.api import open as open_model
    from hvt_deploy.commands.build_many import build_many
    from hvt_deploy.commands.engine_gates import EngineGates

    ui, config = open_ui(options.as_json), options.config_file
    short_forms = [*(["fp16"] if options.fp16 else []), *(["int8"] if options.int8 else [])]
    attempts = build_many(
        options.models or [None],
        check_precisions([*(options.precision or []), *short_forms]),
        lambda name: open_model(name, workspace=options.workspace, config=config, progress=ui),
        partial(_build, options, _profiles(options)),
        EngineGates(options.min_int8, options.min_int8_of_all, options.max_traffic),
    )
    _show_attempts(attempts, options.as_json)
    raise typer.Exit(max(attempt.error.exit_code if attempt.error else 0 for attempt in attempts))


def _profiles(options: BuildOptions) -> list[tuple[int, int, int]] | None:
    from hvt_deploy.runtime.tensorrt.plan import parse_profile

    return [(p.min, p.opt, p.max) for p in map(parse_profile, options.profile or ())] or None


def _build(
    options: BuildOptions,
    profiles: Sequence[tuple[int, int, int]] | None,
    model: Model,
    precision: Precision,
    gates: EngineGates,
) -> Built | Explained:
    flavour, capabilities = options.flavour, options.compute_capability
    if options.explain:
        return model.explain_build(
            precision, flavour=flavour, compute_capabilities=capabilities, profiles=profiles
        )
    return model.build_trt(
        precision,
        calib=options.calib,
        calib_images=options.calib_images,
        flavour=flavour,
        compute_capabilities=capabilities,
        profiles=profiles,
        min_int8=gates.min_int8,
        min_int8_of_all=gates.min_int8_of_all,
        max_traffic=gates.max_traffic,
        force=options.force,
    )


def _show_attempts(attempts: Sequence[Attempt], as_json: bool) -> None:
    """One build in full, or the error why there is none; several as a table."""
    single = attempts[0] if len(attempts) == 1 else None
    if single and single.error and not single.built:
        raise single.error
    if as_json:
        records = [_record_of(attempt) for attempt in attempts]
        show_json(records[0] if single else records)
        return
    if single and single.built:
        _show_built(single.built)
    elif any(attempt.built for attempt in attempts):
        show_table("Builds", BUILD_COLUMNS, map(_row_of, attempts))
        for attempt in attempts:  # a path in a table is folded, and cannot be copied
            if attempt.built:
                typer.echo(str(attempt.built.path))
    for attempt in attempts:
        if attempt.explained:
            title = f"{attempt.model} {attempt.precision}"
            show_table(title, ("setting", "value"), attempt.explained.facts)
        elif attempt.error:
            show_error(attempt.error)


def _show_built(built: Built) -> None:
    from hvt_deploy.evaluation.report.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_audit

    typer.echo(str(built.path))
    print_audit(built.audit, open_console())
    for line in built.sentences:
        typer.echo(line)


def _record_of(attempt: Attempt) -> dict[str, object]:
    """An attempt as `--json` shows it."""
    identity: dict[str, object] = {"model": attempt.model, "precision": attempt.precision}
    error, built = attempt.error, attempt.built
    if attempt.explained:
        return {**identity, **vars(attempt.explained)}
    if built:
        identity |= {
            "path": str(built.path),
            "flavour": built.flavour,
            "audit": built.audit,
            "costs": built.costs,
            "seconds": built.seconds,
            "before": built.before,
        }
    if error:
        identity |= {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return identity


def _row_of(attempt: Attempt) -> tuple[str, ...]:
    """An attempt as a row of `BUILD_COLUMNS`."""
    from hvt_deploy.evaluation.report.engine_costs import traffic_cells
    from hvt_deploy.evaluation.report.engine_layers import precision_shares, quantized_share

    built = attempt.built
    if built is None:
        empty = [""] * (len(BUILD_COLUMNS) - 3)
        return attempt.model, attempt.precision, "failed, see below", *empty
    audit = built.audit
    return (
        attempt.model,
        attempt.precision,
        "built before" if built.before else "built",
        str(audit.kernels),
        precision_shares(audit.macs),
        quantized_share(audit),
        f"{audit.fused_attention}/{audit.attention_blocks}",
        *traffic_cells(built.costs),
        f"{built.seconds:.0f}",
    )
