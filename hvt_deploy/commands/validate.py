"""`validate`: the same image tensors through every backend, then accuracy, latency, gates and
reports.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.config import RunConfig
from hvt_deploy.core.environment import cpu_count, find_gpus
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.manifest import (
    BUDGET,
    CALIBRATION,
    RECORDED,
    RESULTS,
    WEIGHTS,
    Manifest,
    RecordedFacts,
)
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import SubsetName
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_set import CalibrationSet, overlap
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.folders import Sample, open_image_folder
from hvt_deploy.data.imagenet_subsets import subset_classes
from hvt_deploy.data.images import Batch, load_batches, repeat_to
from hvt_deploy.data.sampling import content_hashes, stratified_sample
from hvt_deploy.evaluation.accuracy import AccuracyMeter
from hvt_deploy.evaluation.answers import ANSWERS_FILE, ImageAnswers
from hvt_deploy.evaluation.assemble import Measured, conclude
from hvt_deploy.evaluation.candidates import Planned, plan_rows
from hvt_deploy.evaluation.gpu import open_nvml
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.pixels import pixels_meters
from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.evaluation.report.figures import duration
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown
from hvt_deploy.evaluation.statistics import wilson_interval
from hvt_deploy.evaluation.timing import WatchedGpu, time_backends
from hvt_deploy.runtime.base import AnyBackend, Backend, PlacedBackend

# Above this a person is told how long it will take with fewer images.
LONG_S = 600.0


@dataclass(frozen=True)
class Validated:
    """The record, the folder that holds `results.json`, `report.md` and `report.html`, and the exit
    code.
    """

    results: Results
    folder: Path

    @property
    def exit_code(self) -> int:
        """1 where a gate failed or was not proven, 3 where a gate or a named backend was skipped,
        else 0.
        """
        statuses = {gate.status for gate in self.results.gates}
        if statuses & {"failed", "not proven"}:
            return 1
        return 3 if "skipped" in statuses else 0


def validate(
    folder: ModelFolder,
    config: RunConfig,
    data: Path,
    labels_file: Path | None,
    ui: Ui,
    *,
    record: bool = False,
) -> Validated:
    """Validate every backend this machine can run on the images of `data`.

    `record` keeps the reference's logits beside the model, for machines without PyTorch. Raises
    BadInput for images that cannot be mapped to classes or that were calibrated on,
    MissingEnvironment where no backend can run.
    """
    with folder.lock():
        manifest = folder.read()
        names, subset = ClassNames(manifest.class_names, manifest.wnids), config.validation.subset
        images = open_image_folder(data, names, manifest.signature.num_classes, labels_file, subset)
        samples = stratified_sample(images.samples, config.validation.limit, config.validation.seed)
        _refuse_overlap(folder, manifest, samples, ui)
        rows = plan_rows(folder, manifest, config.validation)
        gpu = _find_watched_gpu()
        memory = MemoryMeter(gpu.read if gpu else None)
        with _opened(rows, memory, ui) as (rows, backends):
            if record and rows[0].row.backend not in backends:
                raise MissingEnvironment(
                    "PyTorch cannot run here, so there is nothing to record.",
                    rows[0].row.skipped or "",
                )
            measured = _measure(
                manifest, config, samples, rows, backends, memory, gpu, ui, record=record
            )
        if record:
            manifest = _keep_reference(folder, manifest, config, data, measured.reference_logits)
        results = conclude(manifest, config, images, measured)
        return Validated(
            results, _record(folder, manifest, results, measured.answers.below(images.path))
        )


def _find_watched_gpu() -> WatchedGpu | None:
    gpus = find_gpus()
    return WatchedGpu(gpus[0].name, open_nvml()) if gpus else None


def _refuse_overlap(
    folder: ModelFolder, manifest: Manifest, samples: Sequence[Sample], ui: Ui
) -> None:
    for artifact in map(manifest.artifacts.get, (CALIBRATION, BUDGET)):
        if artifact is None:
            continue
        calibration = CalibrationSet.read(folder.path / artifact.folder / "calibration.json")
        with ui.progress(f"Comparing {len(samples)} images with the calibration set") as progress:
            shared = overlap(calibration, samples, cpu_count(), progress)
        if shared:
            raise BadInput(
                f"{len(shared)} of the images to validate on were calibrated on, {shared[0]} among them: "
                "accuracy on them says nothing.",
                "Calibrate on other images (--calib DIR), or validate on others (--data DIR).",
            )


@contextmanager
def _opened(
    rows: Sequence[Planned], memory: MemoryMeter, ui: Ui
) -> Generator[tuple[tuple[Planned, ...], dict[str, AnyBackend]]]:
    """Open every backend that was planned; one that this machine cannot open becomes a skipped row."""
    with ExitStack() as stack:
        opened: dict[str, AnyBackend] = {}
        kept: list[Planned] = []
        with ui.progress(f"Opening {len(rows)} backends") as progress:
            for done, planned in enumerate(rows, start=1):
                kept.append(_open(planned, opened, memory, stack))
                progress(done, len(rows))
        if not opened:
            reasons = "; ".join(f"{p.row.backend}: {p.row.skipped}" for p in kept)
            raise MissingEnvironment(
                f"No backend can run here. {reasons}", "Ask `hvt-deploy doctor` what is missing."
            )
        # The reference stays first; where PyTorch cannot run, the first backend that can takes its
        # place.
        kept.sort(key=lambda p: p.row.backend not in opened and p.recorded is None)
        if kept[0].runtime != "pytorch":
            ui.warn(
                f"PyTorch cannot run here: everything is compared with {kept[0].row.backend} instead."
            )
        yield tuple(kept), opened


def _open(
    planned: Planned, opened: dict[str, AnyBackend], memory: MemoryMeter, stack: ExitStack
) -> Planned:
    if planned.open is None:
        return planned
    row = planned.row
    try:
        with memory.watch(row.backend, row.device):
            backend = stack.enter_context(closing(planned.open()))
    except MissingEnvironment as error:
        return replace(planned, row=replace(row, skipped=f"{error.message} {error.hint}".strip()))
    opened[row.backend] = backend
    if isinstance(backend, PlacedBackend) and backend.placement is not None:
        note = f"{row.note} {backend.placement.sentence}".strip()
        return replace(planned, row=replace(row, note=note, placement=backend.placement.providers))
    return planned


def _measure(
    manifest: Manifest,
    config: RunConfig,
    samples: Sequence[Sample],
    rows: tuple[Planned, ...],
    opened: dict[str, AnyBackend],
    memory: MemoryMeter,
    gpu: WatchedGpu | None,
    ui: Ui,
    *,
    record: bool,
) -> Measured:
    """Every image once through every backend, then the latency of those that are timed."""
    settings, signature = config.validation, manifest.signature
    loader = load_batches(
        samples,
        manifest.preprocessing,
        signature.batch or settings.batch_size,
        settings.threads or cpu_count(),
    )
    recorded = rows[0].recorded
    reference = rows[0].row.backend
    pixels, backends = pixels_meters(opened, manifest.preprocessing)
    named = record or recorded is not None
    hashes = (
        content_hashes([sample.path for sample in samples], cpu_count())
        if named
        else [""] * len(samples)
    )
    kept: dict[str, NDArray[np.float32]] = {}
    classes = _compared_classes(manifest, settings.subset)
    meter = AccuracyMeter(reference, [name for name in opened if name != reference], len(classes))
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise BadInput("None of the images can be read.", "Give a folder with readable images.")
    devices = {p.row.backend: p.row.device for p in rows}
    seconds = _run_once(_full(first, signature.batch), backends, devices, memory)
    _announce(seconds / len(first.labels_N), len(samples), len(backends), settings.limit, ui)
    with ui.progress(f"Validating {len(samples)} images") as progress:
        done = 0
        for batch in chain([first], batches):
            logits = {
                name: backend.infer(_full(batch, signature.batch))[: len(batch.labels_N)]
                for name, backend in backends.items()
            }
            places = [int(i) for i in batch.indices_N]
            paths, seen = [samples[i].path for i in places], [hashes[i] for i in places]
            logits |= {name: p.infer(paths, batch.images_NCHW) for name, p in pixels.items()}
            if recorded is not None:
                logits[reference] = recorded.of(seen, paths)
            if record:
                kept.update(zip(seen, logits[reference], strict=True))
            meter.update(
                {k: v[:, classes] for k, v in logits.items()},
                np.searchsorted(classes, batch.labels_N),
                batch.indices_N,
            )
            done += len(batch.labels_N)
            progress(done, len(samples))
    timed = [p.row.backend for p in rows if p.timed and p.row.backend in backends]
    timings = time_backends(
        {name: backends[name] for name in timed},
        first.images_NCHW,
        (signature.batch,) if signature.batch else settings.latency_batches,
        gpu if "cuda" in {devices[name] for name in timed} else None,
        ui,
    )
    unreadable = tuple(f"{u.path}: {u.reason}" for u in loader.unreadable)
    numbers = tuple(int(k) for k in classes)
    answers = meter.answers([sample.path.as_posix() for sample in samples])
    return Measured(
        rows,
        samples,
        numbers,
        meter.summarize(),
        timings,
        memory.mib,
        unreadable,
        RecordedLogits(kept),
        answers,
        {name: p.difference for name, p in pixels.items()},
    )


def _compared_classes(manifest: Manifest, subset: SubsetName | None) -> NDArray[np.int64]:
    """The classes whose logits are compared, ascending: a benchmark set may have fewer than the
    model.
    """
    if subset is None:
        return np.arange(manifest.signature.num_classes)
    return np.array(
        subset_classes(subset, ClassNames(manifest.class_names, manifest.wnids)), np.int64
    )


def _full(batch: Batch, fixed: int | None) -> ImagesNCHW:
    """The batch, filled up by repeating where the graph takes one size only."""
    return batch.images_NCHW if fixed is None else repeat_to(batch.images_NCHW, fixed)


def _run_once(
    images_NCHW: ImagesNCHW,
    backends: Mapping[str, Backend],
    devices: Mapping[str, str],
    memory: MemoryMeter,
) -> float:
    """Run every backend once, for what only a first run does; the seconds of all together."""
    start = time.perf_counter()
    for name, backend in backends.items():
        with memory.watch(name, devices[name]):
            backend.infer(images_NCHW)
    return time.perf_counter() - start


def _announce(per_image_s: float, images: int, backends: int, limit: int | None, ui: Ui) -> None:
    """Say how much there is to do and how long it will take; over ten minutes, what a limit would
    give.
    """
    total_s = per_image_s * images
    ui.say(
        f"{images} images x {backends} backends: about {duration(total_s)}, and up to a minute for latency."
    )
    if total_s > LONG_S and limit is None:
        fewer = max(1, int(LONG_S / 2 / per_image_s))
        half = wilson_interval(round(0.8 * fewer), fewer)
        ui.say(
            f"--limit {fewer} would take about {duration(fewer * per_image_s)}; at a top-1 of 80 % its interval is "
            f"{half.low:.1f} to {half.high:.1f} %."
        )


def _keep_reference(
    folder: ModelFolder, manifest: Manifest, config: RunConfig, data: Path, logits: RecordedLogits
) -> Manifest:
    with folder.staging() as staged:
        logits.write(staged / "reference.npz")
        settings = config.validation
        return folder.add(
            manifest,
            RECORDED,
            staged,
            "reference.npz",
            f"hvt-deploy validate {folder.slug} --data {data} --record",
            facts=RecordedFacts(
                len(logits.logits),
                manifest.preprocessing,
                settings.limit,
                settings.seed,
                settings.subset,
            ),
            parents=(WEIGHTS,),
        )


def _record(
    folder: ModelFolder, manifest: Manifest, results: Results, answers: ImageAnswers
) -> Path:
    with folder.staging() as staged:
        results.write(staged / "results.json")
        answers.write(staged / ANSWERS_FILE)
        (staged / "report.md").write_text(render_markdown(results), encoding="utf-8")
        (staged / "report.html").write_text(render_html(results), encoding="utf-8")
        remake = f"hvt-deploy validate {folder.slug} --data {results.data.path}"
        updated = folder.add(manifest, RESULTS, staged, "results.json", remake)
    return folder.file(updated.artifacts[RESULTS]).parent
