"""Traffic of an INT8 engine and of FP16 by stage and by role, as an SVG element."""
# pyright: reportUnknownMemberType=false
# Matplotlib's **kwargs are untyped.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.number_format import escape_controls
from hvt_deploy.evaluation.report.svg import COLOURS, colour_of, draw_svg
from hvt_deploy.graph.analysis.engine_cost import EngineCost, GroupCost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 8.6
_BAR = 0.38
# MiB by stage or role.
_Bars = Mapping[str, float]


def draw_costs(results: Results) -> list[tuple[str, str]]:
    """A title and a plot for every engine and batch size that is compared with FP16."""
    return [
        (f"{row.backend}, batch {cost.batch}", _draw(f"cost-{index}-{place}", own, fp16))
        for index, row in enumerate(results.rows)
        for place, cost in enumerate(row.costs)
        if isinstance(own := cost.own, EngineCost) and isinstance(fp16 := cost.fp16, EngineCost)
    ]


def _draw(name: str, own: EngineCost, fp16: EngineCost) -> str:
    def stage_of(group: GroupCost) -> str:
        return group.stage or "no node"

    def role_of(group: GroupCost) -> str:
        return group.role

    def draw(figure: Figure) -> None:
        by_stage, by_role = figure.subplots(1, 2)
        for axes, of, title in ((by_stage, stage_of, "by stage"), (by_role, role_of, "by role")):
            _draw_bars(axes, _sum(own, of), _sum(fp16, of))
            axes.set_xlabel(f"MiB {title}")
        by_stage.legend(loc="lower right", frameon=False, fontsize=9)

    roles = _sum(own, role_of)
    described = "; ".join(
        f"{role}: {roles.get(role, 0):.1f} MiB INT8, {mebibytes:.1f} MiB FP16"
        for role, mebibytes in _sum(fp16, role_of).items()
    )
    height = 1.0 + 0.34 * max(len(roles), len(_sum(fp16, role_of)))
    return draw_svg(
        name, "Traffic of INT8 and FP16", escape_controls(described), (_WIDTH, height), draw
    )


def _draw_bars(axes: Axes, own: _Bars, fp16: _Bars) -> None:
    names = list(dict.fromkeys((*fp16, *own)))
    for bars, shift, precision in ((fp16, -_BAR / 2, "fp16"), (own, _BAR / 2, "int8")):
        axes.barh(
            [place + shift for place in range(len(names))],
            [bars.get(name, 0) for name in names],
            height=_BAR,
            color=COLOURS[colour_of(precision)],
            label=precision.upper(),
        )
    axes.set_yticks(range(len(names)), [escape_controls(name) for name in names])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.grid(visible=True, axis="x", linewidth=0.8)
    axes.set_axisbelow(True)


def _sum(cost: EngineCost, name: Callable[[GroupCost], str]) -> _Bars:
    """MiB of activations and weights by stage or role; what moves nothing is left out."""
    totals: Counter[str] = Counter()
    for group in cost.groups:
        totals[name(group)] += group.cost.traffic_bytes
    return {key: count / 2**20 for key, count in totals.items() if count}
