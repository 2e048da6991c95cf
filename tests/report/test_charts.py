"""Charts put ink where the numbers say, and words where they belong, as they are."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ncdeploy.errors import InputError
from ncdeploy.evaluation.bench import Bench, Row
from ncdeploy.evaluation.bench_chart import SIZE, chart, write_chart
from ncdeploy.report import charts

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "a<script>alert(1)</script>$x^{\"&'"


def _words(svg: bytes) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def _centre_of_ink(picture: Image.Image) -> tuple[float, float]:
    rgb = np.asarray(picture, float)
    ink = np.maximum(rgb.max(axis=-1) - rgb.min(axis=-1) - 30, 0)  # paper, grid and words are all but grey
    y, x = np.indices(ink.shape)
    return float((x * ink).sum() / ink.sum()), float((y * ink).sum() / ink.sum())


def test_points_are_drawn_in_proportion():
    """Equal steps to the right and up are equal steps of ink."""
    limits = (-2, 2, -2, 2)
    places = [
        _centre_of_ink(charts.image(charts.scatter([p], limits=limits), 400)) for p in [(-1, -1), (0, -1), (1, 1)]
    ]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=1)
    assert y0 == pytest.approx(y1, abs=1)
    assert y0 - y2 == pytest.approx(x2 - x0, abs=2), "one scale on both axes"


def test_labels_choose_the_colour_and_points_outside_the_limits_are_left_out():
    limits, inside = (-2.0, 2.0, -2.0, 2.0), np.zeros((40, 2))
    for label in (0, 1):
        picture = charts.image(charts.scatter(inside, labels=np.full(40, label), limits=limits), 200)
        x, y = _centre_of_ink(picture)
        wanted = [int(charts.LIGHT.series[label][i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(np.asarray(picture, int)[round(y), round(x)] - wanted).max() < 20
    with_far = charts.image(charts.scatter(np.vstack([inside, [[50.0, 50.0]]]), limits=limits), 200)
    assert _centre_of_ink(with_far) == pytest.approx((x, y), abs=1)


@pytest.mark.parametrize(("log_x", "middle"), [(True, 0.5), (False, 9 / 99)])
def test_curves_stand_at_their_places_on_either_scale(log_x, middle):
    drawn = charts.render(
        charts.curves({"a": [(1.0, 0.0), (10.0, 1.0), (100.0, 0.0)]}, x_name="x", log_x=log_x), (4, 3)
    )
    paths = [path.get("d", "").split() for path in ET.fromstring(drawn).iter(f"{SVG}path")]
    (line,) = (words for words in paths if words.count("L") == 2 and "z" not in words)
    x0, x1, x2 = (float(line[i]) for i in (1, 4, 7))
    assert (x1 - x0) / (x2 - x0) == pytest.approx(middle, abs=0.01)


def test_limits_are_square_and_hold_the_points():
    points = np.random.default_rng(0).normal(size=(500, 2)) * [3, 1] + [5, -2]
    left, right, bottom, top = charts.plot_limits(points)
    assert right - left == pytest.approx(top - bottom)
    assert ((points > [left, bottom]) & (points < [right, top])).all()


def test_what_cannot_be_drawn_is_refused():
    for points in (np.zeros((3, 3)), np.zeros((0, 2))):
        with pytest.raises(InputError, match="expected"):
            charts.scatter(points)
    with pytest.raises(InputError, match="labels"):
        charts.scatter(np.zeros((3, 2)), labels=[1, 2])
    for series in ({}, {"a": []}, {"a": [(0.0, float("nan"))]}):
        with pytest.raises(InputError, match="finite"):
            charts.curves(series, x_name="")
    with pytest.raises(InputError, match="low < high"):
        charts.heat_map([[1.0]], low=1.0, high=1.0, x_name="", y_name="", scale="")


def test_a_heat_map_is_dark_below_bright_above_and_open_where_nothing_is_known():
    paint = charts.heat_map([[1e-9, 1e9, np.nan]], low=1e-3, high=1.0, x_name="x", y_name="y", scale="s")
    rgb = np.asarray(charts.image(paint, 600), int)
    row = rgb[400]  # through the cells
    seen = [tuple(c) for c, before in zip(row[1:], row[:-1], strict=True) if tuple(c) == tuple(before)]
    assert seen.count((68, 1, 84)) > 100, "viridis at its dark end"
    assert seen.count((253, 231, 36)) + seen.count((253, 231, 37)) > 100, "and at its bright one"
    assert seen.count((255, 255, 255)) > 100


def test_words_are_text_as_they_are_in_both_themes():
    paint = charts.curves({HOSTILE: [(1.0, 2.0), (2.0, 1.0)], "b": [(1.0, 1.0)]}, x_name=HOSTILE, log_x=True)
    light, dark = (charts.render(paint, (4, 3), dark=dark) for dark in (False, True))
    for drawn, theme in ((light, charts.LIGHT), (dark, charts.DARK)):
        assert _words(drawn).count(HOSTILE) == 2
        assert b"<script" not in drawn
        assert theme.series[0].encode() in drawn
    assert light == charts.render(paint, (4, 3)), "the same chart is the same file"


def _row(plan: str, wall_s: float, quality: float | None, window: int | None = None) -> Row:
    solver, _, steps = plan.partition("-")
    return Row(
        solver=solver, steps=int(steps), window=window, driver=f"window {window}" if window else "sequential",
        plan=plan, depth=float(steps), nfe=float(steps), wall_s=wall_s, gain=(1.0, 1.0, 1.0), rms=None, beyond=None,
        quality=quality,
    )  # fmt: skip


ROWS = (
    _row("unipc-8", 0.01, 0.08), _row("unipc-20", 0.03, 0.0102), _row("unipc-40", 0.08, 0.010),
    _row("ddim-20", 0.02, 0.05, window=8), _row("ddpm-8", 0.001, None),
)  # fmt: skip
BENCH = Bench(
    rows=ROWS, measure="rms to a fine solution", floor=None, engine="NumPy", n=1, repetitions=1, judged=4
)  # fmt: skip


def _marks(svg: bytes, colour: str, kind: str = "fill") -> list[tuple[float, float]]:
    """Places of marks with a filling of a colour, or with an edge of it, as they were drawn."""
    used = [u for u in ET.fromstring(svg).iter(f"{SVG}use") if f"{kind}: {colour}" in u.get("style", "")]
    return [(float(u.get("x", 0)), float(u.get("y", 0))) for u in used]


def test_the_chart_of_a_bench_puts_better_lower_and_cheaper_left_at_logarithmic_places():
    marks = _marks(charts.render(chart(BENCH, title="t"), SIZE), charts.LIGHT.series[0])
    assert len(marks) == 6, "three settings of unipc, in two panels"
    (x0, y0), (x1, y1), (x2, y2) = marks[:3]
    assert x0 < x1 < x2
    assert y0 < y1 < y2, "down is better"
    assert (x1 - x0) / (x2 - x0) == pytest.approx(np.log(3) / np.log(8), abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(np.log(0.08 / 0.0102) / np.log(8), abs=0.01)


def test_the_chart_of_a_bench_rings_the_pick_names_what_it_leaves_out_and_draws_the_floor():
    plain = _words(charts.render(chart(BENCH, title="t"), SIZE))
    drawn = charts.render(chart(replace(BENCH, floor=0.009), title=HOSTILE, pick=ROWS[1]), SIZE)
    ringed = _words(drawn)
    assert any("left out, because they draw noise: ddpm." in words for words in plain)
    assert ("recommended" in plain, "recommended" in ringed) == (False, True)
    assert ("real data" in plain, ringed.count("real data")) == (False, 2)
    assert HOSTILE in ringed
    assert {"unipc", "ddim", "sequential", "window 8", "8", "20", "40"} <= set(plain)
    rings, marks = _marks(drawn, "#000000", "stroke"), _marks(drawn, charts.LIGHT.series[0])
    assert len(rings) == 3, "one in each panel, one in the legend"
    assert set(rings[:2]) == {marks[1], marks[4]}


def test_the_chart_of_a_bench_is_written_as_its_suffix_says(tmp_path):
    write_chart(tmp_path / "c.svg", BENCH, title="t")
    write_chart(tmp_path / "c.png", BENCH, title="t")
    assert ET.parse(tmp_path / "c.svg").getroot().tag == f"{SVG}svg"
    with Image.open(tmp_path / "c.png") as opened:
        rgb = np.asarray(opened.convert("RGB"), int)
        assert opened.width == SIZE[0] * charts.DPI
    for x, y in _marks((tmp_path / "c.svg").read_bytes(), charts.LIGHT.series[0]):  # ink where the SVG has it
        there = rgb[round(y * charts.DPI / 72), round(x * charts.DPI / 72)]
        assert np.abs(there - [0x00, 0x72, 0xB2]).max() < 40
    with pytest.raises(InputError, match=r"\.svg or \.png"):
        write_chart(tmp_path / "c.pdf", BENCH, title="t")
    with pytest.raises(InputError, match="no plan solves the ODE"):
        chart(replace(BENCH, rows=ROWS[-1:]), title="t")
