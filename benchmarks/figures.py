"""The pictures of README and docs, made anew from the demo's model: python -m benchmarks.figures demo/model.onnx."""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ncdeploy import make_plan, open_engine
from ncdeploy.demo.pictures import OVERVIEW, STRIP_ROWS, overview, residual_map
from ncdeploy.demo.watch import Pair, Watched, run_pair
from ncdeploy.drawing.images import grid, write_picture
from ncdeploy.files import atomic_write
from ncdeploy.parity import default_plan
from ncdeploy.report.charts import render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    engine = open_engine(args.model)
    short_plan, long_plan = default_plan(engine.info), make_plan("ddpm", 1000)
    pairs: list[Pair] = []
    for plan, n, window in ((short_plan, 5, short_plan.evaluations), (long_plan, 10, 100)):
        runs = run_pair(engine, plan, seeds=range(n), labels=None, window=window)
        while True:
            try:
                next(runs)
            except StopIteration as end:
                pairs.append(end.value)
                break
    engine.close()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, dark, paper in (("sweeps.png", False, "white"), ("sweeps-dark.png", True, "#0d1117")):
        with atomic_write(args.output / name) as temporary:
            temporary.write_bytes(render(overview(*pairs), OVERVIEW, kind="png", dark=dark, paper=paper))
        print(args.output / name)
    write_picture(args.output / "window.gif", moving(pairs[1]), ms=300, hold_ms=4000)
    print(args.output / "window.gif")


def moving(pair: Pair) -> list[Image.Image]:
    """A frame a sweep: the samples as known, beside those drawn step by step, and the window on its way."""
    run = pair.parallel
    return [frame(pair, run, sweep) for sweep in range(len(run.estimates))]


def frame(pair: Pair, run: Watched, sweep: int) -> Image.Image:
    residuals = np.where(np.arange(len(run.residuals))[:, None] <= sweep, run.residuals, np.nan)
    known = np.stack([run.estimates[sweep][:STRIP_ROWS], pair.sequential.result.samples[:STRIP_ROWS]], axis=1)

    def paint(figure: Any) -> None:
        left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2))
        axes = left.subplots()
        axes.set_axis_off()
        axes.imshow(grid(known.reshape((-1, *known.shape[2:])), columns=2), cmap="gray", interpolation="nearest")
        axes.set_title("now, and the goal", fontsize=10)
        left.suptitle(f"sweep {sweep + 1}", x=0.02, ha="left")
        residual_map(Watched(result=run.result, estimates=run.estimates, residuals=residuals))(right)
        right.suptitle(f"{pair.plan.evaluations:,} steps, {pair.window} at once", x=0.02, ha="left")

    drawn = Image.open(io.BytesIO(render(paint, (8.0, 4.4), kind="png", paper="white")))
    return drawn.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)


if __name__ == "__main__":
    main()
