"""What the parallel driver itself takes as window and samples grow: time beside the network, and memory.

The denoiser is that of one Gaussian, D = x / (1 + sigma^2), which costs next to nothing; plan DDPM-1000, samples of 64
values, every window moving by one node a sweep (tolerance 0: the most sweeps, and the usual work in each).

time:   seconds of a sweep outside the network per row (window x samples), relative to the smallest run, with and
        without the triangular matrix product, which is timed alone on arrays of the same sizes. That product is
        quadratic in the window; everything else should stay level or fall.
memory: what one sample more takes at its peak, over the window's states (x and D), for plans of 250 and 1000 nodes
"""

import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.run import iterate
from ncdeploy.sampling.arrays import lower_matmul
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.result import Sweep

WINDOWS = (8, 32, 128, 512)
SAMPLES = (1, 8, 64)
DIM = 64
_SWEEPS = 9
_LEVELS = np.geomspace(1e-3, 1e3, 200)
_CURVE = ErrorCurve(sigmas=tuple(_LEVELS), mse=tuple(_LEVELS**2 / (1 + _LEVELS**2)))


class Gaussian:
    """D for data of variance 1; remembers the seconds it took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, x: NDArray[Any], sigma: NDArray[Any]) -> NDArray[Any]:
        start = time.perf_counter()
        out: NDArray[Any] = x / (1 + sigma[:, None] ** 2)
        self.seconds += time.perf_counter() - start
        return out


def timing(repetitions: int = 3) -> Iterator[str]:
    """Lines of a Markdown table: medians over sweeps and repetitions, which take turns."""
    yield "| window | samples | per row | without the triangular product |"
    yield "| --- | --- | --- | --- |"
    sizes = [(window, n) for window in WINDOWS for n in SAMPLES]
    found: dict[tuple[int, int], list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(repetitions):
        for size in sizes:
            found[size] += _seconds(*size)
    per_row = {
        (w, n): tuple(float(np.median([s[part] for s in found[w, n]])) / (w * n) for part in (0, 1)) for w, n in sizes
    }
    first = per_row[sizes[0]]
    for (window, n), values in per_row.items():
        whole, rest = (value / base for value, base in zip(values, first, strict=True))
        yield f"| {window} | {n} | {whole:.2f} | {rest:.2f} |"


def sweeps(window: int, n: int) -> tuple[Iterator[Sweep], Gaussian]:
    """A run of n samples, to be driven sweep by sweep, and its denoiser."""
    denoise, plan = Gaussian(), make_plan("ddpm", 1000)
    run = iterate(
        denoise, plan, seeds=range(n), window=window, tolerance=0.0,
        options=SampleOptions(shape=(DIM,), error_curve=_CURVE),
    )  # fmt: skip
    return run, denoise


def _seconds(window: int, n: int) -> list[tuple[float, float]]:
    """Seconds of single sweeps outside the network, and outside the matrix product too."""
    steps, denoise = sweeps(window, n)
    next(steps)  # makes the tables
    seconds = []
    inside, start = denoise.seconds, time.perf_counter()
    for _ in islice(steps, _SWEEPS):
        now = time.perf_counter()
        seconds.append(now - start - (denoise.seconds - inside))
        inside, start = denoise.seconds, time.perf_counter()
    product = _product(window, n)
    return [(s, max(s - product, 0.0)) for s in seconds]


def _product(window: int, n: int) -> float:
    """Seconds of the two matrix products of a sweep: new states, and states of new nodes; median of five."""
    rng = np.random.default_rng(0)
    triangle = np.tril(rng.standard_normal((n, window, window))).astype(np.float32)
    states = rng.standard_normal((n, window, DIM)).astype(np.float32)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        lower_matmul(np, triangle, states)
        seconds.append(time.perf_counter() - start)
    return 2 * float(np.median(seconds))


def memory() -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| window | nodes 250 | nodes 1000 |"
    yield "| --- | --- | --- |"
    for window in (32, 64, 128):
        cells = [_peak(window, steps) for steps in (250, 1000)]
        yield f"| {window} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"


def _peak(window: int, steps: int) -> float:
    """Bytes at the peak of a run for each of 8 more samples, over those of a window's x and D in float32."""
    plan, peaks = make_plan("ddpm", steps), []
    for n in (8, 16):
        tracemalloc.start()
        sample(
            Gaussian(), plan, seeds=range(n), window=window, tolerance=1e-3,
            options=SampleOptions(shape=(DIM,), error_curve=_CURVE),
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / 8 / (2 * window * DIM * 4)


if __name__ == "__main__":
    for line in (*timing(), "", *memory()):
        print(line, flush=True)
