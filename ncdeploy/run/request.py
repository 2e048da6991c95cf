"""Checks: what a caller of `sample` asks for, with what the model's info says where nothing is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncdeploy.backends.parts import PartEngine, encoded
from ncdeploy.errors import InputError
from ncdeploy.guidance import Guided
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import described, take_all
from ncdeploy.run.options import SampleOptions, Window
from ncdeploy.sampling.arrays import device_of, namespace, suited_to
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.evaluator import Denoise, evaluations_per_row
from ncdeploy.sampling.law import check_law
from ncdeploy.sampling.noise import check_seeds
from ncdeploy.sampling.plan import Floats, Plan
from ncdeploy.sampling.result import Trajectory

Conditions = Mapping[str, ArrayLike | None]  # name -> one value per sample; None as if the name were not there


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A run that can be made.

    denoise:  with guidance around it where that is asked for; per_row: rows that its network sees for one row of x
    shape:    of one sample; classes: int64 [n], or None; conditions: the others, [n, *shape] each, or None
    window:   at most the evaluations of the plan; tolerance, options: as given
    start:    [n, 1 or nodes, dim] as in `ParallelRun`, or None
    info:     of the denoiser, or None; mean: [dim], or None; decoder: of its bundle, or None
    """

    denoise: Denoise
    plan: Plan
    seeds: list[int]
    shape: tuple[int, ...]
    classes: NDArray[np.int64] | None
    conditions: dict[str, NDArray[Any]] | None
    window: Window
    tolerance: float
    options: SampleOptions
    info: ModelInfo | None
    mean: Floats | None
    like: Any
    decoder: PartEngine | None
    start: Any

    @property
    def dim(self) -> int:
        """Values of one sample."""
        return int(np.prod(self.shape))

    @property
    def error_curve(self) -> ErrorCurve | None:
        """As given, else that of the model."""
        return self.options.error_curve or (None if self.info is None else self.info.error_curve)

    @property
    def per_row(self) -> int:
        """Rows the network sees for one row of x."""
        return evaluations_per_row(self.denoise)

    @property
    def needed(self) -> int:
        """Rows of a network call that has a single sample in it."""
        return (self.window if isinstance(self.window, int) else 1) * self.per_row


def check(
    denoise: Denoise,
    plan: Plan,
    seeds: Sequence[int],
    conditions: Conditions | None,
    window: Window,
    tolerance: float,
    options: SampleOptions | None,
) -> Request:
    """Raises InputError for values that do not fit."""
    options = SampleOptions() if options is None else options
    _check_kinds(denoise, plan, options)
    like = suited_to(denoise) if options.like is None else options.like
    names = check_seeds(seeds)
    labels, others = _split(conditions, len(names))
    others = encoded(getattr(denoise, "encoder", None), others)
    decoder = getattr(denoise, "decoder", None)
    if options.guidance is not None:
        if labels is None and not others:
            raise InputError("guidance: needs labels, one class per sample, or other conditions to lead towards")
        denoise = Guided(denoise, options.guidance)
    info = getattr(denoise, "info", None)
    info = info if isinstance(info, ModelInfo) else None
    if labels is not None and info is not None and info.num_classes:
        unknown = sorted(set(labels.tolist()) - set(info.labels))
        if unknown:
            raise InputError(f"labels: got {unknown}; this model takes {info.describe_labels()}")
    if not tolerance >= 0:
        raise InputError(f"tolerance: got {tolerance}; expected 0 or more")
    shape = _shape(options, info)
    request = Request(
        denoise=denoise, plan=plan, seeds=names, shape=shape,
        classes=labels, conditions=_conditions(others, info, len(names)), window=_window(window, plan),
        tolerance=tolerance, options=options, info=info, mean=_mean(options, info, shape), like=like,
        decoder=decoder, start=_start(options, plan, names, shape, like, window),
    )  # fmt: skip
    _check_fit(request)
    return request


def _check_kinds(denoise: Denoise, plan: Plan, options: SampleOptions) -> None:
    if isinstance(denoise, str | Path):
        raise InputError(f"denoise: got a path; open it first, with open_engine({str(denoise)!r})")
    if not callable(denoise):
        raise InputError(
            f"denoise: got {type(denoise).__name__}; expected a callable D(x, sigma), such as open_engine(...) returns"
        )
    if not isinstance(plan, Plan):
        got = repr(plan) if isinstance(plan, str) else type(plan).__name__
        raise InputError(f'plan: got {got}; expected a Plan, such as make_plan("ddim", steps=100) returns')
    if not isinstance(options, SampleOptions):
        raise InputError(f"options: got {type(options).__name__}; expected a SampleOptions(...)")


def _split(conditions: Conditions | None, n: int) -> tuple[NDArray[np.int64] | None, dict[str, ArrayLike]]:
    """The class labels, and the conditions beside them."""
    if conditions is None:
        return None, {}
    if not isinstance(conditions, Mapping):
        got = type(conditions).__name__
        raise InputError(f'conditions: got {got}; expected {{"labels": [...]}} or {{"obs": array}}, by their names')
    others = {name: value for name, value in conditions.items() if name != "labels" and value is not None}
    return _labels(conditions, n), others


def _conditions(given: dict[str, ArrayLike], info: ModelInfo | None, n: int) -> dict[str, NDArray[Any]] | None:
    """As the model lists them; of a denoiser without info, as they are given."""
    if info is not None:
        return take_all(info.conditions, given, n) or None
    return take_all(described(given), given, n) or None


def _labels(conditions: Conditions, n: int) -> NDArray[np.int64] | None:
    if conditions.get("labels") is None:
        return None
    labels = np.asarray(conditions["labels"])
    if labels.shape != (n,):
        raise InputError(f"labels: got {labels.size} for {n} seeds; give one per sample")
    if labels.dtype.kind not in "iu":
        raise InputError(f"labels: got {labels.tolist()}; expected integers")
    return labels.astype(np.int64)


def _shape(options: SampleOptions, info: ModelInfo | None) -> tuple[int, ...]:
    shape = options.shape if options.shape is not None or info is None else info.shape
    if shape is None:
        raise InputError(
            "shape: not given, and the denoiser has no info that tells it; give options=SampleOptions(shape=(...))"
        )
    if min(shape, default=1) < 1:
        raise InputError(f"shape: got {tuple(shape)}; expected positive integers")
    return tuple(shape)


def _mean(options: SampleOptions, info: ModelInfo | None, shape: tuple[int, ...]) -> Floats | None:
    given = options.mean if options.mean is not None or info is None else info.mean
    if given is None:
        return None
    mean = np.asarray(given, np.float64).reshape(-1)
    dim = int(np.prod(shape))
    if mean.size != dim:
        raise InputError(f"mean: got {mean.size} values for samples of {dim}")
    return mean


def _start(
    options: SampleOptions, plan: Plan, seeds: list[int], shape: tuple[int, ...], like: Any, window: Window
) -> Any:
    given: Any = options.start
    if given is None:
        return None
    if window is None:
        raise InputError("start: is of parallel sampling; give a window, or leave it out")
    xp, n, dim = namespace(like), len(seeds), int(np.prod(shape))
    if isinstance(given, Trajectory):
        if given.plan != plan:
            raise InputError(f"start: is of plan {given.plan.name}, this is {plan.name}; start from its samples")
        if list(given.seeds) != seeds:
            raise InputError("start: is of other seeds, whose noise it followed; start from its samples")
        given = given.outputs
        if tuple(given.shape) != (n, len(plan), dim):
            raise InputError(f"start: is of samples of {given.shape[-1]} values, these have {dim}")
    else:
        given = given if hasattr(given, "shape") else np.asarray(given)
        if tuple(given.shape) != (n, *shape):
            raise InputError(f"start: got {tuple(given.shape)}; expected a trajectory, or samples {(n, *shape)}")
        given = given.reshape((n, 1, dim))
    start = xp.asarray(given, dtype=like.dtype, device=device_of(like))
    if not bool(xp.isfinite(start).all()):
        raise InputError("start: holds NaN or infinity")
    return start


def _window(window: Window, plan: Plan) -> Window:
    if window is None or window == "auto":
        return window
    if isinstance(window, bool) or not isinstance(window, int | np.integer):
        raise InputError(f'window: got {window!r}; expected a number, "auto" or None')
    if window < 1:
        raise InputError(f"window: got {window}; expected 1 or more, {plan.evaluations} is all of plan {plan.name}")
    return min(int(window), plan.evaluations)


def _check_fit(request: Request) -> None:
    options, needed = request.options, request.needed
    if request.info is not None:
        request.info.check_clip(request.plan)
    if options.acceptance == "law":
        check_law(request.plan)
        if request.window is None:
            raise InputError('acceptance: "law" is of parallel sampling; give a window, or window="auto"')
        if not isinstance(request.like, np.ndarray):
            raise InputError('acceptance: "law" runs on NumPy arrays; leave `like` out, or take "pathwise"')
    if options.deadline is not None and request.window == "auto" and options.latency is None:
        raise InputError("deadline: measuring what is fastest takes longer; give latency as well, or a window")
    if options.latency is not None and request.window != "auto":
        raise InputError('latency: only window="auto" uses it; leave it out')
    if options.max_rows is not None and options.max_rows < needed:
        width = needed // request.per_row
        guided = ", with guidance" if needed > width else ""
        raise InputError(f"max_rows: got {options.max_rows}; a window of {width} needs at least {needed}{guided}")
