"""How often `ncdeploy check` is right, over many seeds: sound engines, and five faults of their wiring or data.

    python -m benchmarks.checks model.pt --seeds 100     # any model that is trained on digits, such as the demo's

As model.pt, as an ONNX graph in float32 and fp16, and in bf16 with its rounding emulated, as ONNX Runtime has no
bfloat16 kernels on a CPU. A table: how many of the seeds failed, and the longest time of a check, on one core.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ncdeploy import check_engine
from ncdeploy.backends import Backend, open_engine
from ncdeploy.denoisers import load_model
from ncdeploy.export import export_onnx
from ncdeploy.export.passes.emulate import Emulate
from ncdeploy.training import load_data

Array = NDArray[Any]


class Wired:
    """An engine with something done to what goes in and what comes out."""

    encoder = decoder = like = None

    def __init__(self, engine: Backend, wiring: Callable[[Backend, Array, Array], Array]) -> None:
        self.engine, self.wiring, self.info, self.name = engine, wiring, engine.info, engine.name

    def __call__(self, x: Array, sigma: Array, *given: Any, **more: Any) -> Array:
        return self.wiring(self.engine, x, sigma)


def dead_row(engine: Backend, x: Array, sigma: Array) -> Array:
    x = x.copy()
    x[..., x.shape[-2] // 2, :] = 0
    return np.asarray(engine(x, sigma))


WIRINGS: dict[str, Callable[[Backend, Array, Array], Array]] = {
    "sound": lambda engine, x, sigma: engine(x, sigma),
    "rows swapped": lambda engine, x, sigma: np.roll(engine(x, sigma), 1, axis=0),
    "one sigma for all": lambda engine, x, sigma: engine(x, np.full_like(sigma, sigma[0])),
    "dead input row": dead_row,
    "output × 0.95": lambda engine, x, sigma: np.float32(0.95) * engine(x, sigma),
}


def engines(model: Path, folder: Path) -> Iterator[tuple[str, Backend]]:
    yield "model.pt", open_engine(model, threads=1)
    denoiser = load_model(model)
    for precision in ("fp32", "fp16", "bf16"):
        path = folder / f"{precision}.onnx"
        export_onnx(denoiser, path, precision=precision, threads=1)
        if precision == "bf16":
            onnx.save(Emulate()(onnx.load(path))[0], path)
        yield f"ONNX {precision}", open_engine(path, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seeds", type=int, default=100)
    given = parser.parse_args()
    pictures = load_data("digits").held_out
    print("| engine |", " | ".join([*WIRINGS, "sound data", "data in [0, 1]", "longest, s"]), "|")
    print("| --- |", " --- |" * (len(WIRINGS) + 3))
    with tempfile.TemporaryDirectory() as folder:
        for name, engine in engines(given.model, Path(folder)):
            cases = [(wiring, None) for wiring in WIRINGS.values()]
            cases += [(WIRINGS["sound"], data) for data in (pictures, pictures / 2 + 0.5)]
            failed, longest = [], 0.0
            for wiring, data in cases:
                count = 0
                for seed in range(given.seeds):
                    began = time.process_time()
                    count += not check_engine(Wired(engine, wiring), data=data, seed=seed).ok
                    longest = max(longest, time.process_time() - began)
                failed.append(f"{count} of {given.seeds}")
            print(f"| {name} |", " | ".join([*failed, f"{longest:.2f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
