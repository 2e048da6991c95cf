"""The table and the picture of a run: `python -m benchmarks.contrastive.claim.page claim -o benchmarks/contrastive`
puts them into README.md and pictures/claim.png of that folder; without -o the table is printed."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contrastive.claim.arms import ARMS
from benchmarks.contrastive.claim.judge import FACTORS, SIGMAS
from benchmarks.contrastive.summary import read_records
from ncdeploy.files import atomic_write

BEGIN, END = "<!-- figures: made by benchmarks.contrastive.claim.page -->\n", "<!-- end of figures -->\n"
PAIRS = (("likelihood + contrast", "likelihood"), ("ddpm + contrast", "ddpm"), ("edm + contrast", "edm"))


class Found:
    """The lines of a run by arm, at its last step."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        models = [r for r in records if r["arm"] != "data"]
        self.floor = next(r["mmd"] for r in records if r["arm"] == "data")
        self.steps = max(r["step"] for r in models)
        self.models = [r for r in models if r["step"] == self.steps]
        self.arms = [arm for arm in ARMS if any(r["arm"] == arm for r in self.models)]
        self.seeds = 1 + max(r["seed"] for r in self.models)

    def of(self, arm: str, *keys: str, averaged: bool = True) -> list[float]:
        """One figure of an arm, seed by seed."""
        values = []
        for record in self.models:
            if record["arm"] == arm and record["averaged"] == averaged:
                value = record
                for key in keys:
                    value = value[key]
                values.append(value)
        return [float(v) for v in values]

    def spread(self, arm: str, *keys: str, unit: float = 1e3, averaged: bool = True) -> str:
        values = self.of(arm, *keys, averaged=averaged)
        if not values:
            return "–"
        return f"{unit * np.mean(values):.2f} ± {unit * np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"

    def ratio(self, arm: str, other: str, *keys: str, averaged: bool = True) -> str:
        """Of the means, with its standard error."""
        mine, its = (self.of(name, *keys, averaged=averaged) for name in (arm, other))
        if min(len(mine), len(its)) < 2:
            return "–"
        error = math.hypot(*(np.std(v, ddof=1) / np.sqrt(len(v)) / np.mean(v) for v in (mine, its)))
        value = np.mean(mine) / np.mean(its)
        return f"× {value:.2f} ± {value * error:.2f}"


def excess(found: Found, arm: str, k: float) -> float:
    """Mean over noise levels of ln rms error at states whose noise is k times what is claimed."""
    return float(np.mean([np.log(found.of(arm, "mismatch", f"{k:g} {sigma:g}")) for sigma in SIGMAS]))


def table(found: Found) -> list[str]:
    """claim, theirs, ours, why."""
    pairs = [(arm, other) for arm, other in PAIRS if arm in found.arms and other in found.arms]

    def both(arm: str, other: str) -> str:
        raw, average = (found.ratio(arm, other, "mmd", averaged=averaged) for averaged in (False, True))
        return f"{raw}; averaged weights {average}"

    def with_contrast(*keys: str) -> str:
        return "; ".join(f"{a} {found.ratio(a, b, *keys)}" for a, b in pairs)

    off = "; ".join(
        f"{arm} " + ", ".join(f"× {math.exp(excess(found, arm, k) - excess(found, other, k)):.2f}" for k in (0, 2, 4))
        for arm, other in pairs
    )  # fmt: skip
    released = "likelihood + contrast"
    parallel, alone, medians = (
        [np.mean(found.of(arm, "parallel", key)) for arm in found.arms] for key in ("mmd", "sequential", "median")
    )
    apart, median = np.abs(np.subtract(parallel, alone)).max(), max(medians)
    raw = {arm: found.spread(arm, "mmd", averaged=False) for arm in found.arms}
    rows = [
        ("samples closer to the data, in sequence", "MMD 1.2 against 3.1 of DDPM's, × 0.39",
         f"{raw.get(released, '–')} against {raw.get('ddpm', '–')}, {both(released, 'ddpm')}",
         "two things differ between their arms: how noise levels are drawn, and the contrast"),
        ("– of that by noise levels", "not told apart", f"{raw.get('likelihood', '–')}, {both('likelihood', 'ddpm')}",
         "levels drawn by importance dwell where clusters come apart; DDPM's are uniform in its steps"),
        ("– of that by the contrast", "all of it",
         "; ".join(f"{a} / {b} {both(a, b)}" for a, b in pairs),
         "its gradient is nearly all noise ([details](details.md#what-a-gradient-is-worth))"),
        ("EDM's levels and scaling", "–", f"{raw.get('edm', '–')}, {both('edm', 'ddpm')}",
         "how this library trains by default"),
        ("better parallel samples", "significantly", "as in sequence, from the same seeds: no arm's MMD differs by "
         f"more than {1e3 * apart:.3f}, the median sample by more than {1e3 * median:.2f}e-3",
         "there is nothing to mend"),
        ("faster parallel sampling", "significantly", "sweeps: "
         + "; ".join(f"{arm} {found.spread(arm, 'parallel', 'sweeps', unit=1)}" for arm in found.arms),
         "how fast a path settles is a matter of the path, not of errors beside it"),
        ("right answers off the training distribution", "the cause of the gain",
         f"rms error at 0, 2 and 4 times the noise that is claimed, with the contrast over without: {off}",
         "samplers hardly go there ([details](details.md#what-was-found))"),
        ("sequential samplers too", "improved", "Heun, 36 steps, with the contrast over without: " + "; ".join(
            f"S_churn {churn}: {with_contrast('churn', churn)}" for churn in ("0", "10", "40")),
         "churn takes errors away in every arm alike"),
    ]  # fmt: skip
    floor = np.array(found.floor)
    return [
        f"{found.seeds} seeds an arm, {found.steps:,} steps. MMD × 1e-3: mean ± standard deviation over seeds, ratios "
        f"± standard error. Fresh data score {1e3 * floor.mean():.2f} ± "
        f"{1e3 * floor.std(ddof=1):.2f}.",
        "",
        "| claim | theirs | ours | why |",
        "| --- | --- | --- | --- |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def picture(found: Found, path: Path) -> None:
    """MMD of every seed, parallel against sequential, and errors where the noise is not what is claimed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    colours = dict(zip(found.arms, ("#5b6472", "#0b6e75", "#b4532a", "#7a5195", "#3b7d3a", "#a63d5d"), strict=False))
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for place, arm in enumerate(found.arms):
        for averaged, offset, marker in ((False, -0.15, "o"), (True, 0.15, "D")):
            values = 1e3 * np.array(found.of(arm, "mmd", averaged=averaged))
            fill = colours[arm] if averaged else "none"
            left.scatter(values, np.full(len(values), place + offset), 22, fill, marker=marker, edgecolors=colours[arm])
    floor = 1e3 * np.array(found.floor)
    left.axvspan(floor.min(), floor.max(), color="#dddddd", zorder=0)
    left.set(xlabel="MMD × 1e-3 (filled: averaged weights; grey: data)", yticks=range(len(found.arms)), title="samples")
    left.set_yticklabels(found.arms)
    left.invert_yaxis()
    for arm in found.arms:
        one, two = (1e3 * np.array(found.of(arm, "parallel", key)) for key in ("sequential", "mmd"))
        middle.scatter(one, two, 22, colours[arm])
        errors = [math.exp(excess(found, arm, k)) for k in FACTORS]
        dashed = "--" if "contrast" in arm else "-"
        right.plot(FACTORS, errors, dashed, color=colours[arm], marker="o", markersize=4, label=arm)
    ends = middle.get_xlim()
    middle.plot(ends, ends, color="#bbbbbb", zorder=0)
    middle.set(xlabel="in sequence", ylabel="in parallel", title="MMD × 1e-3 under the same noise")
    right.set(
        xlabel="noise on the state over noise claimed", ylabel="rms error of D, mean over noise levels", yscale="log"
    )
    right.set_title("where the noise is not what is claimed")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("-o", "--output", type=Path, default=None)
    given = parser.parse_args()
    found = Found(read_records(given.run / "figures.jsonl"))
    lines = "\n".join(table(found)) + "\n"
    if given.output is None:
        print(lines)
        return
    picture(found, given.output / "pictures" / "claim.png")
    page = given.output / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    shown = "\n![MMD, parallel sampling, noise other than claimed](pictures/claim.png)\n\n"
    with atomic_write(page) as temporary:
        temporary.write_text(before + BEGIN + "\n" + lines + shown + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
