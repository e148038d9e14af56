"""The result of `diagnose`."""

from __future__ import annotations

from dataclasses import dataclass

from hvt_deploy.evaluation.divergence import ModuleError
from hvt_deploy.evaluation.report.notebook import render_cell
from hvt_deploy.evaluation.report.tables import Grid

_HEADINGS = (
    "graph",
    "reference",
    "modules",
    "largest local error at",
    "local error",
    "limit",
    "logit error",
)


@dataclass(frozen=True)
class Divergence:
    """One graph compared with its reference, module by module.

    Attributes:
        reference: Name of the reference.
        candidate: Name of the graph.
        limit: Largest accepted local error.
        logits_error: Relative error of the logits of the whole graph.
        modules: In the order of the graph.
        folder: Reproduction files of the first module above the limit; "" if there is none.

    """

    reference: str
    candidate: str
    limit: float
    logits_error: float
    modules: tuple[ModuleError, ...]
    folder: str = ""

    @property
    def jump(self) -> ModuleError | None:
        """The first module whose local error is above the limit."""
        return next(
            (module for module in self.modules if not module.local_error <= self.limit), None
        )

    @property
    def worst(self) -> ModuleError:
        """The module with the largest local error."""
        return max(self.modules, key=lambda module: module.local_error)

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        if self.jump is not None:
            return (
                f"{self.candidate} diverges from {self.reference} at {self.jump.path}: "
                f"local error {self.jump.local_error:.1e}, limit {self.limit:g}."
            )
        if self.logits_error > self.limit:
            return (
                f"No module of {self.candidate} has a local error above {self.limit:g}, but the "
                f"logits differ by {self.logits_error:.1e}: small errors accumulate, or they occur "
                "only where ONNX Runtime fuses the whole graph."
            )
        return (
            f"{self.candidate} matches {self.reference}: "
            f"no module has a local error above {self.limit:g}."
        )


@dataclass(frozen=True)
class Diagnosis:
    """Every graph that was compared."""

    model: str
    """Name of the exported model."""
    graphs: tuple[Divergence, ...]
    """One for each graph."""

    @property
    def diverged(self) -> bool:
        """Whether a module of one of them has a local error above the limit."""
        return any(graph.jump for graph in self.graphs)

    @property
    def grid(self) -> Grid:
        """The graphs as a table."""
        rows = tuple(
            (
                one.candidate,
                one.reference,
                str(len(one.modules)),
                one.worst.path,
                f"{one.worst.local_error:.1e}",
                f"{one.limit:g}",
                f"{one.logits_error:.1e}",
            )
            for one in self.graphs
        )
        return Grid(self.model, _HEADINGS, rows)

    def _repr_html_(self) -> str:
        return render_cell([self.grid], [graph.sentence for graph in self.graphs])
