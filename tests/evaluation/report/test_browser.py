"""The HTML report in a real headless Chromium. It fails where there is none: apt install chromium,
or `playwright install chromium`.
"""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from samples import detailed, trained, untrained

from hvt_deploy.evaluation.report.html import render_html

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a record's report; everything the browser complains about or asks of the network fails
    the test.
    """
    complaints = []

    def open_page(results, width=1280, scheme="light"):
        file = tmp_path / "report.html"
        file.write_text(render_html(results), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url) if is_outside(request.url, file) else None
            ),
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    assert complaints == []


def is_outside(url, file):
    return url != file.as_uri() and not url.startswith("data:")


@pytest.mark.parametrize(
    "results",
    [detailed(10), detailed(1000), trained(), untrained()],
    ids=["few classes", "many classes", "plain", "untrained"],
)
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_and_complains_of_nothing(open_page, results, width):
    page = open_page(results, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    verdict = page.locator(".verdict").bounding_box()
    assert verdict is not None
    assert verdict["y"] + verdict["height"] < 900, "the verdict is seen without scrolling"


@pytest.mark.parametrize("width", [390, 1280])
def test_a_confusion_matrix_is_a_matrix_at_every_width(open_page, width):
    page = open_page(detailed(10), width)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    matrix = page.locator(".matrix").first
    heads, rows = matrix.locator("thead th").all(), matrix.locator("tbody tr").all()
    assert len(heads) == 1 + len(rows) > 2
    for row in rows:
        for head, cell in zip(heads[1:], row.locator("td").all(), strict=True):
            above, box = head.bounding_box(), cell.bounding_box()
            assert abs(above["x"] - box["x"]) <= 1
            assert above["y"] < box["y"]


def test_folded_parts_open_and_thumbnails_and_plots_are_drawn(open_page):
    page = open_page(detailed(10))
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == len(detailed(10).rows[3].fidelity.flips)
    assert min(widths) > 0
    for plot in page.locator("figure svg").all():
        box = plot.bounding_box()
        assert box is not None
        assert box["height"] > 100
        assert 0 <= box["x"] < box["x"] + box["width"] <= 1280
    assert page.locator("figure svg").count() == 3
    assert page.locator(".matrix").first.is_visible()


def test_light_and_dark_are_two_looks_of_one_page(open_page):
    brightness = {}
    for scheme in ("light", "dark"):
        shot = open_page(detailed(10), scheme=scheme).screenshot(full_page=True)
        pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("L"), np.float64)
        brightness[scheme] = np.median(pixels)
        assert pixels.std() > 5, "something is drawn"
    assert brightness["dark"] < 60
    assert brightness["light"] > 200
