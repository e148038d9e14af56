"""The INT8 forms of a graph that a calibration chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.types import CALIBRATORS

# A calibrator for all tensors, or for each tensor the one with the smallest local error.
Clipping = Literal["max", "percentile", "entropy", "mse", "mix"]
_SIMPLE_FIRST: tuple[Clipping, ...] = ("max", "percentile", "mse", "entropy", "mix")


@dataclass(frozen=True)
class Candidate:
    """One INT8 form."""

    clipping: Clipping
    """The source of the thresholds."""
    smoothed: bool = False
    """Whether SmoothQuant was applied."""
    corrected: bool = False
    """Whether biases are corrected."""
    rounded: bool = False
    """Whether weights are rounded by their inputs."""

    @property
    def complexity(self) -> tuple[int, int, bool, bool]:
        """Compares how much a candidate does: the number of passes first."""
        clipping = _SIMPLE_FIRST.index(self.clipping)
        passes = (clipping > 0) + self.smoothed + self.corrected + self.rounded
        return passes, clipping, self.smoothed, self.corrected

    def __str__(self) -> str:
        """`percentile, smooth-quant, bias-correction`."""
        passes = {
            "smooth-quant": self.smoothed,
            "bias-correction": self.corrected,
            "weight-rounding": self.rounded,
        }
        return ", ".join([self.clipping, *(name for name, used in passes.items() if used)])


def list_candidates(recipe: QuantizationConfig, *, smoothable: bool) -> list[Candidate]:
    """What `recipe` leaves to choose from but for the rounding of weights, the simplest first."""
    auto: tuple[Clipping, ...] = (*CALIBRATORS, "mix")
    clippings = auto if recipe.calibrator == "auto" else (recipe.calibrator,)
    smoothed = (False, True) if smoothable and "smooth-quant" in recipe.recovery else (False,)
    corrected = (False, True) if "bias-correction" in recipe.recovery else (False,)
    found = [Candidate(*choices) for choices in product(clippings, smoothed, corrected)]
    return sorted(found, key=lambda candidate: candidate.complexity)
