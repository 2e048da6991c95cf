"""Scatter plots and heat maps put ink where the numbers say."""

import numpy as np
import pytest

from ncdeploy.drawing.heatmap import COLOURS, heat_map
from ncdeploy.drawing.scatter import PALETTE, plot_limits, scatter, ticks
from ncdeploy.errors import InputError


def _centre_of_ink(picture) -> tuple[float, float]:
    rgb = np.asarray(picture, float)
    ink = np.maximum(rgb.max(axis=-1) - rgb.min(axis=-1) - 30, 0)  # paper, grid and text are all but grey
    y, x = np.indices(ink.shape)
    return float((x * ink).sum() / ink.sum()), float((y * ink).sum() / ink.sum())


@pytest.mark.parametrize("point", [(-1.0, -1.0), (0.0, 0.5), (1.0, -0.25)])
def test_a_point_is_drawn_at_its_place(point):
    size, margin = 400, 0.075 * 400
    x, y = _centre_of_ink(scatter([point], limits=(-2, 2, -2, 2), size=size))
    inner = size - 2 * margin
    assert x == pytest.approx(margin + (point[0] + 2) / 4 * inner, abs=1)
    assert y == pytest.approx(size - margin - (point[1] + 2) / 4 * inner, abs=1)


def test_labels_choose_the_colour_and_points_outside_the_limits_are_left_out():
    limits = (-2.0, 2.0, -2.0, 2.0)
    inside = np.zeros((40, 2))
    for label in (0, 1):
        rgb = np.asarray(scatter(inside, labels=np.full(40, label), limits=limits, size=200), float)
        strongest = rgb[100, 100]
        wanted = [int(PALETTE[label][i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(strongest - wanted).max() < 8
    with_far = scatter(np.vstack([inside, [[50.0, 50.0]]]), limits=limits, size=200)
    assert _centre_of_ink(with_far) == pytest.approx((100, 100), abs=1)


def test_limits_are_square_and_hold_the_points():
    points = np.random.default_rng(0).normal(size=(500, 2)) * [3, 1] + [5, -2]
    left, right, bottom, top = plot_limits(points)
    assert right - left == pytest.approx(top - bottom)
    inside = (points > [left, bottom]).all(axis=1) & (points < [right, top]).all(axis=1)
    assert inside.all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.3, 9.1), (1e-4, 2e-4), (0, 39_600)])
def test_ticks_are_few_round_and_inside(low, high):
    values = np.array(ticks(low, high))
    steps = np.diff(values)
    leading = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert 3 <= len(values) <= 9
    assert values[0] >= low - 1e-12
    assert values[-1] <= high + 1e-9
    assert np.allclose(steps, steps[0])
    assert min(abs(leading - m) for m in (1, 2, 5)) < 1e-6


def test_wrong_points_are_refused():
    for points in (np.zeros((3, 3)), np.zeros((0, 2))):
        with pytest.raises(InputError, match="expected"):
            scatter(points)
    with pytest.raises(InputError, match="labels"):
        scatter(np.zeros((3, 2)), labels=[1, 2])


def test_a_heat_map_runs_through_its_colours_and_leaves_nan_open():
    cells = np.asarray(heat_map([[-5.0, 0.0, 2.0, 9.0, np.nan]], low=0.0, high=2.0))
    hexes = ["#" + "".join(f"{v:02x}" for v in cell[:3]) for cell in cells[0]]
    assert hexes[:4] == [COLOURS[0], COLOURS[0], COLOURS[-1], COLOURS[-1]]
    assert cells[0, :, 3].tolist() == [255, 255, 255, 255, 0]
    with pytest.raises(InputError, match="low < high"):
        heat_map([[1.0]], low=1.0, high=1.0)
