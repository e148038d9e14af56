"""`validate`: the same image tensors through every backend, then latency, gates and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.device_choice import DeviceChoice, parse_device
from hvt_deploy.core.environment import cpu_count, inference_threads
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.core.manifest import (
    BUDGET,
    CALIBRATION,
    RECORDED,
    RESULTS,
    WEIGHTS,
    Manifest,
    RecordedFacts,
)
from hvt_deploy.core.run_config import RunConfig, ValidationConfig
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import SubsetName
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.calibration_set import CalibrationSet, find_overlap
from hvt_deploy.data.class_names import ClassNames
from hvt_deploy.data.folders import ImageFolder, Sample, open_image_folder
from hvt_deploy.data.imagenet_subsets import find_subset_classes
from hvt_deploy.data.images import BatchLoader, load_batches
from hvt_deploy.data.sampling import draw_stratified_sample
from hvt_deploy.evaluation.assemble import Measured, conclude
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.evaluation.gpu_reading import open_gpu_reader
from hvt_deploy.evaluation.image_answers import ANSWERS_FILE, ImageAnswers
from hvt_deploy.evaluation.measurement import measure_images
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import OpenedRows, open_rows
from hvt_deploy.evaluation.record import DataSummary, Results, Row
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown
from hvt_deploy.evaluation.report.number_format import format_duration
from hvt_deploy.evaluation.statistics import wilson_interval
from hvt_deploy.evaluation.timing import TimedBackend, Timings, WatchedGpu, time_backends
from hvt_deploy.runtime.base import PixelsBackend

# Above this, the expected duration with fewer images is shown.
LONG_S = 600.0
# Held by the one validation of a model: two would disturb each other's timings.
_LOCK = ".validation.lock"


@dataclass(frozen=True)
class Validated:
    """The result of `validate`."""

    results: Results
    """The record."""
    folder: Path
    """Holds `results.json`, `report.md` and `report.html`."""

    @property
    def exit_code(self) -> int:
        """1 for a failed or unproven gate and for logits that are not finite, 3 for a skipped gate
        or a backend that --backends names and that did not run, else 0.
        """
        statuses = {gate.status for gate in self.results.gates}
        accuracies = (row.accuracy for row in self.results.rows)
        if statuses & {"failed", "not proven"} or any(a and a.not_finite for a in accuracies):
            return 1
        missing = any(row.required and row.is_missing for row in self.results.rows)
        return 3 if missing or "skipped" in statuses else 0


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

    Others may write to the model meanwhile; the results are recorded when they have ended.
    `record` keeps the reference's logits with the model, for machines without PyTorch.
    Raises BadInput for images that cannot be mapped to classes or that were calibrated on,
    MissingEnvironment where no backend can run.
    """
    settings = config.validation
    with hold_alone(folder.path / _LOCK), folder.reading() as manifest:
        names = ClassNames(manifest.class_names, manifest.wnids)
        images = open_image_folder(
            data, names, manifest.signature.num_classes, labels_file, settings.subset
        )
        samples = draw_stratified_sample(images.samples, settings.limit, settings.seed)
        _refuse_overlap(folder, manifest, samples, ui)
        classes_K = _compared_classes(manifest, settings.subset)
        batch_size = manifest.signature.batch or settings.batch_size
        threads = settings.threads or inference_threads()
        loader = load_batches(samples, manifest.preprocessing, batch_size, threads)
        gpu = _find_watched_gpu(parse_device(settings.device))
        memory = MemoryMeter(gpu.reader.read if gpu else None)
        with open_rows(plan_rows(folder, manifest, settings), memory, ui) as opened:
            if record:
                _check_recordable(opened.rows[0])
            measured = measure_images(
                opened,
                loader,
                classes_K,
                memory,
                ui,
                keep_reference=record,
                announce=lambda image_s: _announce(image_s, len(samples), opened, settings, ui),
            )
            timings = _time(opened, measured.images_NCHW, manifest, settings, gpu, ui)
        if record:
            _check_recordable(measured.rows[0])  # it may have failed
        summary = _summarize_data(images, loader, settings)
        short_names = tuple(names.short(int(k)) for k in classes_K)
        results = conclude(manifest, config, Measured(measured.rows, timings, summary, short_names))
        with folder.lock(ui):
            current = _read_again(folder, manifest)
            if record:
                logits = measured.reference_logits
                current = _keep_reference(folder, current, config, data, logits)
            answers = measured.answers.below(images.path)
            return Validated(results, _record(folder, current, results, answers))


def _read_again(folder: ModelFolder, validated: Manifest) -> Manifest:
    """The manifest as other commands have left it while this one ran.

    Raises BadInput if the model was exported again: the results are of another one.
    """
    current = folder.read()
    for key in (WEIGHTS, "fp32"):
        if current.artifacts[key].sha256 != validated.artifacts[key].sha256:
            raise BadInput(
                f"{folder.slug} was exported again while it was validated: the results are of "
                "another model and were not kept.",
                "Validate again.",
            )
    return current


def _check_recordable(reference: Row) -> None:
    if reference.variant.runtime != "pytorch" or reference.variant.form == "recorded":
        why = "PyTorch cannot run here, so there is nothing to record."
        raise MissingEnvironment(why, reference.skipped or "")


def _time(
    opened: OpenedRows,
    images_NCHW: ImagesNCHW,
    manifest: Manifest,
    settings: ValidationConfig,
    gpu: WatchedGpu | None,
    ui: Ui,
) -> Timings:
    fixed = manifest.signature.batch
    batches = (fixed,) if fixed else settings.latency_batches
    backends = {
        one.row.backend: TimedBackend(one.backend, one.row.variant.device)
        for one in opened.running
        if one.timed and one.backend is not None and not isinstance(one.backend, PixelsBackend)
    }
    on_gpu = any(one.device == "cuda" for one in backends.values())
    return time_backends(backends, images_NCHW, batches, gpu if on_gpu else None, ui)


def _summarize_data(
    images: ImageFolder, loader: BatchLoader, settings: ValidationConfig
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
    )


def _find_watched_gpu(device: DeviceChoice) -> WatchedGpu | None:
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
    return np.array(
        find_subset_classes(subset, ClassNames(manifest.class_names, manifest.wnids)), np.int64
    )


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
