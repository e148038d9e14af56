"""The candidates of a calibration before the judge, and the record of the one that is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.graph.quantization.candidates import Candidate, list_candidates
from hvt_deploy.graph.quantization.int8_calibration import Effect, Int8Calibration, make_effect
from hvt_deploy.graph.quantization.int8_form import JudgedForm, round_form
from hvt_deploy.graph.quantization.logits_judge import (
    ALL_STAGES,
    CHOICE_STAGES,
    Infer,
    LogitsJudge,
    choose_candidate,
)
from hvt_deploy.graph.quantization.measured_forms import MeasuredForms
from hvt_deploy.graph.quantization.ranges import Ranges


class Contest:
    """Opens one session for each graph, whatever number of candidates it has."""

    def __init__(
        self, forms: MeasuredForms, roles: tuple[str, ...], judge: LogitsJudge, threads: int
    ) -> None:
        self._measured, self._roles, self._judge, self._threads = forms, roles, judge, threads
        self._forms = {(False, False): forms.plain}
        if forms.smoothed is not None:
            self._forms[True, False] = forms.smoothed
        self._open = dict[tuple[bool, bool], JudgedForm]()
        self._levels: dict[str, NDArray[np.int8]] = {}

    def infer(self, candidate: Candidate) -> Infer:
        """The logits of a candidate."""
        key = candidate.smoothed, candidate.rounded
        if key not in self._open:
            self._open[key] = JudgedForm(self._forms[key], self._roles, self._threads)
        return self._open[key].infer(candidate)

    def choose(self, recipe: QuantizationConfig, *, rounding: bool) -> Candidate:
        """The best of what `recipe` leaves to choose from; weights are rounded if `rounding`."""
        smoothable = self._measured.smoothed is not None
        candidates = list_candidates(recipe, smoothable=smoothable)
        chosen = choose_candidate(candidates, self.infer, self._judge)
        tries = rounding and "weight-rounding" in recipe.recovery
        return self.try_rounding(chosen) if tries else chosen

    def try_rounding(self, candidate: Candidate) -> Candidate:
        """`candidate` with rounded weights if that is proven better on all images."""
        rounded = replace(candidate, rounded=True)
        # Sessions of the other form would keep its weights; what was measured with them stays.
        self._open = {key: one for key, one in self._open.items() if key[0] == candidate.smoothed}
        form, levels = round_form(self._forms[candidate.smoothed, False])
        if not levels:
            return candidate
        self._forms[candidate.smoothed, True], self._levels = form, {**levels}
        for one in (candidate, rounded):
            self._judge.judge(one, self.infer(one), ALL_STAGES)
        return rounded if self._judge.compare(candidate, rounded).exceeds() else candidate

    def record(
        self, chosen: Candidate, recipe: QuantizationConfig, of: str = ""
    ) -> Int8Calibration:
        """The calibration that makes `chosen`, with the effect of each pass on it; `of` is added to
        the name of the pass.
        """
        form = self._forms[chosen.smoothed, chosen.rounded]
        clipping = form.choose_calibrators(chosen)
        # Nothing is clipped by `max`, also where the largest value is of an image that judged.
        thresholds = {t: form.thresholds[t][c] for t, c in clipping.items() if c != "max"}
        return Int8Calibration(
            Ranges(form.ranges.clip(thresholds).tensors),
            clipping if chosen.clipping != "max" else {},
            effects=tuple(
                replace(effect, name=effect.name + of)
                for effect in self._list_effects(chosen, recipe)
            ),
            smoothing=self._measured.smoothing if chosen.smoothed else {},
            shifts=form.find_shifts(chosen),
            levels=self._levels if chosen.rounded else {},
            sqnr_db=self._judge.compare(chosen, chosen).after_db,
        )

    def _list_effects(self, chosen: Candidate, recipe: QuantizationConfig) -> list[Effect]:
        """Each pass of the recipe, against the same without it."""
        base = replace(chosen, rounded=False)
        effects: list[Effect] = []
        if "smooth-quant" in recipe.recovery and self._measured.smoothed is not None:
            pair = replace(base, smoothed=False), replace(base, smoothed=True)
            effects.append(self._compare("smooth-quant", *pair, kept=base.smoothed))
        if recipe.calibrator != "max":
            plain = replace(base, clipping="max")
            clipped = base if base != plain else self._find_best_clipped(plain)
            name = f"calibrator {recipe.calibrator}"
            effects.append(self._compare(name, plain, clipped, kept=base != plain))
        if "bias-correction" in recipe.recovery:
            pair = replace(base, corrected=False), replace(base, corrected=True)
            effects.append(self._compare("bias-correction", *pair, kept=base.corrected))
        if self._levels:
            pair = base, replace(base, rounded=True)
            effects.append(self._compare("weight-rounding", *pair, kept=chosen.rounded))
        return effects

    def _find_best_clipped(self, plain: Candidate) -> Candidate:
        """What differs from `plain` in the calibrator only."""
        others = [c for c in self._judge.measured() if replace(c, clipping="max") == plain != c]
        return max(others, key=lambda other: self._judge.compare(plain, other).after_db)

    def _compare(self, name: str, before: Candidate, after: Candidate, *, kept: bool) -> Effect:
        for candidate in (before, after):
            if candidate not in self._judge.measured():
                self._judge.judge(candidate, self.infer(candidate), CHOICE_STAGES)
        return make_effect(name, self._judge.compare(before, after), kept=kept)
