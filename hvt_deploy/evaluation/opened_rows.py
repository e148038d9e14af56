"""The rows of a validation while they run: opened once, and ended by the first error of their
runtime, which never ends the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.core.ui import Ui
from hvt_deploy.evaluation.candidates import Candidate
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.runtime.base import AnyBackend, PlacedBackend
from hvt_deploy.runtime.failures import breaks_cuda, explain_failure


@dataclass(frozen=True)
class OpenedRow:
    """A row of a validation with its backend."""

    row: Row
    """The row, without measurements."""
    backend: AnyBackend | None
    """None where it cannot run; `row.skipped` says why."""
    timed: bool
    """Whether its latency is measured."""
    counted: bool = True
    """Whether its accuracy is measured."""
    recorded: RecordedLogits | None = None
    """Logits in place of a reference that cannot run here."""

    @property
    def gives_logits(self) -> bool:
        """Whether there is anything to measure."""
        return self.backend is not None or self.recorded is not None

    @property
    def may_be_reference(self) -> bool:
        """Whether others can be compared with it."""
        return self.gives_logits and self.counted


class OpenedRows:
    """Every row, the reference first: PyTorch, or where it cannot run the first row that can.

    A row whose runtime fails is ended: closed, and skipped with the reason. After an error that
    leaves CUDA unusable in this process, every row on a GPU is ended, and none is opened any more.
    """

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self._opened: list[OpenedRow] = []
        self._cuda_broken_by = ""
        self._settled = ""  # the reference that was announced
        self._is_faulty = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows; those that run come first."""
        return tuple(one.row for one in self._opened)

    @property
    def running(self) -> tuple[OpenedRow, ...]:
        """Those that can be measured, the reference first."""
        return tuple(one for one in self._opened if one.gives_logits)

    def is_running(self, name: str) -> bool:
        """Whether the row of this name has not ended."""
        return any(one.row.backend == name for one in self.running)

    def open(self, candidate: Candidate, memory: MemoryMeter) -> None:
        """Add a row, with its backend where that opens. Raises BadInput for a bad artifact."""
        row = candidate.row
        if candidate.open is None:
            self._opened.append(OpenedRow(row, None, timed=False, recorded=candidate.recorded))
            return
        if self._cuda_broken_by and row.variant.device == "cuda":
            skipped = replace(row, skipped=self._cuda_broken_by)
            self._opened.append(OpenedRow(skipped, None, timed=False))
            return
        try:
            with memory.watch(row.backend, row.variant.device):
                backend = candidate.open()
        except BadInput:
            raise
        except Exception as error:
            self._opened.append(OpenedRow(row, None, candidate.timed, candidate.counted))
            self.end(row.backend, error)
        else:
            placed = _with_placement(row, backend)
            self._opened.append(OpenedRow(placed, backend, candidate.timed, candidate.counted))

    def end(self, name: str, error: Exception) -> tuple[str, ...]:
        """End the row of this name because of an error of its runtime; the names of all rows that
        ended with it.
        """
        reason, ended = explain_failure(error), [name]
        self._is_faulty |= not isinstance(error, MissingEnvironment)
        self._skip(name, reason)
        if breaks_cuda(error) and not self._cuda_broken_by:
            self._cuda_broken_by = f"CUDA is unusable since {name} failed: {reason}"
            on_gpu = [one for one in self.running if one.row.variant.device == "cuda"]
            for one in on_gpu:
                self._skip(one.row.backend, self._cuda_broken_by)
                ended.append(one.row.backend)
        return tuple(ended)

    def settle_reference(self) -> None:
        """Put the rows that run first.

        Raises MissingEnvironment where none can run here, ToolFailure where a runtime failed.
        """
        first = next((one for one in self._opened if one.may_be_reference), None)
        self._opened.sort(key=lambda one: (one is not first, not one.gives_logits))
        if first is None:
            reasons = "; ".join(f"{row.backend}: {row.skipped}" for row in self.rows)
            kind = ToolFailure if self._is_faulty else MissingEnvironment
            hint = "Ask `hvt-deploy doctor` what is missing."
            raise kind(f"No backend can run here. {reasons}", hint)
        reference = self.rows[0]
        changed = reference.backend != self._settled
        self._settled = reference.backend
        if changed and not reference.variant.is_reference:
            self._ui.warn(
                "The reference cannot run here: everything is compared with "
                f"{reference.backend} instead."
            )

    def close(self) -> None:
        """Close what still runs."""
        for one in reversed(self._opened):
            if one.backend is not None:
                one.backend.close()

    def _skip(self, name: str, reason: str) -> None:
        place = next(i for i, one in enumerate(self._opened) if one.row.backend == name)
        one = self._opened[place]
        self._opened[place] = replace(one, row=replace(one.row, skipped=reason), backend=None)
        if one.backend is not None:
            self._ui.warn(f"{name} failed and is skipped: {reason}")
            with contextlib.suppress(Exception):  # its device may be out of order
                one.backend.close()


@contextmanager
def open_rows(
    candidates: Sequence[Candidate], memory: MemoryMeter, ui: Ui
) -> Generator[OpenedRows]:
    """Open every backend, and close them at the end; one that fails becomes a skipped row.

    Raises BadInput for a bad artifact, and where none can run as `settle_reference` does.
    """
    opened = OpenedRows(ui)
    try:
        with ui.progress(f"Opening {len(candidates)} backends") as progress:
            for done, candidate in enumerate(candidates, start=1):
                opened.open(candidate, memory)
                progress(done, len(candidates))
        opened.settle_reference()
        yield opened
    finally:
        opened.close()


def _with_placement(row: Row, backend: AnyBackend) -> Row:
    if not isinstance(backend, PlacedBackend) or backend.placement is None:
        return row
    note = f"{row.note} {backend.placement.sentence}".strip()
    return replace(row, note=note, placement=backend.placement.providers)
