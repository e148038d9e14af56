"""Engine cost as text: figures and a sentence for each batch size, a table by stage and role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hvt_deploy.core.types import Precision, Skipped
from hvt_deploy.evaluation.record import Results, Row
from hvt_deploy.evaluation.report.tables import Fact, Grid
from hvt_deploy.graph.analysis.engine_cost import EngineCost, KernelCost, ProfileCost

_NAMES: Mapping[Precision, str] = {
    "fp32": "FP32",
    "fp16": "FP16",
    "int8": "INT8",
    "int8-fp32": "INT8 with FP32",
}
_NOTHING = KernelCost()


def describe_costs(precision: Precision, costs: Sequence[ProfileCost]) -> list[str]:
    """For each batch size a line with the figures and what they mean; before it, how they were
    counted where that has to be said.
    """
    lines: list[str] = []
    for cost in costs:
        figures = [f"{_NAMES[precision]}: {_figures(cost.own)}"]
        if cost.fp16 is not None:
            figures.append(f"FP16: {_figures(cost.fp16)}")
        line = f"{'; '.join(figures)} (activations + weights, batch {cost.batch})"
        meaning = _compare(precision, cost)
        lines += [cost.note] if cost.note else []
        lines.append(f"{line}. {meaning}" if meaning else line)
    return lines


def traffic_cells(costs: Sequence[ProfileCost]) -> tuple[str, str]:
    """MiB of activations + weights, and the ratio to FP16's, of the first profile."""
    if not costs or not isinstance(costs[0].own, EngineCost):
        return "unknown", ""
    ratio = costs[0].traffic_ratio
    return _mebibytes_of(costs[0].own), "" if ratio is None else f"{ratio:.2f}"


def list_costs(results: Results) -> tuple[Fact, ...]:
    """The lines of every engine."""
    return tuple(
        Fact(row.backend, line)
        for row in _engines(results)
        for line in (*describe_costs(_precision_of(row), row.costs), *_untimed(row))
    )


def cost_grids(results: Results) -> tuple[Grid, ...]:
    """The table of every engine and batch size whose cost is known."""
    return tuple(
        grid
        for row in _engines(results)
        for grid in list_cost_grids(_precision_of(row), row.costs, f"{row.backend}: ")
    )


def list_cost_grids(
    precision: Precision, costs: Sequence[ProfileCost], prefix: str = ""
) -> list[Grid]:
    """Cost by stage and role, next to that of FP16."""
    return [
        replace(grid, title=f"{prefix}{grid.title}")
        for cost in costs
        if isinstance(cost.own, EngineCost)
        for grid in (
            _type_grid(_NAMES[precision], cost.own, cost.fp16),
            _group_grid(_NAMES[precision], cost.own, cost.fp16),
        )
    ]


def _type_grid(name: str, own: EngineCost, fp16: EngineCost | Skipped | None) -> Grid:
    engines = {name: own.whole}
    if isinstance(fp16, EngineCost):
        engines["FP16"] = fp16.whole
    counted = [
        (engine, label, counts)
        for engine, cost in engines.items()
        for label, counts in (
            ("activations read", cost.read),
            ("activations written", cost.written),
            ("weights", cost.weights),
        )
    ]
    types = sorted({dtype for _, _, counts in counted for dtype in counts})
    rows = tuple(
        (engine, label, *(_mebibytes(counts.get(dtype, 0)) for dtype in types))
        for engine, label, counts in counted
    )
    title = f"{name} by data type, batch {own.batch}, MiB"
    return Grid(title, ("engine", "bytes", *types), rows, 2)


def _group_grid(name: str, own: EngineCost, fp16: EngineCost | Skipped | None) -> Grid:
    headings = ("stage", "role", "kernels", "moves only", "read", "written", "weights", "MACs (M)")
    other: dict[tuple[str, str], KernelCost] = {}
    whole = _NOTHING
    if isinstance(fp16, EngineCost):
        other, whole = {(g.stage, g.role): g.cost for g in fp16.groups}, fp16.whole
        headings = (*headings, "MiB", "MiB FP16", "kernels FP16")
    mine = {(group.stage, group.role): group.cost for group in own.groups}
    stages = list(dict.fromkeys(stage for stage, _ in (*mine, *other)))
    groups = sorted({**mine, **other}, key=lambda group: stages.index(group[0]))
    rows = [
        (*group, *_cost_cells(mine.get(group, _NOTHING), other.get(group, _NOTHING), bool(other)))
        for group in groups
    ]
    rows.append(("all", "", *_cost_cells(own.whole, whole, bool(other))))
    title = f"{name} by stage and role, batch {own.batch}, MiB"
    return Grid(title, headings, tuple(rows), 2)


def _cost_cells(cost: KernelCost, fp16: KernelCost, compared: bool) -> tuple[str, ...]:
    macs = f"{cost.macs.total / 1e6:,.1f}" if cost.macs and cost.macs.total else ""
    cells = (
        str(cost.kernels),
        str(cost.moves_only),
        _mebibytes(sum(cost.read.values())),
        _mebibytes(sum(cost.written.values())),
        _mebibytes(cost.weight_bytes),
        macs,
    )
    if not compared:
        return cells
    both = (_mebibytes(cost.traffic_bytes), _mebibytes(fp16.traffic_bytes), str(fp16.kernels))
    return (*cells, *both)


def _untimed(row: Row) -> list[str]:
    """How to see whether the prediction holds, where the engine was timed at other batch sizes."""
    timed = {timing.latency.batch for timing in row.timings}
    compared = {cost.batch for cost in row.costs if cost.traffic_ratio is not None}
    if not timed or not compared or timed & compared:
        return []
    flags = " ".join(f"--latency-batch {batch}" for batch in sorted(compared))
    return [f"Not timed at this batch size: hvt-deploy validate {flags} does."]


def _engines(results: Results) -> list[Row]:
    return [row for row in results.rows if row.costs]


def _precision_of(row: Row) -> Precision:
    return row.variant.precision or "fp32"


def _figures(cost: EngineCost | Skipped) -> str:
    if isinstance(cost, Skipped):
        return f"unknown ({cost.why})"
    return f"{cost.whole.kernels} kernels, {_mebibytes_of(cost)} MiB"


def _mebibytes_of(cost: EngineCost) -> str:
    return f"{_mebibytes(cost.whole.activation_bytes)} + {_mebibytes(cost.whole.weight_bytes)}"


def _mebibytes(count: int) -> str:
    mebibytes = count / 2**20
    return f"{mebibytes:,.0f}" if mebibytes >= 10 else f"{mebibytes:.1f}"


def _compare(precision: Precision, cost: ProfileCost) -> str:
    """`INT8 moves 13 % less than FP16 in 12 % more kernels; …`; empty if unknown."""
    traffic, kernels = cost.traffic_ratio, cost.kernel_ratio
    if traffic is None or kernels is None:
        return ""
    moved = _relate(traffic, "less than", "more than", "as much as")
    run = _relate(kernels, "fewer", "more", "as many")
    doubt = "" if traffic < 1 else " By this count it does not pay."
    shows = "only the device shows whether it is faster"
    return f"{_NAMES[precision]} moves {moved} FP16 in {run} kernels; {shows}.{doubt}"


def _relate(ratio: float, less: str, more: str, same: str) -> str:
    percent = round(100 * (ratio - 1))
    return same if percent == 0 else f"{abs(percent)} % {less if percent < 0 else more}"
