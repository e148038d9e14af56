"""The goals and the table of `quantization.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.other_quantizers import MODELOPT, ORT
from benchmarks.records import Record, describe_conditions, format_table, write_record
from hvt_deploy.core.environment import cpu_flags, cpu_name, int8_saturates
from hvt_deploy.evaluation.statistics import mcnemar_exact

FP32, NUMERICS, CPU_VARIANT = "FP32", "ours, engine numerics", "ours, CPU variant"
# Goals: times as fast as FP32 on one core with VNNI.
FAST = {"fdvit_b": 2.0, "faster_vit_0_224": 2.0}
SQNR_SLACK_DB, SIGNIFICANT = 0.5, 0.05


def p_value(ours: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """McNemar's exact p that both are right equally often."""
    pairs = list(zip(ours["right"], other["right"], strict=True))
    return mcnemar_exact(pairs.count(("1", "0")), pairs.count(("0", "1")))


def list_misses(record: Mapping[str, Any], vnni: bool) -> list[str]:
    """The goals that this model's rows do not reach."""
    rows, missed = record["rows"], list[str]()
    for ours in (NUMERICS, CPU_VARIANT):
        for other in rows.keys() & {ORT, MODELOPT}:
            behind_db = rows[other]["sqnr_db"] - rows[ours]["sqnr_db"]
            if behind_db > SQNR_SLACK_DB:
                missed.append(
                    f"{record['model']}: SQNR of {ours} is {behind_db:.1f} dB below that of {other}"
                )
            if record["labelled"] and p_value(rows[ours], rows[other]) < SIGNIFICANT:
                drop = rows[other]["top1"]["estimate"] - rows[ours]["top1"]["estimate"]
                if drop > 0:
                    missed.append(
                        f"{record['model']}: top-1 of {ours} is {drop:.1f} points "
                        f"below that of {other}"
                    )
    goal, speed = FAST.get(record["model"], 0), rows[CPU_VARIANT]["speedup"]
    if vnni and goal and not (speed and speed["estimate"] >= goal):
        found = (
            f"{speed['estimate']:.2f} times as fast as FP32"
            if speed
            else "too few rounds to compare the speed"
        )
        missed.append(f"{record['model']}: {found} instead of {goal:.1f}")
    return missed


def format_row(record: Mapping[str, Any], name: str) -> list[str]:
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


def write_results(
    output: Path, table: Path, records: Mapping[str, Record], missed: Sequence[str]
) -> None:
    """The record and its table."""
    vnni = not int8_saturates(cpu_flags())
    conditions = {**describe_conditions("quantization.py"), "vnni": vnni, "missed": missed}
    write_record(output, {**conditions, "models": list(records.values())})
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
        f"`python benchmarks/quantization.py --modelopt-python PATH` on {cpu_name()}, "
        f"{'with' if vnni else 'without'} VNNI, one thread; "
        "versions and commits are in `results/quantization.json`.",
        "Demo models: 500 digits, top-1 with Wilson's 95 % interval and McNemar's exact p "
        "against quantize_static and ModelOpt. "
        "Others: random weights, crops of two photographs, no accuracy.",
        "Agreement and SQNR: against FP32. Kernels: TensorRT-RTX engine for SM86; "
        "ours with FP16 in the rest, the others' as their files say.",
        "",
    ]
    for record in records.values():
        rows = (format_row(record, name) for name in record["rows"])
        lines += [f"## {record['model']}", "", *format_table(heads, rows)]
        lines += [
            f"| {name}: {why} |" + " |" * (len(heads) - 1)
            for name, why in record["missing"].items()
        ]
        lines += [""]
    lines += ["## Goals that are missed", "", *(f"- {line}" for line in missed or ("none",)), ""]
    table.write_text("\n".join(lines), encoding="utf-8")
