"""A record as one HTML file that opens offline: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report import breakdown, content
from hvt_deploy.evaluation.report.cost_plot import draw_costs
from hvt_deploy.evaluation.report.engine_costs import cost_grids, list_costs
from hvt_deploy.evaluation.report.engine_layers import engines_table
from hvt_deploy.evaluation.report.number_format import EMPTY, escape_controls
from hvt_deploy.evaluation.report.pareto import draw_pareto, explain_no_pareto
from hvt_deploy.evaluation.report.plots import draw_curves, draw_latencies
from hvt_deploy.evaluation.report.svg import colour_of


def render_html(results: Results) -> str:
    """The record as a self-contained page, the verdict on top."""
    import jinja2  # with matplotlib below the slow part of a start, and only this format needs them

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hvt_deploy.evaluation", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("template.html.j2").render(
        results=results,
        untrained_title=content.UNTRAINED_TITLE,
        untrained_sentence=content.UNTRAINED_SENTENCE,
        intervals_sentence=content.INTERVALS_SENTENCE,
        verdict_tone=content.choose_verdict_tone(results),
        summary=content.fill_table(results, content.make_summary_columns(results)),
        accuracy=content.fill_table(results, content.make_accuracy_columns(results)),
        runs=content.fill_table(results, content.make_run_columns(results)),
        engines=engines_table(results),
        costs=list_costs(results),
        cost_grids=cost_grids(results),
        cost_plots=draw_costs(results),
        gates=[
            (gate, content.format_gate(gate), content.choose_gate_tone(gate))
            for gate in results.gates
        ],
        notes=content.list_notes(results),
        skipped=content.list_skipped(results),
        data=content.describe_data(results),
        provenance=(*content.describe_run(results), *content.list_entries(results.provenance)),
        environment=content.list_entries(results.environment),
        terms=content.list_terms(),
        colour_of=colour_of,
        precision_label=content.format_precision,
        empty=EMPTY,
        pareto=draw_pareto(results),
        no_pareto=explain_no_pareto(results),
        latencies=draw_latencies(results),
        curves=draw_curves(results),
        timing=breakdown.timing_grid(results),
        classes=breakdown.class_grids(results),
        matrices=breakdown.confusion_matrices(results),
        confusions=breakdown.confusion_grids(results),
        curve_grid=breakdown.curve_grid(results),
        flips=breakdown.flip_groups(results),
        shown=_shown_row(results),
        answer_text=breakdown.answer_text,
        gpu=breakdown.gpu_grid(results),
    )
    return escape_controls(page)


def _shown_row(results: Results) -> int:
    """Index of the row whose class tables start unfolded: the first of the lowest precision."""
    precisions = [
        colour_of(content.format_precision(row))
        for row in results.rows
        if row.accuracy and row.accuracy.classes
    ]
    return next(
        (precisions.index(bits) for bits in ("int8", "fp16") if bits in precisions),
        len(precisions) - 1,
    )
