"""`python -m examples.policy`: a robot policy from demonstrations to C++, into a folder, and a chart of what it does.

Trains LeRobot's diffusion policy on `task`, writes its checkpoint, imports that as anybody's, exports it, makes a
bundle with its encoder and decoder, and drives in Python and in C++.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from examples.policy import chart, task, train
from examples.policy.drive import CHUNKS, Drive, drive, milliseconds
from examples.policy.task import Floats
from ncdeploy import Bundle, export_onnx, import_model, make_bundle, open_engine, save_model
from ncdeploy.export.part import export_parts

HERE = Path(__file__).parent
THREADS = 1  # the network is small, and a robot has more to do


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.policy", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("policy"), help="a folder; what is in it is replaced")
    parser.add_argument("--steps", type=int, default=2500, help="of the training")
    parser.add_argument("--episodes", type=int, default=40, help="that are driven")
    parser.add_argument("--onnxruntime", type=Path, default=Path("build/onnxruntime"), help="its headers, for C++")
    parser.add_argument("--skip-cpp", action="store_true", help="Python alone")
    options = parser.parse_args(arguments)
    say = Clock()
    say(f"training LeRobot's diffusion policy on demonstrations, {options.steps} steps")
    network, statistics = train.train(steps=options.steps)
    train.write_checkpoint(options.output / "checkpoint", network, statistics)
    say("importing, exporting and bundling its checkpoint")
    bundle = deploy(options.output)
    say(f"driving {options.episodes} episodes in Python")
    starts, goals = task.episodes(options.episodes, np.random.default_rng(1))
    rows: dict[str, dict[str, float]] = {}
    drives: dict[str, Drive] = {}
    with open_engine(bundle, threads=THREADS) as engine:
        for name, plan, window in ways(bundle):
            drives[name] = drive(engine, plan, starts, goals, window)
            rows[name] = {
                "success": drives[name].success, "calls": drives[name].calls,
                "milliseconds": milliseconds(engine, plan, starts, goals, window),
            }  # fmt: skip
    if not options.skip_cpp:
        say("building and driving robot.cpp")
        for name, window in ((SEQUENTIAL, 0), (PARALLEL, bundle.plan().window)):
            actions, row = drive_cpp(options.output, options.onnxruntime, starts, goals, window)
            row["difference"] = float(np.abs(actions - drives[name].actions).max())
            rows[f"{name}, C++"] = row
    (options.output / "figures.json").write_text(json.dumps(rows, indent=2))
    (options.output / "policy.png").write_bytes(chart.draw(rows, drives[PARALLEL].paths, goals))
    say(f"done: {options.output}/policy.png")
    for name, row in rows.items():
        print(f"{name:28}" + "".join(f"  {figure} {value:.4g}" for figure, value in row.items()))


SEQUENTIAL, SHORT, PARALLEL = "DDPM-100, one by one", "DDIM-10, one by one", "DDPM-100, in parallel"


def ways(bundle: Bundle) -> list[tuple[str, Any, int | None]]:
    """Name, plan and window of each way to sample."""
    long, short = bundle.plans.values()
    return [(SEQUENTIAL, long.plan, None), (SHORT, short.plan, None), (PARALLEL, long.plan, long.window)]


def deploy(folder: Path) -> Bundle:
    """What `ncdeploy import`, `export` and `bundle` do with the checkpoint in the folder."""
    denoiser = import_model(folder / "checkpoint")
    save_model(folder / "policy.pt", denoiser)
    export_onnx(denoiser, folder / "policy.onnx", threads=THREADS)
    encoder, decoder = folder / "policy.encoder.onnx", folder / "policy.decoder.onnx"
    export_parts(denoiser, {"encoder": encoder, "decoder": decoder}, threads=THREADS)
    info = denoiser.info
    return make_bundle(
        folder / "policy.onnx", folder / "bundle", plans=[info.plan(), info.plan("ddim", 10)], window=100,
        encoder=encoder, decoder=decoder, threads=THREADS, force=True,
    )  # fmt: skip


def drive_cpp(
    folder: Path, onnxruntime: Path, starts: Floats, goals: Floats, window: int
) -> tuple[Floats, dict[str, float]]:
    """The actions [n, steps, 2] of robot.cpp in the same episodes, and its figures."""
    if shutil.which("cmake") is None:
        sys.exit("cmake is missing, and a C++17 compiler with it; or leave C++ out: --skip-cpp")
    build = folder / "build"
    configure = ["cmake", "-S", str(HERE), "-B", str(build), f"-DONNXRUNTIME_ROOT={onnxruntime.resolve()}"]
    for command in (configure, ["cmake", "--build", str(build), "--parallel", "2", "--target", "robot"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = [
        " ".join(map(str, [CHUNKS * episode, *start, *goal]))
        for episode, (start, goal) in enumerate(zip(starts.tolist(), goals.tolist(), strict=True))
    ]
    done = subprocess.run(
        [str(build / "robot"), str(folder / "bundle"), str(window)], input="\n".join(lines), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    actions = np.array([line.split() for line in done.stdout.splitlines()], np.float64)
    return actions.reshape(len(starts), -1, 2), json.loads(done.stderr)


class Clock:
    """Says what is being done, and when it began."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, what: str) -> None:
        print(f"{time.monotonic() - self.start:5.0f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
