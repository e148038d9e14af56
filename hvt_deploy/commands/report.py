"""`report`: the last validation again, as text, Markdown or HTML."""

from __future__ import annotations

import json
from typing import Literal

from hvt_deploy.core.manifest import RESULTS
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.record import Results, read_results
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown


def last_results(folder: ModelFolder) -> Results:
    """The record of the last validation. Raises BadInput if there is none."""
    with folder.reading() as manifest:
        return read_results(folder.open_artifact(manifest, RESULTS))


def render(results: Results, form: Literal["terminal", "markdown", "html", "json"]) -> str:
    """The record as Markdown, as one HTML file or as JSON; on paper, "terminal" is Markdown."""
    if form == "html":
        return render_html(results)
    if form == "json":
        return json.dumps(to_plain(results), indent=2)
    return render_markdown(results)
