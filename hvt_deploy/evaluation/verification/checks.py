"""The checks of a section: each verified, failed, or not possible here, with its measurements."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hvt_deploy.core.errors import CheckFailed, MissingEnvironment
from hvt_deploy.runtime.failures import explain_failure

Verdict = Literal["verified", "failed", "cannot here"]
Fact: TypeAlias = float | str


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    """Names it within its section."""
    verdict: Verdict
    """The result; "cannot here" where the machine lacks something."""
    why: str = ""
    """Why it failed or cannot be done."""
    measured: Mapping[str, Fact] = field(default_factory=dict[str, Fact])
    """Numbers with their unit in the name, and versions or sentences."""


class CheckList:
    """Runs checks one after the other: one that fails leaves the others. `keep` gets each result
    when it is there.
    """

    def __init__(self, keep: Callable[[Check], None]) -> None:
        self._keep = keep

    @contextmanager
    def check(self, name: str) -> Generator[dict[str, Fact]]:
        """The check `name` is what the block does; the block puts its measurements into the dict.

        It failed if the block raises, and cannot be done here if that is MissingEnvironment.
        """
        measured: dict[str, Fact] = {}
        try:
            yield measured
        except Exception as error:
            self.fail(name, error, measured)
        else:
            self._keep(Check(name, "verified", measured=measured))

    def fail(self, name: str, error: Exception, measured: Mapping[str, Fact]) -> None:
        """Keep the check `name`, which ended with an error."""
        if isinstance(error, MissingEnvironment):
            self._keep(Check(name, "cannot here", explain_failure(error), measured))
            return
        if not isinstance(error, CheckFailed):
            traceback.print_exception(error)  # the end of the log is in the report
        self._keep(Check(name, "failed", explain_failure(error), measured))


def expect(holds: bool, message: str) -> None:
    """Raise CheckFailed with `message` unless it holds."""
    if not holds:
        raise CheckFailed(message)


def judge(checks: Sequence[Check]) -> Verdict:
    """Failed if a check failed, verified if one was verified and none failed."""
    verdicts = {check.verdict for check in checks}
    if "failed" in verdicts:
        return "failed"
    return "verified" if "verified" in verdicts else "cannot here"
