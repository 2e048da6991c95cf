"""The networks that are timed: our own U-Nets, trained here in a minute on pictures that are drawn in code.

How many sweeps a sample takes depends on what the network has learnt, so the networks must know something. Their data
are the ten digits of a seven-segment display, slanted, turned and moved at random, drawn at any size: nothing is
downloaded, and every machine trains on the same pictures.
"""

import copy
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncdeploy.denoisers import (
    build,
    default_config,
    load_model,
    load_record,
    measure_error_curve,
    save_model,
    weights_digest,
)
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import NumericalError

DATA = "seven-segment digits drawn in code"
SIGMA_MIN, SIGMA_MAX = 0.002, 160.0
_SEGMENTS = torch.tensor(
    [
        [[-1, -1], [1, -1]], [[-1, 0], [1, 0]], [[-1, 1], [1, 1]],  # top, middle, bottom
        [[-1, -1], [-1, 0]], [[1, -1], [1, 0]], [[-1, 0], [-1, 1]], [[1, 0], [1, 1]],  # upper and lower sides
    ],
    dtype=torch.float32,
)  # fmt: skip
_LIT = torch.tensor(
    [[int(bit) for bit in digit] for digit in
     ["1011111", "0000101", "1110110", "1110101", "0101101", "1111001", "1111011", "1000101", "1111111", "1111101"]],
    dtype=torch.bool,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how it is trained: until `steps` or `seconds` are over, whichever comes first.

    tiny: a U-Net of a few thousand parameters instead of one that suits the side
    """

    side: int
    steps: int
    seconds: float
    batch: int
    tiny: bool = False

    @property
    def name(self) -> str:
        return f"{'tiny' if self.tiny else 'unet'}{self.side}"


FULL = (
    Recipe(side=32, steps=1500, seconds=50, batch=128),
    Recipe(side=8, steps=1500, seconds=25, batch=128),
    Recipe(side=64, steps=1000, seconds=50, batch=64),
)
_TINY = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "width": 16}
QUICK = tuple(Recipe(side=side, steps=30, seconds=3, batch=16, tiny=True) for side in (8, 16))


def pictures(count: int, side: int, generator: torch.Generator, device: str = "cpu") -> Tensor:
    """Random digits [count, 1, side, side] in [-1, 1]; the generator lives on the CPU, so every device draws alike."""

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).to(device)

    lit = _LIT[torch.randint(10, (count,), generator=generator)].to(device)
    wide, high, slant, turn = draw(0.25, 0.4), draw(0.5, 0.7), draw(-0.3, 0.3), draw(-0.2, 0.2)
    stretch = torch.stack([torch.stack([wide, slant * high]), torch.stack([0 * wide, high])]).permute(2, 0, 1)
    rotate = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    move = torch.stack([draw(-0.2, 0.2), draw(-0.15, 0.15)], dim=1)
    ends = _SEGMENTS.to(device).reshape(14, 2) @ (rotate.permute(2, 0, 1) @ stretch).mT + move[:, None]
    start, stop = ends.reshape(count, 7, 1, 2, 2).unbind(3)  # (count, 7, 1, xy)

    axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
    pixel = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(1, 1, -1, 2)
    along = stop - start
    part = (((pixel - start) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    distance = (pixel - start - part[..., None] * along).square().sum(-1).sqrt()  # (count, 7, pixels)
    distance = distance.masked_fill(~lit[..., None], 9.0).amin(1)
    ink = ((draw(0.08, 0.16)[:, None] - distance) * (side / 2) + 0.5).clamp(0, 1)
    return (2 * ink - 1).reshape(count, 1, side, side)


def prepare(recipe: Recipe, folder: Path, device: str) -> tuple[Denoiser, dict[str, Any]]:
    """The trained network, on the CPU, and its record (see the package's docstring); kept in `folder`."""
    file, wanted = folder / f"{recipe.name}.pt", json.loads(json.dumps(asdict(recipe)))
    record = load_record(file) if file.is_file() else None
    if record is not None and record.get("recipe") == wanted:
        model = load_model(file)
    else:
        start = time.perf_counter()
        model, steps, loss = train(recipe, device)
        record = {"recipe": wanted, "steps": steps, "loss": loss, "seconds": time.perf_counter() - start}
        folder.mkdir(parents=True, exist_ok=True)
        save_model(file, model, record=record)
    return model, {
        "shape": list(model.info.shape),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": DATA,
        "steps": record["steps"],
        "loss": record["loss"],
        "seconds": record["seconds"],
        "digest": weights_digest(model.state_dict()),
    }


def train(recipe: Recipe, device: str) -> tuple[Denoiser, int, float]:
    """The averaged model, on the CPU, how many steps it took, and the loss over the last hundred of them.

    The loss is that of Karras et al. 2022 (EDM), table 1, with a part of the noise levels uniform in ln sigma.
    Raises NumericalError if it diverges.
    """
    generator = torch.Generator().manual_seed(recipe.side)
    known = pictures(1024, recipe.side, generator)
    spread = float(known.std())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = default_config(
            tuple(known.shape[1:]), sigma_data=spread, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX,
            network=_TINY if recipe.tiny else None,
        )  # fmt: skip
        torch.manual_seed(0)
        model = build(config).to(device).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    low, high = math.log(SIGMA_MIN), math.log(SIGMA_MAX)
    start, losses, step, done = time.perf_counter(), torch.zeros((), device=device), 0, 0.0
    while done < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        x0 = pictures(recipe.batch, recipe.side, generator, device)
        bell = -0.5 + 1.2 * torch.randn(recipe.batch, generator=generator)
        even = low + (high - low) * torch.rand(recipe.batch, generator=generator)
        log_sigma = torch.where(torch.rand(recipe.batch, generator=generator) < 0.2, even, bell.clamp(low, high))
        sigma = log_sigma.exp().to(device)
        level = sigma[:, None, None, None]
        noise = torch.randn(x0.shape, generator=generator).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            denoised = model(x0 + level * noise, sigma)
        weight = (level**2 + spread**2) / (level * spread) ** 2
        loss = (weight * (denoised - x0) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        keep = min(0.995, step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        losses += (loss.detach() - losses) / min(step, 100)
        if step % 20 == 0:
            float(losses)  # the clock must not run ahead of the device
        done = max(step / recipe.steps, (time.perf_counter() - start) / recipe.seconds)
    if not math.isfinite(float(losses)):
        raise NumericalError(f"{recipe.name}: training ended at a loss of {float(losses)}")
    curve = measure_error_curve(average, known[:256].to(device))
    average.info = replace(
        average.info, error_curve=curve, mean=tuple(known.double().mean(0).flatten().tolist()), data=DATA
    )  # fmt: skip
    return average.cpu(), step, float(losses)
