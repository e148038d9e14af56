"""The application: runs a command and turns an error into one message and an exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup

from hvt_deploy import __version__
from hvt_deploy.cli.output import show_error
from hvt_deploy.cli.standard_streams import prepare_streams
from hvt_deploy.core.ending import ENDED_BY, end_at_once, raise_interrupts
from hvt_deploy.core.environment import check_working_folder
from hvt_deploy.core.errors import HvtDeployError, MissingEnvironment, as_failure

Options = TypeVar("Options")


class _Commands(TyperGroup):
    """Runs a command; an error it raises becomes one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own context class has no stable home
        received: list[signal.Signals] = []
        try:
            check_working_folder()
            with raise_interrupts(received):
                return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if received or isinstance(error, KeyboardInterrupt):
                # Some libraries turn an interruption into an error of their own.
                raise _end_early(received[0] if received else signal.SIGINT) from None
            if not isinstance(error, HvtDeployError):
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            show_error(error)
            raise typer.Exit(error.exit_code) from None


def _end_early(number: signal.Signals) -> typer.Exit:
    end_at_once()
    # Without rich, whose import may be what was interrupted.
    with suppress(OSError):  # the terminal may be gone
        typer.echo(f"{ENDED_BY[number]} Results of earlier commands are unchanged.", err=True)
    return typer.Exit(128 + number)


app = typer.Typer(
    name="hvt-deploy",
    cls=_Commands,
    help="Deploy hierarchical vision transformers: PyTorch checkpoint to ONNX, FP16/INT8 and "
    "TensorRT engine, with accuracy and latency validated.",
    epilog="Start with: **hvt-deploy demo** (needs no data), "
    "or **hvt-deploy export fdvit_b --opset 17**",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command_with_options(
    name: str, options: Callable[..., Options], *, epilog: str
) -> Callable[[Callable[[Options], None]], Callable[[Options], None]]:
    """Register a command that takes all its flags as one dataclass: each field is a flag.

    For commands with many flags. Typer reads the flags from a signature; here it is that of the
    dataclass.
    """

    def register(function: Callable[[Options], None]) -> Callable[[Options], None]:
        def command(**flags: object) -> None:
            function(options(**flags))

        update_wrapper(command, options, assigned=(), updated=())  # takes over the signature
        command.__annotations__ = get_type_hints(options, include_extras=True)
        command.__doc__ = function.__doc__
        app.command(name, epilog=epilog)(command)
        return function

    return register


def run() -> None:
    """Run the command line on `sys.argv`; an unexpected error exits with 4."""
    output = prepare_streams()
    failure, code = None, 0
    try:
        if output.closed:
            raise MissingEnvironment(
                "Standard output is closed.", "Send it to a file or /dev/null."
            )
        app()
    except SystemExit as end:
        code = end.code
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        failure = as_failure(error)
    failure = output.finish() or failure
    if failure:
        show_error(failure)
        code = failure.exit_code
    sys.exit(code)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hvt-deploy {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of every command."""
