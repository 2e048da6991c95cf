"""Several processes train one model: each sees its own share of the batch, and all keep the same weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WORKER = """
import torch
from ncdeploy.denoisers import weights_digest
from ncdeploy.training import ContrastiveConfig, TrainConfig, load_data, start

config = TrainConfig(steps=3, batch=8, device="cpu", contrastive=ContrastiveConfig(terms=2))
training = start(load_data("moons"), config, network={"width": 8, "blocks": 1})
rank = training.accelerator.process_index
stopped = 0
for progress in training.run():
    stopped = stopped or progress.step * training.anyone(rank == 1 and progress.step == 2)
draw = float(torch.rand(1, generator=training.objective.generator(0)))
print(rank, training.accelerator.num_processes, training.objective.batch, stopped, draw,
      weights_digest(training.denoiser.state_dict()), weights_digest(training.ema.denoiser.state_dict()))
training.accelerator.end_training()
"""


def test_two_processes_agree() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        lines = sorted(worker.communicate(timeout=120)[0].split() for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    first, second = lines
    assert (first[0], second[0]) == ("0", "1")
    assert first[1:3] == second[1:3] == ["2", "4"]
    assert first[3] == second[3] == "2", "a wish of one process must reach the other at the same step"
    assert first[4] != second[4], "each process draws its own samples and noise"
    assert first[5:] == second[5:]
