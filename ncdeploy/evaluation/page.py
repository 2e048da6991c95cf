"""The page of `ncdeploy evaluate`: several models side by side."""

from collections.abc import Sequence

from ncdeploy.evaluation.evaluate import Evaluation
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.report import charts, pages

DRAWN = 4  # curves in a chart; its table has all models
SHOWN = 64  # images in a picture; points of a plane are all shown


def page(found: Sequence[Evaluation], info: ModelInfo, *, data: str) -> str:
    """HTML for at least one evaluation; all models have the shape of `info`."""
    last, bars = [e.quality.runs[-1] for e in found], {"real data": found[0].quality.energy_floor}
    bars |= {f"{e.name}, {run.plan} in parallel": run.energy for e, run in zip(found, last, strict=True)}
    curves = {e.name: [(v.s, v.log_loss) for v in e.classification.levels] for e in found[:DRAWN]}
    images = len(info.shape) == 3 and info.shape[0] in (1, 3)
    shown = [e.quality.samples[: SHOWN if images else None] for e in found] if images or info.shape == (2,) else []
    return pages.render(
        "evaluate.html", found=found, data=data, drawn=DRAWN, visited=_visited(found), bar_count=len(bars),
        losses=charts.curves(curves, x_name="noise s, in model units", y_name="log-loss", log_x=True),
        distances=charts.bars(bars, reference="real data"), shown=shown,
    )  # fmt: skip


def _visited(found: Sequence[Evaluation]) -> list[list[str]]:
    """A row for each cell of sweeps and noise levels, two figures for each model that has states there."""
    rows = []
    for cell in sorted({(g.sweeps, g.sigma) for e in found for g in e.visited.groups}):
        row = [_between(cell[0], "sweep"), _between(cell[1], "σ")]
        for e in found:
            group = next((g for g in e.visited.groups if (g.sweeps, g.sigma) == cell), None)
            row += ["", ""] if group is None else [f"{group.visited:.3f}", f"{group.training:.3f}"]
        rows.append(row)
    return [*rows, ["all", "", *(f"{v:.3f}" for e in found for v in (e.visited.visited, e.visited.training))]]


def _between(bounds: tuple[float, float], what: str) -> str:
    low, high = bounds
    return f"{what} {low:g}" if high == low else f"{what} {low:.3g} … {high:.3g}"
