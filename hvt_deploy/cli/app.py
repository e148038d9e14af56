"""The application: runs a command and turns an error into one message and an exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from hvt_deploy import __version__
from hvt_deploy.cli.completion import bash_completes_colons
from hvt_deploy.cli.help import HelpedCommand, HelpedGroup, epilog
from hvt_deploy.cli.options import DebugOption, QuietOption, VerboseOption
from hvt_deploy.cli.output import set_verbosity, show_error
from hvt_deploy.cli.standard_streams import prepare_streams
from hvt_deploy.core.ending import ENDED_BY, end_at_once, raise_interrupts
from hvt_deploy.core.environment import check_working_folder
from hvt_deploy.core.errors import HvtDeployError, MissingEnvironment, as_failure

Options = TypeVar("Options")
# The groups of commands in `hvt-deploy --help`.
Panel = Literal["From checkpoint to engine", "Judge and compare", "Use and move", "About"]


class _Commands(HelpedGroup):
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
            if _is_debugging():
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
    epilog=epilog(
        "demo                         # needs no data",
        "export fdvit_b --opset 17    # then quantize, build-trt, validate",
        "export --help                # flags and examples of a command",
    )
    + "\n\nExit codes: 0 done, 1 a gate or parity failed, 2 bad input, 3 this machine lacks "
    "something, 4 a tool failed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(
    name: str, panel: Panel, epilog: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose parameters are its flags."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _register(name, panel, epilog, function, function, function.__doc__)
        return function

    return register


def command_with_options(
    name: str, options: Callable[..., Options], panel: Panel, epilog: str
) -> Callable[[Callable[[Options], None]], Callable[[Options], None]]:
    """Register a command that takes all its flags as one dataclass: each field is a flag.

    For commands with many flags.
    """

    def register(function: Callable[[Options], None]) -> Callable[[Options], None]:
        def call(**flags: object) -> None:
            function(options(**flags))

        _register(name, panel, epilog, options, call, function.__doc__)
        return function

    return register


def _register(
    name: str,
    panel: Panel,
    epilog: str,
    flags: Callable[..., object],
    call: Callable[..., None],
    description: str | None,
) -> None:
    """Register `call` as a command with the parameters of `flags`, and those of every command."""

    def run_command(*, quiet: bool, verbose: bool, debug: bool, **given: object) -> None:
        set_verbosity(quiet=quiet, verbose=verbose)
        call(**given)

    hints = get_type_hints(flags, include_extras=True)
    hints |= {"quiet": QuietOption, "verbose": VerboseOption, "debug": DebugOption, "return": None}
    names = "quiet", "verbose", "debug"
    more = [Parameter(name, Parameter.KEYWORD_ONLY, default=False) for name in names]
    own = signature(flags).parameters.values()
    parameters = [p.replace(annotation=hints[p.name]) for p in (*own, *more)]
    run_command.__signature__ = signature(flags).replace(parameters=parameters)
    run_command.__annotations__ = hints
    run_command.__doc__ = description
    app.command(name, cls=HelpedCommand, epilog=epilog, rich_help_panel=panel)(run_command)


def _is_debugging() -> bool:
    return "--debug" in sys.argv


def run() -> None:
    """Run the command line on `sys.argv`; an unexpected error exits with 4."""
    output = prepare_streams()
    failure, code = None, 0
    try:
        if output.closed:
            raise MissingEnvironment(
                "Standard output is closed.", "Send it to a file or /dev/null."
            )
        with bash_completes_colons():
            app()
    except SystemExit as end:
        code = end.code
    except Exception as error:
        if _is_debugging():
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
    debug: DebugOption = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of every command."""
