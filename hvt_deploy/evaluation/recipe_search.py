"""The search for the recipe with the largest share of INT8 whose accuracy stays inside a budget.

A recipe counts as inside when the upper end of its interval is. Every measurement is kept as soon
as it is made, so an interrupted search goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from onnx import ModelProto

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import cache_folder, replace_file, writing_to_cache
from hvt_deploy.core.records import parse_json
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LabelsN, LogitsNK, signal_and_noise, sqnr_db
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import Progress, Ui
from hvt_deploy.data.folders import Sample
from hvt_deploy.data.images import load_batches
from hvt_deploy.evaluation.budget_record import BudgetRecord, BudgetRequest, GroupSensitivity, Trial
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.evaluation.statistics import tango_interval
from hvt_deploy.graph.analysis.macs import count_macs
from hvt_deploy.graph.analysis.roles import find_group
from hvt_deploy.graph.quantization.engine_int8 import EnginePlacement, quantize_for_engine
from hvt_deploy.graph.quantization.int8_calibration import Int8Calibration
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.qdq import select_nodes

# The groups that are left out, and how many recipes may follow.
Measure: TypeAlias = Callable[[frozenset[str], int], Trial]
_BATCH = 4


@dataclass(frozen=True)
class _Answers:
    """Predictions of a graph for a set of images."""

    logits: LogitsNK
    """(N, K), float32."""
    labels: LabelsN
    """(N,), class indices."""


@dataclass(frozen=True)
class RecipeBench:
    """Runs the FP32 graph, and the INT8 graph of a recipe."""

    model: ModelProto
    """The FP32 graph."""
    int8: Int8Calibration
    """Its calibration."""
    placement: EnginePlacement
    """What is INT8, and the groups that are always left out."""
    preprocessing: Preprocessing
    """From image files to the input."""
    batch: int | None
    """Fixed batch size; None means any."""

    def groups(self) -> dict[str, float]:
        """The groups that the recipe quantizes, each with its share of all MACs."""
        macs = count_macs(self.model)
        constants = {tensor.name for tensor in self.model.graph.initializer}
        quantized = set(select_nodes(self.model, self.placement.roles, self.placement.excluded))
        shares: dict[str, float] = {}
        for node in self.model.graph.node:
            if node.name in quantized:
                group = find_group(node, constants)
                shares[group] = shares.get(group, 0.0) + macs[node.name] / sum(macs.values())
        return shares

    def run(
        self, excluded: Iterable[str] | None, samples: Sequence[Sample], progress: Progress
    ) -> _Answers:
        """Every group in INT8 but those `excluded`; None runs the FP32 graph."""
        graph = self.model
        if excluded is not None:
            placement = replace(self.placement, excluded=(*self.placement.excluded, *excluded))
            nodes = select_nodes(self.model, placement.roles, placement.excluded)
            prepared = self.int8.prepare(self.model, nodes)
            graph = quantize_for_engine(prepared, self.int8.ranges, placement)
        run, output = open_graph(graph, cpu_count()), graph.graph.output[0].name
        logits: list[LogitsNK] = []
        labels: list[LabelsN] = []
        batches = load_batches(
            samples,
            self.preprocessing,
            self.batch or _BATCH,
            cpu_count(),
            fill=self.batch is not None,
        )

        def decode() -> Iterator[ImagesNCHW]:
            for batch in batches:
                labels.append(batch.labels_N)
                yield batch.images_NCHW

        for (logits_NK,) in run([output], decode()):
            logits.append(logits_NK[: len(labels[len(logits)])])
            progress(sum(map(len, logits)), len(samples))
        return _Answers(np.concatenate(logits), np.concatenate(labels))


@dataclass(frozen=True)
class _Trials:
    """The content of a file of measurements."""

    trials: Mapping[str, Trial]
    """By what was measured."""


class TrialCache:
    """Measurements on disk, by what they depend on."""

    def __init__(self, key: str) -> None:
        self.path = cache_folder() / "budget" / f"{key}.json"
        self.trials: dict[str, Trial] = {}
        with suppress(OSError, ValueError, BadInput):  # missing or damaged: measured again
            found = parse_json(self.path.read_bytes())
            self.trials = dict(from_plain(_Trials, {"trials": found}).trials)

    def keep(self, name: str, trial: Trial) -> None:
        """Remember a measurement, whatever happens next."""
        self.trials[name] = trial
        with writing_to_cache():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(self.path) as temporary:
                temporary.write_text(json.dumps(to_plain(self.trials)), encoding="utf-8")


class _Pace:
    """Progress of the whole search in images, of which as many are left as there may be at most."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._before = self._left = 0

    def expect(self, images: int) -> None:
        """Not more than so many images are left."""
        self._left = images

    def __call__(self, done: int, images: int) -> None:
        """So many of the images of a run are done."""
        self._progress(self._before + done, self._before + self._left)
        if done == images:
            self._before += images
            self._left -= images


def search_recipe(
    bench: RecipeBench,
    search: Sequence[Sample],
    confirm: Sequence[Sample],
    request: BudgetRequest,
    memory: TrialCache,
    ui: Ui,
) -> BudgetRecord:
    """Measure the groups one by one on `search`, find the recipe there, promise it on `confirm`.

    Measurements that `memory` holds are not made again. Progress and the time left are those of the
    whole search, if it tries as many recipes as it may.
    """
    shares = bench.groups()
    alone = {group: frozenset(shares) - {group} for group in shares}
    at_most = _most_trials(len(shares), 0)
    with ui.progress(f"Searching a recipe of {len(shares)} groups, at the most") as progress:
        pace = _Pace(progress)

        def expect(recipes: int) -> None:
            pace.expect(recipes * len(search) + 2 * len(confirm))

        def measure(excluded: frozenset[str], more: int) -> Trial:
            if (name := _name(excluded)) not in memory.trials:
                expect(1 + more)
                trial = _trial(bench, search, fp32, shares, excluded, request, pace)
                memory.keep(name, trial)
            return memory.trials[name]

        missing = [group for group in shares if _name(alone[group]) not in memory.trials]
        expect(1 + len(missing) + at_most)
        fp32 = bench.run(None, search, pace)
        for done, group in enumerate(missing, start=1):
            measure(alone[group], len(missing) - done + at_most)
        found_alone = {group: memory.trials[_name(alone[group])] for group in shares}
        sensitivity = [
            GroupSensitivity(group, shares[group], trial.sqnr_db, trial.drop.estimate)
            for group, trial in found_alone.items()
        ]
        sensitivity.sort(key=lambda g: g.sqnr_db)
        trials = _greedy([g.group for g in sensitivity], shares, request.budget, measure)
        chosen = trials[-1]
        expect(0)
        truth = found = bench.run(None, confirm, pace)
        if chosen.int8_share:
            found = bench.run(chosen.excluded, confirm, pace)
    metric = "agreement with FP32" if request.label_free else "top-1"
    tried = tuple(dict.fromkeys(trials))
    promised = _drop(truth, found, label_free=request.label_free)
    return BudgetRecord(
        request.budget,
        metric,
        len(search),
        len(confirm),
        tuple(sensitivity),
        tried,
        chosen,
        promised,
    )


def _greedy(
    noisiest_first: Sequence[str],
    shares: Mapping[str, float],
    budget: float,
    measure: Measure,
) -> list[Trial]:
    """Leave groups out, the noisiest first, until the budget holds; then put back what fits.

    The last trial is the chosen one.
    """
    groups = len(noisiest_first)
    excluded: frozenset[str] = frozenset()
    trials = [measure(excluded, _most_trials(groups, 0) - 1)]
    for group in noisiest_first:
        if trials[-1].drop.high <= budget:
            break
        excluded |= {group}
        trials.append(measure(excluded, _most_trials(groups, len(excluded)) - 1))
    best = trials[-1]
    largest_first = sorted(excluded, key=lambda g: -shares[g])
    for tried, group in enumerate(largest_first, start=1):
        trial = measure(excluded - {group}, len(largest_first) - tried)
        trials.append(trial)
        if trial.drop.high <= budget:
            excluded, best = excluded - {group}, trial
    return [*trials, best]


def _most_trials(groups: int, excluded: int) -> int:
    """How many recipes may be tried from the one on that leaves so many groups out: each group is
    left out, and put back.
    """
    return 1 + (groups - excluded) + groups


def _name(excluded: frozenset[str]) -> str:
    return ",".join(sorted(excluded))


def _trial(
    bench: RecipeBench,
    samples: Sequence[Sample],
    fp32: _Answers,
    shares: Mapping[str, float],
    excluded: frozenset[str],
    request: BudgetRequest,
    progress: Progress,
) -> Trial:
    nothing_left = excluded >= shares.keys()
    found = fp32 if nothing_left else bench.run(excluded, samples, progress)
    sqnr = sqnr_db(*signal_and_noise(fp32.logits, found.logits))
    share = sum(share for group, share in shares.items() if group not in excluded)
    drop = _drop(fp32, found, label_free=request.label_free)
    return Trial(tuple(sorted(excluded)), share, drop, sqnr)


def _drop(fp32: _Answers, found: _Answers, *, label_free: bool) -> Interval:
    """Points of top-1 lost against FP32, paired; without labels what FP32 says counts as right."""
    before = fp32.logits.argmax(axis=1)
    labels = before if label_free else fp32.labels
    right, still = before == labels, found.logits.argmax(axis=1) == labels
    return tango_interval(int((right & ~still).sum()), int((~right & still).sum()), len(labels))
