"""The command line of the benchmark; the package's docstring says what it writes."""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.gpu.run import Bench
from benchmarks.gpu.table import table
from ncdeploy.errors import DependencyError, NcdeployError
from ncdeploy.files import atomic_write


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, and say where; 1 if something failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Benchmark of engines and samplers.")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-check"), help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("build/gpu-check"), help="networks and engines, kept here")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for trying it out")
    parser.add_argument("--quick", action="store_true", help="tiny networks and short plans: does everything run?")
    parser.add_argument("--minutes", type=float, default=7.0, help="no cell begins after so long")
    parser.add_argument("--resume", action="store_true", help="go on with what is in the output folder")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no CUDA device (see ncdeploy doctor); to try it out: --device cpu --quick", file=sys.stderr)
        return 1
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        bench = Bench(
            options.output, options.work, device=options.device, quick=options.quick, minutes=options.minutes,
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
        if options.resume:
            print(f"{bench.resume()} of {len(bench.cells)} cells were measured before", flush=True)
        try:
            bench.run()
        except KeyboardInterrupt:
            print("interrupted; --resume goes on", flush=True)
        write_reports(bench)
    except (NcdeployError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return int(any(cell["status"] == "failed" for cell in bench.document["cells"]))


def write_reports(bench: Bench) -> None:
    """table.md and the plots, from the document as it stands."""
    with atomic_write(bench.output / "table.md") as temporary:
        temporary.write_text("\n".join(table(bench.document)) + "\n", encoding="utf-8")
    print(f"{bench.output / 'results.json'}\n{bench.output / 'table.md'}")
    try:
        from benchmarks.gpu.plots import write_plots

        for path in write_plots(bench.document, bench.output):
            print(path)
    except (ImportError, DependencyError) as e:  # Pillow, matplotlib
        print(f"no plots: {e}")


if __name__ == "__main__":
    sys.exit(main())
