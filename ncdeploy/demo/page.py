"""The page of a demo run: what was done, what one sees, and what it cost, in words and pictures."""

from html import escape

import numpy as np

from ncdeploy.demo import pictures
from ncdeploy.demo.outcome import Outcome
from ncdeploy.demo.watch import BOUNDARY, Pair
from ncdeploy.drawing import heatmap
from ncdeploy.evaluation import report
from ncdeploy.sampling.parallel import TOLERANCE

FILES = {
    "model.pt": "the trained model, for PyTorch",
    "model.onnx": "the same model, for ONNX Runtime; it carries its own description",
    "sequential.png": "samples, one network call after another",
    "parallel.png": "the same samples, drawn in parallel",
    "sweeps.png": "the estimate after chosen sweeps, one row a sample",
    "sweeps.webp": "every sweep, animated",
    "residuals.png": "which nodes were still moving, sweep by sweep",
    "figures.json": "every number on this page",
}


def demo_page(outcome: Outcome, *, animation: bytes) -> str:
    """The document; animation: the bytes of an animated WebP of the sweeps."""
    body = [
        _headline(outcome),
        _samples(outcome),
        _sweeps(outcome, animation),
        _window(outcome.long),
        _cost(outcome),
        _quality(outcome),
        _model(outcome),
        _next(outcome),
    ]
    data = _data_name(outcome)
    return report.page(
        title="The same samples, in fewer network calls",
        kicker="ncdeploy demo",
        lead_html=f"A diffusion model learned {escape(data)} on this machine, left PyTorch as an ONNX file, and drew "
        f"every sample twice from the same noise: one network call after another, and in parallel. {_verdict(outcome)}",
        body=body,
        footer=f"Made by ncdeploy demo on {outcome.machine}; {outcome.engine}; "
        f"{_minutes(sum(s for _, s in outcome.stages))} in all.",
    )


def _verdict(o: Outcome) -> str:
    saved = f"<strong>{o.short.parallel.result.depth} calls gave what takes {o.short.plan.evaluations}</strong>"
    long = f"{o.long.parallel.result.depth} gave what takes {o.long.plan.evaluations}"
    ratio = _speed(o.short)
    wall = (
        f"the clock ran {ratio:.1f} times faster, too"
        if ratio > 1.05
        else "the clock showed no difference"
        if ratio > 0.95
        else f"the clock did not agree: in parallel it took {1 / ratio:.1f} times as long here"
    )
    return f"{saved} with a short plan, {long} with a long one. For the short plan {wall}."


def _headline(o: Outcome) -> str:
    p, q = o.short, o.quality
    return report.tiles(
        [
            ("Calls one after another", f"{p.parallel.result.depth} of {p.plan.evaluations}", f"plan {p.plan.name}"),
            (
                "Evaluations per sample",
                f"{p.parallel.result.nfe:.0f}",
                f"against {p.plan.evaluations}: the price of fewer calls",
            ),
            (
                "Difference per pixel" if _images(o) else "Difference per value",
                _small(float(np.median(p.rms))),
                "rms of parallel against sequential, median; values span 2" if _images(o) else "rms, median",
            ),
            (
                "Distance to real data",
                f"{q.parallel / q.floor:.2f} ×",
                "energy distance; 1 is what real data score against real data",
            ),
        ]
    )


def _samples(o: Outcome) -> str:
    runs = ((o.short.sequential, "Sequential"), (o.short.parallel, "In parallel"))
    shown = [
        report.picture(
            pictures.sheet(np.asarray(run.result.samples)),
            alt=f"{name}: {_content(o)} drawn by the model",
            caption_html=f"<b>{name}</b>, {run.result.depth} network calls, {_seconds(run.result.wall_s)}",
        )
        for run, name in runs
    ]
    words = "Each sample starts from its own noise, drawn from its seed, so the two sheets should match one to one. "
    beyond = float(np.mean(o.short.rms > BOUNDARY))
    words += (
        "They do: no sample differs visibly."
        if beyond == 0
        else f"{beyond:.1%} of {len(o.short.rms)} samples differ visibly (rms above {BOUNDARY:g}): their noise lies "
        "near a boundary between two outcomes, where any rounding tips the scale."
    )
    if _images(o):
        picture, factor = pictures.difference_sheet(o.short)
        shown.append(
            report.picture(
                picture,
                alt="What differs between the two sheets, strongly amplified",
                caption_html=f"<b>The difference</b>, {factor:,.0f} times brighter than life",
            )
        )
    return report.section("The same noise, the same samples", report.text(words), report.pictures(shown))


def _sweeps(o: Outcome, animation: bytes) -> str:
    run, plan = o.short.parallel, o.short.plan
    sweeps = pictures.chosen_sweeps(len(run.estimates))
    columns = list(zip(pictures.strip_columns(run, sweeps), (f"<b>{s}</b>" for s in sweeps), strict=True))
    columns[0] = (columns[0][0], "<b>1</b><br>sweep")
    columns.append((pictures.final_column(o.short.sequential), "sequen&shy;tial"))
    moving = report.picture(
        animation,
        alt=f"Animation: {_content(o)} sharpening from blurs over {len(run.estimates)} sweeps",
        caption_html=f"All {len(run.estimates)} sweeps in motion.",
    )
    return report.section(
        "How a sweep sharpens everything at once",
        report.text(
            f"Sequential sampling walks through {plan.evaluations} noise levels and sees each one once. A sweep asks "
            f"the network about all levels of the window in one call, starting from a guess, and corrects every "
            f"level from the answers. The guess for the finished sample is a blur after the first sweep and settles "
            f"within a few; samples that are done leave early, after {run.result.sweeps.mean():.1f} sweeps on average."
        ),
        report.strip(
            columns,
            alt="The same samples after successive sweeps, and drawn sequentially",
            apart=1,
            wide=not _images(o),
        ),
        f'<div class="wide">{moving}</div>',
    )


def _window(pair: Pair) -> str:
    run, plan = pair.parallel, pair.plan
    calls, nodes = run.residuals.shape
    return report.section(
        f"A window sliding over {plan.evaluations} steps",
        report.text(
            f"The long plan, {escape(plan.name)}, is too long for one call: a window of {pair.window} nodes slides "
            f"over it. Colour shows how much a node still moved, as the average over {len(pair.rms)} samples. Nodes "
            f"turn from bright to dark as they settle; settled ones are accepted and the window moves on, by "
            f"{plan.evaluations / calls:.0f} nodes a sweep."
        ),
        report.heat_map(
            pictures.residual_map(run),
            alt=f"Map of residuals: {calls} sweeps down, {nodes - 1} nodes across; a bright band moves from the first "
            "node to the last",
            down=("sweep 1", f"{calls}"),
            across=("node 1: pure noise", f"{nodes - 1}: the sample"),
            scale=(
                f"settled (≤ {TOLERANCE:g} of the noise level)",
                heatmap.COLOURS,
                f"{TOLERANCE * 10**pictures.DECADES:g} of it",
            ),
        ),
    )


def _cost(o: Outcome) -> str:
    groups = []
    for pair in (o.short, o.long):
        rows = []
        for name, run in (("sequential", pair.sequential), (f"parallel, window {pair.window}", pair.parallel)):
            r = run.result
            accepted = "–" if run is pair.sequential else f"{r.residual.max():.1e}"
            rows.append([name, str(r.depth), f"{r.nfe:.0f}", _seconds(r.wall_s), _seconds(r.engine_s), accepted])
        groups.append((f"{pair.plan.name}, {len(pair.rms)} samples in one batch", rows))
    words = []
    for pair in (o.short, o.long):
        ratio, more = _speed(pair), pair.parallel.result.nfe / pair.plan.evaluations
        name = escape(pair.plan.name)
        if ratio > 1.05:
            words.append(f"With {name} parallel sampling finished {ratio:.1f} times sooner on this machine.")
        elif ratio > 0.95:
            words.append(f"With {name} both ways took the same time on this machine.")
        else:
            words.append(
                f"With {name} parallel sampling took {1 / ratio:.1f} times as long on this machine, because it "
                f"evaluates {more:.1f} times as much."
            )
    words.append(
        "Fewer calls save time where a call with many rows costs little more than one with few, as it can on a GPU. "
        "A CPU is busy with a handful of rows already, so there the extra evaluations show."
    )
    return report.section(
        "What it cost",
        report.text(" ".join(words)),
        report.table(
            ["", "Depth", "NFE", "Wall time", "In the network", "Residual"],
            groups,
            caption="Depth: network calls one after another. NFE: evaluations per sample. Residual: the largest change "
            "that was accepted, relative to the noise level.",
        ),
    )


def _quality(o: Outcome) -> str:
    q = o.quality
    apart = abs(q.parallel - q.sequential) / q.sequential
    return report.section(
        "Are they good?",
        report.text(
            f"The energy distance compares {q.n} samples with {q.held_out} real ones that training never saw. Two sets "
            f"of real data do not score zero either, so that value is the floor. The model scores "
            f"{q.sequential / q.floor:.2f} times the floor sequentially and {q.parallel / q.floor:.2f} times in "
            f"parallel; the two differ by {apart:.1%}."
        ),
        report.bars(
            [
                ("real data", q.floor, f"{q.floor:.4f}", True),
                ("sequential", q.sequential, f"{q.sequential:.4f}", False),
                ("parallel", q.parallel, f"{q.parallel:.4f}", False),
            ]
        ),
    )


def _model(o: Outcome) -> str:
    t, parity = o.training, o.parity
    curve = [(float(step), loss) for step, loss, _ in t.losses]
    facts = [
        ["Parameters", f"{t.parameters:,}"],
        ["Training data", f"{t.samples:,} samples of {o.info.data}, {' × '.join(map(str, o.info.shape))} values each"],
        ["Training", f"{t.steps:,} steps, {t.objective} objective, {_minutes(t.seconds)}"],
        ["ONNX against PyTorch", f"largest difference {_small(parity['max_abs'])} over all noise levels"],
        ["Along whole trajectories", f"rms {_small(parity['trajectory_rms'])}"],
    ]
    return report.section(
        "The model",
        report.table(["", ""], [("", facts)], caption="", text_columns=2),
        report.line_chart(
            [("denoising loss", curve)],
            alt=f"Denoising loss over {t.steps} steps, from {curve[0][1]:.3g} to {curve[-1][1]:.3g}",
            x_name="steps",
        ),
    )


def _next(o: Outcome) -> str:
    commands = (
        "ncdeploy sample --engine model.onnx --parallel -n 100 -o more.png",
        "ncdeploy inspect model.onnx",
        "ncdeploy verify model.pt model.onnx",
    )
    files = "".join(f'<li><a href="{name}"><code>{name}</code></a>: {what}</li>' for name, what in FILES.items())
    return report.section(
        "Go on from here",
        report.text("In this folder, next to this page:"),
        f'<pre tabindex="0">{escape(chr(10).join(commands))}</pre>',
        f'<ul class="files">{files}</ul>',
    )


def _speed(pair: Pair) -> float:
    return pair.sequential.result.wall_s / pair.parallel.result.wall_s


def _images(o: Outcome) -> bool:
    return len(o.info.shape) == 3


def _content(o: Outcome) -> str:
    return "handwritten digits" if o.info.data == "digits" else f"samples of {o.info.data}"


def _data_name(o: Outcome) -> str:
    return "to write digits" if o.info.data == "digits" else f"to draw samples of {o.info.data}"


def _small(value: float) -> str:
    """1.2e-05 as people write it."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{value:.3g}" if value >= 1e-3 else f"{mantissa} × 10{_superscript(int(exponent))}"


def _superscript(n: int) -> str:
    return str(n).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _seconds(value: float) -> str:
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"


def _minutes(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
