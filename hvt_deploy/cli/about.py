"""About the product, its models and this machine: demo, models, doctor, config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hvt_deploy.cli.app import command
from hvt_deploy.cli.completion import complete_models, complete_words
from hvt_deploy.cli.help import epilog
from hvt_deploy.cli.options import JsonOption, LabelsOption, WorkspaceOption
from hvt_deploy.cli.output import open_ui, show_json, show_lines, show_results, show_table
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import DEFAULT_WORKSPACE
from hvt_deploy.evaluation.verification.sections import DEFAULT_MODEL, SECTION_NAMES

if TYPE_CHECKING:
    from hvt_deploy.commands.models import ListedModel
    from hvt_deploy.models.golden_check import GoldenCheck

_FAMILIES = ("fdvit", "faster_vit", "dfvt", "hvt")
ALL_SECTIONS = ",".join(SECTION_NAMES)
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Run the code that needs a GPU on the GPU of this machine.")
]
SectionsOption = Annotated[
    str, typer.Option(metavar="NAMES", help="Sections of --verify, separated by commas.")
]
VerifiedModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="The model whose graphs and engines --verify compares: a name, or MODEL.fp32.onnx of "
        "an export made elsewhere, which needs no PyTorch.",
    ),
]
VerificationOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Where --verify writes verification*.json.")
]
PatternsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATTERN...",
        show_default="all but timm's",
        help="Names, wildcards or timm:NAME to list.",
        autocompletion=complete_models,
    ),
]
OnlyFamilyOption = Annotated[
    str | None,
    typer.Option(
        metavar="fdvit|faster_vit|dfvt|hvt",
        show_default="all",
        help="Only this family.",
        autocompletion=complete_words(_FAMILIES),
    ),
]
VerifiedNameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="list the models instead",
        help="Compare a model on this machine with logits of the official code.",
        autocompletion=complete_models,
    ),
]
ConfiguredModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default="fdvit_b with --for",
        help="A name that hvt-deploy models lists.",
        autocompletion=complete_models,
    ),
]
DataToLookAtOption = Annotated[
    Path | None,
    typer.Option(
        "--for",
        metavar="DIR",
        show_default="no look at images",
        help="Own images: class folders, train and val, a flat folder, or CIFAR-100.",
    ),
]
AllModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--all",
        metavar="DIR",
        show_default="only MODEL's",
        help="Write the configuration of every model to DIR.",
    ),
]
RECORDED_IN_FLOAT32 = (
    "float32: of this size the official code's logits were recorded in float32 only, so they are "
    "compared in float32, within 1e-4 of the largest."
)
FamilyOption = Annotated[
    str,
    typer.Option(
        metavar="fdvit|faster_vit|dfvt|hvt",
        help="Family of the model.",
        autocompletion=complete_words(_FAMILIES),
    ),
]
DemoDataOption = Annotated[
    str,
    typer.Option(
        metavar="digits|elpv",
        help="Handwritten digits, or solar cells, on which the model is trained first, once.",
    ),
]
CHECK_COLUMNS = ("golden logits", "form", "dtype", "error", "limit", "result")


@command("demo", "About", epilog("demo", "demo --family hvt --output /tmp/hvt", "demo --data elpv"))
def demo(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for images, artifacts and reports.")
    ] = Path("demo"),
    family: FamilyOption = "fdvit",
    data: DemoDataOption = "digits",
    as_json: JsonOption = False,
) -> None:
    """Run every step on a small model and handwritten digits.

    It exports, quantizes, builds an engine and validates, and needs no data and no network.
    """
    from hvt_deploy.core.environment import require

    for module, extra in {"torch": "export", "onnxruntime": "cpu"}.items():
        require(module, extra)
    from hvt_deploy.commands.demo import run_demo

    done = run_demo(output, family, data, open_ui(as_json))
    show_results(done.results, done.folder, as_json)
    raise typer.Exit(done.exit_code)


@command(
    "models",
    "About",
    epilog(
        "models", "models --family hvt", "models 'timm:swin*'", "models --verify faster_vit_0_224"
    ),
)
def models(
    patterns: PatternsArgument = None,
    family: OnlyFamilyOption = None,
    verify: VerifiedNameOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models: accuracy, size, licences.

    Those of timm are listed by a pattern that begins with timm: and may have wildcards.
    """
    from hvt_deploy.commands.models import list_models, verify_model

    if verify is None:
        _show_models(list_models(patterns or (), family), as_json)
        return
    checks = verify_model(verify, open_ui(as_json))
    _show_checks(f"{verify} against the official code", checks, as_json)
    raise typer.Exit(0 if all(c.passed for c in checks) else 1)


def _show_models(listed: Sequence[ListedModel], as_json: bool) -> None:
    from hvt_deploy.commands.models import describe_columns

    if as_json:
        show_json(listed)
        return
    own = [model for model in listed if model.family != "timm"]
    of_timm = [model for model in listed if model.family == "timm"]
    for title, part in (("Models", own), ("Models of timm", of_timm)):
        if part:
            cells = [model.cells() for model in part]
            show_table(title, tuple(cells[0]), [tuple(row.values()) for row in cells])
    if own:
        show_lines(describe_columns(own))


def _show_checks(title: str, checks: Sequence[GoldenCheck], as_json: bool) -> None:
    if as_json:
        show_json(checks)
        return
    rows = [
        (
            check.golden,
            check.form,
            check.dtype,
            f"{check.error:.1e}",
            f"{check.allowed:.0e}",
            "ok" if check.passed else "DIFFERENT",
        )
        for check in checks
    ]
    show_table(title, CHECK_COLUMNS, rows)
    if any(check.dtype == "float32" for check in checks):
        typer.echo(RECORDED_IN_FLOAT32)


@command("doctor", "About", epilog("doctor", "doctor --verify --sections device,cuda"))
def doctor(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    verify: VerifyOption = False,
    sections: SectionsOption = ALL_SECTIONS,
    model: VerifiedModelOption = DEFAULT_MODEL,
    output: VerificationOption = Path("verification"),
    as_json: JsonOption = False,
) -> None:
    """Check what this machine supports and what is missing."""
    if verify:
        _verify(sections, model, output, as_json)
    from hvt_deploy.commands.doctor import check_machine

    found = check_machine(workspace)
    if as_json:
        show_json(found)
        return
    show_table("This machine", ("component", "found"), list(found.facts.items()))
    rows = [(a.verb, "yes" if a.works else "no", a.why) for a in found.abilities]
    show_table("Commands", ("command", "works here", "uses"), rows)


def _verify(sections: str, model: str, output: Path, as_json: bool) -> NoReturn:
    from hvt_deploy.commands.verify_gpu import parse_sections, verify_gpu

    done = verify_gpu(parse_sections(sections), model, output, open_ui(as_json))
    if as_json:
        show_json(done)
    else:
        rows = [(r.section, r.verdict, r.readme_row, r.problems) for r in done.sections]
        show_table("Verification", ("section", "verdict", "settles", "why not"), rows)
        typer.echo(f"Record: {output / 'verification.json'}")
    raise typer.Exit(done.exit_code)


@command(
    "config",
    "About",
    epilog(
        "config fdvit_b > mine.yaml",
        "config fdvit_b --for photos > mine.yaml",
        "config --all configs",
    ),
)
def config(
    model: ConfiguredModelArgument = None,
    all_models: AllModelsOption = None,
    data: DataToLookAtOption = None,
    labels: LabelsOption = None,
) -> None:
    """Print the configuration of a model, with every setting.

    With --for it is made for the images of a folder after a look at them, with comments: classes,
    sizes, and the commands to split, export, build and validate.
    """
    from hvt_deploy.commands.config import config_of, write_configs
    from hvt_deploy.core.run_config import dump_config

    if all_models is not None:
        typer.echo("\n".join(map(str, write_configs(all_models))))
    elif data is not None:
        from hvt_deploy.commands.data_config import write_data_config

        typer.echo(write_data_config(model or "fdvit_b", data, labels), nl=False)
    elif model is not None:
        typer.echo(dump_config(config_of(model, ui=open_ui(quiet=False))), nl=False)
    else:
        raise BadInput("No model was named.", "Give one: hvt-deploy config fdvit_b")
