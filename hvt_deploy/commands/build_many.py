"""`build-trt` for several models and precisions; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hvt_deploy.commands.built_engine import Built
from hvt_deploy.commands.engine_gates import NO_GATES, EngineGateFailed, EngineGates
from hvt_deploy.commands.explain_build import Explained
from hvt_deploy.commands.exported_model import Model
from hvt_deploy.core.errors import HvtDeployError, as_failure
from hvt_deploy.core.types import Precision

# Builds, or plans, the engine of a model in a precision that has to pass gates.
Build: TypeAlias = Callable[[Model, Precision, EngineGates], "Built | Explained"]


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
    open_model: Callable[[str | None], Model],
    build: Build,
    gates: EngineGates = NO_GATES,
) -> tuple[Attempt, ...]:
    """Build every model (None: the newest export) in every precision; the gates are for INT8.

    Without a precision that of the model's configuration is built. A build that fails is noted, and
    the next one starts.
    """
    attempts: list[Attempt] = []
    for name in models:
        try:
            model = open_model(name)
            configured = model.config.engine.precision
        except Exception as error:
            attempts.append(Attempt(name or "", "", error=as_failure(error)))
            continue
        wanted: tuple[Precision, ...] = tuple(dict.fromkeys(precisions or [configured]))
        for precision in wanted:
            limits = gates if precision.startswith("int8") else NO_GATES
            try:
                gates.check_use(*wanted)
                done = build(model, precision, limits)
            except EngineGateFailed as failed:
                attempts.append(Attempt(model.name, precision, failed.built, error=failed))
            except Exception as error:  # a fault in one build is no reason to lose the others
                attempts.append(Attempt(model.name, precision, error=as_failure(error)))
            else:
                built, explained = (done, None) if isinstance(done, Built) else (None, done)
                attempts.append(Attempt(model.name, precision, built, explained))
    return tuple(attempts)
