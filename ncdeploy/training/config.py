"""What a training run is told, validated once; the same values travel in the model's training record."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from ncdeploy.errors import FileError, InputError

PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu")
OBJECTIVES = ("denoising", "likelihood", "contrastive")
CONTRASTS = ("ve", "vp")
WEIGHTINGS = ("edm", "likelihood", "ddpm")


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """The contrastive loss, on the first samples of each batch.

    s and tau are in units of sigma_data. Data are easily told from data with noise on them, the more so the more
    dimensions there are: there the softplus saturates and teaches nothing. Two noise levels that are 1 / sqrt(d) apart
    in ln s are about gap^2 nats apart in any dimension, in the directions where noise hides the data.

    Attributes:
        weight: of the loss *per dimension*, beside the denoising loss, which is per dimension too
        contrast: ve: the alternative is x0 + s n
        vp: (x0 + s n) / sqrt(1 + s^2), the paper's
        fraction, terms: points to tell apart as a share of the batch, half of them samples (at least one) and half the
            same with noise; draws averaged for each point before the softplus, half of them of noise and half of its
            negative, an even number; one step costs 2 * fraction * batch * terms rows more
        warmup: steps over which the weight rises linearly from 0
        s_min, s_max: noise that tells the alternative from the data, drawn uniformly in ln s
        gap: how far below s the noise on the data themselves is, exp(-gap / sqrt(d)) s in d dimensions; 0 leaves them
            clean
        tau_min, tau_max: reach of the integral over alpha = -2 ln tau
    """

    weight: float = 0.1
    contrast: str = "ve"
    fraction: float = 0.02
    terms: int = 16
    warmup: int = 0
    s_min: float = 0.05
    s_max: float = 5.0
    gap: float = 1.0
    tau_min: float = 0.01
    tau_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise InputError(f"contrastive weight: got {self.weight}, expected above 0; for none train with denoising")
        if self.contrast not in CONTRASTS:
            raise InputError(f"contrast: got {self.contrast!r}, expected {' or '.join(CONTRASTS)}")
        if not 0 < self.fraction <= 1:
            raise InputError(f"contrastive fraction: got {self.fraction}, expected above 0, at most 1")
        if self.terms < 2 or self.terms % 2:
            raise InputError(f"contrastive terms: got {self.terms}, expected an even number of draws, at least 2")
        if self.warmup < 0:
            raise InputError(f"contrastive warmup: got {self.warmup}, expected 0 or more steps")
        if not 0 <= self.gap < math.inf:
            raise InputError(f"contrastive gap: got {self.gap}, expected above 0, or 0 for clean data")
        for name, low, high in (("s", self.s_min, self.s_max), ("tau", self.tau_min, self.tau_max)):
            if not 0 < low < high < math.inf:
                raise InputError(f"contrastive {name} range: got {low} .. {high}, expected 0 < min < max")

    def points(self, batch: int) -> int:
        """How many points of a batch the loss tells apart, an even number."""
        return 2 * max(1, round(self.fraction * batch / 2))

    def base_share(self, dim: int) -> float:
        """The noise on the data themselves, as a share of s."""
        return math.exp(-self.gap / math.sqrt(dim)) if self.gap else 0.0

    def weight_at(self, step: int) -> float:
        """The weight in step 0, 1, ..."""
        return self.weight * min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Everything random follows from `seed` and the number of the step.

    steps, batch:    optimiser steps; samples per step, over all processes together
    lr, warmup:      peak of the learning rate, reached linearly after `warmup` steps (at most a fifth of the run);
                     a half cosine leads from there to 0 at the last step
    ema:             decay of the averaged weights, which are the model; shorter at first, min(ema, (1 + k)/(10 + k))
    clip:            largest norm of the gradient
    weighting:       of the noise levels in the denoising loss: edm, likelihood or ddpm (see `draw_levels`)
    contrastive:     None trains with the denoising loss alone
    conditional:     learn the labels of the data
    label_dropout:   share of rows trained as "unconditional", with the null value of every condition that has one;
                     above 0, the conditions of a new model have one, a number that is not in the data
    sigma_min/max:   noise levels to learn, in model units; the default holds Karras' 0.002 .. 80 and the 0.01 .. 157
                     of DDPM's 1000 steps with linear beta
    device:          auto = what accelerate finds; precision: bf16 computes inside the network in half width
    """

    steps: int = 1000
    batch: int = 96
    lr: float = 2e-3
    warmup: int = 50
    ema: float = 0.995
    clip: float = 1.0
    weighting: str = "edm"
    contrastive: ContrastiveConfig | None = None
    conditional: bool = False
    label_dropout: float = 0.1
    sigma_min: float = 0.002
    sigma_max: float = 160.0
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least 1")
        for name in ("warmup", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: got {getattr(self, name)}, expected 0 or more")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}: got {getattr(self, name)}, expected a positive number")
        for name in ("ema", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: got {getattr(self, name)}, expected 0 <= {name} < 1")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(f"sigma range: got {self.sigma_min} .. {self.sigma_max}, expected 0 < min < max")
        if self.device not in DEVICES:
            raise InputError(f"device: got {self.device!r}, expected one of {', '.join(DEVICES)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting: got {self.weighting!r}, expected one of {', '.join(WEIGHTINGS)}")

    @classmethod
    def from_choices(
        cls, objective: str | None, settings: Mapping[str, Any], contrastive: Mapping[str, Any]
    ) -> "TrainConfig":
        """From what somebody chose, None meaning the default.

        objective: one of OBJECTIVES; likelihood is denoising with that weighting; contrastive: settings of
        ContrastiveConfig. Raises InputError for an unknown objective, for contrastive settings without that loss, and
        for likelihood with another weighting.
        """
        chosen = {name: value for name, value in contrastive.items() if value is not None}
        own = {name: value for name, value in settings.items() if value is not None}
        name = objective or OBJECTIVES[0]
        if name not in OBJECTIVES:
            near = get_close_matches(name, OBJECTIVES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(OBJECTIVES)}"
            raise InputError(f"objective: got {name!r}; {hint}")
        if name != "contrastive" and chosen:
            raise InputError(f"{next(iter(chosen))}: is of the contrastive loss; add --objective contrastive")
        if name == "likelihood" and own.setdefault("weighting", name) != name:
            raise InputError(f"weighting: {own['weighting']} is not of --objective likelihood; leave one of them out")
        return cls(**own, contrastive=ContrastiveConfig(**chosen) if name == "contrastive" else None)

    @property
    def objective(self) -> str:
        """Name of the loss, one of OBJECTIVES."""
        if self.contrastive is not None:
            return "contrastive"
        return "likelihood" if self.weighting == "likelihood" else "denoising"

    def learning_rate(self, step: int) -> float:
        """At step 0 .. steps - 1."""
        rise = max(1, min(self.warmup, self.steps // 5))
        return self.lr * min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def to_record(self) -> dict[str, Any]:
        """JSON-able, for `from_record`."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TrainConfig":
        """Read `to_record` back. Raises FileError for settings this version does not know."""
        unknown = set(record) - {f.name for f in fields(cls)}
        if unknown:
            raise FileError(f"training record has unknown settings {sorted(unknown)}; update ncdeploy")
        settings = dict(record)
        try:
            if settings.get("contrastive") is not None:
                settings["contrastive"] = ContrastiveConfig(**_typed(ContrastiveConfig, settings["contrastive"]))
            return cls(**_typed(cls, settings))
        except (TypeError, InputError) as e:
            raise FileError(f"training record is damaged: {e}") from e


def _typed(kind: type[Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, whose types are those of the defaults; a whole number may stand for any. Raises TypeError."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"{kind.__name__} is no settings by name")
    for f in fields(kind):
        value = settings.get(f.name, f.default)
        fits = (int, float) if type(f.default) is float else type(f.default)
        if f.default is not None and (not isinstance(value, fits) or isinstance(value, bool) != (fits is bool)):
            raise TypeError(f"{f.name} is {str(value)[:60]}, expected {type(f.default).__name__}")
    return settings
