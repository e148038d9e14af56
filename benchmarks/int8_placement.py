"""What INT8 placements cost and keep: python benchmarks/int8_placement.py [MODEL…].

For each model and placement: kernels, memory traffic and fused attention in the layer list of
TensorRT-RTX (SM86, batch 8 and 1, no GPU needed), SQNR of the logits against FP32, and top-1 where
the weights are trained (the demo models, on the digits' validation images). Others have random
weights and crops of photographs: these prove no accuracy. Ranges are largest magnitudes, no
recovery pass runs, so that placements alone are compared. "chosen" is the product's default, where
attention of timm's models is judged on the calibration images. Writes results/int8_placement.json
and int8_placement.md; ends with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx

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
from hvt_deploy.commands.config import config_of
from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Skipped
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.graph.analysis.roles import LINEAR_ROLES, PRODUCT_ROLES
from hvt_deploy.graph.opset import convert_opset, read_opset
from hvt_deploy.graph.quantization.calibration import (
    CalibrationImages,
    Int8Settings,
    calibrate_int8,
)
from hvt_deploy.graph.quantization.engine_int8 import (
    EnginePlacement,
    find_attention,
    find_engine_placement,
    find_int8_attention,
    quantize_for_engine,
)
from hvt_deploy.graph.quantization.fp16 import QDQ_OPSET, to_fp16
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges
from hvt_deploy.graph.quantization.scale_raising import raise_scales
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.tensorrt.cost import find_cost
from hvt_deploy.runtime.tensorrt.plan import BuildPlan

MODELS = (
    "faster_vit_demo",
    "fdvit_demo",
    "hvt_demo",
    "dfvt_demo",
    "faster_vit_0_224",
    "fdvit_b",
    "hvt_s_1",
    "dfvt_base",
    "timm:swin_tiny_patch4_window7_224",
    "timm:pvt_v2_b0",
    "timm:efficientvit_b0",
    "timm:fastvit_t8",
)
BATCHES = (8, 1)
_COST_HEADS = [f"{head}, {batch}" for batch in BATCHES for head in ("kernels", "MiB", "of FP16")]
MIB = 2**20
FP16, FORMER, CHOSEN = "FP16", "every product", "chosen"
# FP16's traffic (MiB, activations and weights) and kernels when the goals were set, by model and
# batch, and the largest share of them that the chosen placement may need.
GOALS: dict[tuple[str, int], tuple[float, int, float, float]] = {
    ("faster_vit_0_224", 8): (423.1, 159, 0.8, 1.15),
    ("faster_vit_0_224", 1): (103.2, 169, 0.7, 1.05),
    ("timm:swin_tiny_patch4_window7_224", 8): (923.2, 141, 0.8, 1.15),
    ("fdvit_b", 8): (1394.4, 153, 0.9, 1.15),
}


def list_placements(
    model: onnx.ModelProto, chosen: EnginePlacement
) -> dict[str, EnginePlacement | None]:
    """The placements that are compared, by name."""
    attention = find_int8_attention(model)
    writing = EnginePlacement(LINEAR_ROLES, LINEAR_ROLES)
    return {
        FP16: None,
        FORMER: EnginePlacement(PRODUCT_ROLES),
        "Linears": EnginePlacement(LINEAR_ROLES),
        "Linears, attention": EnginePlacement(LINEAR_ROLES, (), attention),
        "Linears that write INT8": writing,
        "Linears that write INT8, attention": replace(writing, attention=attention),
        CHOSEN: chosen,
    }


def choose(name: str, path: Path, ranges: Ranges, batches: Sequence[ImagesNCHW]) -> EnginePlacement:
    """The product's default for TensorRT-RTX, with attention where the calibration has it."""
    quantization, model = config_of(name).quantization, load_onnx(path)
    judged = "rtx" if quantization.int8_attention == "auto" else None
    settings = Int8Settings(replace(quantization, calibrator="max", recovery=()), judged)
    images = CalibrationImages(batches, batches[::2], batches[1::2])
    found = calibrate_int8(path, ranges, settings, images, cpu_count(), SilentUi())
    return find_engine_placement(model, quantization, "rtx", attention=found.attention)


def measure_model(name: str) -> Record:
    """All placements of one model."""
    spec = get_spec(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = "auto" if name.endswith("_demo") else "random"
        slug = run_hvt_deploy(folder, "export", name, "--weights", weights)["slug"]
        place = open_folder(folder / "artifacts", slug)
        fp32 = load_onnx(path := place.open_artifact(place.read(), "fp32"))
        pictures = make_pictures(name, folder, 32)
        count = 256 if pictures.labelled else 32
        calibration, _ = read_pictures(pictures, spec.preprocessing, count, calibration=True)
        batches = [calibration[i : i + 8] for i in range(0, len(calibration), 8)]
        ranges = collect_ranges(path, batches, cpu_count())
        images_NCHW, labels_N = read_pictures(
            pictures, spec.preprocessing, 500 if pictures.labelled else count
        )
        model = convert_opset(fp32, max(QDQ_OPSET, read_opset(fp32)))
        expected_NK = infer(model, images_NCHW)
        chosen = choose(name, path, ranges, batches)
        rows: dict[str, Record] = {}
        for title, placement in list_placements(model, chosen).items():
            graph = quantize_for_engine(model, ranges, placement) if placement else model
            found_NK = expected_NK if graph is model else infer(graph, images_NCHW)
            rows[title] = measure_costs(graph, ranges, folder)
            if placement:
                rows[title]["sqnr_db"] = compare_logits(expected_NK, found_NK).sqnr_db
            if pictures.labelled:
                rows[title]["right"] = int((found_NK.argmax(axis=1) == labels_N).sum())
    blocks = len(find_attention(model))
    return {"model": name, "images": len(images_NCHW), "attention_blocks": blocks, "rows": rows}


def infer(model: onnx.ModelProto, images_NCHW: ImagesNCHW) -> LogitsNK:
    """Logits (N, K) by ONNX Runtime on the CPU."""
    run, output = open_graph(model, cpu_count()), model.graph.output[0].name
    return infer_in_batches(lambda batch: next(run([output], [batch]))[0], images_NCHW)


def measure_costs(graph: onnx.ModelProto, ranges: Ranges, folder: Path) -> Record:
    """Kernels and traffic of the engine with FP16 in the rest, by batch size; or why unknown."""
    path = folder / "placed.onnx"
    save_onnx(to_fp16(raise_scales(graph, ranges), ranges).model, path)
    plan = BuildPlan(path, folder / "unused.engine", "tensorrt_rtx", ("8.6",), (), 4096)
    record: Record = {}
    for batch in BATCHES:
        cost = find_cost(plan, batch)
        record[f"batch {batch}"] = (
            {"unknown": cost.why}
            if isinstance(cost, Skipped)
            else {
                "kernels": cost.whole.kernels,
                "moves_only": cost.whole.moves_only,
                "activations_mib": round(cost.whole.activation_bytes / MIB, 1),
                "weights_mib": round(cost.whole.weight_bytes / MIB, 1),
            }
        )
    return record


def list_misses(records: Mapping[str, Record]) -> list[str]:
    """The goals that the measured models miss."""
    misses: list[str] = []
    for (name, batch), (traffic, kernels, most_traffic, most_kernels) in GOALS.items():
        if name not in records:
            continue
        cost = records[name]["rows"][CHOSEN][f"batch {batch}"]
        share = (cost["activations_mib"] + cost["weights_mib"]) / traffic
        if share > most_traffic:
            misses.append(f"{name}, batch {batch}: traffic {share:.3f} > {most_traffic}")
        if cost["kernels"] > kernels * most_kernels:
            misses.append(f"{name}, batch {batch}: {cost['kernels']} kernels for {kernels}")
    for name, record in records.items():
        chosen, former = record["rows"][CHOSEN], record["rows"][FORMER]
        for batch in (f"batch {size}" for size in BATCHES):
            if chosen[batch]["kernels"] > former[batch]["kernels"]:
                misses.append(f"{name}, {batch}: more kernels than every product in INT8")
        if name.endswith("_demo") and chosen["sqnr_db"] < former["sqnr_db"] - 1:
            misses.append(f"{name}: SQNR falls by more than 1 dB")
    return misses


def render_table(records: Mapping[str, Record]) -> str:
    """The Markdown table of all models."""
    heads = ("model", "placement", "SQNR dB", "right of", *_COST_HEADS)
    rows: list[list[str]] = []
    for name, record in records.items():
        for title, row in record["rows"].items():
            cells = [name, title, f"{row['sqnr_db']:.1f}" if "sqnr_db" in row else ""]
            cells.append(f"{row['right']} / {record['images']}" if "right" in row else "")
            for batch in (f"batch {size}" for size in BATCHES):
                cost, base = row[batch], record["rows"][FP16][batch]
                total = cost["activations_mib"] + cost["weights_mib"]
                share = total / (base["activations_mib"] + base["weights_mib"])
                both = f"{cost['activations_mib']:.0f} + {cost['weights_mib']:.0f}"
                cells += [f"{cost['kernels']}", both, f"{share:.2f}"]
            rows.append(cells)
    return "\n".join(format_table(heads, rows))


def main() -> int:
    """Measure the models asked for; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--again", action="store_true", help="measure also what this commit did")
    arguments = parser.parse_args()
    path = RESULTS / "int8_placement.json"
    records: dict[str, Record] = {}
    for records in update_models(
        path, arguments.models, MODELS, measure_model, again=arguments.again
    ):
        conditions = describe_conditions("int8_placement.py")
        write_record(path, {**conditions, "models": list(records.values())})
        text = f"# INT8 placements\n\n{' '.join((__doc__ or '').split())}\n\n"
        path.with_suffix(".md").write_text(f"{text}{render_table(records)}\n", encoding="utf-8")
    misses = list_misses(records)
    print("\n".join(misses) or "No goal is missed.")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
