"""A judge of INT8 graphs by their logits, on images that nothing was found on.

Two graphs are compared on the same images, and the standard error of their difference in dB is that
of a bootstrap over images. By the one-standard-error rule (Breiman et al., "Classification and
Regression Trees", 1984, section 3.4.3) the simpler one is taken unless the other is better by more
than that: a stricter test left 1 dB of SQNR behind on trained models, no test as much.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK, sqnr_db
from hvt_deploy.graph.quantization.candidates import Candidate
from hvt_deploy.graph.quantization.ort_session import NO_FOLDER, open_graph

# Logits of batches of images, in their order.
Infer: TypeAlias = Callable[[Iterable[ImagesNCHW]], Iterator[LogitsNK]]
_Noise: TypeAlias = NDArray[np.float64]
# After so many images candidates drop out.
_FIRST_IMAGES = (8, 16)
_BOOTSTRAP_SAMPLES = 2000
# The stages of a judgement: the first images, more of them, all of them, and further ones.
CHOICE_STAGES, ALL_STAGES = 3, 4
# By stage: so many standard errors behind the best is out of the running.
_BEHIND = (1.5, 1.0, 1.0)


@dataclass(frozen=True)
class Gain:
    """By how much the logits of one graph are closer to FP32 than those of another."""

    before_db: float
    """SQNR of the logits of the other."""
    after_db: float
    """SQNR of the logits of the one."""
    error_db: float
    """Standard error of their difference."""
    images: int
    """On how many images."""

    def exceeds(self, errors: float = 1.0) -> bool:
        """Whether the difference is more than so many standard errors."""
        return self.after_db - self.before_db > errors * self.error_db


def measure_gain(signal_N: _Noise, before_N: _Noise, after_N: _Noise) -> Gain:
    """The gain between two graphs from sums of squares for each image: of the FP32 logits and of
    the errors of both.

    The standard error is the bootstrap's for the ratio of the two total errors (Efron, "Bootstrap
    methods: another look at the jackknife", Annals of Statistics 7, 1979).
    """
    n, least = len(signal_N), np.finfo(np.float64).tiny
    picks = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _BOOTSTRAP_SAMPLES)
    before, after = (np.maximum(picks @ noise_N, least) for noise_N in (before_N, after_N))
    error = float(np.std(10 * np.log10(before / after), ddof=1))
    signal = float(signal_N.sum())
    before_db, after_db = (sqnr_db(signal, float(noise_N.sum())) for noise_N in (before_N, after_N))
    return Gain(before_db, after_db, error, n)


class LogitsJudge:
    """Measures candidates in stages: on some of `images`, on all of them, on `more` as well.

    `fp32` gives the logits that the others are compared with. `more` may be read several times.
    """

    def __init__(
        self, fp32: Infer, images: Sequence[ImagesNCHW], more: Iterable[ImagesNCHW]
    ) -> None:
        counts = np.cumsum([len(batch) for batch in images])
        first, second = (int(np.searchsorted(counts, n)) + 1 for n in _FIRST_IMAGES)
        self.stages = (images[:first], images[first:second], images[second:], more)
        self._fp32 = fp32
        self._references: list[list[LogitsNK]] = []
        self._noise = dict[Candidate, list[_Noise]]()

    def renew(self) -> LogitsJudge:
        """A judge of other candidates on the same images."""
        judge = copy.copy(self)
        judge._noise = {}
        return judge

    def judge(self, candidate: Candidate, infer: Infer, stages: int) -> None:
        """Measure `candidate` in the first `stages`, as far as that was not done."""
        done = self._noise.setdefault(candidate, [])
        for stage in range(len(done), stages):
            done.append(self.measure_noise(infer, stage))

    def measure_noise(self, infer: Infer, stage: int) -> _Noise:
        """The sum of squares of the errors of the logits for each image of a stage."""
        references = self._reference(stage)
        found = infer(self.stages[stage])
        return np.concatenate(
            [
                np.zeros(0),
                *(_square(a - b) for a, b in zip(found, references, strict=True)),
            ]
        )

    def compare(self, before: Candidate, after: Candidate) -> Gain:
        """The gain of `after` over `before` on the images that both were measured on."""
        noises = [self._noise[candidate] for candidate in (before, after)]
        return self.compare_noise(*(noise[: min(map(len, noises))] for noise in noises))

    def compare_noise(self, before: Sequence[_Noise], after: Sequence[_Noise]) -> Gain:
        """The gain from the noise of two graphs in the same stages."""
        signal = [_square(x) for stage in range(len(before)) for x in self._reference(stage)]
        return measure_gain(np.concatenate(signal), np.concatenate(before), np.concatenate(after))

    def measured(self) -> list[Candidate]:
        """The candidates that were measured."""
        return list(self._noise)

    def total(self, candidate: Candidate) -> float:
        """The noise of a candidate on all images that it was measured on."""
        return float(sum(noise.sum() for noise in self._noise[candidate]))

    def _reference(self, stage: int) -> list[LogitsNK]:
        for later in self.stages[len(self._references) : stage + 1]:
            self._references.append(list(self._fp32(later)))
        return self._references[stage]


def _square(logits_NK: LogitsNK) -> _Noise:
    return np.square(logits_NK.astype(np.float64)).sum(axis=1)


def choose_candidate(
    candidates: Sequence[Candidate], infer: Callable[[Candidate], Infer], judge: LogitsJudge
) -> Candidate:
    """The best of `candidates`, which are sorted, the simplest first; of equal ones the simplest.

    After each of the first two stages those that are behind the best drop out, and at least half of
    the rest (successive halving; Jamieson and Talwalkar, "Non-stochastic best arm identification
    and hyperparameter optimization", 2016). After the third the best meets the simplest that is not
    proven worse, on all images.
    """
    standing = list(candidates)
    for stage, errors in enumerate(_BEHIND, start=1):
        for candidate in standing:
            judge.judge(candidate, infer(candidate), stage)
        best = min(standing, key=judge.total)
        most = max(1, len(candidates) >> stage)
        kept = sorted(standing, key=judge.total)[:most] if stage < CHOICE_STAGES else standing
        standing = [c for c in standing if c in kept and not judge.compare(c, best).exceeds(errors)]
    simple, best = standing[0], min(standing, key=judge.total)
    if simple == best:
        return best
    for candidate in (simple, best):
        judge.judge(candidate, infer(candidate), ALL_STAGES)
    return best if judge.compare(simple, best).exceeds() else simple


def open_logits(model: onnx.ModelProto, threads: int, folder: Path = NO_FOLDER) -> Infer:
    """Open a graph in memory for its logits; `folder` is that of external weights."""
    run, output = open_graph(model, threads, folder), model.graph.output[0].name
    return lambda batches: (logits_NK for (logits_NK,) in run([output], batches))


def run_logits(
    model: onnx.ModelProto,
    images: Sequence[ImagesNCHW],
    threads: int,
    folder: Path = NO_FOLDER,
) -> LogitsNK:
    """Logits (N, K) of a graph for batches (N, 3, H, W), by ONNX Runtime on the CPU; `folder` is
    that of external weights.
    """
    return np.concatenate(list(open_logits(model, threads, folder)(images)))
