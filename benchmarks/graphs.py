"""The sampler graph against the host loop around the same denoiser, on ONNX Runtime: same samples, wall time.

ratio: wall time of the graph, noise included, over that of `ncdeploy.sample`, run in turn in one process
rms:   of the difference of a sample, the largest; sweeps: the largest difference
Medians over the repetitions, with the smallest and the largest.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ncdeploy import make_plan, open_engine, sample
from ncdeploy.backends.graphs.run import GraphEngine
from ncdeploy.export.compose import choose_record, export_graph

ROWS = (("ddpm", 1000), ("ddim", 100), ("dpmpp_2m", 25), ("heun", 18))
WINDOW = 32


def table(model: Path, repetitions: int = 9, threads: int | None = None) -> Iterator[str]:
    """Lines of a Markdown table."""
    host = open_engine(model, threads=threads)
    yield "| plan | samples | sweeps | host loop, ms | graph, ms | ratio | rms | sweeps differ by |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for solver, steps in ROWS:
        plan = make_plan(solver, steps)
        record = choose_record(plan, host.info, kind="sampler", window=min(WINDOW, plan.evaluations))
        with tempfile.TemporaryDirectory() as folder:
            export_graph(model, Path(folder) / "s.onnx", record, verify=False)
            graph = GraphEngine(Path(folder) / "s.onnx", threads=threads)
        for n in (1, 8):
            times, errors, differ = [], [], []
            for repetition in range(-1, repetitions):  # the first one warms up
                seeds = range(n * (repetition + 1), n * (repetition + 2))
                wanted = sample(host, plan, seeds=seeds, window=record.window)
                got = graph.sample(seeds)
                if repetition >= 0:
                    times.append((wanted.wall_s, got.wall_s))
                errors.append(np.sqrt(((got.samples - wanted.samples) ** 2).reshape(n, -1).mean(axis=1)).max())
                differ.append(np.abs(got.sweeps - wanted.sweeps).max())
            wall = np.array(times)
            ratio = wall[:, 1] / wall[:, 0]
            yield (
                f"| {plan.name} | {n} | {wanted.sweeps.mean():.0f} | {np.median(wall[:, 0]) * 1e3:.0f} | "
                f"{np.median(wall[:, 1]) * 1e3:.0f} | {np.median(ratio):.2f} ({ratio.min():.2f} … {ratio.max():.2f}) | "
                f"{max(errors):.0e} | {max(differ)} |"
            )
        graph.close()
    host.close()


if __name__ == "__main__":
    for line in table(Path(sys.argv[1])):
        print(line, flush=True)
