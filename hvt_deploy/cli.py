"""The command line: one command per verb. It reads flags, calls a step or a flow, shows what came back.

Logs and progress go to stderr, results to stdout. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from hvt_deploy import __version__
from hvt_deploy.errors import HvtDeployError

# typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`.
Model = Annotated[str | None, typer.Argument(help="Exported model; without it the newest export.")]
Root = Annotated[Path, typer.Option("--workspace", metavar="DIR", help="Folder of exported models.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]
Calib = Annotated[str | None, typer.Option("--calib", metavar="DIR", help="Folder of calibration images.")]
CalibImages = Annotated[int | None, typer.Option(min=1, help="Calibration images to draw.")]
PrecisionName = Literal["fp32", "fp16", "int8", "int8-fp32"]


class _Verbs(TyperGroup):
    """Runs a verb; what it raises becomes one message and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # noqa: ANN401 - the base class's signature
        try:
            return super().invoke(ctx)
        except HvtDeployError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _ui().error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _ui().warn("Interrupted. What was finished before is unchanged.")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="hvt-deploy",
    cls=_Verbs,
    help="Hierarchical vision transformers: PyTorch checkpoint, ONNX, FP16/INT8, TensorRT engine, verdict.",
    epilog="Start with: **hvt-deploy demo** (needs nothing), or **hvt-deploy export fdvit_b --opset 17**",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> None:
    """Run the command line on `sys.argv`; a fault of this program exits with 4."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        bug = HvtDeployError(
            f"This is a fault in hvt-deploy: {type(error).__name__}: {error}", "Run again with --debug and report it."
        )
        _ui().error(bug)
        sys.exit(bug.exit_code)


def _ui() -> Any:  # noqa: ANN401
    from hvt_deploy.report.terminal import TerminalUi

    return TerminalUi()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hvt-deploy {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
) -> None:
    """Options of every verb."""
