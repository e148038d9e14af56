"""The gates of `build-trt`: how much of an INT8 engine must be INT8, and what it may move."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hvt_deploy.commands.built_engine import Built
from hvt_deploy.commands.engine_costs import check_traffic
from hvt_deploy.core.errors import BadInput, CheckFailed
from hvt_deploy.core.types import Precision
from hvt_deploy.graph.analysis.engine_audit import EngineAudit


class EngineGateFailed(CheckFailed):
    """An engine is there that failed a gate: `built`."""

    def __init__(self, failed: CheckFailed, built: Built) -> None:
        super().__init__(failed.message, failed.hint)
        self.built = built


@dataclass(frozen=True)
class EngineGates:
    """Limits of an INT8 engine; one that is None is not set."""

    min_int8: float | None = None
    """Smallest share of the MACs with Q/DQ that must run as INT8, 0 to 1."""
    min_int8_of_all: float | None = None
    """Smallest share of all MACs that must run as INT8, 0 to 1."""
    max_traffic: float | None = None
    """Bytes that the engine may move, as a ratio to FP16."""

    def check_use(self, *precisions: Precision) -> None:
        """Raise BadInput for a limit that is no finite number or has no INT8 engine to judge."""
        for field, limit in vars(self).items():
            flag = f"--{field.replace('_', '-')}"
            if limit is None:
                continue
            if not (isinstance(limit, int | float) and math.isfinite(limit)):
                raise BadInput(f"{flag} is {limit}.", "Give a finite number.")
            if not any(precision.startswith("int8") for precision in precisions):
                raise BadInput(
                    f"{flag} is a gate on INT8 engines, and the precision is "
                    f"{', '.join(precisions)}.",
                    "Add --int8.",
                )

    def judge(self, built: Built) -> None:
        """Raise EngineGateFailed for an engine that is there and fails a limit."""
        try:
            if self.max_traffic is not None:
                check_traffic(built.path.name, built.costs, self.max_traffic)
            if self.min_int8_of_all is not None:
                check_int8_of_all(built.path.name, built.audit, self.min_int8_of_all)
        except CheckFailed as failed:
            raise EngineGateFailed(failed, built) from None


NO_GATES = EngineGates()


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
