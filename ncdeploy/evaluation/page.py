"""The page of `ncdeploy evaluate`: several models side by side, as tables, bars and curves."""

import math
from collections.abc import Sequence
from html import escape

from ncdeploy.drawing.images import grid_or_plot
from ncdeploy.evaluation import report
from ncdeploy.evaluation.evaluate import Evaluation
from ncdeploy.modelinfo import ModelInfo

DRAWN = 4  # curves in a chart; its table has all models
SHOWN = 64  # samples in a picture; points of a plane are all shown


def page(found: Sequence[Evaluation], info: ModelInfo, *, data: str) -> str:
    """HTML for at least one evaluation; all models have the shape of `info`."""
    body = [_likelihood(found), _classification(found), _visited(found), _quality(found), _pictures(found, info)]
    *most, last = (f"<strong>{escape(e.name)}</strong>" for e in found)
    names = f"{', '.join(most)} and {last}" if most else last
    return report.page(
        title="How good is the model?" if len(found) == 1 else "Which model is better?",
        kicker="ncdeploy evaluate",
        lead_html=f"{names}, measured on held-out samples of {escape(data)}.",
        body=[part for part in body if part],
        footer="; ".join(f"{e.name} on {e.engine}" for e in found),
    )


def _likelihood(found: Sequence[Evaluation]) -> str:
    rows = [
        [e.name, f"{v.nats:.2f} ± {v.error:.2f}", f"± {v.estimate_error:.2f}", f"{v.bits_per_dim:.3f}"]
        for e in found
        for v in (e.likelihood,)
    ]
    return report.section(
        "Likelihood",
        report.text("What the model thinks of data it never saw: −log p, so lower is better."),
        report.table(
            ["", "nats per sample", "of that from the estimate", "bits per dimension"],
            [("", rows)],
            caption=f"Mean of {found[0].likelihood.points} samples with its standard error; nats in model units, bits "
            "in the units of the data.",
        ),
    )


def _classification(found: Sequence[Evaluation]) -> str:
    levels = found[0].classification.levels
    rows = [
        [f"{levels[i].s:.3g}", *(f"{v:.3f}" for e in found for v in _three(e, i))] for i in range(len(levels))
    ] + [["all", *(v for e in found for v in (f"{e.classification.log_loss:.4f}", "", ""))]]  # fmt: skip
    head = ["noise s", *(f"{e.name}: {what}" for e in found for what in ("log-loss", "AUC", "calibration error"))]
    curves = [(e.name, [(math.log10(v.s), v.log_loss) for v in e.classification.levels]) for e in found[:DRAWN]]
    return report.section(
        "The noise classifier inside",
        report.text(
            "Every held-out sample is shown once as it is and once with noise s. A model that knows the density of the "
            "data tells which is which: log-loss and calibration error are better low, the area under the curve (AUC) "
            "high. Guessing scores a log-loss of 0.693. The chart shows the log-loss"
            + (f" of the first {DRAWN} models." if len(found) > DRAWN else ".")
        ),
        report.line_chart(curves, alt="Log-loss against the logarithm of the noise level", x_name="log10 s"),
        report.table(head, [("", rows)], caption="Noise in model units."),
    )


def _three(e: Evaluation, i: int) -> tuple[float, float, float]:
    level = e.classification.levels[i]
    return level.log_loss, level.area, level.calibration


def _visited(found: Sequence[Evaluation]) -> str:
    cells = sorted({(g.sweeps, g.sigma) for e in found for g in e.visited.groups})
    rows = []
    for sweeps, sigma in cells:
        row = [_between(sweeps, "sweep"), _between(sigma, "σ")]
        for e in found:
            group = next((g for g in e.visited.groups if (g.sweeps, g.sigma) == (sweeps, sigma)), None)
            row += ["", ""] if group is None else [f"{group.visited:.3f}", f"{group.training:.3f}"]
        rows.append(row)
    rows.append(["all", "", *(f"{v:.3f}" for e in found for v in (e.visited.visited, e.visited.training))])
    head = ["", "", *(f"{e.name}: {what}" for e in found for what in ("visited", "as trained"))]
    return report.section(
        "Where parallel sampling asks",
        report.text(
            "Iterates of a parallel sampler are not what the model was trained on. The error of its answers to the "
            "mean of the data that may lie behind a state, beside the error on x₀ + σn at the same noise levels; 1 is "
            "what a linear denoiser of Gaussian data would be off by."
        ),
        report.table(head, [("", rows)], caption="Root mean square, relative.", text_columns=2),
    )


def _quality(found: Sequence[Evaluation]) -> str:
    groups = []
    for e in found:
        rows = []
        for run in e.quality.runs:
            way = "sequential" if run.window is None else f"window {run.window}, tolerance {run.tolerance:g}"
            rms = "" if run.rms is None else f"{run.rms:.1e}"
            rows.append([run.plan, way, str(run.depth), f"{run.nfe:.0f}", f"{run.energy:.4f}", f"{run.mmd:.2e}", rms])
        rows.append(["real data", "", "", "", f"{e.quality.energy_floor:.4f}", f"{e.quality.mmd_floor:.2e}", ""])
        groups.append((e.name, rows))
    best = max((run.energy for e in found for run in e.quality.runs), default=0.0)
    bars = [("real data", found[0].quality.energy_floor, f"{found[0].quality.energy_floor:.4f}", True)]
    for e in found:
        run = e.quality.runs[-1]
        bars.append((f"{e.name}, {run.plan} in parallel", run.energy, f"{run.energy:.4f}", False))
    q = found[0].quality
    return report.section(
        "Samples",
        report.text(
            f"Distances of {q.n} samples to held-out data; two sets of real data do not score zero either, so they "
            "stand beside as the floor."
        ),
        report.bars(bars) if best > 0 else "",
        report.table(
            ["plan", "", "depth", "NFE", "energy distance", "MMD", "rms to sequential"],
            groups,
            caption=f"MMD with a Gaussian kernel of bandwidth {q.bandwidth:.3g}. Depth: network calls in a row, of the "
            "slowest sample.",
            text_columns=2,
        ),
    )


def _pictures(found: Sequence[Evaluation], info: ModelInfo) -> str:
    if info.shape != (2,) and not (len(info.shape) == 3 and info.shape[0] in (1, 3)):
        return ""
    figures = [
        report.picture(
            grid_or_plot(e.quality.samples if info.shape == (2,) else e.quality.samples[:SHOWN]),
            alt=f"Samples of {e.name}",
            caption_html=f"<b>{escape(e.name)}</b>, {escape(e.quality.runs[-1].plan)} in parallel",
        )
        for e in found
    ]
    return report.section("To look at", report.pictures(figures))


def _between(bounds: tuple[float, float], what: str) -> str:
    low, high = bounds
    return f"{what} {low:g}" if high == low else f"{what} {low:.3g} … {high:.3g}"
