"""All arms on a table of points, arm by arm, all seeds of an arm trained at once:

python -m benchmarks.contrastive.claim points.csv -o claim --minutes 90
python -m benchmarks.contrastive.claim.page claim

Trains first, then measures. What is in the folder already is not done again: stop it, and start it again to go on, with
more steps if you like.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.contrastive.claim.arms import ARMS, model, start
from benchmarks.contrastive.claim.batched import trained
from benchmarks.contrastive.claim.judge import Judge
from benchmarks.contrastive.sets import Study, jittered
from benchmarks.contrastive.summary import read_records
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.errors import InputError
from ncdeploy.files import atomic_write

JITTER = 0.0075  # 0.15 in the units of their file, which are 0.009 and 0.0056 of its spreads
SAVE_EVERY = 500


def train(folder: Path, arm: str, study: Study, given: argparse.Namespace, until: float) -> bool:
    """Train an arm to its last step; False where the time is up before."""
    batched = start(
        ARMS[arm], study.data, seeds=given.seeds, steps=given.steps, device=given.device, compiled=given.compile
    )
    resting = folder / f"{arm}.pt"
    if resting.exists():
        batched.restore(resting)
    began, first = time.perf_counter(), batched.step
    while batched.step < given.steps and time.perf_counter() < until:
        batched.advance()
        if batched.step % SAVE_EVERY == 0:
            batched.save(resting)
            pace = (time.perf_counter() - began) / (batched.step - first)
            print(f"{arm}: step {batched.step} of {given.steps}, {1e3 * pace:.0f} ms each", flush=True)
    batched.save(resting)
    return batched.step >= given.steps


def measure(folder: Path, study: Study, given: argparse.Namespace) -> None:
    """A line of figures for every model and its average."""
    lines = folder / "figures.jsonl"
    records = read_records(lines) if lines.exists() else []
    if records:  # half a line of a run that was cut short goes
        with atomic_write(lines) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = {(r["arm"], r["step"], r["averaged"], r["seed"]) for r in records}
    judge = Judge(study, samples=given.samples)

    def add(key: tuple[str, int, bool, int], found: dict[str, Any]) -> None:
        with lines.open("a") as out:
            out.write(json.dumps(dict(zip(("arm", "step", "averaged", "seed"), key, strict=True)) | found) + "\n")

    if ("data", 0, False, 0) not in done:
        add(("data", 0, False, 0), {"mmd": judge.floor()})
    for averaged in (True, False):
        for arm in given.arms.split(","):
            models = trained(folder / f"{arm}.pt", model(ARMS[arm], study.data, 0), averaged=averaged)
            for seed, denoiser in enumerate(models):
                key = (arm, given.steps, averaged, seed)
                if key not in done:
                    found = judge.of(TorchBackend(denoiser, device=given.device), all_figures=averaged)
                    add(key, found)
                    print(*key, f"MMD {found['mmd']:.2e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path, help="a .csv of two columns")
    parser.add_argument("-o", "--output", type=Path, default=Path("claim"), help="folder")
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=2000, help="of every model, to judge it by")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of training, in this call")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="by torch.compile: a third less time on a CPU")
    given = parser.parse_args()
    until = time.perf_counter() + 60 * given.minutes
    torch.set_num_threads(1)
    study = jittered(given.points, steps=given.steps, std=JITTER, counts=(100_000, 8_000))
    if study.data.shape != (2,):
        raise InputError(f"{given.points}: has samples of shape {study.data.shape}; expected two columns")
    given.output.mkdir(parents=True, exist_ok=True)
    for arm in given.arms.split(","):
        if not train(given.output, arm, study, given, until):
            print(f"{arm}: the time is up; the same command goes on")
            return
    measure(given.output, study, given)


main()
