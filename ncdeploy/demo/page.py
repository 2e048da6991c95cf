"""The page of a demo run: what parallel sampling gained on this machine, what one sees, and what it is good for."""

import numpy as np

from ncdeploy.demo import pictures
from ncdeploy.demo.outcome import Outcome
from ncdeploy.demo.watch import BOUNDARY
from ncdeploy.report import charts, pages

FILES = {
    "model.pt": "the trained model, for PyTorch",
    "model.onnx": "the same model, for ONNX Runtime; it carries its own description",
    "sequential.png": "samples, one network call after another",
    "parallel.png": "the same samples, drawn in parallel",
    "sweeps.png": "sweeps converging, and a window sliding over a long plan",
    "sweeps.webp": "every sweep, animated",
    "residuals.png": "which nodes were still moving, sweep by sweep",
    "figures.json": "every number on this page",
}


def demo_page(outcome: Outcome, *, animation: bytes) -> str:
    """The document; animation: the bytes of an animated WebP of the sweeps."""
    o, run = outcome, outcome.short.parallel
    images = len(o.info.shape) == 3
    sweeps = pictures.chosen_sweeps(len(run.estimates))
    columns = [*zip(sweeps, pictures.strip_columns(run, sweeps), strict=True)]
    difference, brighter = pictures.difference_sheet(o.short) if images else (None, 1.0)
    losses = [(float(step), loss) for step, loss in o.training.losses]
    energy = {"real data": o.quality.floor, "sequential": o.quality.sequential, "parallel": o.quality.parallel}
    return pages.render(
        "demo.html", o=o, images=images, animation=animation, files=FILES, boundary=BOUNDARY,
        content="handwritten digits" if o.info.data == "digits" else f"samples of {o.info.data}",
        columns=[*columns, ("goal", pictures.final_column(o.short.sequential))],
        residuals=pictures.residual_map(o.long.parallel),
        sheets=[np.asarray(r.result.samples)[: pictures.SHOWN if images else None] for r in (o.short.sequential, run)],
        difference=difference, brighter=brighter, beyond=float(np.mean(o.short.rms > BOUNDARY)),
        distances=charts.bars(energy, reference="real data"),
        loss=charts.curves({"denoising loss": losses}, x_name="training steps", y_name="denoising loss"),
    )  # fmt: skip
