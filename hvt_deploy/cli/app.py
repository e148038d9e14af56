"""The application: it runs a verb and turns what goes wrong into one message and an exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hvt_deploy import __version__
from hvt_deploy.cli.options import open_ui, show_error
from hvt_deploy.core.errors import HvtDeployError, as_failure

SECONDS_TO_INSIST = 2.0


@contextmanager
def _insisting_interrupts() -> Generator[None]:
    """Ctrl-C interrupts again after a while: libraries that try this and that swallow it now and
    then.
    """

    def interrupt(_signal: int, _frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_INSIST)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGALRM, before[1])


class _Verbs(TyperGroup):
    """Runs a verb; what it raises becomes one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own context class has no stable home
        try:
            with _insisting_interrupts():
                return super().invoke(ctx)
        except HvtDeployError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            show_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            open_ui(False).warn("Interrupted. What was finished before is unchanged.")
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
        failure = as_failure(error)
        show_error(failure)
        sys.exit(failure.exit_code)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hvt-deploy {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    """Options of every verb."""
