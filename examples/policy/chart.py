"""One picture: success, network calls and time of each way to sample, and the paths that the robots took."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from examples.policy.task import OBSTACLE, Floats
from ncdeploy.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {"success": "episodes that succeed", "calls": "network calls a chunk", "milliseconds": "milliseconds a chunk"}


def draw(rows: Mapping[str, Mapping[str, float]], paths: Floats, goals: Floats) -> bytes:
    """A .png. rows: the figures of each way; paths [n, steps, 2] and goals [n, 2] are drawn beside them."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots(1, len(PANELS) + 1, width_ratios=[1] * len(PANELS) + [1.4])
        for number, (axis, (name, title)) in enumerate(zip(axes, PANELS.items(), strict=False)):
            drawn = axis.barh(range(len(rows)), [row[name] for row in rows.values()], height=0.5)
            axis.bar_label(drawn, fmt="%.3g", padding=4)
            axis.set(title=title, xticks=[], yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6))
            axis.set_yticklabels(list(rows) if number == 0 else [])
            axis.grid(visible=False)
            axis.margins(x=0.25)
        for path in paths:
            axes[-1].plot(*path.T, color="C0", alpha=0.4, linewidth=0.8)
        axes[-1].scatter(*goals.T, s=8, color="C1", zorder=3)
        axes[-1].add_patch(_disc())
        axes[-1].set(title="paths round the obstacle", aspect="equal", xticks=[], yticks=[])
        axes[-1].grid(visible=False)

    return charts.render(paint, (13, 3.2), kind="png", paper="white")


def _disc() -> object:
    from matplotlib.patches import Circle

    return Circle((0, 0), OBSTACLE, color="0.8")
