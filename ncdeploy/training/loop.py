"""The training loop: a generator of small records, so that the caller owns logging, progress and saving.

    training = start(load_data("digits"), TrainConfig(steps=1000))
    for progress in training.run():
        print(progress.step, progress.loss)
    save_model("model.pt", training.finish(), record=training.record())

Hugging Face Accelerate carries device, mixed precision and several processes (`accelerate launch`).
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import package_versions, weights_digest
from ncdeploy.denoisers.embedding import Observed
from ncdeploy.denoisers.error_curve import measure_error_curve
from ncdeploy.denoisers.factory import build, default_config
from ncdeploy.errors import DependencyError, InputError, NumericalError, OutOfMemoryError, install
from ncdeploy.ports import take_all
from ncdeploy.training.config import TrainConfig
from ncdeploy.training.data import Dataset
from ncdeploy.training.ema import EMA
from ncdeploy.training.fit import DEFAULT_PLAN, check_fit, describe
from ncdeploy.training.objective import Objective

_CURVE_SIGMAS, _CURVE_SAMPLES = 32, 1024
_CURVE_VALUES = 1 << 16  # enough at every noise level; large samples bring so many sooner
_FEW = 2_000_000  # 650 colour pictures of 32 x 32
_RECENT = 100  # steps that the reported losses and the speed are averaged over


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One finished step.

    step:        counted from 1; of `steps`
    loss:        what was descended; denoising and contrastive (nats, None without it) are its parts
    lr, norm:    learning rate; norm of the gradient before clipping
    rate:        steps per second over the last 100 steps, without what the caller did in between
    """

    step: int
    steps: int
    loss: float
    denoising: float
    contrastive: float | None
    lr: float
    norm: float
    rate: float


class Training:
    """A run between its first and its last step: weights, their average, optimiser, and the number of steps done."""

    def __init__(
        self, denoiser: Denoiser, data: Dataset, config: TrainConfig, *, parent: dict[str, str] | None = None
    ) -> None:
        """Train the denoiser itself, not a copy. parent: the model it comes from, for the record.

        Raises:
            InputError: where denoiser, data and config do not fit
            DependencyError: without accelerate
        """
        check_fit(denoiser, data, config)
        self.data, self.config, self.parent = data, config, parent
        self.step, self.seconds = 0, 0.0
        self.recent: deque[Progress] = deque(maxlen=_RECENT)
        self.accelerator = _accelerator(config)
        processes = self.accelerator.num_processes
        if config.batch % processes:
            raise InputError(f"batch: got {config.batch}, which does not divide over {processes} processes")
        self.denoiser = denoiser.train().to(self.accelerator.device)
        self.ema = EMA(self.denoiser, config.ema)
        optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=config.lr, betas=(0.9, 0.99))
        self.network, self.optimizer = self.accelerator.prepare(self.denoiser, optimizer)
        self.objective = Objective(
            data,
            config,
            info=denoiser.info,
            batch=config.batch // processes,
            process=self.accelerator.process_index,
            device=self.accelerator.device,
        )

    @property
    def done(self) -> bool:
        """Whether all steps are behind."""
        return self.step >= self.config.steps

    @property
    def main_process(self) -> bool:
        """Whether this process should write files and show progress."""
        return bool(self.accelerator.is_main_process)

    def anyone(self, wish: bool) -> bool:
        """Whether any process has the wish: they must stop after the same step, or the others would wait for ever."""
        if self.accelerator.num_processes == 1:
            return wish
        votes = torch.tensor([float(wish)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(votes, reduction="sum").item())

    def run(self) -> Iterator[Progress]:
        """Train to the last step, yielding after each one; a caller may stop in between and go on later.

        Raises:
            NumericalError: naming the step, as soon as the loss or its gradient is not finite
            OutOfMemoryError: where a batch does not fit
        """
        durations: deque[float] = deque(maxlen=_RECENT)
        while not self.done:
            began = time.perf_counter()
            try:
                progress = self._advance()
            except (RuntimeError, MemoryError) as e:
                if isinstance(e, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(e):
                    fault = f"out of memory with a batch of {self.config.batch}"
                    raise OutOfMemoryError(f"step {self.step + 1}: {fault}; train with a smaller one") from e
                raise
            durations.append(time.perf_counter() - began)
            self.seconds += durations[-1]
            progress = replace(progress, rate=len(durations) / sum(durations))
            self.recent.append(progress)
            yield progress

    def _advance(self) -> Progress:
        lr = self.config.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with ExitStack() as stack:
            if self._has_dropout():
                # Dropout draws from the global generator: reseeding it makes each step a function of its number.
                stack.enter_context(torch.random.fork_rng())
                torch.manual_seed(self.objective.generator(self.step).initial_seed())
            loss = self.objective(self.network, self.step)
            parts = [loss.total.detach(), loss.denoising, *([] if loss.contrastive is None else [loss.contrastive])]
            values = self.accelerator.reduce(torch.stack(parts), reduction="mean").tolist()
            if not all(map(math.isfinite, values)):
                raise NumericalError(self._diverged("the loss"))
            self.optimizer.zero_grad()
            self.accelerator.backward(loss.total)
        norm = float(self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip))
        if not math.isfinite(norm):
            raise NumericalError(self._diverged("the gradient"))
        self.optimizer.step()
        self.ema.update(self.denoiser, self.step)
        self.step += 1
        return Progress(
            step=self.step,
            steps=self.config.steps,
            loss=values[0],
            denoising=values[1],
            contrastive=values[2] if len(values) > 2 else None,
            lr=lr,
            norm=norm,
            rate=0.0,
        )

    def _has_dropout(self) -> bool:
        return any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in self.denoiser.modules())

    def _diverged(self, what: str) -> str:
        own = self.config.contrastive
        return (
            f"step {self.step + 1}: {what} is NaN or infinite; the weights of step {self.step} are intact. "
            f"Train again with a smaller learning rate (now {self.config.lr:g}) or a smaller --clip"
            + ("" if own is None else f", or a smaller --contrastive-weight (now {own.weight:g})")
        )

    def model(self) -> Denoiser:
        """The averaged weights as a model, with what is known without measuring."""
        denoiser = self.ema.denoiser
        known = {
            name: getattr(denoiser.info, name) for name in ("unconditional", "sigma_data", "error_curve", "conditions")
        }
        plan = denoiser.info.default_plan or DEFAULT_PLAN
        denoiser.info = replace(describe(self.data, self.config), default_plan=dict(plan), **known)
        return denoiser

    def finish(self) -> Denoiser:
        """The model with its denoising error measured on held-out data (64 to 1024 samples, fixed noise)."""
        denoiser = self.model()
        device = self.accelerator.device
        count = min(max(_CURVE_VALUES // math.prod(denoiser.info.shape), 64), _CURVE_SAMPLES)
        x = torch.from_numpy(self.data.held_out[:count]).to(device)
        labels = None
        if self.config.conditional and self.data.held_out_labels is not None:
            labels = torch.from_numpy(self.data.held_out_labels[:count]).to(device)
        seen = take_all(denoiser.info.conditions, self.data.held_out_conditions, len(self.data.held_out))
        conditions = {name: torch.from_numpy(values[:count]).to(device) for name, values in seen.items()}
        low, high = math.log(self.config.sigma_min), math.log(self.config.sigma_max)
        sigmas = torch.linspace(low, high, _CURVE_SIGMAS, dtype=torch.float64).exp().tolist()
        curve = measure_error_curve(denoiser, x, labels, conditions, sigmas=sigmas)
        denoiser.info = replace(denoiser.info, error_curve=curve)
        return denoiser

    def record(self) -> dict[str, Any]:
        """The training record, JSON-able: settings, data, progress, and losses averaged over the last 100 steps."""
        losses: dict[str, float] = {}
        for name in ("loss", "denoising", "contrastive"):
            values = [v for p in self.recent if (v := getattr(p, name)) is not None]
            if values:
                losses[name] = sum(values) / len(values)
        return {
            "config": self.config.to_record(),
            "data": self.data.origin,
            "data_digest": self.data.digest,
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "losses": losses,
            "versions": package_versions(),
            **({} if self.parent is None else {"parent": self.parent}),
        }


def start(data: Dataset, config: TrainConfig, *, network: dict[str, Any] | str | None = None) -> Training:
    """A new run with a network that suits the data, its initial weights drawn from the seed.

    network: its size by name, or its settings, as `default_config` takes them; None: as suits the pictures' size, or
             small for data of fewer than `_FEW` values, which a larger one would learn by heart
    It takes the conditions of the data, which are real numbers, as vectors, less their means and over their spreads.

    Raises InputError where they do not fit.
    """
    info = describe(data, config)
    if network is None and data.x.size < _FEW:
        network = "small"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        settings = default_config(
            info.shape,
            num_classes=info.num_classes,
            sigma_data=info.sigma_data,
            sigma_min=info.sigma_min,
            sigma_max=info.sigma_max,
            network=network,
            conditions=info.conditions,
        )
        torch.manual_seed(config.seed)
        denoiser = build(settings)
    for part in denoiser.modules():
        if isinstance(part, Observed):
            part.fit(torch.from_numpy(data.conditions[part.name]))
    return Training(denoiser, data, config)


def start_from(denoiser: Denoiser, data: Dataset, config: TrainConfig) -> Training:
    """A new run that begins with the weights of a model, native or imported; the denoiser itself is trained. So any
    module is trained, with any conditions: `start_from(wrap_module(network, ...), data, config)`.

    Noise levels, sigma_data, default plan, conditions and whether labels are learned come from the model, the rest of
    what it says of itself from the data. Raises InputError where the data do not fit its shape, classes or conditions.
    """
    info = denoiser.info
    if config.conditional and not info.num_classes:
        raise InputError("conditional: the model takes no labels; leave it out, or train a new model")
    config = replace(
        config, sigma_min=info.sigma_min, sigma_max=info.sigma_max, conditional=bool(info.num_classes)
    )  # fmt: skip
    parent = {"data": info.data, "weights_digest": info.weights_digest or weights_digest(denoiser.state_dict())}
    denoiser.info = replace(info, error_curve=None)
    return Training(denoiser, data, config, parent=parent)


def _accelerator(config: TrainConfig) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as e:
        raise DependencyError(f"training needs Hugging Face Accelerate: {install('torch')}") from e
    precision = {"fp32": "no", "bf16": "bf16"}[config.precision]
    try:
        return Accelerator(cpu=config.device == "cpu", mixed_precision=precision)
    except ValueError as e:  # Accelerate keeps one device and precision per process
        raise InputError(f"device {config.device}, precision {config.precision}: {e}") from e
