"""What a search for a recipe inside an accuracy budget found. Drops are points of top-1 against
FP32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.evaluation.scores import Interval


@dataclass(frozen=True)
class BudgetRequest:
    """`budget` in points; `data` None means the calibration folder; `label_free` counts
    disagreement with FP32.
    """

    budget: float
    data: Path | None = None
    images: int | None = None
    label_free: bool = False


@dataclass(frozen=True)
class Trial:
    """One measured recipe: every group in INT8 but those `excluded`. `int8_share` is the share of
    all MACs, 0 to 1.
    """

    excluded: tuple[str, ...]
    int8_share: float
    drop: Interval
    sqnr_db: float


@dataclass(frozen=True)
class GroupSensitivity:
    """A group (`stage/role`) that alone was quantized: its share of all MACs and the SQNR of the
    logits in dB.
    """

    group: str
    mac_share: float
    sqnr_db: float
    drop: float


@dataclass(frozen=True)
class BudgetRecord:
    """`promised` is the drop of the recipe on images the search never saw; `metric` what `drop`
    counts.
    """

    budget: float
    metric: str
    search_images: int
    confirm_images: int
    sensitivity: tuple[GroupSensitivity, ...]
    trials: tuple[Trial, ...]
    chosen: Trial
    promised: Interval

    @property
    def holds(self) -> bool:
        """Whether the promise is proven: the upper end of its interval is inside the budget."""
        return self.promised.high <= self.budget
