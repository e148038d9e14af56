"""The result of `validate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.evaluation.record import Gate, Results, Row
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.notebook import render_results_cell


@dataclass(frozen=True)
class Validated:
    """A validation and its files."""

    results: Results
    """The record."""
    folder: Path
    """Holds `results.json`, `report.md` and `report.html`."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """One for each backend, the reference first."""
        return self.results.rows

    @property
    def gates(self) -> tuple[Gate, ...]:
        """One for each limit and backend that it was judged for."""
        return self.results.gates

    @property
    def verdict(self) -> str:
        """The sentences on top of every report."""
        return self.results.verdict

    @property
    def exit_code(self) -> int:
        """1 for a failed or unproven gate and for logits that are not finite, 3 for a skipped gate
        or a backend that --backends names and that did not run, else 0.
        """
        statuses = {gate.status for gate in self.results.gates}
        accuracies = (row.accuracy for row in self.results.rows)
        if statuses & {"failed", "not proven"} or any(a and a.not_finite for a in accuracies):
            return 1
        missing = any(row.required and row.is_missing for row in self.results.rows)
        return 3 if missing or "skipped" in statuses else 0

    def to_html(self) -> str:
        """The report as one HTML page that opens offline."""
        return render_html(self.results)

    def _repr_html_(self) -> str:
        return render_results_cell(self.results)
