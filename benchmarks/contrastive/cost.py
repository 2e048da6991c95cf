"""What a step of each arm costs: processor time and network rows, against plain denoising training.

`python -m benchmarks.contrastive.cost [data]`
"""

import sys
import time
from collections.abc import Iterator

import torch

from benchmarks.contrastive.arms import arms
from benchmarks.contrastive.sets import load
from ncdeploy.training import start

STEPS = 60
SHOWN = ("plain", "contrastive", "ddpm-tuned+paper")


def table(spec: str) -> Iterator[str]:
    """Lines of a Markdown table."""
    study = load(spec, steps=1000)
    yield "| arm | rows | processor time a step | against plain |"
    yield "| --- | --- | --- | --- |"
    base = 0.0
    for name in SHOWN:
        config = arms(1000)[name][-1]
        options = config.contrastive
        extra = 0 if options is None else 2 * options.points(config.batch) * options.terms
        steps = start(study.data, config, network=study.network).run()
        for _ in range(10):
            next(steps)
        began = time.process_time()
        for _ in range(STEPS):
            next(steps)
        seconds = (time.process_time() - began) / STEPS
        base = base or seconds
        yield f"| {name} | {1 + extra / config.batch:.2f} | {seconds * 1e3:.1f} ms | {seconds / base:.2f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in table(sys.argv[1] if len(sys.argv) > 1 else "digits"):
        print(line, flush=True)
