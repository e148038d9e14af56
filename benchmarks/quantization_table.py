"""The goals and the table of `quantization.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.other_quantizers import PEERS
from benchmarks.records import Record, describe_conditions, format_table, write_record
from hvt_deploy.core.environment import cpu_flags, cpu_name, int8_saturates

FP32, NUMERICS, CPU_VARIANT = "FP32", "ours, engine numerics", "ours, CPU variant"
OURS = (NUMERICS, CPU_VARIANT)
_SIGNIFICANT = 0.05
_HEADS = (
    "graph",
    "top-1 %",
    "agreement %",
    "SQNR dB",
    "worst image dB",
    "times FP32",
    "numerics above it, dB (McNemar's p)",
    "CPU variant above it, dB (p)",
)


def list_misses(records: Mapping[str, Record]) -> list[str]:
    """The goals that are missed: significantly worse in top-1 than another quantizer, an SQNR
    below another's by more than the interval, and a mean SQNR that is not the best.
    """
    missed: list[str] = []
    for key, record in records.items():
        rows = record["rows"]
        for ours in OURS:
            for other, found in rows[ours]["against"].items():
                behind = found["sqnr_db"]
                drop = rows[other]["top1"]["estimate"] - rows[ours]["top1"]["estimate"]
                if found["p"] < _SIGNIFICANT and drop > 0:
                    missed.append(
                        f"{key}: top-1 of {ours} is {drop:.1f} points below that of {other} "
                        f"(p {found['p']:.2g})"
                    )
                if behind["high"] < 0:
                    missed.append(
                        f"{key}: SQNR of {ours} is {-behind['estimate']:.1f} dB below that of "
                        f"{other} ({-behind['high']:.1f} to {-behind['low']:.1f})"
                    )
    means = find_means(records)
    best = max(PEERS, key=lambda name: means.get(name, -np.inf))
    if means and means[NUMERICS] < means.get(best, -np.inf):
        missed.append(f"the mean SQNR of {best} is above that of {NUMERICS}")
    return missed


def find_means(records: Mapping[str, Record]) -> dict[str, float]:
    """The mean SQNR, dB, of each row that every record has."""
    names = [name for name in (*OURS, *PEERS) if all(name in r["rows"] for r in records.values())]
    return {
        name: float(np.mean([r["rows"][name]["sqnr_db"] for r in records.values()]))
        for name in names
        if records
    }


def format_row(record: Record, name: str) -> list[str]:
    """One line of the table."""
    row, rows = record["rows"][name], record["rows"]
    top1, speed = row["top1"], row.get("speedup")
    cells = [
        name,
        f"{top1['estimate']:.1f} ({top1['low']:.1f} to {top1['high']:.1f})",
        f"{row['agreement']['estimate']:.1f}" if name != FP32 else "",
        f"{row['sqnr_db']:.1f}" if name != FP32 else "",
        f"{row['worst_db']:.1f}" if name != FP32 else "",
        f"{speed['estimate']:.2f}" if speed else "",
    ]
    for ours in OURS:
        found = rows[ours]["against"].get(name)
        if found is None:
            cells.append("")
        else:
            above = found["sqnr_db"]
            cells.append(
                f"{above['estimate']:+.1f} ({above['low']:+.1f} to {above['high']:+.1f}; "
                f"{found['p']:.2g})"
            )
    return cells


def write_all(output: Path, table: Path, records: Mapping[str, Record]) -> None:
    """The record and its table."""
    vnni, missed = not int8_saturates(cpu_flags()), list_misses(records)
    conditions = {**describe_conditions("quantization.py"), "vnni": vnni, "missed": missed}
    write_record(output, {**conditions, "models": list(records.values())})
    means = find_means(records)
    lines = [
        "# INT8 of trained networks, and of other quantizers",
        "",
        "`python benchmarks/quantization.py --modelopt-python PATH --nncf-python PATH` on "
        f"{cpu_name()}, {'with' if vnni else 'without'} VNNI, one thread; versions and the commit "
        "of each draw are in `results/quantization.json`.",
        "A draw is a set of 128 calibration images, the same for every quantizer; test images "
        "share no photograph with them. Agreement and SQNR: against FP32. In brackets: 95 % "
        "intervals (Wilson; paired bootstrap over photographs) and McNemar's exact p of top-1. "
        "A speed that is missing never settled.",
        "",
        f"Mean SQNR over the {len(records)} draws below: "
        + ", ".join(f"{name} {mean:.1f} dB" for name, mean in means.items())
        + ".",
        "",
    ]
    for key, record in records.items():
        rows = (format_row(record, name) for name in record["rows"])
        heading = f"## {key} ({record['images']} images of {record['photographs']} photographs)"
        lines += [heading, "", *format_table(_HEADS, rows)]
        lines += [
            f"| {name}: {why} |" + " |" * (len(_HEADS) - 1)
            for name, why in record["missing"].items()
        ]
        lines += [""]
    lines += ["## Goals that are missed", "", *(f"- {line}" for line in missed or ("none",)), ""]
    table.write_text("\n".join(lines), encoding="utf-8")
