"""The page is well-formed HTML, self-contained, escapes what it is given, and says what it was told."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from PIL import Image

from ncdeploy.errors import InputError
from ncdeploy.evaluation import report

VOID = {"meta", "img", "br"}


class _Strict(HTMLParser):
    """Fails on tags that do not close in order; collects pictures, links and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data.strip())


def _page() -> str:
    red = Image.new("RGB", (8, 4), "red")
    body = [
        report.tiles([("Depth", "12", "calls <fewer>")]),
        report.section(
            "Pictures & numbers",
            report.text("Some <b>words</b>."),
            report.pictures([report.picture(red, alt='a "red" one', caption_html="Red.")]),
            report.strip([(red, "<b>1</b>"), (red, "last")], alt="two sweeps", apart=1),
            report.heat_map(
                red, alt="map", down=("1", "9"), across=("a", "b"), scale=("low", ("#000", "#fff"), "high")
            ),
            report.table(["plan", "NFE"], [("group", [["ddim-10", "10"]])], caption="costs"),
            report.bars([("real", 0.5, "0.5", True), ("model", 1.0, "1.0", False)]),
            report.line_chart([("loss", [(0, 3.0), (50, 1.0), (100, 2.0)])], alt="loss", x_name="steps"),
        ),
    ]
    return report.page(title="A run", kicker="k", lead_html="Lead.", body=body, footer="foot <er>")


def test_the_page_is_well_formed_and_holds_what_it_was_given():
    parsed = _Strict(_page())
    for words in ("A run", "calls <fewer>", "Pictures & numbers", "ddim-10", "costs", "1.0", "loss", "foot <er>"):
        assert words in parsed.texts
    assert [p["alt"] for p in parsed.pictures] == ['a "red" one', "", "", "map"]
    assert parsed.pictures[0]["width"] == "8"


def test_a_broken_page_would_be_noticed():
    with pytest.raises(AssertionError):
        _Strict(_page().replace("</table>", "", 1))


def test_the_page_needs_nothing_from_elsewhere():
    html = _page()
    assert re.findall(r'(?:src|href)="(?!data:image/)[^"]*"', html) == []
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html


def test_bars_are_in_proportion_and_the_chart_passes_through_its_points():
    assert re.findall(r"width: ([0-9.]+)%", report.bars([("a", 1.0, "1", True), ("b", 4.0, "4", False)])) == [
        "25.0",
        "100.0",
    ]
    drawn = report.line_chart([("loss", [(0, 3.0), (50, 1.0), (100, 2.0)])], alt="loss", x_name="steps")
    path = re.search(r'd="M([^"]+)"', drawn)
    points = [tuple(map(float, p.split())) for p in path[1].split(" L")]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 < y2 < y1, "larger values stand higher, and SVG counts downwards"
    assert y1 - y2 == pytest.approx(y2 - y0, abs=0.2)


@pytest.mark.parametrize("series", [[], [("a", [])], [("a", [(0, float("nan"))])], [("a", [(0, 1)])] * 5])
def test_a_chart_of_nothing_is_refused(series):
    with pytest.raises(InputError, match="line chart"):
        report.line_chart(series, alt="", x_name="")


def test_labels_of_curves_that_end_together_stay_legible_and_inside():
    ends = (2.0, 2.01, 2.02, 1.0)
    drawn = report.line_chart([(f"m{i}", [(0, 3.0), (1, y)]) for i, y in enumerate(ends)], alt="", x_name="x")
    heights = [float(y) for y in re.findall(r'<text class="l\d"[^>]* y="([\d.]+)">', drawn)]
    assert len(heights) == 4
    ordered = sorted(heights)
    assert min(b - a for a, b in pairwise(ordered)) >= 15.9
    assert heights[2] < heights[1] < heights[0] < heights[3] <= 224
