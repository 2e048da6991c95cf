"""The pictures of README and docs, made anew from the demo's model: python -m benchmarks.figures demo/model.onnx."""

import argparse
from pathlib import Path

from ncdeploy import make_plan, open_engine
from ncdeploy.demo.pictures import OVERVIEW, overview
from ncdeploy.demo.watch import Pair, run_pair
from ncdeploy.files import atomic_write
from ncdeploy.parity import default_plan
from ncdeploy.report.charts import render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    engine = open_engine(args.model)
    short_plan, long_plan = default_plan(engine.info), make_plan("ddpm", 1000)
    pairs: list[Pair] = []
    for plan, n, window in ((short_plan, 5, short_plan.evaluations), (long_plan, 10, 100)):
        runs = run_pair(engine, plan, seeds=range(n), labels=None, window=window)
        while True:
            try:
                next(runs)
            except StopIteration as end:
                pairs.append(end.value)
                break
    engine.close()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, dark, paper in (("sweeps.png", False, "white"), ("sweeps-dark.png", True, "#0d1117")):
        with atomic_write(args.output / name) as temporary:
            temporary.write_bytes(render(overview(*pairs), OVERVIEW, kind="png", dark=dark, paper=paper))
        print(args.output / name)


if __name__ == "__main__":
    main()
