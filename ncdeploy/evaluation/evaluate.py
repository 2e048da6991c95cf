"""All of what is measured of a model, by one set of settings: what `ncdeploy evaluate` prints, draws and compares."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Backend
from ncdeploy.errors import InputError
from ncdeploy.evaluation.budget import Budget
from ncdeploy.evaluation.classification import Classification, classify
from ncdeploy.evaluation.likelihood import Estimator
from ncdeploy.evaluation.of_samples import OfSamples
from ncdeploy.evaluation.quality import Quality, measure_quality
from ncdeploy.evaluation.visited import Visited, visited_error
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import take_all
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.posterior import Posterior
from ncdeploy.sampling.recipe import make_plan

CONTRASTS = ("ve", "vp")
STAGES = ("likelihood", "noise classification", "visited states", "sample quality")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to spend.

    points:   held-out samples whose likelihood and noise are judged
    samples:  drawn for each way of sampling
    steps, window: of the long DDPM plan, and the window of parallel sampling
    tolerances: of parallel sampling; each is one more run
    contrast: ve or vp, how noise is put on data (see `classify`); levels: noise levels, in units of sigma_data
    bandwidth: of the kernel of MMD, in model units; None: the median distance in the data
    jitter:   noise known to be on every sample of the data, in model units, for the posterior
    rows:     most rows in one network call
    """

    points: int = 32
    samples: int = 128
    steps: int = 200
    window: int = 64
    tolerances: tuple[float, ...] = (1e-3, 1e-2)
    contrast: str = "ve"
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
    budget: Budget = field(default_factory=lambda: Budget(repeats=4, levels=16, goal=None))
    bandwidth: float | None = None
    jitter: float = 0.0
    rows: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("points", "samples", "steps", "window", "rows"):
            if getattr(self, name) < 2:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 2")
        if self.contrast not in CONTRASTS:
            raise InputError(f"contrast: got {self.contrast!r}, expected {' or '.join(CONTRASTS)}")
        if self.bandwidth is not None and not 0 < self.bandwidth < math.inf:
            raise InputError(f"bandwidth: got {self.bandwidth}, expected above 0")
        if not 0 <= self.jitter < math.inf:
            raise InputError(f"jitter: got {self.jitter}, expected 0 or more")
        if not self.tolerances or not all(t >= 0 for t in self.tolerances):
            raise InputError(f"tolerances: got {list(self.tolerances)}, expected at least one, each 0 or more")


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Of held-out data: nats, the mean of -log p per sample in model units, with its standard error over the samples
    and from the estimate alone; bits per dimension in the units of the data."""

    nats: float
    error: float
    estimate_error: float
    bits_per_dim: float
    points: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was found about one model."""

    name: str
    engine: str
    likelihood: Likelihood
    classification: Classification
    visited: Visited
    quality: Quality

    def figures(self) -> dict[str, Any]:
        """JSON-able, without the samples."""
        quality = {k: v for k, v in vars(self.quality).items() if k != "samples"}
        return {
            "name": self.name,
            "engine": self.engine,
            "likelihood": asdict(self.likelihood),
            "classification": asdict(self.classification),
            "visited": asdict(self.visited),
            "quality": {**quality, "runs": [asdict(run) for run in self.quality.runs]},
        }


def evaluate(
    engine: Backend, train: NDArray[np.float32], held_out: NDArray[np.float32], settings: Settings, *, name: str = "",
    labels: NDArray[np.int64] | None = None, conditions: Mapping[str, NDArray[Any]] | None = None,
) -> Iterator[str | Evaluation]:  # fmt: skip
    """Measure a model against data in its units; yields the name of each stage before it begins, then the Evaluation.

    train, held_out: [n, *shape]; labels: int64, the classes of held_out, for a model that takes them; conditions: those
    of held_out, likewise. Likelihoods are of a sample given its own; samples are drawn under those of held_out in turn.

    Raises InputError where the data do not fit the model.
    """
    info = engine.info
    given = check_fit(info, train, held_out, labels, conditions)
    denoise: Backend | OfSamples = engine
    if given:
        denoise = OfSamples(engine, labels, given)
        info, labels = denoise.info, np.arange(len(held_out))
    points = held_out[: settings.points]
    own = None if labels is None else labels[: len(points)]
    asked = None if labels is None else np.resize(labels, settings.samples)
    estimator = Estimator.of(denoise, info, train, budget=settings.budget, seed=settings.seed)

    yield STAGES[0]
    nll = estimator.nll(points, labels=own)
    value, spread = nll.mean()
    likelihood = Likelihood(
        nats=value,
        error=float(nll.value.std(ddof=1) / math.sqrt(len(points))),
        estimate_error=spread,
        bits_per_dim=(value / info.dim + math.log(info.scale)) / math.log(2),
        points=len(points),
    )
    yield STAGES[1]
    unit = info.sigma_data
    classification = classify(
        estimator, points, [s * unit for s in settings.levels], vp_unit=unit if settings.contrast == "vp" else None,
        seed=settings.seed, labels=own,
    )  # fmt: skip
    yield STAGES[2]
    long = _plan(info, "ddpm", settings.steps)
    window = min(settings.window, settings.steps)
    rows = max(settings.rows, window)
    few = min(settings.samples, max(1, rows // window))
    visited = visited_error(
        denoise, info, long, Posterior(np.concatenate([train, held_out]), std=settings.jitter), held_out,
        window=window, seeds=range(few), tolerance=settings.tolerances[-1], max_rows=rows,
        labels=None if asked is None else asked[:few],
    )  # fmt: skip
    yield STAGES[3]
    ways = [(window, tolerance) for tolerance in settings.tolerances]
    shorter = (_plan(info, "ddim", min(100, settings.steps)), _plan(info, "dpmpp_2m", 25))
    plans = [(plan, ways) for plan in (long, *shorter)]
    quality = measure_quality(
        denoise, plans, train, held_out, n=settings.samples, labels=asked, bandwidth=settings.bandwidth, max_rows=rows
    )  # fmt: skip
    yield Evaluation(
        name=name, engine=engine.name, likelihood=likelihood, classification=classification, visited=visited,
        quality=quality,
    )  # fmt: skip


def check_fit(
    info: ModelInfo, train: NDArray[Any], held_out: NDArray[Any], labels: NDArray[Any] | None,
    conditions: Mapping[str, NDArray[Any]] | None = None, *, name: str = "",
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """The conditions as the model takes them. Raises InputError where the data that `evaluate` takes do not fit the
    model; name: what to call it."""
    model = name or "the model"
    if train.shape[1:] != info.shape or held_out.shape[1:] != info.shape:
        raise InputError(f"data: samples have shape {held_out.shape[1:]}, {model} takes {info.shape}")
    if (labels is None) != (info.num_classes == 0):
        found = "needs classes and the data have none" if labels is None else "takes none; leave them out"
        raise InputError(f"labels: {model} {found}")
    return take_all(info.conditions, conditions or {}, len(held_out))


def _plan(info: ModelInfo, solver: str, steps: int) -> Plan:
    """The solver on its usual schedule, or on the model's noise levels where the model does not know all of those."""
    plan = make_plan(solver, steps)
    asked = plan.sigmas[plan.evaluated]
    if info.sigma_min * 0.999 <= asked.min() and asked.max() <= info.sigma_max * 1.001:
        return plan
    return make_plan(solver, steps, schedule="exponential", sigma_min=info.sigma_min, sigma_max=info.sigma_max)
