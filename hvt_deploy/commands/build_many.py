"""`build-trt` for several models and precisions; one that fails does not stop the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hvt_deploy.commands.build_trt import build_trt
from hvt_deploy.commands.built_engine import Built
from hvt_deploy.commands.engine_costs import check_traffic
from hvt_deploy.commands.explain_build import Explained, explain_build
from hvt_deploy.core.errors import BadInput, CheckFailed, HvtDeployError, as_failure
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.types import Precision
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.graph.analysis.engine_audit import EngineAudit

# Finds the exported model of a name, and its configuration with the flags of the command line.
OpenModel: TypeAlias = Callable[["str | None"], "tuple[ModelFolder, RunConfig]"]


@dataclass(frozen=True)
class Attempt:
    """One build of several: done, planned or failed."""

    model: str
    """Name of the exported model, "" for the newest that could not be found."""
    precision: str
    """Precision that was asked for, "" if there is no such model."""
    built: Built | None = None
    """The engine, if it was built and kept."""
    explained: Explained | None = None
    """The plan, if it was only asked for."""
    error: HvtDeployError | None = None
    """The reason why there is neither, or the gate that the engine failed."""


def build_many(
    models: Sequence[str | None],
    precisions: Sequence[Precision],
    open_model: OpenModel,
    ui: Ui,
    min_int8: float | None = None,
    max_traffic: float | None = None,
    min_int8_of_all: float | None = None,
    *,
    explain: bool = False,
    force: bool = False,
) -> tuple[Attempt, ...]:
    """Build every model (None: the newest export) in every precision.

    Without a precision that of the model's configuration is built.

    A build that fails is noted, and the next one starts. With `explain` nothing is built, with
    `force` also what was built before.
    """
    attempts: list[Attempt] = []
    for model in models:
        try:
            folder, config = open_model(model)
        except Exception as error:
            attempts.append(Attempt(model or "", "", error=as_failure(error)))
            continue
        wanted: tuple[Precision, ...] = tuple(
            dict.fromkeys(precisions or [config.engine.precision])
        )
        for precision in wanted:
            try:
                _check_gate("--min-int8", min_int8, wanted)
                _check_gate("--max-traffic", max_traffic, wanted)
                _check_gate("--min-int8-of-all", min_int8_of_all, wanted)
                if explain:
                    explained = explain_build(folder, config, precision)
                    attempts.append(Attempt(folder.slug, precision, explained=explained))
                else:
                    built = build_trt(folder, config, precision, ui, min_int8, force=force)
                    failed = _find_failed_gate(built, max_traffic, min_int8_of_all)
                    attempts.append(Attempt(folder.slug, precision, built=built, error=failed))
            except Exception as error:  # a fault in one build is no reason to lose the others
                attempts.append(Attempt(folder.slug, precision, error=as_failure(error)))
    return tuple(attempts)


def _check_gate(gate: str, limit: float | None, precisions: Sequence[Precision]) -> None:
    if limit is not None and not math.isfinite(limit):
        raise BadInput(f"{gate} is {limit}.", "Give a finite number.")
    if limit is not None and not any(precision.startswith("int8") for precision in precisions):
        raise BadInput(
            f"{gate} is a gate on INT8 engines, and the precision is {', '.join(precisions)}.",
            "Add --int8.",
        )


def _find_failed_gate(
    built: Built, max_traffic: float | None, min_int8_of_all: float | None
) -> CheckFailed | None:
    """The gate that an engine failed which is there all the same."""
    if not built.precision.startswith("int8"):
        return None
    try:
        if max_traffic is not None:
            check_traffic(built.path.name, built.costs, max_traffic)
        if min_int8_of_all is not None:
            check_int8_of_all(built.path.name, built.audit, min_int8_of_all)
    except CheckFailed as failed:
        return failed
    return None


def check_int8_of_all(engine: str, audit: EngineAudit, smallest: float) -> None:
    """Raise CheckFailed unless at least the share `smallest` (0 to 1) of all MACs runs as INT8."""
    share = audit.int8_share_of_all
    if audit.macs.total and share >= smallest:
        return
    found = f"{share:.2%} of all MACs of {engine} run as INT8"
    if not audit.macs.total:
        found = f"The MACs of {engine} are not known"
    raise CheckFailed(
        f"{found}, expected at least {smallest:.2%}. The engine was kept.",
        "Quantize more groups (hvt-deploy quantize), or lower --min-int8-of-all.",
    )
