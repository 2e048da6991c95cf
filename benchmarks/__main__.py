"""`python -m benchmarks [model.onnx]`: every table of README.md; the model defaults to what `make demo` wrote.

A model.pt beside it is needed for the tables that compare with PyTorch.
"""

import sys
from pathlib import Path

from benchmarks import auto, driver, instructions, peers, scaling, startup, sweeps


def main() -> None:
    model = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/model.onnx")
    weights = model.with_suffix(".pt")
    for needed in (model, weights):
        if not needed.is_file():
            sys.exit(f"{needed}: no such file; run make demo first, or name a model.onnx with its model.pt beside it")
    for title, lines in (
        ("Sweeps and evaluations on an exact denoiser", sweeps.table()),
        (f"The driver on {model}, ONNX Runtime", driver.table(model)),
        ('window="auto" against sequential sampling and fixed windows', auto.table(model)),
        ("ParaDiGMS over ours, at equal fidelity", peers.parallel(weights)),
        ("Sequential sampling: wall time over ours on ONNX Runtime, one sample", peers.sequential(weights)),
        ("The driver's own time, relative", scaling.timing()),
        ("The driver's own instructions", instructions.table()),
        ("Memory of a sample at its peak, over that of its window's states", scaling.memory()),
        ("Start-up", startup.table(model)),
    ):
        print(f"\n### {title}\n", flush=True)
        for line in lines:
            print(line, flush=True)


main()
