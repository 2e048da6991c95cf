"""`python -m benchmarks [model.onnx]`: every table of README.md; the model defaults to what `make demo` wrote."""

import sys
from pathlib import Path

from benchmarks import driver, startup, sweeps


def main() -> None:
    model = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/model.onnx")
    if not model.is_file():
        sys.exit(f"{model}: no such file; run make demo first, or name a model.onnx")
    for title, lines in (
        ("Sweeps and evaluations on an exact denoiser", sweeps.table()),
        (f"The driver on {model}, ONNX Runtime", driver.table(model)),
        ("Start-up", startup.table(model)),
    ):
        print(f"\n### {title}\n", flush=True)
        for line in lines:
            print(line, flush=True)


main()
