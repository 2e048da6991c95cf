"""Side by side with diffusers: the same network, the same noise, in turn in one process.

`parallel`: our driver against ParaDiGMS, one sample at a time, on the exact mixture denoiser of benchmarks.sweeps and
on a trained U-Net. Ours runs at its default tolerance; theirs is set so that the median rms to the sequential sample
is the same. Ratios are theirs over ours, paired by seed: median (least … largest); above 1 is ours.

`sequential`: the loop of diffusers' pipelines in PyTorch, eager and compiled, against ours on ONNX Runtime.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.paradigms import Run, paradigms, pipeline, scheduler
from ncdeploy import SampleOptions, make_plan, open_engine, sample
from ncdeploy.backends.base import Backend
from ncdeploy.denoisers import Mixture, load_model
from ncdeploy.result import Result
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.plan import Plan

CASES = (("ddpm", 1000, 64), ("ddpm", 1000, 256), ("ddim", 100, 100))
SEEDS = 8
SEQUENTIAL = (("ddpm", 1000), ("ddim", 100))
_SEARCHES = 5  # for the tolerance
_CLOSE = 1.15  # a factor between two fidelities that counts as equal


def parallel(model: Path | None, seeds: int = SEEDS) -> Iterator[str]:
    """Lines of a Markdown table; model: a model.pt with its model.onnx beside it, or None for the mixture alone."""
    yield "| network | plan | window | sweeps | NFE | wall, both PyTorch | wall, ours ONNX | rms theirs / ours |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    mixture = Mixture.digits().double()
    yield from _rows("exact mixture", mixture, None, torch.float64, seeds)
    if model is not None:
        engine = open_engine(model.with_suffix(".onnx"))
        yield from _rows("U-Net", load_model(model).eval(), engine, torch.float32, seeds)
        engine.close()


def _rows(name: str, denoise: Any, engine: Backend | None, dtype: torch.dtype, seeds: int) -> Iterator[str]:
    for solver, steps, window in CASES:
        case = _Case(denoise=denoise, engine=engine, solver=solver, steps=steps, window=window, dtype=dtype)
        with torch.inference_mode():
            found = case.compare(seeds)
        yield f"| {name} | {case.plan.name} | {window} | " + " | ".join(found) + " |"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A plan on a network: ours, in PyTorch and on an engine, and theirs."""

    denoise: Any
    engine: Backend | None
    solver: str
    steps: int
    window: int
    dtype: torch.dtype

    @property
    def plan(self) -> Plan:
        return make_plan(self.solver, self.steps)

    def ours(self, seed: int, *, window: int | None, engine: Backend | None = None) -> Result:
        like = torch.zeros((), dtype=self.dtype) if engine is None else np.zeros((), np.float32)
        return sample(engine or self.denoise, self.plan, seeds=[seed], window=window, options=SampleOptions(like=like))

    def theirs(self, seed: int, *, window: int, tolerance: float) -> Run:
        nodes = np.arange(self.steps + 1)[None]
        draws = torch.from_numpy(normal(np, [seed], nodes, self.denoise.info.dim)[0]).to(self.dtype)
        draws = draws.reshape(-1, *self.denoise.info.shape)
        schedule = scheduler(self.solver, self.steps, self.dtype)
        return paradigms(self.denoise, schedule, draws, window=window, tolerance=tolerance)

    def compare(self, seeds: int) -> list[str]:
        """Sweeps, NFE, wall times as ratios, and the fidelities."""
        exact = [torch.as_tensor(self.ours(seed, window=None).samples[0]) for seed in range(seeds)]
        # One node at a time, their loop is their sequential sampler: it has to be ours, too.
        apart = _rms(self.theirs(0, window=1, tolerance=0.0).sample, exact[0])
        if apart > (1e-9 if self.dtype == torch.float64 else 1e-3):
            sys.exit(f"{self.plan.name}: the sequential samples are {apart:.0e} apart; the comparison would be unfair")
        ours = [self.ours(seed, window=self.window) for seed in range(seeds)]
        target = _median(_rms(torch.as_tensor(o.samples[0]), x) for o, x in zip(ours, exact, strict=True))
        tolerance = self._tolerance(exact, target)

        pairs: list[tuple[Run, Result, float]] = []
        for seed in range(seeds):  # in turn, so that whatever else the machine does hits all alike
            run, own = self.theirs(seed, window=self.window, tolerance=tolerance), self.ours(seed, window=self.window)
            on_engine = float("nan")
            if self.engine is not None:
                on_engine = self.ours(seed, window=self.window, engine=self.engine).wall_s
            pairs.append((run, own, on_engine))
        fidelity = _median(_rms(run.sample, x) for (run, _, _), x in zip(pairs, exact, strict=True))
        return [
            _ratio([run.sweeps / own.depth for run, own, _ in pairs]),
            _ratio([run.nfe / own.nfe for run, own, _ in pairs]),
            _ratio([run.wall_s / own.wall_s for run, own, _ in pairs]),
            "–" if self.engine is None else _ratio([run.wall_s / other for run, _, other in pairs]),
            f"{fidelity:.0e} / {target:.0e} at tolerance {tolerance:.2g}",
        ]

    def _tolerance(self, exact: list[Tensor], target: float) -> float:
        """Theirs at which the median rms is the target: the error goes roughly with the tolerance."""
        tolerance, best = 0.02, (float("inf"), 0.02)
        for _ in range(_SEARCHES):
            found = _median(
                _rms(self.theirs(seed, window=self.window, tolerance=tolerance).sample, x)
                for seed, x in enumerate(exact)
            )
            off = max(found, 1e-12) / target
            best = min(best, (abs(np.log(off)), tolerance))
            if 1 / _CLOSE < off < _CLOSE:
                break
            tolerance /= min(max(off, 0.05), 20.0)
        return best[1]


def sequential(model: Path, repetitions: int = 5) -> Iterator[str]:
    """Lines of a Markdown table: one sample on the U-Net, wall times of the others over ours, measured in turn."""
    yield "| plan | diffusers' loop, PyTorch eager | diffusers' loop, torch.compile | ours, PyTorch eager |"
    yield "| --- | --- | --- | --- |"
    network = load_model(model).eval()
    engine = open_engine(model.with_suffix(".onnx"))
    with torch.inference_mode():
        compiled = _compiled(network)
        for solver, steps in SEQUENTIAL:
            plan = make_plan(solver, steps)
            ways: list[Callable[[int], float]] = [
                partial(_loop, network, solver, steps),
                partial(_loop, compiled, solver, steps),
                partial(_ours, network, plan),
            ]
            columns: list[list[float]] = [[] for _ in ways]
            for seed in range(repetitions):
                own = sample(engine, plan, seeds=[seed]).wall_s
                for column, way in zip(columns, ways, strict=True):
                    column.append(way(seed) / own)
            cells = ["not on this machine" if np.isnan(column[0]) else _ratio(column) for column in columns]
            yield f"| {plan.name} | " + " | ".join(cells) + " |"
    engine.close()


def _ours(network: Any, plan: Plan, seed: int) -> float:
    return sample(network, plan, seeds=[seed], options=SampleOptions(like=torch.zeros(()))).wall_s


def _loop(network: Any, solver: str, steps: int, seed: int) -> float:
    """Seconds of diffusers' loop; NaN without a network."""
    if network is None:
        return float("nan")
    x = torch.randn(1, *network.info.shape, generator=torch.Generator().manual_seed(seed))
    return pipeline(network, scheduler(solver, steps, torch.float32, parallel=False), x).wall_s


def _compiled(network: Any) -> Any:
    """The network through torch.compile, already compiled; None, said on stderr, where that does not work."""
    made = torch.compile(network)
    start = time.perf_counter()
    try:
        made(torch.zeros(1, *network.info.shape), torch.ones(1))
    except Exception as e:  # whatever its backends raise: a missing compiler, an operator it does not know
        print(f"torch.compile: {str(e).strip().splitlines()[0]}", file=sys.stderr)
        return None
    print(f"torch.compile took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return made


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _ratio(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for line in parallel(path):
        print(line, flush=True)
    for line in sequential(path) if path is not None else ():
        print(line, flush=True)
