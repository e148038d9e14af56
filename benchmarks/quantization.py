"""INT8 of trained networks, ours against other quantizers: python benchmarks/quantization.py
--modelopt-python PATH --nncf-python PATH.

Models: every family on solar cells and on digits, EfficientNet-Lite0 with ImageNet's weights
(labelled_sets.py names the packages of the images). Each is calibrated three times, on 128 images
drawn with the seeds 0, 1 and 2, and measured on images of which none was calibrated on. Ours are
the product's own steps (export, quantize --int8), judged by two graphs: what the engine computes,
and the CPU variant. The others (other_quantizers.py) get the same FP32 file and the same images.
Latency: ONNX Runtime, and for NNCF OpenVINO, one thread, batch 1, interleaved with FP32.
A model and draw that is done at this commit is not measured again. Writes FILE.json and
benchmarks/quantization.md; ends with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.labelled_sets import LITE0, prepare_set, read_calibration, read_images
from benchmarks.other_quantizers import Pythons, quantize_others
from benchmarks.paired_sqnr import compare_sqnr, sum_by_photograph, worst_sqnr_db
from benchmarks.pictures import infer_in_batches
from benchmarks.quantization_table import CPU_VARIANT, FP32, NUMERICS, OURS, list_misses, write_all
from benchmarks.records import RESULTS, ROOT, Record, read_rows, update_models
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.quantize import quantize
from hvt_deploy.core.run_config import with_flags
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LabelsN, LogitsNK, Signature
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation.latency import measure_latency, speedup_interval
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.statistics import mcnemar_exact, wilson_interval
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.variant import Variant

FAMILIES = ("fdvit", "faster_vit", "dfvt", "hvt")
MODELS = (*(f"{f}_elpv" for f in FAMILIES), *(f"{f}_demo" for f in FAMILIES), LITE0)
DRAWS = (0, 1, 2)
CALIBRATION_IMAGES = 128


def quantize_ours(
    model: str, weights: str, calibration: Path, draw: int, work: Path
) -> dict[str, Path]:
    """Our graphs by name: exported once, quantized on this draw."""
    flags = {
        "export.weights": weights,
        "calibration.folder": str(calibration),
        "calibration.images": CALIBRATION_IMAGES,
        "calibration.seed": draw,
    }
    config, ui = with_flags(config_of(model), flags), SilentUi()
    folder = open_folder(work / "artifacts", get_spec(model).slug)
    export(folder, config, None, ui)
    quantize(folder, config, "int8", ui)
    manifest = folder.read()
    keys = {FP32: "fp32", NUMERICS: "int8-fp32", CPU_VARIANT: "int8-cpu"}
    return {name: folder.open_artifact(manifest, key) for name, key in keys.items()}


def measure_draw(key: str, work: Path, budget_s: float, pythons: Pythons) -> Record:
    """All rows of a model and draw, which `key` names: `fdvit_elpv, draw 0`."""
    model, draw = key.partition(", draw ")[0], int(key[-1])
    spec, started = get_spec(model), time.monotonic()
    images = prepare_set(model, work)
    graphs = quantize_ours(model, images.weights, images.calibration, draw, work)
    test_NCHW, labels_N = read_images(images.test, spec.preprocessing)
    calibration_NCHW = read_calibration(
        images.calibration, CALIBRATION_IMAGES, draw, spec.preprocessing
    )
    with tempfile.TemporaryDirectory() as folder:
        others = quantize_others(graphs[FP32], calibration_NCHW, test_NCHW, Path(folder), pythons)
        paths = graphs | {name: o.graph for name, o in others.items() if o.graph}
        signature = Signature(spec.image_size, spec.num_classes)
        logits, speedups = _run_graphs(paths, model, signature, test_NCHW, budget_s)
    logits |= {name: o.logits_NK for name, o in others.items() if o.logits_NK is not None}
    rows = _compare(logits, labels_N, np.array(images.photographs))
    for name, speedup in speedups.items():
        rows[name]["speedup"] = speedup
    for name, other in others.items():
        if other.speedup:
            rows[name]["speedup"] = {"estimate": other.speedup}
    return {
        "model": key,
        "images": len(labels_N),
        "photographs": len(set(images.photographs)),
        "rows": rows,
        "missing": {name: other.missing for name, other in others.items() if other.missing},
        "seconds": round(time.monotonic() - started),
    }


def _run_graphs(
    paths: Mapping[str, Path],
    model: str,
    signature: Signature,
    test_NCHW: ImagesNCHW,
    budget_s: float,
) -> tuple[dict[str, LogitsNK], dict[str, object]]:
    """Logits (N, K) of each graph in ONNX Runtime, and its speed compared with FP32."""
    backends = {
        name: OrtBackend(
            BackendRequest(Variant("ort", "cpu", "int8"), path, model, signature, threads=1)
        )
        for name, path in paths.items()
    }
    logits = {name: infer_in_batches(b.infer, test_NCHW) for name, b in backends.items()}
    timed = {name: b.bind(test_NCHW[:1]) for name, b in backends.items() if name != NUMERICS}
    latencies = measure_latency(timed, 1, budget_s=budget_s)
    speedups = {
        name: to_plain(speedup_interval(latencies[FP32], latency))
        for name, latency in latencies.items()
        if name != FP32 and latency.stable and latencies[FP32].stable
    }
    return logits, speedups


def _compare(
    logits: Mapping[str, LogitsNK], labels_N: LabelsN, photographs_N: LabelsN
) -> dict[str, Record]:
    """Each row against FP32, and ours against each of the others."""
    reference_NK = logits[FP32]
    noise = {
        name: sum_by_photograph(reference_NK, found, photographs_N)
        for name, found in logits.items()
    }
    right = {name: found.argmax(axis=1) == labels_N for name, found in logits.items()}
    rows: dict[str, Record] = {}
    for name, found_NK in logits.items():
        same = int((found_NK.argmax(axis=1) == reference_NK.argmax(axis=1)).sum())
        rows[name] = {
            "top1": to_plain(wilson_interval(int(right[name].sum()), len(labels_N))),
            "agreement": to_plain(wilson_interval(same, len(labels_N))),
            "sqnr_db": compare_logits(reference_NK, found_NK).sqnr_db,
            "worst_db": worst_sqnr_db(reference_NK, found_NK),
        }
    for ours in OURS:
        others = [name for name in logits if name not in (FP32, *OURS)]
        rows[ours]["against"] = {
            name: {
                "p": mcnemar_exact(
                    int((right[ours] & ~right[name]).sum()), int((~right[ours] & right[name]).sum())
                ),
                "sqnr_db": to_plain(compare_sqnr(noise[ours], noise[name])),
            }
            for name in others
        }
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the models and draws that are asked for and not done at this commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--draws", default="0,1,2", help="seeds of calibration sets")
    parser.add_argument("--modelopt-python", metavar="PATH", help="has nvidia-modelopt[onnx]")
    parser.add_argument("--nncf-python", metavar="PATH", help="has nncf, openvino and onnx")
    parser.add_argument(
        "--budget", type=float, default=20.0, metavar="S", help="most seconds of latency for each"
    )
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--work", type=Path, help="folder for images and exports that is kept")
    parser.add_argument("--output", type=Path, default=RESULTS / "quantization.json")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks" / "quantization.md")
    options = parser.parse_args(arguments)
    order = [f"{model}, draw {draw}" for draw in DRAWS for model in MODELS]
    asked = [
        f"{model}, draw {draw}"
        for draw in options.draws.split(",")
        for model in options.models.split(",")
    ]
    logging.disable(logging.WARNING)  # onnxruntime's advice for each weight
    pythons = Pythons(options.modelopt_python, options.nncf_python)
    with tempfile.TemporaryDirectory() as temporary:
        measure = partial(
            measure_draw,
            work=options.work or Path(temporary),
            budget_s=options.budget,
            pythons=pythons,
        )
        for records in update_models(options.output, asked, order, measure, again=options.again):
            write_all(options.output, options.table, records)
    records = read_rows(options.output, "models")
    write_all(options.output, options.table, records)
    missed = list_misses(records)
    print("\n".join(missed) or "all goals met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
