"""Memory, time and disk of large validations: python benchmarks/scale.py [--images 5000,20000].

First `hvt-deploy validate` of hvt_demo on so many digits (hard links to the 500 of the demo's
validation), each in a process of its own: processor time, peak memory, size of results.json and of
report.html. Then the statistics alone of 50 000 images, 1000 classes and 5 backends with made-up
logits: the memory above what the imports take. Writes benchmarks/results/scale.json and
benchmarks/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    describe_commit,
    describe_conditions,
    format_table,
    run_hvt_deploy,
    write_record,
)
from hvt_deploy.core.manifest import RESULTS as RESULTS_KEY
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.digits import write_digits
from hvt_deploy.evaluation.accuracy import measure_accuracy, measure_fidelity
from hvt_deploy.evaluation.image_answers import ImageAnswers, answer_images, join_answers

_MODEL = "hvt_demo"
_CLASSES, _BACKENDS, _ALL_IMAGES, _BATCH = 1000, 5, 50_000, 250
_COLUMNS = ("images", "CPU seconds", "ms per image", "peak MiB", "results.json MB", "HTML MB")


def link_images(source: Path, target: Path, images: int) -> None:
    """A folder of so many images in class folders, each a link to one of `source`."""
    files = sorted(source.glob("*/*.png"))
    for number in range(images):
        file = files[number % len(files)]
        folder = target / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        os.link(file, folder / f"{number:06}.png")


def validate(folder: Path, images: int) -> Record:
    """One validation in a process of its own."""
    data = folder / f"images-{images}"
    link_images(folder / "digits" / "validation", data, images)
    command = [
        sys.executable,
        "-m",
        "hvt_deploy",
        "validate",
        "--data",
        str(data),
        "--threads",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "", "CXX": "none"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError((folder / "log").read_text(encoding="utf-8")[-2000:])
    model = ModelFolder(folder / "artifacts" / _MODEL)
    results = model.file(model.read().artifacts[RESULTS_KEY])
    return {
        "images": images,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "results_mb": round(results.stat().st_size / 1e6, 2),
        "html_mb": round(results.with_name("report.html").stat().st_size / 1e6, 2),
    }


def count_statistics() -> Record:
    """The statistics of made-up logits, in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(0)
    parts: list[ImageAnswers] = []
    for start in range(0, _ALL_IMAGES, _BATCH):
        labels_N = rng.integers(0, _CLASSES, _BATCH)
        reference_NK = rng.standard_normal((_BATCH, _CLASSES), dtype=np.float32)
        logits = {f"backend {i}": reference_NK + np.float32(0.01 * i) for i in range(_BACKENDS)}
        indices_N = np.arange(start, start + _BATCH)
        files = [f"{int(k):04}/{i:08}.jpg" for k, i in zip(labels_N, indices_N, strict=True)]
        parts.append(answer_images(logits, labels_N, indices_N, files))
    answers = join_answers(parts)
    for name in answers.answers:
        measure_accuracy(answers, name)
        measure_fidelity(answers, name)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images": _ALL_IMAGES,
        "classes": _CLASSES,
        "backends": _BACKENDS,
        "imports_mib": round(before / 1024),
        "above_imports_mib": round((usage.ru_maxrss - before) / 1024),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
    }


def write_table(record: Record) -> None:
    """The record in words."""
    rows = [
        [
            f"{row['images']:,}",
            f"{row['cpu_s']:.0f}",
            f"{1000 * row['cpu_s'] / row['images']:.1f}",
            str(row["peak_mib"]),
            f"{row['results_mb']:.2f}",
            f"{row['html_mb']:.2f}",
        ]
        for row in record["validations"]
    ]
    made = record["statistics"]
    text = (
        "# Large validations\n\n"
        f"`{record['command']}` on {record['cpu']}, commit {record['commit']}, "
        f"{record['date'][:10]}.\n\n"
        f"`validate` of {_MODEL} (one thread) on hard links to digits:\n\n"
        + "\n".join(format_table(_COLUMNS, rows))
        + f"\n\nStatistics of {made['images']:,} images, {made['classes']:,} classes and "
        f"{made['backends']} backends (made-up logits): {made['above_imports_mib']} MiB above the "
        f"{made['imports_mib']} MiB of the imports, {made['cpu_s']:.0f} s of CPU.\n"
    )
    (ROOT / "benchmarks" / "scale.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, and write both records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="5000,20000", help="numbers of images")
    parser.add_argument("--statistics", action="store_true", help="only these, printed as JSON")
    options = parser.parse_args()
    if options.statistics:
        print(json.dumps(count_statistics()))
        return
    alone = [sys.executable, __file__, "--statistics"]
    statistics = subprocess.run(alone, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_digits(folder / "digits")
        run_hvt_deploy(folder, "export", _MODEL)
        rows = [validate(folder, int(images)) for images in options.images.split(",")]
    record = {
        **describe_conditions("scale.py"),
        "commit": describe_commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "validations": rows,
        "statistics": json.loads(statistics),
    }
    write_record(RESULTS / "scale.json", record)
    write_table(record)


if __name__ == "__main__":
    main()
