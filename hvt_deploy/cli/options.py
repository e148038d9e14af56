"""Options and helpers that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.core.errors import BadInput, HvtDeployError
from hvt_deploy.core.types import PRECISIONS, Precision

if TYPE_CHECKING:
    from hvt_deploy.core.config import RunConfig
    from hvt_deploy.core.ui import Ui
    from hvt_deploy.core.workspace import ModelFolder
    from hvt_deploy.evaluation.record import Results

Model = Annotated[str | None, typer.Argument(help="Exported model; without it the newest export.")]
DEFAULT_ROOT = Path("artifacts")
Root = Annotated[
    Path, typer.Option("--workspace", metavar="DIR", help="Folder of exported models.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]
Calib = Annotated[
    str | None, typer.Option("--calib", metavar="DIR", help="Folder of calibration images.")
]
CalibImages = Annotated[int | None, typer.Option(min=1, help="Calibration images to draw.")]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Precision of the graph; `int8` has FP16 in the rest.")
]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")]


def open_ui(quiet: bool) -> Ui:
    """What steps talk to; `quiet` keeps warnings only."""
    from hvt_deploy.cli.console import TerminalUi, open_console

    return TerminalUi(open_console(stderr=True), quiet=quiet)


def show_error(error: HvtDeployError) -> None:
    """Print an error and what to do about it, on stderr."""
    from hvt_deploy.cli.console import open_console, print_error

    print_error(error, open_console(stderr=True))


def print_json(value: object) -> None:
    """Print a record on stdout."""
    from hvt_deploy.core.serialization import to_plain

    typer.echo(json.dumps(to_plain(value), indent=2))


def find_exported(
    root: Path, model: str | None, config_file: Path | None, flags: Mapping[str, object], ui: Ui
) -> tuple[ModelFolder, RunConfig]:
    """The exported model a verb works on, and its configuration: flags over --config over that of
    the export.
    """
    from hvt_deploy.core.config import load_config, with_flags
    from hvt_deploy.core.workspace import find_model

    folder = find_model(root, model)
    if model is None:
        ui.say(f"Model: {folder.slug}, the newest export in {root}")
    config = load_config(config_file) if config_file else folder.read().config
    return folder, with_flags(config, flags)


def one_precision(asked: Precision | None, fp16: bool, int8: bool) -> Precision | None:
    """The one precision that the three flags give; None if none does. Raises BadInput for several."""
    given: list[Precision] = [
        *([asked] if asked else []),
        *(["fp16"] if fp16 else []),
        *(["int8"] if int8 else []),
    ]
    if len(given) > 1:
        raise BadInput(
            f"Several precisions were given: {', '.join(given)}.",
            "Give one of --precision, --fp16, --int8.",
        )
    return given[0] if given else None


def show_results(results: Results, folder: Path | None, as_json: bool) -> None:
    """Print a validation, and where its report is."""
    if as_json:
        print_json(results)
        return
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.evaluation.report.terminal import print_results

    print_results(results, open_console())
    if folder is not None:
        typer.echo(f"Report: {folder / 'report.html'}")


def named_precisions(names: Sequence[str]) -> list[Precision]:
    """Typer has no list of choices. They come out in the order in which they build on each other."""
    from hvt_deploy.core.errors import unknown_name

    for name in names:
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS)
    return [name for name in PRECISIONS if name in names]
