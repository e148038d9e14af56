"""Every report carries what the record holds, escapes what it quotes and asks nothing of the
network.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console
from samples import bare, detailed, trained, untrained

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.types import Skipped
from hvt_deploy.evaluation.record import Results, read_results
from hvt_deploy.evaluation.report import pareto
from hvt_deploy.evaluation.report.breakdown import (
    class_grids,
    confusion_grids,
    confusion_matrices,
    curve_grid,
    gpu_grid,
    timing_grid,
)
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown
from hvt_deploy.evaluation.report.number_format import escape_controls
from hvt_deploy.evaluation.report.pareto import draw_pareto
from hvt_deploy.evaluation.report.terminal import print_results, print_table
from hvt_deploy.evaluation.report.terms import REPORT_TERMS, TERMS
from hvt_deploy.evaluation.scores import ClassCounts, Fault
from hvt_deploy.graph.analysis.engine_audit import ByPrecision, EngineAudit
from hvt_deploy.graph.analysis.engine_cost import EngineCost, GroupCost, KernelCost, ProfileCost


def terminal(results):
    console = Console(record=True, width=120, force_terminal=False)
    print_results(results, console)
    return console.export_text()


RENDERERS = {"terminal": terminal, "markdown": render_markdown, "html": render_html}


@pytest.fixture(params=RENDERERS, scope="module")
def render(request):
    return RENDERERS[request.param]


def test_verdict_rows_gates_skipped_and_warnings_are_all_there(render):
    text = re.sub(r"\s+", " ", render(trained()))
    for part in (
        "ort int8 cpu is not fast enough",
        "97.40",
        "1.83×",
        "not proven",
        "onnxruntime-gpu is not installed",
        "another process used the CPU",
        "imagenet/val",
    ):
        assert part in text, part


def test_untrained_weights_cannot_be_overlooked(render):
    assert "UNTRAINED" in render(untrained())
    assert "UNTRAINED" not in render(trained())


def test_missing_values_are_not_written_as_python(render):
    for results in (bare(), untrained(), trained(), detailed(10)):
        assert not re.search(r"\b(None|nan|inf)\b", render(results))


def test_engines_show_what_they_compute_in_even_where_they_cannot_run(render):
    text = re.sub(r"[\s\\]+", " ", render(trained()))
    assert "Engine layer precision" not in text
    audit = EngineAudit(
        kernels=170,
        layers=ByPrecision(50, 110, 7),
        reformats=3,
        macs=ByPrecision(831, 169),
        weights=ByPrecision(99, 1),
        fused_attention=12,
        attention_blocks=13,
        quantized_macs=1000,
        quantized_int8_macs=750,
        not_int8=(),
        groups=(),
    )
    rows = [
        replace(row, audit=audit) if row.backend == "trt int8" else row for row in trained().rows
    ]
    text = re.sub(r"[\s\\]+", " ", render(replace(trained(), rows=tuple(rows))))
    for part in (
        "Engine layer precision",
        "83.1 % INT8",
        "16.9 % FP16",
        "75.0 %",
        "12 of 13",
        "170",
    ):
        assert part in text, part


def kernels(count, mebibytes):
    whole = KernelCost(
        count, 1, {"fp16": 2**20}, {"fp16": (mebibytes - 1) * 2**20}, {"int8": 2**20}
    )
    groups = (GroupCost("0", "fc1", whole), GroupCost("", "other", KernelCost()))
    return EngineCost(8, whole, groups)


def test_cost_of_an_engine_is_next_to_that_of_fp16(render):
    def show(*costs):
        rows = [replace(r, costs=costs) if r.backend == "trt int8" else r for r in trained().rows]
        text = render(replace(trained(), rows=tuple(rows)))
        return re.sub(r"[\s\\]+", " ", html.unescape(re.sub(r"</?d[tdl]>", " ", text)))

    assert "Engine cost" not in show()
    text = show(ProfileCost(8, kernels(12, 20), kernels(10, 30), "Counted alone."))
    for part in (
        "INT8: 12 kernels, 20 + 1.0 MiB; FP16: 10 kernels, 30 + 1.0 MiB (activations + weights, "
        "batch 8). INT8 moves 32 % less than FP16 in 20 % more kernels; only the "
        "device shows whether it is faster.",
        "Counted alone.",
    ):
        assert part in text
    text = show(ProfileCost(8, kernels(12, 40), kernels(12, 30)))
    assert "moves 32 % more than FP16 in as many kernels;" in text
    assert "whether it is faster. By this" in text
    text = show(ProfileCost(8, Skipped("engine cost", "no dimensions"), kernels(10, 30)))
    assert "INT8: unknown (no dimensions); FP16: 10 kernels" in text
    assert "moves" not in text.partition("Engine cost")[2].partition("Data")[0]


def test_pages_show_cost_by_stage_and_role():
    costs = (ProfileCost(8, kernels(12, 20), kernels(10, 30)),)
    rows = [replace(r, costs=costs) if r.backend == "trt int8" else r for r in trained().rows]
    results = replace(trained(), rows=tuple(rows))
    assert "| 0 | fc1 | 12 | 1 | 1.0 | 19 | 1.0 |  | 21 | 31 | 10 |" in render_markdown(results)
    page = render_html(results)
    assert "fc1: 21.0 MiB INT8, 31.0 MiB FP16" in page  # the description of the plot
    assert page.count('aria-labelledby="cost-') == 1


class Outside(HTMLParser):
    """Collects what a page would fetch, and its elements."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [
            v
            for k, v in attrs
            if k in {"src", "href", "xlink:href"} and v and not v.startswith("#")
        ]


def test_the_page_opens_offline_with_its_plot():
    page = render_html(trained())
    parser = Outside()
    parser.feed(page + render_html(detailed(10)))
    assert [target for target in parser.fetched if not target.startswith("data:image/jpeg")] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "svg" in parser.tags
    assert "script" not in parser.tags
    assert render_html(trained()) == page


def words(page):
    """The text of a page or of Markdown, without markup and line breaks."""
    text = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[a-z!/][^>]*>", " ", text))).replace(
        "\\", ""
    )


@pytest.mark.parametrize("num_classes", [10, 1000])
@pytest.mark.parametrize("render_page", [render_markdown, render_html])
def test_everything_in_the_record_is_in_html_and_markdown_alike(render_page, num_classes):
    results = detailed(num_classes)
    text = words(render_page(results))
    grids = (
        *class_grids(results),
        *confusion_grids(results),
        timing_grid(results),
        gpu_grid(results),
    )
    expected = [cell for grid in grids if grid for row in grid.rows for cell in row]
    curves = curve_grid(results)
    assert (curves is not None) == (num_classes == 10)
    expected += [cell for row in curves.rows for cell in row] if curves else []
    expected += [
        results.rows[3].fidelity.flips[0].path,
        results.comparisons[0].sentence,
        *results.errors,
        "812 MiB",
        "+0.04 pts",
    ]
    assert [part for part in expected if re.sub(r"\s+", " ", part) not in text] == []


def test_per_class_figures_follow_from_the_counts():
    counts = ClassCounts(
        images=(10, 4), correct=(8, 3), answered=(9, 5), lost=(2, 0), gained=(0, 1)
    )
    results = detailed(10)
    reference, row = results.rows[:2]
    reference = replace(reference, accuracy=None)
    row = replace(row, accuracy=replace(row.accuracy, classes=counts))
    (grid,) = class_grids(replace(results, rows=(reference, row), class_names=("cat", "dog")))
    assert grid.rows[0] == ("cat", "10", "88.89 %", "80.00 %", "84.21 %", "+20.00 pts", "2", "0")
    assert grid.rows[1] == ("dog", "4", "60.00 %", "75.00 %", "66.67 %", "-25.00 pts", "0", "1")


def test_the_confusion_matrix_adds_up_and_is_not_drawn_for_many_classes():
    results = detailed(10)
    for matrix, row in zip(
        confusion_matrices(results),
        [r.accuracy for r in results.rows if r.accuracy and r.accuracy.classes],
        strict=True,
    ):
        assert [sum(line) for line in matrix.images] == list(row.classes.images)
        assert [sum(column) for column in zip(*matrix.images, strict=True)] == list(
            row.classes.answered
        )
    assert confusion_matrices(detailed(51)) == ()


def test_untrained_classes_cannot_be_taken_for_results():
    assert class_grids(replace(detailed(10), untrained=True)) == ()


def test_both_times_of_a_gpu_and_the_command_that_gives_the_same_are_shown(render):
    text = re.sub(r"[\s\\]+", " ", render(detailed(10)))
    for part in (
        "back to back",
        "(no CUDA graph)",
        "No CUDA graph: a capture failed.",
        "launched back to back: trtexec --loadEngine=m.engine --useCudaGraph",
    ):
        assert part in text, part


def _with_fault(mark: str) -> Results:
    results = trained()
    int8 = next(row for row in results.rows if row.backend == "ort int8 cpu")
    fault = Fault(mark, "The reason.")
    timing = replace(int8.timing, speedup_fault=fault, latency_fault="The reason.")
    faulty = replace(int8, timings=(timing,))
    return replace(results, rows=tuple(faulty if r is int8 else r for r in results.rows))


def test_a_speedup_that_is_not_proven_is_not_shown_as_one(render):
    text = render(_with_fault("not proven"))
    assert "(3.75× measured)" in text
    assert "3.66, 3.84" not in text
    limited = re.sub(r"[\s\\]+", " ", render(_with_fault("at the power limit")))
    assert "[3.66, 3.84] at the power limit" in limited


def test_a_latency_that_is_not_proven_is_not_on_the_front():
    assert "(not proven)" not in draw_pareto(trained())
    page = draw_pareto(_with_fault("not proven"))
    assert "11.0 ms (not proven)" in page
    fronts = [
        [point.label for point in pareto._find_best(pareto._find_points(results))]
        for results in (trained(), _with_fault("not proven"))
    ]
    assert fronts == [["ort int8 cpu", "ort fp32"], ["ort fp32"]]


def test_names_cannot_break_out_of_the_page():
    evil = "<script>alert(1)</script>"
    results = trained()
    page = render_html(
        replace(results, model=evil, verdict=evil, data=replace(results.data, path=evil))
    )
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_names_of_files_and_classes_are_no_markup_in_markdown():
    results = trained()
    names = ("# heading.jpg", "1. item.jpg", "- item.jpg", "[a](b)", "https://x.example", "WWW.x.y")
    page = render_markdown(
        replace(results, model="`a|b`", data=replace(results.data, unreadable=names))
    )
    assert "# \\`a\\|b\\`: validation" in page
    listed = page.partition("Unreadable files:\n\n")[2].splitlines()[: len(names)]
    assert listed == [
        r"- \# heading.jpg",
        r"- 1\. item.jpg",
        r"- \- item.jpg",
        r"- \[a\](b)",
        r"- https\://x.example",
        r"- WWW\.x.y",
    ]


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200f", "\u061c", "\x1b", "\x9b"])
def test_marks_that_turn_or_hide_text_are_shown(render, hidden):
    results = trained()
    name = f"cat{hidden}gpj.exe"
    page = render(replace(results, data=replace(results.data, unreadable=(name,))))
    assert hidden not in page
    assert f"cat{ascii(hidden)[1:-1]}gpj.exe" in page
    assert escape_controls("שלום, عربي, 猫, 👩\u200d🔬") == "שלום, عربي, 猫, 👩\u200d🔬"


def test_the_record_comes_back_as_it_was_written(tmp_path):
    for results in (trained(), detailed(10)):
        results.write(tmp_path / "results.json")
        assert read_results(tmp_path / "results.json") == results
    (tmp_path / "results.json").write_text('{"schema_version": 3}')
    with pytest.raises(BadInput, match="missing key"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("version", "hint"),
    [(1, "hvt-deploy validate"), (None, "hvt-deploy validate"), (4, "pip install --upgrade")],
)
def test_a_record_of_another_schema_is_refused_by_its_version(tmp_path, version, hint):
    (tmp_path / "results.json").write_text(json.dumps({"schema_version": version}))
    with pytest.raises(BadInput, match=f"schema version {version}") as caught:
        read_results(tmp_path / "results.json")
    assert hint in caught.value.hint


def test_a_table_is_plain_text():
    console = Console(record=True, width=100, force_terminal=False)
    print_table("[bold]Models", ("name", "MACs"), [("fdvit_b", "14.06")], console)
    text = console.export_text()
    assert "[bold]Models" in text
    assert "14.06" in text


def test_reports_define_the_terms_they_use():
    for render_page in (render_markdown, render_html):
        text = words(render_page(trained()))
        for name in REPORT_TERMS:
            assert TERMS[name].replace("`", "") in text.replace("`", ""), name


def test_each_row_of_a_narrow_table_has_its_whole_name_and_every_figure():
    results = trained()
    console = Console(record=True, width=50, force_terminal=False)
    print_results(results, console)
    speed = console.export_text().partition("\nSpeed")[2].partition("Brackets")[0]
    for row in results.rows:
        if row.timing is not None:
            assert any(line.strip().startswith(row.backend) for line in speed.splitlines())
            assert f"{row.timing.latency.throughput_img_s:.3g}".split("e")[0] in speed
    assert all(len(line) <= 50 for line in speed.splitlines())
