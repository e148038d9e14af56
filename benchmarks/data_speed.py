"""How fast images are loaded: python benchmarks/data_speed.py [--data DIR] [--images N] [--rounds
N]

On the same files, in the same run, round after round in turn: Pillow's own decoding and resizing
with as many threads as there are cores (the limit, for pixels have to be exactly timm's),
hvt-deploy's loader, and timm's `create_loader` with as many workers, with and without its
prefetcher, and with the one worker that it has if none are asked for. Without --data, JPEG files of
500 x 375 pixels are made.

Images per second by the clock suffer from other work on the machine; images per second of processor
time hardly do, and say what one core does. Ratios are medians over the rounds. Writes OUTPUT.json
and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import RESULTS, describe_conditions, format_table, write_record
from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.folders import Sample, find_images
from hvt_deploy.data.images import load_batches

PREPROCESSING = Preprocessing((224, 224))
RESIZED_EDGE = 256
BATCH = 32
LIMIT, OURS = "Pillow, decode and resize only", "hvt-deploy"
TIMM, TIMM_PLAIN, TIMM_ALONE = (
    f"timm create_loader, {how}"
    for how in ("all cores", "all cores, no prefetcher", "one worker, its default")
)
GOALS = {LIMIT: 0.9, TIMM: 2.0, TIMM_PLAIN: 2.0, TIMM_ALONE: 2.0}


@dataclass(frozen=True)
class Speed:
    """One pass over all files.

    Attributes:
        wall_s: time on the clock.
        cpu_s: processor time of this process and its children.
        images: number of images that were loaded.
        cores: number of cores that this process may use.
    """

    wall_s: float
    cpu_s: float
    images: int
    cores: int

    @property
    def per_core_second(self) -> float:
        """Images per second of processor time: the speed of one core without other work."""
        return self.images / self.cpu_s

    @property
    def per_wall_second(self) -> float:
        """Images per second of time on the clock."""
        return self.images / self.wall_s

    @property
    def busy(self) -> float:
        """The share of the cores that this process and its children used."""
        return self.cpu_s / self.wall_s / self.cores


def write_photos(folder: Path, number: int) -> None:
    """JPEG files with smooth shapes and some grain, about as large as ImageNet's (100 KB)."""
    rng = np.random.default_rng(0)
    (folder / "0").mkdir(parents=True)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize(
            (500, 375)
        )
        grain = rng.normal(0, 9, (375, 500, 1))
        pixels = (np.asarray(coarse, np.float32) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "0" / f"{i:05}.jpg", quality=92)


def load_with_pillow(paths: Sequence[Path], cores: int) -> int:
    """Decode and resize every file, and nothing else."""

    def work(path: Path) -> None:
        image = Image.open(path).convert("RGB")
        width, height = image.size
        scale = RESIZED_EDGE / min(width, height)
        image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)

    with ThreadPoolExecutor(cores) as pool:
        return sum(1 for _ in pool.map(work, paths))


def load_with_hvt_deploy(paths: Sequence[Path], cores: int) -> int:
    """Every file through the loader that `validate` uses."""
    loader = load_batches([Sample(path, 0) for path in paths], PREPROCESSING, BATCH, cores)
    return sum(len(batch.images_NCHW) for batch in loader)


def open_timm(folder: Path, workers: int, prefetcher: bool) -> Callable[[], int]:
    """A pass over timm's loader. Its workers stay from pass to pass; a first one here has started
    them.
    """
    import timm.data
    import torch

    timm_data = cast("Any", timm.data)
    loader = timm_data.create_loader(
        timm_data.create_dataset("", str(folder)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=False,
        use_prefetcher=prefetcher,
        interpolation="bicubic",
        crop_pct=0.875,
        num_workers=workers,
        device=torch.device("cpu"),
        pin_memory=False,
        persistent_workers=True,
    )

    def run() -> int:
        return sum(len(images) for images, _ in loader)

    run()
    return run


@contextmanager
def record_speed(found: list[Speed], images: int, cores: int) -> Generator[None]:
    """Append the speed of the block inside."""
    wall, cpu = time.perf_counter(), read_cpu_seconds()
    yield
    found.append(Speed(time.perf_counter() - wall, read_cpu_seconds() - cpu, images, cores))


def read_cpu_seconds() -> float:
    """Processor time of this process and of its running children (those of worker processes are in
    /proc).
    """
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def measure_loaders(folder: Path, rounds: int) -> dict[str, list[Speed]]:
    """Every loader once in every round."""
    paths = [folder / name for name in find_images(folder)]
    cores = cpu_count()
    passes: dict[str, Callable[[], int]] = {
        LIMIT: lambda: load_with_pillow(paths, cores),
        OURS: lambda: load_with_hvt_deploy(paths, cores),
        TIMM: open_timm(folder, cores, True),
        TIMM_PLAIN: open_timm(folder, cores, False),
        TIMM_ALONE: open_timm(folder, 1, True),
    }
    speeds: dict[str, list[Speed]] = {name: [] for name in passes}
    for done in range(rounds):
        for name, run in passes.items():
            with record_speed(speeds[name], len(paths), cores):
                images = run()
            if images != len(paths):
                raise RuntimeError(f"{name} gave {images} of {len(paths)} images.")
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    return speeds


def summarize(speeds: dict[str, list[Speed]]) -> list[dict[str, object]]:
    """A line for each loader; ratios are ours over theirs."""

    def ratio(name: str, of: Callable[[Speed], float]) -> float:
        return median(
            of(ours) / of(other) for ours, other in zip(speeds[OURS], speeds[name], strict=True)
        )

    return [
        {
            "loader": name,
            "img_per_core_second": median(s.per_core_second for s in some),
            "img_per_wall_second": median(s.per_wall_second for s in some),
            "cores_busy": median(s.busy for s in some),
            "ours_over_it_per_core_second": ratio(name, lambda s: s.per_core_second),
            "ours_over_it_per_wall_second": ratio(name, lambda s: s.per_wall_second),
            "goal": GOALS.get(name),
        }
        for name, some in speeds.items()
    ]


def write_results(output: Path, record: dict[str, Any]) -> str:
    """OUTPUT.json and OUTPUT.md; the table as text."""
    titles = (
        "loader",
        "images per core second",
        "images per second",
        "cores busy",
        "ours over it",
        "by the clock",
    )
    rows = [
        (
            line["loader"],
            f"{line['img_per_core_second']:.0f}",
            f"{line['img_per_wall_second']:.0f}",
            f"{line['cores_busy']:.0%}",
            f"{line['ours_over_it_per_core_second']:.2f}",
            f"{line['ours_over_it_per_wall_second']:.2f}",
            "" if line["goal"] is None else f"{line['goal']:g}",
        )
        for line in record["loaders"]
    ]
    table = "\n".join(format_table((*titles, "goal"), rows, "|---" + 6 * "|---:" + "|"))
    write_record(output.with_suffix(".json"), record)
    head = (
        f"`{record['command']}` on {record['cpu']}, {record['cores']} cores, "
        f"{record['images']} images; "
        f"load average of the machine before: {record['load_average_before']}"
    )
    output.with_suffix(".md").write_text(
        f"# Loading images\n\n{head}\n\n{table}\n", encoding="utf-8"
    )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of class folders with images")
    parser.add_argument("--images", type=int, default=512, help="how many to make without --data")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS / "data_speed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = options.data or Path(made)
        if options.data is None:
            write_photos(folder, options.images)
        load_average = os.getloadavg()[0]
        speeds = measure_loaders(folder, options.rounds)
    record: dict[str, Any] = {
        **describe_conditions(f"data_speed.py --images {options.images} --rounds {options.rounds}"),
        "cores": cpu_count(),
        "load_average_before": round(load_average, 1),
        "data": options.data.name if options.data else "made JPEG files of 500 x 375 pixels",
        "images": next(iter(speeds.values()))[0].images,
        "loaders": summarize(speeds),
    }
    print(write_results(options.output, record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
