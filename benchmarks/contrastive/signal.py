"""What a gradient of each loss is worth: the noise of one batch against what all batches agree on.

A plainly trained model, and 96 batches of 512 network rows of either loss. Signal is the squared norm of the mean
gradient (without bias: it may come out negative), noise that of what one batch deviates by, both in units of their
loss. Their ratio is how many batches it takes to see the signal.

`python -m benchmarks.contrastive.signal [data] [steps]`
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.contrastive.arms import CLEAN, NEIGHBOURS, arms
from benchmarks.contrastive.sets import load
from ncdeploy.training import TrainConfig, start
from ncdeploy.training.objective import Objective

BATCHES, ROWS, POINTS = 96, 512, 16


def table(spec: str, steps: int) -> Iterator[str]:
    """Lines of a Markdown table."""
    study = load(spec, steps=steps)
    training = start(study.data, arms(steps)["plain"][0], network=study.network)
    for _ in training.run():
        pass
    model = training.finish().requires_grad_()

    def objective(config: TrainConfig) -> Objective:
        return Objective(
            study.data, config, info=model.info, batch=config.batch, process=0, device=torch.device("cpu")
        )  # fmt: skip

    plain = objective(TrainConfig(batch=ROWS, device="cpu"))
    losses: dict[str, Callable[[int], Tensor]] = {"denoising": lambda step: plain(model, step).total}
    for name, options in (("contrastive, gap 1", NEIGHBOURS), ("contrastive, clean data", CLEAN)):
        few = TrainConfig(batch=4 * POINTS, device="cpu")
        own = replace(options, weight=1.0, fraction=0.25, terms=ROWS // (2 * POINTS))
        beside, alone = objective(replace(few, contrastive=own)), objective(few)
        # The denoising parts of the two are the same to the last bit, so that the contrastive one is left.
        losses[name] = lambda step, a=beside, b=alone: a(model, step).total - b(model, step).total
    yield "| loss | signal | noise | noise / signal |"
    yield "| --- | --- | --- | --- |"
    for name, loss in losses.items():
        signal, noise = gradients(model, loss)
        ratio = f"{noise / signal:.0f}" if signal > 0 else "no signal seen"
        yield f"| {name} | {signal:.2g} | {noise:.2g} | {ratio} |"


def gradients(model: nn.Module, loss: Callable[[int], Tensor]) -> tuple[float, float]:
    """Signal and noise over BATCHES steps."""
    weights = list(model.parameters())
    total, squares = torch.zeros(sum(w.numel() for w in weights), dtype=torch.float64), 0.0
    for step in range(BATCHES):
        found = torch.autograd.grad(loss(step), weights)
        gradient = torch.cat([g.flatten() for g in found]).double()
        total += gradient
        squares += float(gradient @ gradient)
    signal = (float(total @ total) - squares) / (BATCHES * (BATCHES - 1))
    return signal, squares / BATCHES - signal


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in table(sys.argv[1] if len(sys.argv) > 1 else "ring", int(sys.argv[2]) if len(sys.argv) > 2 else 1000):
        print(line, flush=True)
