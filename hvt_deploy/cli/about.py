"""About the product and its models: demo, models, doctor, config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvt_deploy.cli.app import app
from hvt_deploy.cli.options import DEFAULT_ROOT, AsJson, Root, open_ui, print_json, show_results
from hvt_deploy.core.errors import BadInput

if TYPE_CHECKING:
    pass


@app.command(epilog="Example: **hvt-deploy demo --output /tmp/demo**")
def demo(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where images, artifacts and reports go.")
    ] = Path("demo"),
    family: Annotated[str, typer.Option(help="fdvit, faster_vit, dfvt or hvt.")] = "fdvit",
    as_json: AsJson = False,
) -> None:
    """Run everything on real data without a network: export, INT8, engine, validate on handwritten
    digits.
    """
    from hvt_deploy.core.environment import require

    for module, extra in {"torch": "export", "onnxruntime": "cpu", "sklearn": "demo"}.items():
        require(module, extra)
    from hvt_deploy.commands.flows import run_demo

    done = run_demo(output, family, open_ui(as_json))
    show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


@app.command(epilog="Example: **hvt-deploy models --verify faster_vit_0_224**")
def models(
    verify: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Compare a model with the official code's logits, here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models: published accuracy, measured parameters and MACs, licences."""
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.models import list_models, verify_model
    from hvt_deploy.evaluation.report.terminal import print_table

    if verify is None:
        listed = list_models()
        if as_json:
            print_json(listed)
        else:
            print_table(
                "Models",
                tuple(listed[0].cells()),
                [tuple(m.cells().values()) for m in listed],
                open_console(),
            )
        return
    checks = verify_model(verify, open_ui(as_json))
    if as_json:
        print_json(checks)
    else:
        columns = ("official result", "form", "in", "error", "allowed", "")
        rows = [
            (
                c.golden,
                c.form,
                c.dtype,
                f"{c.error:.1e}",
                f"{c.allowed:.0e}",
                "ok" if c.passed else "DIFFERENT",
            )
            for c in checks
        ]
        print_table(f"{verify} against the official code", columns, rows, open_console())
    raise typer.Exit(0 if all(c.passed for c in checks) else 1)


@app.command()
def doctor(root: Root = DEFAULT_ROOT, as_json: AsJson = False) -> None:
    """Tell what works on this machine, and what is missing for the rest."""
    from hvt_deploy.cli.console import open_console
    from hvt_deploy.commands.doctor import diagnose as look
    from hvt_deploy.evaluation.report.terminal import print_table

    found = look(root)
    if as_json:
        print_json(found)
        return
    console = open_console()
    print_table("This machine", ("what", "found"), list(found.facts.items()), console)
    rows = [(a.verb, "yes" if a.works else "no", a.why) for a in found.abilities]
    print_table("Will it work here?", ("verb", "works", "why"), rows, console)


@app.command(epilog="Example: **hvt-deploy config fdvit_b > my.yaml**")
def config(
    model: Annotated[
        str | None, typer.Argument(help="A name that `hvt-deploy models` lists.")
    ] = None,
    all_models: Annotated[
        Path | None, typer.Option("--all", metavar="DIR", help="Write every model's here.")
    ] = None,
) -> None:
    """Print a model's configuration: everything a run can set."""
    from hvt_deploy.commands.config import config_of, write_configs
    from hvt_deploy.core.config import dump_config

    if all_models is not None:
        typer.echo("\n".join(map(str, write_configs(all_models))))
    elif model is not None:
        typer.echo(dump_config(config_of(model)), nl=False)
    else:
        raise BadInput("No model was named.", "Give one: hvt-deploy config fdvit_b")
