"""Every model through the whole product: python benchmarks/check_all.py [--models 'hvt_*']
[--output FILE].

For each name: the official code's recorded logits in both forms (`models --verify`), export at
opsets 17 and 20 with random weights (contract and parity are errors), FP16 and INT8 engines for
TensorRT-RTX on compute capability 8.6 with their layer lists. Engines are calibrated on noise: they
prove the graph, not an accuracy. Any-resolution models run at 224x448, a grid that is not square:
their own 576x960 costs five times as much. Rows are kept after every model and those of this commit
are not measured again, so an interrupted run goes on where it was. FILE.md is the table. Ends with
1 if a model failed. Hours for all; minutes for a small one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import (
    RESULTS,
    ROOT,
    Record,
    describe_commit,
    describe_conditions,
    format_table,
    read_rows,
    run_hvt_deploy,
    write_record,
)
from hvt_deploy.models.registry import get_spec, list_specs

OFFICIAL: Record = json.loads(
    (ROOT / "benchmarks" / "official_exports.json").read_text(encoding="utf-8")
)["models"]
OPSETS = (17, 20)
ANY_RES_SIZE = "224x448"
LARGE_MACS = 100e9
COLUMNS = (
    "model",
    "official logits",
    "parity 17",
    "parity 20",
    "nodes",
    "official nodes",
    "attention fused FP16",
    "INT8",
    "kernels FP16",
    "official FP16",
    "kernels INT8",
    "INT8 layers",
    "minutes",
)


def check_model(name: str, verify: bool) -> Record:
    """One row: the output of every command, or the first one that failed."""
    row: Record = {"model": name}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            if verify:
                row["golden"] = run_hvt_deploy(folder, "models", "--verify", name)
            for opset in OPSETS:
                export = (
                    "export",
                    name,
                    "--weights",
                    "random",
                    "--opset",
                    str(opset),
                    "--as",
                    f"opset{opset}",
                )
                size = ("--image-size", ANY_RES_SIZE) if name.endswith("_any_res") else ()
                row[f"opset{opset}"] = run_hvt_deploy(folder, *export, *size)
            manifest = json.loads(
                (folder / "artifacts" / "opset17" / "manifest.json").read_text(encoding="utf-8")
            )
            row["attention_blocks"] = manifest["artifacts"]["fp32"]["facts"]["ops"].get(
                "Softmax", 0
            )
            write_noise(folder / "noise", manifest["preprocessing"]["image_size"])
            for precision in ("fp16", "int8"):
                images = ("--calib-images", "2" if is_large(name) else "8")
                build = (
                    "build-trt",
                    "opset17",
                    "--precision",
                    precision,
                    "--calib",
                    "noise",
                    *images,
                )
                row[precision] = read_audit(run_hvt_deploy(folder, *build, "--flavour", "rtx"))
        except subprocess.CalledProcessError as error:
            row["failed"] = {
                "command": " ".join(error.cmd[3:]),
                "exit_code": error.returncode,
                "said": error.stderr,
            }
    row["seconds"] = round(time.monotonic() - started)
    return row


def is_large(name: str) -> bool:
    """Whether an image takes minutes through every graph of a model, so that few have to do."""
    measured = get_spec(name).measured
    return measured is not None and measured.macs > LARGE_MACS


def write_noise(folder: Path, image_size: Sequence[int]) -> None:
    """Eight images of seeded noise in two class folders."""
    rng = np.random.default_rng(0)
    for i in range(8):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*image_size, 3), dtype=np.uint8)).save(
            folder / str(i % 2) / f"{i}.png"
        )


def read_audit(built: Mapping[str, Any]) -> Record:
    """The numbers of an engine's audit, without its layers."""
    audit = built["audit"]
    numbers = {key: value for key, value in audit.items() if isinstance(value, (int, float))}
    return {**numbers, "int8_layers": audit["layers"]["int8"]}


def format_row(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    if "failed" in row:
        return [row["model"], f"FAILED: {row['failed']['command']}", *[""] * (len(COLUMNS) - 2)]
    official = OFFICIAL.get(row["model"], {})
    golden = [check["error"] for check in row.get("golden", [])]
    blocks = row["attention_blocks"]
    missing = "none" if row["model"].endswith("_demo") else "not run"
    return [
        row["model"],
        f"{max(golden):.0e}" if golden else missing,
        *(f"{row[f'opset{opset}']['parity']['relative_to_largest']:.0e}" for opset in OPSETS),
        str(row["opset17"]["nodes"]),
        _format_routes(official, "nodes"),
        *(f"{row[p]['fused_attention']}/{blocks}" for p in ("fp16", "int8")),
        str(row["fp16"]["kernels"]),
        _format_routes(official, "kernels"),
        str(row["int8"]["kernels"]),
        str(row["int8"]["int8_layers"]),
        f"{row['seconds'] / 60:.1f}",
    ]


def _format_routes(official: Mapping[str, Mapping[str, int]], count: str) -> str:
    """A count of the raw export and of the simplified one, where both are known."""
    known = (official.get(route, {}).get(count) for route in ("raw", "onnxsim"))
    return " / ".join(str(number) for number in known if number is not None)


def write_results(output: Path, rows: Mapping[str, Record]) -> None:
    """The record and its table."""
    record = {**describe_conditions("check_all.py"), "rows": list(rows.values())}
    write_record(output, record)
    note = (
        "Every name through `python benchmarks/check_all.py`: random weights; "
        "commits and dates are in the JSON.\n"
        f"Any-resolution models at {ANY_RES_SIZE}.\n"
        "Official logits: error relative to max(1, |logit|), float64. "
        "Parity: relative to the largest logit, FP32.\n"
        "Official: the official code with perturbed weights by torch's dynamo exporter, raw / "
        "simplified by onnxsim; kernels in FP16 for SM86.\n"
    )
    table = "\n".join(format_table(COLUMNS, map(format_row, rows.values())))
    output.with_suffix(".md").write_text(f"# Every model\n\n{note}\n{table}\n", encoding="utf-8")


def main() -> int:
    """Check the models that are asked for and not done at this commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="*", help="names or patterns, separated by commas")
    parser.add_argument(
        "--no-verify", action="store_true", help="leave out the official logits (tests have them)"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure again what is there from this commit"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "check_all.json")
    options = parser.parse_args()
    patterns = options.models.split(",")
    known = [spec.name for spec in list_specs()]
    names = [name for name in known if any(fnmatch(name, pattern) for pattern in patterns)]
    rows = read_rows(options.output, "rows")
    here, failed = describe_commit(), 0
    for i, name in enumerate(names, start=1):
        if (
            rows.get(name, {}).get("commit") == here
            and "failed" not in rows[name]
            and not options.again
        ):
            continue
        print(f"{i}/{len(names)} {name}", file=sys.stderr, flush=True)
        row = check_model(name, verify=not options.no_verify and not get_spec(name).is_demo)
        row |= {"commit": here, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        rows[name] = row
        failed += "failed" in row
        write_results(options.output, {n: rows[n] for n in known if n in rows})
        print(" | ".join(format_row(row)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
