"""Engine layer precision as text: kernels, MACs and weights of an engine by precision."""

from __future__ import annotations

from collections.abc import Callable

from hvt_deploy.evaluation.record import Results, Row
from hvt_deploy.evaluation.report.number_format import EMPTY
from hvt_deploy.evaluation.report.tables import Cell, Column, Fact, Line, Table
from hvt_deploy.graph.analysis.engine_audit import ByPrecision, EngineAudit

GROUP_COLUMNS = (
    "stage",
    "role",
    "kernels",
    "reformats",
    "MACs (M)",
    "INT8 %",
    "FP16 %",
    "FP32 %",
    "weights (k)",
    "weights INT8 %",
)


def engines_table(results: Results) -> Table:
    """One line per engine, including engines that cannot run on this machine."""
    columns = (
        _column(
            "kernels", lambda audit: Cell(str(audit.kernels), f"({audit.reformats} reformats)")
        ),
        _column("layers", lambda audit: Cell(precision_shares(audit.layers)), is_text=True),
        _column("MACs", lambda audit: Cell(precision_shares(audit.macs)), is_text=True),
        _column("weights", lambda audit: Cell(precision_shares(audit.weights)), is_text=True),
        _column("Q/DQ MACs run as INT8", lambda audit: Cell(quantized_share(audit))),
        _column("fused attention", lambda audit: Cell(fused_attention(audit))),
    )
    rows = [row for row in results.rows if row.audit is not None]
    lines = tuple(
        Line(row, False, tuple(c.cell(row) or Cell(EMPTY) for c in columns)) for row in rows
    )
    return Table(columns, lines)


def engine_facts(results: Results) -> tuple[Fact, ...]:
    """One sentence per engine, where a table is too wide."""
    return tuple(
        Fact(
            row.backend,
            f"{row.audit.kernels} kernels; MACs {precision_shares(row.audit.macs)}; "
            f"weights {precision_shares(row.audit.weights)}; "
            f"Q/DQ MACs run as INT8: {quantized_share(row.audit)}; "
            f"fused attention: {fused_attention(row.audit)}",
        )
        for row in results.rows
        if row.audit is not None
    )


def _column(title: str, cell: Callable[[EngineAudit], Cell], *, is_text: bool = False) -> Column:
    def cell_of(row: Row) -> Cell | None:
        return None if row.audit is None else cell(row.audit)

    return Column(title, "detail", cell_of, is_text)


def audit_facts(audit: EngineAudit) -> tuple[Fact, ...]:
    """Totals of the engine, and each node that carries Q/DQ but does not run as INT8."""
    not_int8 = sorted(audit.not_int8, key=lambda node: -node.macs)
    return (
        Fact(
            "kernels per inference",
            f"{audit.kernels}, of which {audit.reformats} reformat (only move or convert data)",
        ),
        Fact("layers", precision_shares(audit.layers)),
        Fact("MACs", precision_shares(audit.macs)),
        Fact("weights", precision_shares(audit.weights)),
        Fact("Q/DQ MACs run as INT8", quantized_share(audit)),
        Fact("fused attention blocks", fused_attention(audit)),
        *(
            Fact(f"not INT8: {n.node}", f"{n.precision}, {n.macs / 1e6:.1f} M MACs")
            for n in not_int8
        ),
    )


def quantized_share(audit: EngineAudit) -> str:
    """Share of the MACs with Q/DQ in the graph that run as INT8."""
    return f"{100 * audit.int8_share:.1f} %" if audit.quantized_macs else "none"


def fused_attention(audit: EngineAudit) -> str:
    """Attention blocks that run as one fused kernel, of all attention blocks."""
    fused = str(audit.fused_attention)
    if audit.macs.total:
        fused = f"{fused} of {audit.attention_blocks}"
    return f"{fused}, {audit.int8_attention} in INT8" if audit.int8_attention else fused


def precision_shares(counts: ByPrecision) -> str:
    """`83.1 % INT8, 16.9 % FP16`."""
    parts = {"INT8": counts.int8, "FP16": counts.fp16, "FP32": counts.fp32, "other": counts.other}
    shown = [f"{100 * part / counts.total:.1f} % {name}" for name, part in parts.items() if part]
    return ", ".join(shown) or "unknown"


def group_rows(audit: EngineAudit) -> list[tuple[str, ...]]:
    """One row of `GROUP_COLUMNS` per stage and role."""
    return [
        (
            group.stage,
            group.role,
            str(group.layers.total + group.reformats),
            str(group.reformats),
            f"{group.macs.total / 1e6:.1f}" if group.macs.total else "",
            *(
                _percent(part, group.macs)
                for part in (group.macs.int8, group.macs.fp16, group.macs.fp32)
            ),
            f"{group.weights.total / 1e3:.1f}" if group.weights.total else "",
            _percent(group.weights.int8, group.weights),
        )
        for group in audit.groups
    ]


def _percent(part: int, whole: ByPrecision) -> str:
    return f"{100 * part / whole.total:.1f}" if whole.total else ""
