"""The demo, step by step: train, export, verify, sample both ways, draw, write the page. Needs PyTorch."""

import json
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ncdeploy.auto.latency import measure_latency
from ncdeploy.backends import open_engine
from ncdeploy.demo import pictures
from ncdeploy.demo.outcome import Outcome, Training, measure_quality
from ncdeploy.demo.page import demo_page
from ncdeploy.demo.watch import Pair, run_pair
from ncdeploy.drawing.images import write_picture
from ncdeploy.errors import DependencyError, FileError, InputError, install
from ncdeploy.evaluation.bench import Bench, bench
from ncdeploy.files import atomic_write, check_writable, user_path
from ncdeploy.parity import default_plan
from ncdeploy.run import AUTO_VALUES, Window
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.recipe import make_plan

if TYPE_CHECKING:
    from ncdeploy.denoisers.base import Denoiser
    from ncdeploy.training.data import Dataset

TRAIN_STEPS = {"digits": 1200}
OTHER_STEPS = 2000  # generated sets train on a small MLP
LONG_STEPS, LONG_SAMPLES, LONG_WINDOW = 1000, 10, 100
SHORT_SAMPLES, SHORT_POINTS = 400, 2000
MANY = 64  # samples at once, where parallel sampling does not pay on a CPU
REPETITIONS = 5
_CURVE_POINTS = 100


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where the demo is: the stage's name, how much of it is done (0 .. 1), a few words."""

    name: str
    done: float = 0.0
    note: str = ""


def run_demo(
    folder: str | os.PathLike[str],
    *,
    data: str = "digits",
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Generator[Step, None, Outcome]:
    """Fill `folder` with a model, its ONNX file, samples, pictures, figures.json and index.html; yields its progress.

    data:    what `ncdeploy.training.load_data` takes, if its samples are images or points in the plane
    steps:   training steps; by default as many as suit the data
    threads: CPU threads of sampling; by default all

    Raises InputError for data that make no pictures, FileError when the folder cannot be written to, and what
    training, export and sampling raise.
    """
    target = _prepare(folder)
    clock = _Clock()
    with clock.stage("train"):
        yield Step(name="train", note="loading data")
        dataset = _load(data, seed)
        denoiser, training = yield from _train(target / "model.pt", dataset, steps, seed)
    with clock.stage("export and verify"):
        yield Step(name="export and verify", note="comparing ONNX with PyTorch")
        from ncdeploy.export import export_onnx

        exported = export_onnx(denoiser, target / "model.onnx", threads=threads)
        parity = exported.parity.to_dict() if exported.parity else {}
        yield Step(name="export and verify", done=1.0, note=f"largest difference {parity['max_abs']:.1e}")

    engine = open_engine(target / "model.onnx", threads=threads)
    count = SHORT_SAMPLES if len(dataset.shape) == 3 else SHORT_POINTS
    plan = default_plan(engine.info)
    with clock.stage("sample"):
        short = yield from _sample(f"sample, {plan.name}", engine, plan, count, plan.evaluations, seed)
        long_plan = make_plan("ddpm", LONG_STEPS)
        long = yield from _sample(f"sample, {long_plan.name}", engine, long_plan, LONG_SAMPLES, LONG_WINDOW, seed)
    with clock.stage("measure the gain"):
        gains = yield from _gains(engine, ((long_plan, 1), (plan, 1), (plan, MANY)))
    with clock.stage("draw"):
        yield Step(name="measure and draw")
        quality = measure_quality(short, dataset.x, dataset.held_out, seed=seed)
        animation = _draw(target, short, long)
    outcome = Outcome(
        info=engine.info,
        training=training,
        parity=parity,
        gains=gains,
        short=short,
        long=long,
        quality=quality,
        machine=f"{os.cpu_count()} CPU cores",
        engine=engine.name,
        stages=tuple(clock.seconds.items()),
    )
    engine.close()
    with atomic_write(target / "figures.json") as file:
        file.write_text(json.dumps(outcome.figures(), indent=1) + "\n", encoding="utf-8")
    with atomic_write(target / "index.html") as file:
        file.write_text(demo_page(outcome, animation=animation), encoding="utf-8")
    yield Step(name="measure and draw", done=1.0, note=f"{quality.parallel / quality.floor:.2f} x the floor")
    return outcome


class _Clock:
    """Seconds of each stage, as it happens."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Generator[None, None, None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _prepare(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if need be, with everything checked that would otherwise fail minutes later."""
    target = user_path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"{folder}: cannot be made a folder: {e.strerror or e}") from e
    check_writable(target / "index.html")
    for package, extra in (
        ("torch", "torch"),
        ("onnxscript", "torch"),
        ("accelerate", "torch"),
        ("onnxruntime", "cpu"),
        ("matplotlib", "report"),
        ("jinja2", "report"),
    ):
        try:
            __import__(package)
        except ImportError as e:
            raise DependencyError(f"the demo needs {package}: {install(extra)}") from e
    return target


def _load(spec: str, seed: int) -> "Dataset":
    from ncdeploy.training.data import load_data

    dataset = load_data(spec, seed=seed)
    if dataset.shape != (2,) and not (len(dataset.shape) == 3 and dataset.shape[0] in (1, 3)):
        raise InputError(f"{spec}: samples of shape {dataset.shape} make no picture; use images or 2-D points")
    return dataset


def _train(
    path: Path, dataset: "Dataset", steps: int | None, seed: int
) -> Generator[Step, None, tuple["Denoiser", Training]]:
    from ncdeploy.denoisers import save_model
    from ncdeploy.training.config import TrainConfig
    from ncdeploy.training.loop import start

    total = TRAIN_STEPS.get(dataset.name, OTHER_STEPS) if steps is None else steps
    run = start(dataset, TrainConfig(steps=total, seed=seed))
    losses: list[tuple[int, float]] = []
    bundle: list[float] = []
    for progress in run.run():
        bundle.append(progress.loss)
        if len(bundle) >= total / _CURVE_POINTS or run.done:
            losses.append((progress.step, float(np.mean(bundle))))
            bundle = []
        note = f"loss {losses[-1][1] if losses else progress.loss:.3f}, {progress.rate:.1f} steps/s"
        yield Step(name="train", done=progress.step / total, note=note)
    denoiser = run.finish()
    save_model(path, denoiser, record=run.record())
    return denoiser, Training(
        objective=run.config.objective,
        steps=total,
        seconds=run.seconds,
        parameters=sum(p.numel() for p in denoiser.parameters()),
        samples=len(dataset.x),
        losses=tuple(losses),
    )


def _sample(name: str, engine: Any, plan: Any, count: int, window: int, seed: int) -> Generator[Step, None, Pair]:
    yield Step(name=name)
    runs = run_pair(engine, plan, seeds=range(seed, seed + count), labels=None, window=window)
    while True:
        try:
            done = next(runs)
        except StopIteration as end:
            pair: Pair = end.value
            depth = f"{pair.sequential.result.depth} calls in sequence, {pair.parallel.result.depth} in parallel"
            yield Step(name=name, done=1.0, note=depth)
            return pair
        yield Step(name=name, done=done, note="sequential" if done <= 0.5 else "parallel")


def _gains(engine: Any, cases: Sequence[tuple[Plan, int]]) -> Generator[Step, None, tuple[Bench, ...]]:
    """Sequential sampling beside "auto" for each (plan, samples), and for many samples beside all steps at a time."""
    name, info, found = "measure the gain", engine.info, list[Bench]()
    yield Step(name=name, note="seconds of a network call by its rows")
    rows = max(1, AUTO_VALUES // info.dim)
    latency = measure_latency(engine, shape=info.shape, max_rows=rows)
    for i, (plan, n) in enumerate(cases):
        yield Step(name=name, done=(i + 1) / (len(cases) + 1), note=f"{plan.name}, n = {n}")
        windows: list[Window] = ["auto"] if n == 1 else ["auto", plan.evaluations]
        found.append(bench(
            engine, [(plan.name, plan.evaluations, plan)], windows, n=n, repetitions=REPETITIONS, judged=MANY // 8,
            latency=latency, max_rows=rows,
        ))  # fmt: skip
    ratio = found[0].rows[1].gain[0]
    yield Step(name=name, done=1.0, note=f"{cases[0][0].name}, one sample: {ratio:.2f} x faster")
    return tuple(found)


def _draw(target: Path, short: Pair, long: Pair) -> bytes:
    """Write the pictures; returns the bytes of the animation."""
    for name, run in (("sequential", short.sequential), ("parallel", short.parallel)):
        write_picture(target / f"{name}.png", [pictures.sheet(np.asarray(run.result.samples))])
    pictures.write_animation(target / "sweeps.webp", short.parallel)
    pictures.write_chart(target / "sweeps.png", pictures.overview(short, long), pictures.OVERVIEW)
    pictures.write_chart(target / "residuals.png", pictures.residual_map(long.parallel), (9.4, 3.9))
    return (target / "sweeps.webp").read_bytes()
