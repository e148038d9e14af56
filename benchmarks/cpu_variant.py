"""Effect of each pass of the CPU variant on logits and latency: python benchmarks/cpu_variant.py
[--models NAMES].

The INT8 graph for engines (signed, float biases) is changed pass by pass into the CPU variant
(`hvt_deploy/graph/quantization/cpu_int8.py`). After each: SQNR of the logits against FP32 and
against the signed graph, whether they are bit for bit those of the signed graph (ONNX Runtime's
optimizer off), and the speed-up over FP32: one thread, batch 1, windows interleaved. Demo models
on digits, others with random weights on crops of photographs (`pictures.py`). With --emulator
qemu-x86_64-static the demo models also run on an emulated CPU with AVX2 and no VNNI. Minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pictures import infer_in_batches, make_pictures, read_pictures
from benchmarks.records import (
    RESULTS,
    Record,
    describe_conditions,
    format_table,
    run_hvt_deploy,
    update_models,
    write_record,
)
from hvt_deploy.core.environment import cpu_flags, cpu_name, int8_saturates
from hvt_deploy.core.manifest import Manifest
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation.latency import measure_latency, median_interval, speedup_interval
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.graph.quantization.cpu_int8 import (
    gather_gelu,
    quantize_biases,
    quantize_outputs,
    to_unsigned,
    use_all_levels,
)
from hvt_deploy.graph.quantization.int8_calibration import read_int8_calibration
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.variant import Variant

MODELS = ("fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo", "fdvit_b", "faster_vit_0_224")
IMAGES = 32
EMULATED_CPU, EMULATED_IMAGES = "Haswell", 8  # AVX2 without VNNI
FP32, SIGNED, CPU_VARIANT = (
    "FP32",
    "signed, float biases (the engine's)",
    "+ GELU as one operator (the CPU variant)",
)
KERNELS = ("QLinearConv", "MatMulIntegerToFloat", "QGemm", "Conv", "MatMul", "Gelu", "Erf")


def make_graphs(model: str, folder: Path, pictures: Path) -> tuple[Manifest, dict[str, Path]]:
    """Export and calibrate `model`, then write the graph after each pass; FP32 first, all in
    `folder`.
    """
    weights = "auto" if model.endswith("_demo") else "random"
    run_hvt_deploy(folder, "export", model, "--weights", weights)
    images = ("--calib", str(pictures), "--calib-images", str(IMAGES))
    quantize = ("quantize", model, "--precision", "int8-fp32", "--calibrator", "max", *images)
    run_hvt_deploy(folder, *quantize)
    place = open_folder(folder / "artifacts", model)
    manifest = place.read()
    fp32_path = place.open_artifact(manifest, "fp32")
    int8 = read_int8_calibration(place.open_artifact(manifest, "int8-calibration").parent)
    ranges, roles = int8.ranges, manifest.config.quantization.int8_roles.cpu
    fp32 = load_onnx(fp32_path)
    signed = quantize_int8(int8.prepare(fp32, select_nodes(fp32, roles)), ranges, roles)
    unsigned = to_unsigned(signed)
    all_levels = use_all_levels(unsigned)
    outputs = quantize_outputs(all_levels, ranges)
    biased = quantize_biases(outputs)
    made = {
        "FP32, GELU as one operator": gather_gelu(fp32),
        SIGNED: signed,
        "+ unsigned": unsigned,
        "+ all levels behind a ReLU": all_levels,
        "+ outputs of convolutions": outputs,
        "+ int32 biases": biased,
        CPU_VARIANT: gather_gelu(biased),
    }
    paths = {FP32: fp32_path}
    for i, (name, graph) in enumerate(made.items()):
        paths[name] = folder / f"{i}.onnx"
        save_onnx(graph, paths[name])
    return manifest, paths


def measure_model(model: str, budget_s: float, emulator: str | None) -> Record:
    """The rows of one model."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = make_pictures(model, folder, IMAGES)
        manifest, paths = make_graphs(model, folder, pictures.calibration)
        images_NCHW, _ = read_pictures(pictures, manifest.preprocessing, IMAGES)
        requests = {
            name: BackendRequest(
                Variant("ort", "cpu", "int8"), path, model, manifest.signature, threads=1
            )
            for name, path in paths.items()
        }
        backends = {name: OrtBackend(request) for name, request in requests.items()}
        logits = {
            name: infer_in_batches(backend.infer, images_NCHW) for name, backend in backends.items()
        }
        plain = {
            name: infer_in_batches(open_unoptimized(path), images_NCHW)
            for name, path in paths.items()
        }
        bound = {name: backend.bind(images_NCHW[:1]) for name, backend in backends.items()}
        latencies = measure_latency(bound, 1, budget_s=budget_s)
        rows = [
            {
                "graph": name,
                "sqnr_fp32_db": compare_logits(logits[FP32], logits[name]).sqnr_db,
                "sqnr_signed_db": compare_logits(logits[SIGNED], logits[name]).sqnr_db,
                "exact": bool((plain[name] == plain[SIGNED]).all()),
                "latency_ms": to_plain(median_interval(latencies[name])),
                "speedup": to_plain(speedup_interval(latencies[FP32], latencies[name])),
                "kernels": count_kernels(path, folder),
            }
            for name, path in paths.items()
        ]
        record: Record = {"model": model, "rows": rows}
        if emulator and pictures.labelled:
            record["emulated"] = measure_emulated(
                emulator,
                paths,
                logits[FP32][:EMULATED_IMAGES],
                images_NCHW[:EMULATED_IMAGES],
                folder,
            )
        return record


def open_unoptimized(path: Path) -> Callable[[ImagesNCHW], LogitsNK]:
    """Images to logits through the graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def infer(images_NCHW: ImagesNCHW) -> LogitsNK:
        (logits_NK,) = session.run(None, {session.get_inputs()[0].name: images_NCHW})
        return np.asarray(logits_NK, np.float32)

    return infer


def count_kernels(path: Path, folder: Path) -> dict[str, int]:
    """How many of each operator ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    optimized = load_onnx(folder / "optimized.onnx", weights=False)
    count = Counter(
        node.op_type.removeprefix("Fused").removeprefix("Bias") for node in optimized.graph.node
    )
    return {name: count[name] for name in KERNELS}


def measure_emulated(
    emulator: str,
    paths: Mapping[str, Path],
    reference: LogitsNK,
    images_NCHW: ImagesNCHW,
    folder: Path,
) -> list[Record]:
    """SQNR of the signed graph and the CPU variant on a CPU without VNNI, by ONNX Runtime's
    precision mode.
    """
    np.save(folder / "images.npy", images_NCHW)
    rows: list[Record] = []
    for name in (SIGNED, CPU_VARIANT):
        for precise in ("0", "1"):
            files = (str(paths[name]), str(folder / "images.npy"))
            child = (sys.executable, __file__, "--child", *files, precise)
            command = [emulator, "-cpu", EMULATED_CPU, *child, str(folder / "logits.npy")]
            # stderr: warnings about CPU features that are not emulated.
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            parity = compare_logits(reference, np.load(folder / "logits.npy"))
            rows.append(
                {"graph": name, "x64quantprecision": precise, "sqnr_fp32_db": parity.sqnr_db}
            )
    return rows


def run_child(model: str, images: str, precise: str, output: str) -> None:
    """Write the logits of `images` with or without the mode that keeps CPUs without VNNI from
    saturating.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.x64quantprecision", precise)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits_NK,) = session.run(None, {session.get_inputs()[0].name: np.load(images)})
    np.save(output, np.asarray(logits_NK, np.float32))


def write_results(output: Path, records: Mapping[str, Record]) -> None:
    """The record and its tables."""
    vnni = not int8_saturates(cpu_flags())
    conditions = {**describe_conditions("cpu_variant.py"), "vnni": vnni}
    write_record(output, {**conditions, "models": list(records.values())})
    lines = [
        "# The CPU variant, pass by pass",
        "",
        f"`python benchmarks/cpu_variant.py` on {cpu_name()}, "
        f"{'with' if vnni else 'without'} VNNI, ONNX Runtime {onnxruntime.__version__}, "
        "one thread, batch 1.",
        f"SQNR of all logits of {IMAGES} images in dB. "
        "Exact: the signed graph's logits bit for bit, optimizer off.",
        "Times as fast as FP32: median over interleaved rounds with its 95 % interval.",
        "",
    ]
    for record in records.values():
        heads = ("graph", "SQNR to FP32", "to signed", "exact", "ms", "times FP32", *KERNELS)
        lines += [
            f"## {record['model']}",
            "",
            *format_table(heads, map(format_row, record["rows"])),
        ]
        for row in record.get("emulated", ()):
            mode = "with" if row["x64quantprecision"] == "1" else "without"
            lines.append(
                f"\nEmulated {EMULATED_CPU} (AVX2, no VNNI), {EMULATED_IMAGES} images, "
                f"{row['graph']}, {mode} `session.x64quantprecision`: "
                f"{row['sqnr_fp32_db']:.1f} dB to FP32"
            )
        lines.append("")
    output.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")


def format_row(row: Mapping[str, Any]) -> list[str]:
    """One line of a table."""
    speed, latency = row["speedup"], row["latency_ms"]
    times = (
        f"{speed['estimate']:.2f} ({speed['low']:.2f} to {speed['high']:.2f})"
        if speed
        else "too few rounds"
    )
    milliseconds = f"{latency['estimate']:.1f}" if latency else ""
    decibels = (
        f"{row[key]:.1f}" if row[key] < 120 else "same"
        for key in ("sqnr_fp32_db", "sqnr_signed_db")
    )
    exact = "yes" if row["exact"] else "no"
    return [
        row["graph"],
        *decibels,
        exact,
        milliseconds,
        times,
        *(str(row["kernels"][name]) for name in KERNELS),
    ]


def main() -> int:
    """Measure the models that are asked for and not done at this commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument(
        "--budget",
        type=float,
        default=60.0,
        help="most seconds of latency for each model",
    )
    parser.add_argument("--emulator", metavar="PATH", help="qemu-x86_64-static")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu_variant.json")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child)
        return 0
    models: list[str] = options.models.split(",")
    measure = partial(measure_model, budget_s=options.budget, emulator=options.emulator)
    for records in update_models(options.output, models, MODELS, measure):
        write_results(options.output, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
