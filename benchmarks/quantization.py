"""INT8 against FP32, ours against two other quantizers: python benchmarks/quantization.py
[--modelopt-python PATH].

Ours are the product's own steps (export, build-trt --int8), judged by two graphs: what the engine
computes, and the CPU variant for ONNX Runtime's CPU kernels. The others quantize the same FP32
file on the same calibration images with their defaults: onnxruntime's `quantize_static` and NVIDIA ModelOpt's
`modelopt.onnx.quantization.quantize`. ModelOpt pins other versions, so it runs in a Python of its
own: python -m venv DIR; DIR/bin/pip install 'nvidia-modelopt[onnx]'. Demo models: top-1 on the
digits' validation images. Others have random weights and crops of photographs (`pictures.py`): SQNR
and agreement only. Latency: ONNX Runtime, one thread, batch 1, interleaved. A model that is done at
this commit is not measured again. Writes FILE.json and benchmarks/quantization.md; ends with 1 if a
goal is missed.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.check_all import commit, hvt_deploy
from benchmarks.pictures import in_batches, pictures_for, read_pictures
from hvt_deploy.core.environment import cpu_flags, cpu_name, int8_saturates, tool_versions
from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import ImagesNCHW, LabelsN, LogitsNK, Signature
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation.latency import measure_latency, speedup_interval
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.evaluation.statistics import mcnemar_exact, wilson_interval
from hvt_deploy.graph.analysis.macs import node_macs
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

Record: TypeAlias = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
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
FAST = {
    "fdvit_b": 2.0,
    "faster_vit_0_224": 2.0,
}  # goals: times as fast as FP32 on one core with VNNI
FP32, NUMERICS, CPU_VARIANT = "FP32", "ours, engine numerics", "ours, CPU variant"
ORT, MODELOPT = "onnxruntime quantize_static", "ModelOpt"
CAPABILITY = "8.6"
SQNR_SLACK_DB, SIGNIFICANT = 0.5, 0.05
MODELOPT_CODE = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
source, images, target = sys.argv[1:]
quantize(source, calibration_data={"images": np.load(images)}, calibration_eps=["cpu"], output_path=target,
         high_precision_dtype="fp32", log_level="ERROR")
"""


class Reader:
    """Calibration images as onnxruntime's quantizer wants them."""

    def __init__(self, images_NCHW: ImagesNCHW) -> None:
        self._batches: Iterator[ImagesNCHW] = iter(
            images_NCHW[i : i + 8] for i in range(0, len(images_NCHW), 8)
        )

    def get_next(self) -> dict[str, ImagesNCHW] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantize_ours(
    model: str, folder: Path, calibration: Path, count: int
) -> tuple[dict[str, Path], Record]:
    """Export, quantize and build with the product's commands: the graphs by name, and the engine's
    audit.
    """
    weights = "auto" if model.endswith("_demo") else "random"
    slug = hvt_deploy(folder, "export", model, "--weights", weights)["slug"]
    build = ("build-trt", slug, "--int8", "--calib", str(calibration), "--calib-images", str(count))
    built = hvt_deploy(folder, *build, "--flavour", "rtx", "--compute-capability", CAPABILITY)
    place = open_folder(folder / "artifacts", slug)
    keys = {FP32: "fp32", NUMERICS: "int8-fp32", CPU_VARIANT: "int8-cpu"}
    return {name: place.open_artifact(place.read(), key) for name, key in keys.items()}, built[
        "audit"
    ]


def quantize_others(
    fp32: Path, images_NCHW: ImagesNCHW, folder: Path, modelopt: str | None
) -> dict[str, Path | str]:
    """The other quantizers' files by name, or why there is none."""
    from onnxruntime.quantization import quantize_static

    made: dict[str, Path | str] = {ORT: folder / "ort.onnx", MODELOPT: "not run"}
    quantize_static(fp32, folder / "ort.onnx", Reader(images_NCHW))  # pyright: ignore[reportArgumentType] - as its own
    if modelopt:
        np.save(folder / "images.npy", images_NCHW)
        target = folder / "modelopt.onnx"
        command = [
            modelopt,
            "-c",
            MODELOPT_CODE,
            str(fp32),
            str(folder / "images.npy"),
            str(target),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        made[MODELOPT] = (
            target if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]
        )
    return made


def measure(model: str, budget_s: float, modelopt: str | None) -> Record:
    """All rows of one model."""
    spec, started = get_spec(model), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = 256 if model.endswith("_demo") else 32
        pictures = pictures_for(model, folder, count)
        graphs, audit = quantize_ours(model, folder, pictures.calibration, count)
        calibration_NCHW, _ = read_pictures(pictures, spec.preprocessing, count, calibration=True)
        others = quantize_others(graphs[FP32], calibration_NCHW, folder, modelopt)
        missing = {name: why for name, why in others.items() if isinstance(why, str)}
        paths = graphs | {name: path for name, path in others.items() if isinstance(path, Path)}
        images_NCHW, labels_N = read_pictures(
            pictures, spec.preprocessing, 500 if pictures.labelled else count
        )
        signature = Signature(spec.image_size, spec.num_classes)
        backends = {
            name: OrtBackend(
                BackendRequest(name, "ort", "cpu", "int8", path, model, signature, threads=1)
            )
            for name, path in paths.items()
        }
        logits = {
            name: in_batches(backend.infer, images_NCHW) for name, backend in backends.items()
        }
        timed = {name: b.bind(images_NCHW[:1]) for name, b in backends.items() if name != NUMERICS}
        latencies = measure_latency(timed, 1, budget_s=budget_s)
        rows = {
            name: judge(logits[FP32], logits[name], labels_N if pictures.labelled else None)
            for name in paths
        }
        for name, row in rows.items():
            row |= {"bytes": paths[name].stat().st_size, "int8_macs": int8_share(paths[name])}
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
        "commit": commit().removesuffix("-dirty"),
    }


def judge(reference_NK: LogitsNK, logits_NK: LogitsNK, labels_N: LabelsN | None) -> Record:
    """How near to FP32 and, with labels, how often right; `right` has a 1 for each image that is."""
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


def int8_share(path: Path) -> float:
    """The share of a graph's MACs whose two factors come from a DequantizeLinear."""
    model = load_onnx(path)
    macs = node_macs(model)
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    int8 = sum(
        macs[node.name]
        for node in model.graph.node
        if node.name in macs and dequantized.issuperset(node.input[:2])
    )
    return int8 / sum(macs.values())


def build_other(path: Path, folder: Path) -> Record:
    """Kernels of the TensorRT-RTX engine of another quantizer's graph, or why there is none."""
    plan = BuildPlan(
        path, folder / "other.engine", "tensorrt_rtx", (CAPABILITY,), (Profile(1, 8, 32),), 4096
    )
    try:
        audit = audit_layers(build_engine(plan).layers)
    except HvtDeployError as error:
        return {"refused": error.message}
    return {"kernels": audit.kernels, "int8_layers": audit.layers.int8}


def p_value(ours: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """McNemar's exact p that both are right equally often."""
    pairs = list(zip(ours["right"], other["right"], strict=True))
    return mcnemar_exact(pairs.count(("1", "0")), pairs.count(("0", "1")))


def misses(record: Mapping[str, Any], vnni: bool) -> list[str]:
    """The goals that this model's rows do not reach."""
    rows, said = record["rows"], list[str]()
    for ours in (NUMERICS, CPU_VARIANT):
        for other in rows.keys() & {ORT, MODELOPT}:
            behind_db = rows[other]["sqnr_db"] - rows[ours]["sqnr_db"]
            if behind_db > SQNR_SLACK_DB:
                said.append(
                    f"{record['model']}: SQNR of {ours} is {behind_db:.1f} dB below that of {other}"
                )
            if record["labelled"] and p_value(rows[ours], rows[other]) < SIGNIFICANT:
                drop = rows[other]["top1"]["estimate"] - rows[ours]["top1"]["estimate"]
                if drop > 0:
                    said.append(
                        f"{record['model']}: top-1 of {ours} is {drop:.1f} points below that of {other}"
                    )
    goal, speed = FAST.get(record["model"], 0), rows[CPU_VARIANT]["speedup"]
    if vnni and goal and not (speed and speed["estimate"] >= goal):
        found = (
            f"{speed['estimate']:.2f} times as fast as FP32"
            if speed
            else "too few rounds to tell the speed"
        )
        said.append(f"{record['model']}: {found} instead of {goal:.1f}")
    return said


def cells(record: Mapping[str, Any], name: str) -> list[str]:
    """One line of the table."""
    row = record["rows"][name]
    top1, speed, engine = row.get("top1"), row.get("speedup"), row.get("engine", {})
    others = [
        other
        for other in (ORT, MODELOPT)
        if other in record["rows"] and name in (NUMERICS, CPU_VARIANT)
    ]
    against = (
        ", ".join(f"{p_value(row, record['rows'][other]):.2g}" for other in others) if top1 else ""
    )
    return [
        name,
        f"{top1['estimate']:.1f} ({top1['low']:.1f} to {top1['high']:.1f})" if top1 else "",
        against,
        f"{row['agreement']['estimate']:.1f}" if name != FP32 else "",
        f"{row['sqnr_db']:.1f}" if name != FP32 else "",
        f"{row['bytes'] / 1e6:.1f}",
        f"{speed['estimate']:.2f}" if speed else "",
        f"{100 * row['int8_macs']:.1f}",
        "refused"
        if "refused" in engine
        else f"{engine['kernels']} ({engine['int8_layers']})"
        if engine
        else "",
    ]


def write(output: Path, table: Path, records: Mapping[str, Record], missed: Sequence[str]) -> None:
    """The record and its table."""
    vnni = not int8_saturates(cpu_flags())
    facts = {
        "command": "python benchmarks/quantization.py",
        "cpu": cpu_name(),
        "vnni": vnni,
        "versions": tool_versions(),
        "missed": missed,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        json.dumps({**facts, "models": list(records.values())}, indent=1) + "\n", encoding="utf-8"
    )
    heads = (
        "graph",
        "top-1 %",
        "p against the others",
        "agreement %",
        "SQNR dB",
        "MB",
        "times FP32",
        "INT8 MACs %",
        "kernels (INT8)",
    )
    lines = [
        "# INT8 against FP32, and against other quantizers",
        "",
        f"`python benchmarks/quantization.py --modelopt-python PATH` on {cpu_name()}, {'with' if vnni else 'without'} "
        "VNNI, one thread; versions and commits are in `results/quantization.json`.",
        "Demo models: 500 digits, top-1 with Wilson's 95 % interval and McNemar's exact p against quantize_static and "
        "ModelOpt. Others: random weights, crops of two photographs, no accuracy.",
        "Agreement and SQNR: against FP32. Kernels: TensorRT-RTX engine for SM86; ours with FP16 in the rest, the "
        "others' as their files say.",
        "",
    ]
    for record in records.values():
        lines += [
            f"## {record['model']}",
            "",
            f"| {' | '.join(heads)} |",
            "|" + "---|" * len(heads),
        ]
        lines += [f"| {' | '.join(cells(record, name))} |" for name in record["rows"]]
        lines += [
            f"| {name}: {why} |" + " |" * (len(heads) - 1)
            for name, why in record["missing"].items()
        ]
        lines += [""]
    lines += ["## Goals that are missed", "", *(f"- {line}" for line in missed or ("none",)), ""]
    table.write_text("\n".join(lines), encoding="utf-8")


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
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "quantization.json"
    )
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks" / "quantization.md")
    options = parser.parse_args()
    there: list[Record] = (
        json.loads(options.output.read_text())["models"] if options.output.is_file() else []
    )
    records, vnni = {record["model"]: record for record in there}, not int8_saturates(cpu_flags())
    here = commit().removesuffix("-dirty")  # the results that are being written make it dirty
    for model in options.models.split(","):
        if options.again or records.get(model, {}).get("commit") != here:
            print(model, file=sys.stderr, flush=True)
            records[model] = measure(model, options.budget, options.modelopt_python)
            records = {
                name: records[name]
                for name in dict.fromkeys((*MODELS, *records))
                if name in records
            }
            missed = [line for record in records.values() for line in misses(record, vnni)]
            write(options.output, options.table, records, missed)
    return 1 if any(misses(record, vnni) for record in records.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
