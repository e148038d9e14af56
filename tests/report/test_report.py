"""Every report carries what the record holds, escapes what it quotes and asks nothing of the network."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console
from samples import bare, trained, untrained

from hvt_deploy.audit import ByPrecision, EngineAudit
from hvt_deploy.errors import BadInput
from hvt_deploy.report.html import render_html
from hvt_deploy.report.markdown import render_markdown
from hvt_deploy.report.terminal import print_error, print_results, print_table
from hvt_deploy.results import read_results


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
        "ort int8 cpu-twin is not fast enough", "97.40", "1.83×", "not proven", "onnxruntime-gpu is not installed",
        "another process used the CPU", "imagenet/val",
    ):  # fmt: skip
        assert part in text, part


def test_untrained_weights_cannot_be_overlooked(render):
    assert "UNTRAINED" in render(untrained())
    assert "UNTRAINED" not in render(trained())


def test_missing_values_are_not_written_as_python(render):
    for results in (bare(), untrained(), trained()):
        assert not re.search(r"\b(None|nan|inf)\b", render(results))


def test_engines_show_what_they_compute_in_even_where_they_cannot_run(render):
    text = re.sub(r"[\s\\]+", " ", render(trained()))
    assert "Engines, by their own layers" not in text
    audit = EngineAudit(
        kernels=170, layers=ByPrecision(50, 110, 7), reformats=3, macs=ByPrecision(831, 169),
        weights=ByPrecision(99, 1), fused_attention=12, attention_blocks=13, quantized_macs=1000,
        quantized_int8_macs=750, not_int8=(), groups=(),
    )  # fmt: skip
    rows = [replace(row, audit=audit) if row.backend == "trt int8" else row for row in trained().rows]
    text = re.sub(r"[\s\\]+", " ", render(replace(trained(), rows=tuple(rows))))
    for part in ("Engines, by their own layers", "83.1 % INT8", "16.9 % FP16", "75.0 %", "12 of 13", "170"):
        assert part in text, part


class Outside(HTMLParser):
    """Collects what a page would fetch, and its elements."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "href", "xlink:href"} and v and not v.startswith("#")]


def test_the_page_opens_offline_with_its_plot():
    page = render_html(trained())
    parser = Outside()
    parser.feed(page)
    assert parser.fetched == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "svg" in parser.tags
    assert "script" not in parser.tags
    assert render_html(trained()) == page


def test_names_cannot_break_out_of_the_page():
    evil = "<script>alert(1)</script>"
    results = trained()
    page = render_html(replace(results, model=evil, verdict=evil, data=replace(results.data, path=evil)))
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_the_record_comes_back_as_it_was_written(tmp_path):
    trained().write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == trained()
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(BadInput, match="missing key"):
        read_results(tmp_path / "results.json")


def test_errors_and_tables_are_plain_text():
    console = Console(record=True, width=100, force_terminal=False)
    print_error(BadInput("It [bold]broke[/bold].", "Mend it."), console)
    print_table("Models", ("name", "MACs"), [("fdvit_b", "14.06")], console)
    text = console.export_text()
    assert "It [bold]broke[/bold]." in text
    assert "Mend it." in text
    assert "14.06" in text
