"""The result of a search for a recipe within an accuracy budget. Drops are points of top-1 against
FP32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.evaluation.scores import Interval


@dataclass(frozen=True)
class BudgetRequest:
    """The settings of a search for a recipe within an accuracy budget."""

    budget: float
    """Largest allowed drop, points."""
    data: Path | None = None
    """Folder of images to measure the drop on; None for the calibration folder."""
    images: int | None = None
    """Number of images to use; None for all."""
    label_free: bool = False
    """Whether the drop is the disagreement with FP32, so that no labels are needed."""


@dataclass(frozen=True)
class Trial:
    """One measured recipe: every group is in INT8, except those in `excluded`."""

    excluded: tuple[str, ...]
    """The groups (`stage/role`) that were not quantized."""
    int8_share: float
    """Share of all MACs in INT8, 0 to 1."""
    drop: Interval
    """Drop against FP32, points."""
    sqnr_db: float
    """SQNR of the logits against FP32, dB."""


@dataclass(frozen=True)
class GroupSensitivity:
    """The effect of quantizing one group alone."""

    group: str
    """The group (`stage/role`)."""
    mac_share: float
    """Its share of all MACs, 0 to 1."""
    sqnr_db: float
    """SQNR of the logits against FP32, dB."""
    drop: float
    """Drop against FP32, points."""


@dataclass(frozen=True)
class BudgetRecord:
    """The search for a recipe within an accuracy budget, and its result."""

    budget: float
    """Largest allowed drop, points."""
    metric: str
    """The quantity that drops: top-1, or agreement with FP32."""
    search_images: int
    """Number of images of the search."""
    confirm_images: int
    """Number of held-out images."""
    sensitivity: tuple[GroupSensitivity, ...]
    """One for each group, the most sensitive first."""
    trials: tuple[Trial, ...]
    """The recipes that were measured, in order."""
    chosen: Trial
    """The recipe that was taken."""
    promised: Interval
    """Its drop on the held-out images, points."""

    @property
    def holds(self) -> bool:
        """Whether the promise is proven: the upper end of its interval is inside the budget."""
        return self.promised.high <= self.budget
