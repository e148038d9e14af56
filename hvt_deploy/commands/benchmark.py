"""`sweep` without images: size, latency, traffic and kernels of every backend that runs here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvt_deploy.commands.sweep_record import Failure
from hvt_deploy.commands.validate import find_watched_gpu, time_rows
from hvt_deploy.core.device_choice import parse_device
from hvt_deploy.core.environment import cpu_name, inference_threads, tool_versions
from hvt_deploy.core.files import writing_to
from hvt_deploy.core.leftovers import VALIDATION_LOCK
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.core.manifest import Manifest
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.types import Precision
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.assemble import add_timings
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import open_rows
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.report.benchmark_plot import draw_latencies
from hvt_deploy.evaluation.report.number_format import format_three_digits
from hvt_deploy.evaluation.scores import Latency
from hvt_deploy.graph.analysis.engine_cost import EngineCost

COLUMNS = ("model", "backend", "MiB", "ms", "img/s", "traffic MiB", "kernels")
UNSTABLE = "unstable"


@dataclass(frozen=True)
class BenchmarkRow:
    """One backend of one model."""

    model: str
    """Name of the model's folder in the workspace."""
    backend: str
    """Display name of the backend."""
    precision: Precision | None
    """Precision of its graph."""
    device: str
    """Where it runs."""
    size_mib: float | None
    """Size of its weights, graph or engine on the disk; None where there is no file."""
    latency: Latency | None
    """Of one batch; None where it was not measured."""
    latency_fault: str
    """Why the latency proves nothing; empty where it may."""
    traffic_mib: float | None
    """Activations and weights that an engine's kernels move, by its list of layers."""
    kernels: int | None
    """Kernels of one inference of an engine."""
    cost_batch: int | None
    """Batch size of traffic and kernels."""
    why_not: str
    """Why there is no latency; empty where there is one."""

    def cells(self) -> tuple[str, ...]:
        """The row as texts, in the order of `COLUMNS`."""
        latency = self.latency
        mark = f" ({UNSTABLE})" if self.latency_fault else ""
        batch = f" (batch {self.cost_batch})" if self.cost_batch else ""
        return (
            self.model,
            self.backend,
            _write(self.size_mib),
            f"{format_three_digits(latency.median)}{mark}" if latency else "",
            f"{format_three_digits(latency.throughput_img_s)}{mark}" if latency else "",
            f"{format_three_digits(self.traffic_mib)}{batch}" if self.traffic_mib else "",
            str(self.kernels or ""),
        )


@dataclass(frozen=True)
class Benchmark:
    """The result of `sweep` without images."""

    rows: tuple[BenchmarkRow, ...]
    """Model after model, PyTorch first."""
    warnings: tuple[str, ...]
    """Sentences about disturbed measurements."""
    failures: tuple[tuple[str, Failure], ...]
    """Model and step of everything that failed."""
    environment: Mapping[str, str]
    """Machine and versions of tools, by name."""

    @property
    def exit_code(self) -> int:
        """The worst of all steps: the largest; 0 where nothing failed."""
        return max((failure.exit_code for _, failure in self.failures), default=0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know, a sentence each."""
        by_reason: dict[str, list[str]] = {}
        for row in self.rows:
            for why in filter(None, (row.latency_fault, row.why_not)):
                by_reason.setdefault(why, []).append(f"{row.model} {row.backend}")
        return (
            "Latency: median of one batch, inputs on the device; backends of a model interleaved. "
            f"An {UNSTABLE} one proves nothing and is not in the plot.",
            *self.warnings,
            *(f"{', '.join(names)}: {why}" for why, names in by_reason.items()),
            *(f"{model}, {failure.what} failed: {failure.why}" for model, failure in self.failures),
        )

    def write(self, folder: Path) -> None:
        """Write `benchmark.json`, `benchmark.md` and, if any latency settled, `benchmark.svg`."""
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(to_plain(self), indent=2, allow_nan=False)
            (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")
            (folder / "benchmark.md").write_text(self.to_markdown(), encoding="utf-8")
            proven = [
                (f"{row.model}, {row.backend}", row.precision or "", row.latency.median)
                for row in self.rows
                if row.latency and not row.latency_fault
            ]
            plot = folder / "benchmark.svg"
            plot.unlink(missing_ok=True)
            if proven:
                plot.write_text(draw_latencies(proven), encoding="utf-8")

    def to_markdown(self) -> str:
        """The table with its notes."""
        lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in self.rows)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        machine = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        notes = "\n".join(f"- {note}" for note in (*self.notes, f"Machine: {machine}"))
        return f"# Benchmark\n\n{table}\n\n{notes}\n"


def describe_machine() -> Mapping[str, str]:
    """The machine and the versions that latencies are of."""
    return {"cpu": cpu_name(), "threads": str(inference_threads()), **tool_versions()}


def benchmark_model(
    folder: ModelFolder, config: RunConfig, ui: Ui
) -> tuple[Sequence[BenchmarkRow], Sequence[str]]:
    """Time every backend of an exported model on noise; its rows and warnings.

    Raises as `open_rows` does where none can run.
    """
    settings = config.validation
    with hold_alone(folder.path / VALIDATION_LOCK), folder.reading() as manifest:
        height, width = manifest.preprocessing.image_size
        noise = np.random.default_rng(0).standard_normal((1, 3, height, width))
        gpu = find_watched_gpu(parse_device(settings.device))
        memory = MemoryMeter(gpu.reader.read if gpu else None)
        # What is never timed has nothing to say here, but for engines of other machines.
        planned = [
            candidate
            for candidate in plan_rows(folder, manifest, settings)
            if candidate.timed and (candidate.open or candidate.row.artifact)
        ]
        with open_rows(planned, memory, ui) as opened:
            images_NCHW = noise.astype(np.float32)
            timings = time_rows(opened, images_NCHW, manifest, settings, gpu, ui)
            rows = add_timings(opened.rows, timings)
        sizes = _find_sizes(folder, manifest)
        return [_to_row(folder.slug, row, sizes) for row in rows], timings.warnings


def _to_row(slug: str, row: Row, sizes: Mapping[str, int]) -> BenchmarkRow:
    timing, size = row.timing, sizes.get(row.artifact or "")
    costs = [cost.own for cost in row.costs if isinstance(cost.own, EngineCost)]
    batch = timing.latency.batch if timing else 1
    cost = min(costs, key=lambda one: abs(one.batch - batch), default=None)
    return BenchmarkRow(
        model=slug,
        backend=row.backend,
        precision=row.variant.precision,
        device=row.variant.device,
        size_mib=size / 2**20 if size else None,
        latency=timing.latency if timing else None,
        latency_fault=timing.latency_fault if timing else "",
        traffic_mib=cost.whole.traffic_bytes / 2**20 if cost else None,
        kernels=cost.whole.kernels if cost else None,
        cost_batch=cost.batch if cost else None,
        why_not="" if timing else row.skipped or row.not_timed or row.note,
    )


def _find_sizes(folder: ModelFolder, manifest: Manifest) -> dict[str, int]:
    """Bytes of each artifact by its main file: with its weights, without what is told about it."""
    return {
        artifact.main: sum(
            (folder.file(artifact).with_name(name)).stat().st_size
            for name in artifact.files
            if name.startswith(artifact.main) or name.endswith(".data")
        )
        for artifact in manifest.artifacts.values()
    }


def _write(figure: float | None) -> str:
    return "" if figure is None else format_three_digits(figure)
