"""INT8 against FP32, ours against two other quantizers: python benchmarks/quantization.py
[--modelopt-python PATH].

Ours are the product's own steps (export, build-trt --int8), judged by two graphs: what the engine
computes, and the CPU variant for ONNX Runtime's CPU kernels. The others quantize the same FP32
file on the same calibration images with their defaults: onnxruntime's `quantize_static` and NVIDIA
ModelOpt's `modelopt.onnx.quantization.quantize`. ModelOpt pins other versions, so it runs in a
Python of its own: python -m venv DIR; DIR/bin/pip install 'nvidia-modelopt[onnx]'.
Demo models: top-1 on the digits' validation images. Others have random weights and crops of
photographs (`pictures.py`): SQNR and agreement only. Latency: ONNX Runtime, one thread, batch 1,
interleaved. A model that is done at this commit is not measured again. Writes FILE.json and
benchmarks/quantization.md; ends with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.other_quantizers import (
    CAPABILITY,
    build_other,
    quantize_others,
)
from benchmarks.pictures import infer_in_batches, make_pictures, read_pictures
from benchmarks.quantization_table import CPU_VARIANT, FP32, NUMERICS, list_misses, write_results
from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    read_rows,
    run_hvt_deploy,
    update_models,
)
from hvt_deploy.core.environment import cpu_flags, int8_saturates
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import LabelsN, LogitsNK, Signature
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation.latency import measure_latency, speedup_interval
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.statistics import wilson_interval
from hvt_deploy.graph.analysis.macs import count_macs
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.variant import Variant

MODELS = (
    "fdvit_demo",
    "faster_vit_demo",
    "dfvt_demo",
    "hvt_demo",
    "fdvit_b",
    "faster_vit_0_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:pvt_v2_b0",
    "timm:efficientvit_b0",
    "timm:fastvit_t8",
)


def quantize_ours(
    model: str, folder: Path, calibration: Path, count: int
) -> tuple[dict[str, Path], Record]:
    """Export, quantize and build with the product's commands: the graphs by name, and the engine's
    audit.
    """
    weights = "auto" if model.endswith("_demo") else "random"
    slug = run_hvt_deploy(folder, "export", model, "--weights", weights)["slug"]
    build = ("build-trt", slug, "--int8", "--calib", str(calibration), "--calib-images", str(count))
    built = run_hvt_deploy(folder, *build, "--flavour", "rtx", "--compute-capability", CAPABILITY)
    place = open_folder(folder / "artifacts", slug)
    keys = {FP32: "fp32", NUMERICS: "int8-fp32", CPU_VARIANT: "int8-cpu"}
    return {name: place.open_artifact(place.read(), key) for name, key in keys.items()}, built[
        "audit"
    ]


def measure_model(model: str, budget_s: float, modelopt_python: str | None) -> Record:
    """All rows of one model."""
    spec, started = get_spec(model), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = 256 if model.endswith("_demo") else 32
        pictures = make_pictures(model, folder, count)
        graphs, audit = quantize_ours(model, folder, pictures.calibration, count)
        calibration_NCHW, _ = read_pictures(pictures, spec.preprocessing, count, calibration=True)
        others = quantize_others(graphs[FP32], calibration_NCHW, folder, modelopt_python)
        missing = {name: why for name, why in others.items() if isinstance(why, str)}
        paths = graphs | {name: path for name, path in others.items() if isinstance(path, Path)}
        images_NCHW, labels_N = read_pictures(
            pictures, spec.preprocessing, 500 if pictures.labelled else count
        )
        signature = Signature(spec.image_size, spec.num_classes)
        backends = {
            name: OrtBackend(
                BackendRequest(Variant("ort", "cpu", "int8"), path, model, signature, threads=1)
            )
            for name, path in paths.items()
        }
        logits = {
            name: infer_in_batches(backend.infer, images_NCHW) for name, backend in backends.items()
        }
        timed = {name: b.bind(images_NCHW[:1]) for name, b in backends.items() if name != NUMERICS}
        latencies = measure_latency(timed, 1, budget_s=budget_s)
        rows = {
            name: compare_to_fp32(
                logits[FP32], logits[name], labels_N if pictures.labelled else None
            )
            for name in paths
        }
        for name, row in rows.items():
            row |= {
                "bytes": paths[name].stat().st_size,
                "int8_macs": measure_int8_share(paths[name]),
            }
            if name in latencies:
                row["speedup"] = to_plain(speedup_interval(latencies[FP32], latencies[name]))
        rows[NUMERICS]["engine"] = {
            "kernels": audit["kernels"],
            "int8_layers": audit["layers"]["int8"],
        }
        for name in others.keys() & paths.keys():
            rows[name]["engine"] = build_other(paths[name], folder)
    return {
        "model": model,
        "images": len(images_NCHW),
        "labelled": pictures.labelled,
        "rows": rows,
        "missing": missing,
        "seconds": round(time.monotonic() - started),
    }


def compare_to_fp32(
    reference_NK: LogitsNK, logits_NK: LogitsNK, labels_N: LabelsN | None
) -> Record:
    """SQNR and agreement with FP32 and, with labels, top-1; `right` has a 1 per right image."""
    answers_N = logits_NK.argmax(axis=1)
    agree = int((answers_N == reference_NK.argmax(axis=1)).sum())
    row: Record = {
        "sqnr_db": compare_logits(reference_NK, logits_NK).sqnr_db,
        "agreement": to_plain(wilson_interval(agree, len(logits_NK))),
    }
    if labels_N is not None:
        right_N = answers_N == labels_N
        row["top1"] = to_plain(wilson_interval(int(right_N.sum()), len(right_N)))
        row["right"] = "".join("01"[int(right)] for right in right_N)
    return row


def measure_int8_share(path: Path) -> float:
    """The share of a graph's MACs whose two factors come from a DequantizeLinear."""
    model = load_onnx(path)
    macs = count_macs(model)
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    int8 = sum(
        macs[node.name]
        for node in model.graph.node
        if node.name in macs and dequantized.issuperset(node.input[:2])
    )
    return int8 / sum(macs.values())


def main() -> int:
    """Measure the models that are asked for and not done at this commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument(
        "--modelopt-python", metavar="PATH", help="a Python that has nvidia-modelopt[onnx]"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=60.0,
        metavar="S",
        help="most seconds of latency for each model",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure again what is there from this commit"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "quantization.json")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks" / "quantization.md")
    options = parser.parse_args()
    models: list[str] = options.models.split(",")
    measure = partial(
        measure_model, budget_s=options.budget, modelopt_python=options.modelopt_python
    )
    vnni = not int8_saturates(cpu_flags())
    for records in update_models(options.output, models, MODELS, measure, again=options.again):
        missed = [line for record in records.values() for line in list_misses(record, vnni)]
        write_results(options.output, options.table, records, missed)
    kept = read_rows(options.output, "models").values()
    return 1 if any(list_misses(record, vnni) for record in kept) else 0


if __name__ == "__main__":
    sys.exit(main())
