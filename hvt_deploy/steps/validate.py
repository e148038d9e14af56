"""`validate`: the same image tensors through every backend, then accuracy, latency, gates and reports."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hvt_deploy.backends.base import Backend
from hvt_deploy.class_names import ClassNames
from hvt_deploy.config import RunConfig
from hvt_deploy.datasets import CalibrationSet, Sample, open_image_folder, overlap, stratified_sample
from hvt_deploy.environment import cpu_count
from hvt_deploy.errors import BadInput, MissingEnvironment
from hvt_deploy.measure.accuracy import Accuracy
from hvt_deploy.results import Latency, Results
from hvt_deploy.rows import Planned, plan_rows
from hvt_deploy.ui import Ui
from hvt_deploy.workspace import Manifest, ModelFolder

# Above this a person is told how long it will take with fewer images.
LONG_S = 600.0
RESULTS = "results"


@dataclass(frozen=True)
class Validated:
    """The record, the folder that holds `results.json`, `report.md` and `report.html`, and the exit code."""

    results: Results
    folder: Path

    @property
    def exit_code(self) -> int:
        """1 where a gate failed or was not proven, 3 where a gate or a named backend was skipped, else 0."""
        statuses = {gate.status for gate in self.results.gates}
        if statuses & {"failed", "not proven"}:
            return 1
        return 3 if "skipped" in statuses else 0


def validate(folder: ModelFolder, config: RunConfig, data: Path, labels_file: Path | None, ui: Ui) -> Validated:
    """Validate every backend this machine can run on the images of `data`.

    Raises BadInput for images that cannot be mapped to classes or that were calibrated on, MissingEnvironment where
    no backend can run.
    """
    with folder.lock():
        manifest = folder.read()
        images = open_image_folder(
            data, ClassNames(manifest.class_names, manifest.wnids), manifest.signature.num_classes, labels_file
        )
        samples = stratified_sample(images.samples, config.validation.limit, config.validation.seed)
        _refuse_overlap(folder, manifest, samples, ui)
        rows = plan_rows(folder, manifest, config.validation)
        with _opened(rows, ui) as (rows, backends):
            measured = _measure(manifest, config, samples, rows, backends, ui)
        results = _conclude(manifest, config, images, len(samples), measured)
        return Validated(results, _record(folder, manifest, results))


@dataclass(frozen=True)
class _Measured:
    rows: tuple[Planned, ...]
    accuracy: Mapping[str, Accuracy]
    latency: Mapping[str, Latency]
    unreadable: tuple[str, ...]


def _refuse_overlap(folder: ModelFolder, manifest: Manifest, samples: Sequence[Sample], ui: Ui) -> None:
    artifact = manifest.artifacts.get("calibration")
    if artifact is None:
        return
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
def _opened(rows: Sequence[Planned], ui: Ui) -> Generator[tuple[tuple[Planned, ...], dict[str, Backend]]]:
    """Open every backend that was planned; one that this machine cannot open becomes a skipped row."""
    with ExitStack() as stack, ui.progress(f"Opening {len(rows)} backends") as progress:
        opened: dict[str, Backend] = {}
        kept: list[Planned] = []
        for done, planned in enumerate(rows, start=1):
            if planned.open is not None:
                try:
                    opened[planned.row.backend] = stack.enter_context(closing(planned.open()))
                except MissingEnvironment as error:
                    planned = replace(planned, row=replace(planned.row, skipped=f"{error.message} {error.hint}"))
            kept.append(planned)
            progress(done, len(rows))
        if not opened:
            reasons = "; ".join(f"{p.row.backend}: {p.row.skipped}" for p in kept)
            raise MissingEnvironment(f"No backend can run here. {reasons}", "Ask `hvt-deploy doctor` what is missing.")
        kept.sort(key=lambda p: p.row.backend not in opened)
        yield tuple(kept), opened
