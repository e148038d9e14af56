"""The results of `quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.manifest import (
    CALIBRATION,
    INT8_CALIBRATION,
    CalibrationFacts,
    GraphFacts,
    GraphKey,
    Int8CalibrationFacts,
    Manifest,
    Parity,
)
from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.types import CALIBRATORS, Precision
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.budget_record import BudgetRecord
from hvt_deploy.evaluation.report.notebook import render_cell
from hvt_deploy.evaluation.report.number_format import format_decibels
from hvt_deploy.evaluation.report.tables import Grid

# What each precision consists of; FP16 comes with INT8 because INT8 has to beat it.
GRAPHS_OF: dict[Precision, tuple[GraphKey, ...]] = {
    "fp32": (),
    "fp16": ("fp16",),
    "int8": ("fp16", "int8-fp32", "int8", "int8-cpu"),
    "int8-fp32": ("int8-fp32", "int8-cpu"),
}


@dataclass(frozen=True)
class Budgeted:
    """A recipe that was found inside an accuracy budget."""

    recipe: QuantizationConfig
    """The `quantization` section."""
    record: BudgetRecord
    """Everything that was measured."""
    folder: Path
    """Folder of recipe.yaml, budget.json, budget.md and budget.svg."""


@dataclass(frozen=True)
class Quantized:
    """The graphs of a precision, which are there."""

    precision: Precision
    """The precision that was asked for."""
    paths: Mapping[GraphKey, Path]
    """File of each graph."""
    parity: Mapping[GraphKey, Parity]
    """Of each graph, against FP32, on calibration images."""
    faults: Mapping[GraphKey, tuple[str, ...]]
    """Sentences that speak against a graph, where there are any: it is not served."""
    health: tuple[str, ...] = ()
    """Sentences that speak against the calibration images."""
    calibration: Int8CalibrationFacts | None = None
    """How INT8 was calibrated; None for FP16."""
    budget: Budgeted | None = None
    """The search for a recipe, where there was an accuracy budget."""

    @property
    def calibrators(self) -> Grid | None:
        """SQNR of INT8 layers by role and calibrator, dB; None where nothing was measured."""
        if self.calibration is None:
            return None
        by_role = self.calibration.sqnr_by_role
        columns = [c for c in CALIBRATORS if any(c in found for found in by_role.values())]
        rows = tuple(
            (role, *(format_decibels(found[c]) for c in columns)) for role, found in by_role.items()
        )
        title = "SQNR of INT8 layers by role and calibrator"
        return Grid(title, ("role", *columns), rows) if rows else None

    def _repr_html_(self) -> str:
        rows = tuple(
            (key, format_decibels(self.parity[key].sqnr_db), str(path))
            for key, path in self.paths.items()
        )
        graphs = Grid("Graphs", ("graph", "SQNR against FP32", "file"), rows)
        faults = [f"{key}: {' '.join(found)}" for key, found in self.faults.items()]
        grids = [grid for grid in (graphs, self.calibrators) if grid]
        return render_cell(grids, [*self.health, *faults])


def describe_quantized(
    folder: ModelFolder, manifest: Manifest, precision: Precision, budget: Budgeted | None = None
) -> Quantized:
    """The graphs of `precision` that `manifest` names."""
    paths: dict[GraphKey, Path] = {}
    parity: dict[GraphKey, Parity] = {}
    faults: dict[GraphKey, tuple[str, ...]] = {}
    for key in GRAPHS_OF[precision]:
        paths[key] = folder.file(manifest.artifacts[key])
        facts = manifest.facts(key, GraphFacts)
        if facts and facts.parity:
            parity[key] = facts.parity
        if facts and facts.faults:
            faults[key] = facts.faults
    measured = manifest.facts(CALIBRATION, CalibrationFacts) if paths else None
    return Quantized(
        precision,
        paths,
        parity,
        faults,
        measured.health if measured else (),
        manifest.facts(INT8_CALIBRATION, Int8CalibrationFacts) if precision != "fp16" else None,
        budget,
    )
