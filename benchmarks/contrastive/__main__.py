"""`python -m benchmarks.contrastive --data points.csv --seeds 5 --arms plain,contrastive -o study.jsonl`

One line of JSON per trained model; what is in the file already is not run again, so a study can be stopped and
continued, arm by arm and seed by seed. `python -m benchmarks.contrastive.summary study.jsonl` makes the tables.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.contrastive.arms import arms
from benchmarks.contrastive.measure import measure
from benchmarks.contrastive.sets import Study, load
from benchmarks.contrastive.summary import read_records
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import Denoiser
from ncdeploy.files import atomic_write
from ncdeploy.training import TrainConfig, start, start_from


def train(study: Study, phases: Sequence[TrainConfig], seed: int) -> tuple[Denoiser, float]:
    """The model after all phases, and the processor's seconds in them."""
    began = time.process_time()
    training = start(study.data, replace(phases[0], seed=seed), network=study.network)
    for i, phase in enumerate(phases):
        if i:
            training = start_from(training.finish().requires_grad_(), study.data, replace(phase, seed=seed + 1000 * i))
        for _ in training.run():
            pass
    return training.finish(), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="what ncdeploy train takes; a .csv gets jitter 0.03")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", default="", help="comma-separated; default: all")
    parser.add_argument("--steps", type=int, default=None, help="of a plain run")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("-o", "--output", type=Path, default=Path("study.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = load(given.data, steps=given.steps)
    known = arms(study.steps)
    wanted = given.arms.split(",") if given.arms else list(known)
    records = read_records(given.output) if given.output.exists() else []
    if records:  # what a run that was cut short wrote of its last line goes
        with atomic_write(given.output) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = {(r["data"], r["steps"], r["arm"], r["seed"]) for r in records}
    for seed in range(given.seeds):
        for name in wanted:
            key = (study.name, study.steps, name, seed)
            if key in done:
                continue
            model, seconds = train(study, known[name], seed)
            began = time.perf_counter()
            found = measure(TorchBackend(model), study, samples=given.samples)
            record = dict(zip(("data", "steps", "arm", "seed"), key, strict=True))
            record |= {"train_s": seconds, "measure_s": time.perf_counter() - began, **found}
            with given.output.open("a") as out:
                out.write(json.dumps(record) + "\n")


main()
