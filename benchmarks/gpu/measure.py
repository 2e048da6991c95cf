"""The measurements. Each is of one engine, in one process, its parts in turn.

Times are medians after a warm-up, and the device is awaited before a clock is read.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.copies import Copy, HostReads, device_copies
from benchmarks.gpu.engines import most_rows
from ncdeploy.auto.latency import Latency, measure_latency
from ncdeploy.backends.base import Backend
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.result import Result
from ncdeploy.run import SampleOptions, Window, iterate, sample
from ncdeploy.sampling.device import on_a_device
from ncdeploy.sampling.device_sweep import BESIDE
from ncdeploy.sampling.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Effort:
    """repetitions: timed runs of each way; rows: largest batch of a latency curve; seconds: that it may take."""

    repetitions: int = 3
    rows: int = 512
    seconds: float = 3.0


def wait(device: str) -> None:
    """Until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds until run() is done on the device, and what it returned."""
    wait(device)
    start = time.perf_counter()
    result = run()
    wait(device)
    return time.perf_counter() - start, result


def curve(engine: Backend, device: str, effort: Effort) -> Latency:
    """t(B) of an engine."""
    rows = min(effort.rows, most_rows(engine) or effort.rows)
    like = torch.zeros((), device=device)
    return measure_latency(engine, shape=engine.info.shape, max_rows=rows, like=like, budget=effort.seconds)


def latency(
    engine: Backend, reference: Backend, device: str, effort: Effort
) -> tuple[dict[str, Any], Latency]:  # fmt: skip
    """t(B), the memory that it took, and how far the engine is from PyTorch in float32; and the curve itself."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = curve(engine, device, effort)
    info, generator = engine.info, torch.Generator().manual_seed(0)
    sigma = torch.logspace(-2, 2, 8)
    x = sigma.reshape(-1, *[1] * len(info.shape)) * torch.randn(8, *info.shape, generator=generator)
    x, sigma = x.to(device), sigma.to(device)
    return {
        "rows": list(found.rows),
        "seconds": list(found.seconds),
        "rms_to_torch": _rms(engine(x, sigma), reference(x, sigma)),
        "torch_peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }, found


def sampling(
    engine: Backend, plan: Plan, n: int, windows: list[Window], latency: Latency, device: str, effort: Effort
) -> dict[str, Any]:
    """Sequential and parallel runs of n samples in turn, from the same noise."""
    most, like = most_rows(engine), torch.zeros((), device=device)

    def run(window: Window, seeds: range) -> tuple[float, Result]:
        curve = latency if window == "auto" else None
        options = SampleOptions(latency=curve, max_rows=most, like=like)
        go = partial(sample, engine, plan, seeds=seeds, window=window, options=options)
        return timed(go, device)

    windows = list(dict.fromkeys(w if isinstance(w, str) else min(w or 1, plan.evaluations) for w in windows))
    if most is not None:
        windows = [w for w in windows if w == "auto" or (isinstance(w, int) and w <= most)]
    runs: dict[Window, list[tuple[float, Result]]] = {window: [] for window in [None, *windows]}
    _some(iterate(engine, plan, seeds=range(n), options=SampleOptions(like=like)), 8)
    for repetition in range(effort.repetitions):
        seeds = range(n * repetition, n * (repetition + 1))
        for window, found in runs.items():
            if window is not None:
                run(window, seeds)  # meets new numbers of rows, for which libraries set themselves up
            found.append(run(window, seeds))
    exact = runs.pop(None)
    ways = [_way(window, found, exact, plan) for window, found in runs.items()]
    return {
        "sequential_s": statistics.median(seconds for seconds, _ in exact),
        "depth": plan.evaluations,
        "parallel": ways,
        "best": max((w for w in ways if w["asked"] != "auto"), key=lambda w: w["gain"])["asked"],
    }


def _way(
    window: Window, found: list[tuple[float, Result]], exact: list[tuple[float, Result]], plan: Plan
) -> dict[str, Any]:  # fmt: skip
    gains = [one / other for (one, _), (other, _) in zip(exact, found, strict=True)]
    results = [result for _, result in found]
    offs = [_per_sample(a.samples, b.samples) for (_, a), b in zip(exact, results, strict=True)]
    return {
        "asked": window,
        "window": results[0].window,
        "seconds": statistics.median(seconds for seconds, _ in found),
        "gain": statistics.median(gains),
        "gain_range": [min(gains), max(gains)],
        "sweeps": statistics.mean(float(r.sweeps.mean()) for r in results),
        "depth": statistics.mean(r.depth for r in results),
        "nfe": statistics.mean(r.nfe for r in results) / plan.evaluations,
        "residual": max(float(r.residual.max()) for r in results),
        "rms": float(torch.cat(offs).median()),
        "choice": None if results[0].choice is None else str(results[0].choice),
    }


class Recorder:
    """An engine that notes how many rows each call has."""

    def __init__(self, engine: Backend) -> None:
        self._engine, self.rows = engine, list[int]()

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    def __call__(self, x: Tensor, sigma: Tensor) -> Any:
        self.rows.append(len(x))
        return self._engine(x, sigma)


def overhead(engine: Backend, plan: Plan, n: int, window: int, device: str, effort: Effort) -> dict[str, Any]:
    """What a parallel run takes beside its network calls: over the same calls on the same rows without the driver,
    the device awaited after each, as a driver must that reads residuals."""
    like, seeds, most = torch.zeros((), device=device), range(n), most_rows(engine)
    recorder = Recorder(engine)
    sample(recorder, plan, seeds=seeds, window=window, options=SampleOptions(like=like, max_rows=most))
    rows = recorder.rows
    x, sigma = torch.zeros((max(rows), *engine.info.shape), device=device), torch.ones(max(rows), device=device)
    options = SampleOptions(like=like, max_rows=most)
    whole = partial(sample, engine, plan, seeds=seeds, window=window, options=options)
    bare = partial(_replay, engine, x, sigma, rows, device)
    timed(bare, device)
    pairs = [(timed(whole, device)[0], timed(bare, device)[0]) for _ in range(2 * effort.repetitions)]
    ratios = [one / other - 1 for one, other in pairs]
    return {
        "window": window,
        "calls": len(rows),
        "rows": sum(rows),
        "seconds": statistics.median(one for one, _ in pairs),
        "overhead": statistics.median(ratios),
        "overhead_range": [min(ratios), max(ratios)],
    }


def _replay(engine: Backend, x: Tensor, sigma: Tensor, rows: list[int], device: str) -> None:
    for count in rows:
        engine(x[:count], sigma[:count])
        wait(device)


def copies(engine: Any, plan: Plan, n: int, window: int | None, device: str, *, sweeps: int = 8) -> dict[str, Any]:
    """What comes to the host in some sweeps in the middle of a run, as Python and as the device see it.

    state_stays: no single copy is larger than the residuals, one float32 for each node of each window, or on a device
    the report that holds them; those of the device count where the profiler sees it, those in Python everywhere
    """
    like = torch.zeros((), device=device)

    def begun() -> Any:
        run = iterate(
            engine, plan, seeds=range(n), window=window, options=SampleOptions(like=like, max_rows=most_rows(engine))
        )
        _some(run, min(4, plan.evaluations // 4))
        return run

    run = begun()
    with HostReads(device) as reads:
        held = [sweep.residual.shape for sweep in _some(run, sweeps)]
    seen, why = None, "needs a CUDA device"
    if device == "cuda":
        run, counted = begun(), list[Any]()
        seen = device_copies(lambda: counted.extend(_some(run, sweeps)))
        why = "the profiler recorded no device activity" if seen is None else ""
    report = on_a_device(like) and window is not None
    allowed = max(8 * samples * (BESIDE + nodes) if report else 4 * samples * nodes for samples, nodes in held)
    python = _tally(reads.copies, len(held))
    by_device = None if seen is None else _tally(seen.copies, len(counted))
    found = [part for part in (python, by_device) if part is not None]
    return {
        "window": window,
        "sweeps": len(held),
        "state_bytes": 4 * engine.info.dim * max(samples * nodes for samples, nodes in held),
        "residual_bytes": allowed,
        "python": python,
        "device": by_device,
        "device_reason": why,
        "kernels": None if seen is None else seen.kernels / len(counted),
        "state_stays": all(part["largest"] <= allowed for part in found),
    }


def _some(run: Any, most: int) -> list[Any]:
    """The next few sweeps, fewer where the run ends."""
    found = []
    for _ in range(most):
        sweep = next(run, None)
        if sweep is None:
            break
        found.append(sweep)
    return found


def _tally(copies: Any, sweeps: int) -> dict[str, Any]:
    """Copies to the host per sweep, their bytes, the largest one; and bytes the other way."""
    to_host = [c.bytes for c in copies if isinstance(c, Copy) and c.direction == "DtoH"]
    return {
        "copies": len(to_host) / sweeps,
        "bytes": sum(to_host) / sweeps,
        "largest": max(to_host, default=0),
        "bytes_to_device": sum(c.bytes for c in copies if c.direction == "HtoD") / sweeps,
    }


def _rms(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())


def _per_sample(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().flatten(1).mean(1).sqrt().cpu()
