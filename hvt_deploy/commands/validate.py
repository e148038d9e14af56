"""`validate`: the same image tensors through every backend, then latency, gates and reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.commands.kept_results import KEPT, keep_reference, keep_results, read_again
from hvt_deploy.commands.recorded_names import learn_class_names, names_of
from hvt_deploy.commands.validated import Validated
from hvt_deploy.core.device_choice import DeviceChoice, parse_device
from hvt_deploy.core.environment import (
    check_free_disk,
    cpu_count,
    inference_threads,
    tool_versions,
)
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.leftovers import VALIDATION_LOCK, name_answers
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.core.manifest import (
    BUDGET,
    CALIBRATION,
    Manifest,
)
from hvt_deploy.core.run_config import RunConfig, ValidationConfig
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import SubsetName
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_set import CalibrationSet, find_overlap
from hvt_deploy.data.folders import ImageFolder, Sample, open_image_folder
from hvt_deploy.data.imagenet_subsets import find_subset_classes
from hvt_deploy.data.images import BatchLoader, load_batches
from hvt_deploy.data.sampling import draw_stratified_sample
from hvt_deploy.evaluation.answer_parts import AnswerParts
from hvt_deploy.evaluation.assemble import Measured, conclude
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.evaluation.gpu_reading import open_gpu_reader
from hvt_deploy.evaluation.measurement import measure_images
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import OpenedRows, open_rows
from hvt_deploy.evaluation.record import DataSummary, Row
from hvt_deploy.evaluation.report.number_format import format_duration
from hvt_deploy.evaluation.statistics import wilson_interval
from hvt_deploy.evaluation.timing import TimedBackend, Timings, WatchedGpu, time_backends
from hvt_deploy.models.factory.spec import hash_code
from hvt_deploy.runtime.base import PixelsBackend

# Above this, the expected duration with fewer images is shown.
LONG_S = 600.0
_REPORT_BYTES = 32 << 20


def validate(
    folder: ModelFolder,
    config: RunConfig,
    data: Path,
    labels_file: Path | None,
    ui: Ui,
    *,
    record: bool = False,
    keep: int = KEPT,
) -> Validated:
    """Validate every backend this machine can run on the images of `data`.

    A run that was ended before goes on with the images that were not answered yet. Others may write
    to the model meanwhile; the results are recorded when they have ended. `record` keeps the
    reference's logits with the model, for machines without PyTorch, `keep` the newest validations,
    this one among them.
    Raises BadInput for images that cannot be mapped to classes or were calibrated on,
    MissingEnvironment where no backend can run or the disk is full.
    """
    settings = config.validation
    if keep < 1:
        raise BadInput(f"--keep is {keep}.", "Keep at least this validation.")
    with hold_alone(folder.path / VALIDATION_LOCK):
        with folder.reading() as recorded:
            names, count = names_of(recorded), recorded.signature.num_classes
            images = open_image_folder(data, names, count, labels_file, settings.subset)
            by_folders = labels_file is None and settings.subset is None
            manifest = learn_class_names(recorded, data, ui) if by_folders else recorded
            samples = draw_stratified_sample(images.samples, settings.limit, settings.seed)
            _refuse_overlap(folder, manifest, samples, ui)
            classes_K = _compared_classes(manifest, settings.subset)
            batch_size = manifest.signature.batch or settings.batch_size
            threads = settings.threads or inference_threads()
            loader = load_batches(samples, manifest.preprocessing, batch_size, threads, fill=True)
            gpu = find_watched_gpu(parse_device(settings.device))
            memory = MemoryMeter(gpu.reader.read if gpu else None)
            candidates = plan_rows(folder, manifest, settings)
            parts = _open_parts(folder, manifest, settings, images, samples, gpu, record=record)
            needed = parts.bytes(len(candidates), len(classes_K), keep_reference=record)
            check_free_disk(folder.path, needed + _REPORT_BYTES)
            with open_rows(candidates, memory, ui) as opened:
                if record:
                    _check_recordable(opened.rows[0])
                announce = partial(_announce, opened=opened, settings=settings, ui=ui)
                measured = measure_images(
                    opened, loader, parts, classes_K, memory, ui, announce, keep_reference=record
                )
                timings = time_rows(opened, measured.images_NCHW, manifest, settings, gpu, ui)
        if record:
            _check_recordable(measured.rows[0])  # it may have failed
        summary = _summarize_data(images, loader, parts.hash_images(), settings)
        short_names = tuple(names_of(manifest).short(int(k)) for k in classes_K)
        conclusion = Measured(measured.rows, measured.answers, timings, summary, short_names)
        results = conclude(manifest, config, conclusion)
        with folder.lock(ui):
            current = read_again(folder, manifest)
            if record:
                current = keep_reference(folder, current, config, data, samples, measured.answers)
            path = keep_results(folder, current, results, measured.answers, keep)
        parts.clear()
    return Validated(results, path)


def _open_parts(
    folder: ModelFolder,
    manifest: Manifest,
    settings: ValidationConfig,
    images: ImageFolder,
    samples: Sequence[Sample],
    gpu: WatchedGpu | None,
    *,
    record: bool,
) -> AnswerParts:
    """The parts of this validation, named by everything that decides the answers: those of graphs
    and engines that were replaced can be told from others.
    """
    batch_size = manifest.signature.batch or settings.batch_size
    factory = manifest.config.options.factory
    decisive: dict[str, object] = {
        "preprocessing": manifest.preprocessing,
        "subset": settings.subset,
        "batch_size": batch_size,
        "threads": settings.threads or inference_threads(),
        "device": settings.device,
        "gpu": gpu and gpu.name,
        "allow_cpu_nodes": settings.allow_cpu_nodes,
        "record": record,
        "code": factory and sorted(hash_code(factory).values()),
        "tool_versions": tool_versions(),
    }
    parts = folder.path / name_answers(manifest)
    return AnswerParts(parts, images.path, samples, batch_size, decisive)


def _check_recordable(reference: Row) -> None:
    if not reference.variant.is_reference or reference.variant.form == "recorded":
        why = "The reference cannot run here, so there is nothing to record."
        raise MissingEnvironment(why, reference.skipped or "")


def time_rows(
    opened: OpenedRows,
    images_NCHW: ImagesNCHW,
    manifest: Manifest,
    settings: ValidationConfig,
    gpu: WatchedGpu | None,
    ui: Ui,
) -> Timings:
    """Time the rows that run and are timed, interleaved, at the batch sizes of the settings."""
    fixed = manifest.signature.batch
    batches = (fixed,) if fixed else settings.latency_batches
    backends = {
        one.row.backend: TimedBackend(one.backend, one.row.variant.device)
        for one in opened.running
        if one.timed and one.backend is not None and not isinstance(one.backend, PixelsBackend)
    }
    on_gpu = any(one.device == "cuda" for one in backends.values())
    threads = settings.threads or inference_threads()
    return time_backends(backends, images_NCHW, batches, gpu if on_gpu else None, threads, ui)


def _summarize_data(
    images: ImageFolder, loader: BatchLoader, sha256: str, settings: ValidationConfig
) -> DataSummary:
    unreadable = tuple(f"{one.path}: {one.reason}" for one in loader.unreadable)
    return DataSummary(
        path=str(images.path),
        images=len(loader.samples) - len(unreadable),
        classes=len(images.classes),
        class_mapping=images.mapping,
        seed=settings.seed,
        limit=settings.limit,
        unreadable=unreadable,
        subset=settings.subset,
        sha256=sha256,
    )


def find_watched_gpu(device: DeviceChoice) -> WatchedGpu | None:
    """The GPU of a choice, with what reads its clocks."""
    gpu = device.find_gpu()
    return WatchedGpu(gpu.name, open_gpu_reader(gpu)) if gpu else None


def _refuse_overlap(
    folder: ModelFolder, manifest: Manifest, samples: Sequence[Sample], ui: Ui
) -> None:
    for artifact in map(manifest.artifacts.get, (CALIBRATION, BUDGET)):
        if artifact is None:
            continue
        calibration = CalibrationSet.read(
            folder.check_files(artifact).with_name("calibration.json")
        )
        with ui.progress(f"Comparing {len(samples)} images with the calibration set") as progress:
            shared = find_overlap(calibration, samples, cpu_count(), progress)
        if shared:
            raise BadInput(
                f"{len(shared)} of the images to validate on were calibrated on, {shared[0]} among "
                "them: accuracy on them says nothing.",
                "Calibrate on other images (--calib DIR), or validate on others (--data DIR).",
            )


def _compared_classes(manifest: Manifest, subset: SubsetName | None) -> NDArray[np.int64]:
    """The classes whose logits are compared, ascending.

    A benchmark set may have fewer than the model.
    """
    if subset is None:
        return np.arange(manifest.signature.num_classes)
    return np.array(find_subset_classes(subset, names_of(manifest)), np.int64)


def _announce(
    per_image_s: float, images: int, opened: OpenedRows, settings: ValidationConfig, ui: Ui
) -> None:
    """Say how much there is to do and how long it takes; over ten minutes, what a limit gives."""
    total_s, backends = per_image_s * images, sum(one.counted for one in opened.running)
    ui.say(
        f"{images} images x {backends} backends: about {format_duration(total_s)}, "
        "and up to a minute for latency."
    )
    if total_s > LONG_S and settings.limit is None:
        fewer = max(1, int(LONG_S / 2 / per_image_s))
        half = wilson_interval(round(0.8 * fewer), fewer)
        ui.say(
            f"--limit {fewer} would take about {format_duration(fewer * per_image_s)}; "
            f"at a top-1 of 80 % its interval is {half.low:.1f} to {half.high:.1f} %."
        )
