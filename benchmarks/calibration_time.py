"""CPU time and memory of `quantize --int8` against ONNX Runtime's `quantize_static`:
python benchmarks/calibration_time.py [--before CHECKOUT].

Every row is a process of its own, from an exported FP32 graph and a folder of images to INT8
graphs: ours with its defaults, ours with `--calibrator max` without recovery passes, and
`quantize_static` with minimum and maximum of the same images in the same batches, for the
placement and the form that TensorRT wants. Ours makes four graphs (FP16, INT8 with FP16 and with
FP32 in the rest, the CPU variant) and compares each with FP32. `--before` measures ours of another
checkout, too. CPU time is user + system of the process and its children, memory the largest
resident set. SQNR is that of the logits on other photographs. Random weights and crops of
photographs, digits for the demo models. Minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pictures import Pictures, infer_in_batches, make_pictures, read_pictures
from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    describe_conditions,
    format_table,
    update_models,
    write_record,
)
from hvt_deploy.core.tensors import LogitsNK, Signature
from hvt_deploy.evaluation.parity import compare_logits
from hvt_deploy.models.registry import get_spec
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend
from hvt_deploy.runtime.variant import Variant

MODELS = ("faster_vit_0_224", "fdvit_b")
DEFAULT, MAX, ORT = "default", "--calibrator max, no recovery", "quantize_static"
FLAGS = {
    DEFAULT: (),
    MAX: (
        "--calibrator",
        "max",
        "--no-smooth-quant",
        "--no-bias-correction",
        "--no-weight-rounding",
    ),
}
HELD_OUT_IMAGES = 32
ORT_CODE = """
import sys
from pathlib import Path
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from benchmarks.other_quantizers import Reader
from benchmarks.pictures import Pictures, read_pictures
from hvt_deploy.models.registry import get_spec

model, fp32, pictures, count, target = sys.argv[1:]
images_NCHW, _ = read_pictures(
    Pictures(Path(pictures), Path(pictures), labelled=False),
    get_spec(model).preprocessing,
    int(count),
    calibration=True,
)
products = ["Conv", "MatMul", "Gemm"]
quantize_static(
    fp32, target, Reader(images_NCHW), quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=products,
    extra_options={
        "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
        "AddQDQPairToWeight": False, "OpTypesToExcludeOutputQuantization": products,
    },
)
"""


def measure_process(command: Sequence[str], folder: Path, checkout: Path) -> Record:
    """Seconds and memory of a command, run in `folder` with the packages of `checkout`.

    Raises CalledProcessError if it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "CI": ""}
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.monotonic() - started, 1),
        "peak_mib": used.ru_maxrss // 1024,
    }


def measure_ours(
    model: str, exported: Path, pictures: Pictures, count: int, row: str, checkout: Path
) -> tuple[Record, Path]:
    """The row of our own quantizer in a copy of `exported`, which the same `checkout` made, and its
    INT8 graph.
    """
    folder = Path(tempfile.mkdtemp(dir=exported.parent))
    shutil.copytree(exported, folder / "artifacts")
    quantize = ("quantize", model, "--int8", "--calib-images", str(count))
    command = [sys.executable, "-m", "hvt_deploy", *quantize]
    command += ["--calib", str(pictures.calibration), *FLAGS[row]]
    found = measure_process(command, folder, checkout)
    return found, find_graph(folder / "artifacts", "int8-fp32")


def export(model: str, folder: Path, checkout: Path) -> Path:
    """The workspace with the model as `checkout` exports it, in a new folder."""
    folder.mkdir()
    weights = "auto" if model.endswith("_demo") else "random"
    command = [sys.executable, "-m", "hvt_deploy", "export", model, "--weights", weights]
    measure_process(command, folder, checkout)
    return folder / "artifacts"


def find_graph(workspace: Path, key: str) -> Path:
    """The graph of the only model in a workspace, which another version may have written."""
    (path,) = workspace.glob(f"*/{key}-*/*.{'onnx' if key == 'fp32' else f'{key}.onnx'}")
    return path


def measure_model(model: str, count: int, rounds: int, before: Path | None) -> Record:
    """The rows of one model; the seconds are the least of all rounds."""
    spec = get_spec(model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = make_pictures(model, folder, -(-count // 2))
        exported = export(model, folder / "now", ROOT)
        exported_before = before and export(model, folder / "before", before)
        fp32 = find_graph(exported, "fp32")
        ort_arguments = (model, str(fp32), str(pictures.calibration), str(count))
        rounds_of: dict[str, list[Record]] = {}
        graphs: dict[str, Path] = {}
        for _ in range(rounds):
            for row in (DEFAULT, MAX):
                for name, checkout, workspace in (
                    (row, ROOT, exported),
                    (f"before: {row}", before, exported_before),
                ):
                    if checkout is None or workspace is None:
                        continue
                    found, graphs[name] = measure_ours(
                        model, workspace, pictures, count, row, checkout
                    )
                    rounds_of.setdefault(name, []).append(found)
            graphs[ORT] = folder / "ort.onnx"
            command = [sys.executable, "-c", ORT_CODE, *ort_arguments, str(graphs[ORT])]
            rounds_of.setdefault(ORT, []).append(measure_process(command, folder, ROOT))
        signature = Signature(spec.image_size, spec.num_classes)
        images_NCHW, _ = read_pictures(pictures, spec.preprocessing, HELD_OUT_IMAGES)

        def infer(path: Path) -> LogitsNK:
            request = BackendRequest(
                Variant("ort", "cpu", "int8"), path, model, signature, threads=2
            )
            return infer_in_batches(OrtBackend(request).infer, images_NCHW)

        reference_NK = infer(fp32)
        rows = [
            {
                "row": name,
                **{key: min(record[key] for record in found) for key in found[0]},
                "sqnr_db": round(compare_logits(reference_NK, infer(graphs[name])).sqnr_db, 1),
            }
            for name, found in rounds_of.items()
        ]
    return {"model": model, "images": count, "rounds": rounds, "rows": rows}


def main() -> int:
    """Measure the models that are asked for and not done at this commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--images", type=int, default=128, help="calibration images")
    parser.add_argument("--rounds", type=int, default=1, help="the least of so many counts")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="another checkout to measure as well"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure again what is there from this commit"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration_time.json")
    options = parser.parse_args()
    measure = partial(
        measure_model,
        count=options.images,
        rounds=options.rounds,
        before=options.before and options.before.resolve(),
    )
    models: list[str] = options.models.split(",")
    for records in update_models(options.output, models, MODELS, measure, again=options.again):
        record = {
            **describe_conditions("calibration_time.py"),
            "models": list(records.values()),
        }
        write_record(options.output, record)
        lines = format_table(
            ("model", "quantizer", "CPU s", "wall s", "peak MiB", "SQNR dB"),
            (
                (r["model"], *(str(row[key]) for key in row))
                for r in records.values()
                for row in r["rows"]
            ),
        )
        text = f"# Cost of an INT8 calibration\n\n{(__doc__ or '').strip()}\n\n" + "\n".join(lines)
        options.output.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
