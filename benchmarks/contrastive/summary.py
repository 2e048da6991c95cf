"""Tables and pictures from the lines of a study: `python -m benchmarks.contrastive.summary study.jsonl -o folder`.

Every figure is a mean over seeds with the smallest and the largest; pictures show each seed as a dot.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.contrastive.measure import TOLERANCES, WINDOWS, run_name

Record = dict[str, Any]


def _above(record: Record, column: int) -> float:
    """Error on states with noise levels of 0.3 and more; column of a group: 5 visited, 6 training."""
    groups = [g for g in record["groups"] if g[2] >= 0.3]
    return math.sqrt(sum(g[4] * g[column] ** 2 for g in groups) / sum(g[4] for g in groups))


def read_records(path: Path) -> list[Record]:
    """The whole lines of a study, also of one that is cut short in the midst of a line."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


STRICT = run_name("ddpm-1000", WINDOWS[-1], TOLERANCES[0])
FIGURES: tuple[tuple[str, Callable[[Record], float]], ...] = (
    ("noise log-loss", lambda r: float(r["log_loss"])),
    ("-log p, nats", lambda r: float(r["nll"])),
    ("error, visited", lambda r: float(r["visited"])),
    ("error, visited, sigma from 0.3", lambda r: _above(r, 5)),
    ("error, visited sequentially", lambda r: float(r.get("visited_sequential", math.nan))),
    ("error, training", lambda r: float(r["training"])),
    ("error, training, sigma from 0.3", lambda r: _above(r, 6)),
    ("MMD, ddpm-1000", lambda r: float(r[STRICT]["mmd"])),
    *(
        (f"energy, window {w}, tolerance {t:g}", lambda r, run=run_name("ddpm-1000", w, t): float(r[run]["energy"]))
        for w in WINDOWS
        for t in TOLERANCES
    ),
    ("energy, ddim-100 parallel", lambda r: float(r["ddim-100 parallel"]["energy"])),
    ("energy, dpmpp_2m-25", lambda r: float(r["dpmpp_2m-25"]["energy"])),
    ("sweeps, ddpm-1000", lambda r: float(r[STRICT]["sweeps"])),
)
COLOURS = ("#0b6e75", "#b4532a", "#5b6472", "#7a5195", "#3b7d3a", "#a63d5d", "#8a6d1d", "#34568b")


def table(records: list[Record]) -> Iterator[str]:
    """A Markdown table, arms across, in the order in which they first come."""
    arms = list(dict.fromkeys(r["arm"] for r in records))
    counts = {arm: sum(r["arm"] == arm for r in records) for arm in arms}
    yield "| | " + " | ".join(f"{arm} (seeds: {counts[arm]})" for arm in arms) + " |"
    yield "| --- |" + " --- |" * len(arms)
    for name, figure in FIGURES:
        cells = []
        for arm in arms:
            values = [figure(r) for r in records if r["arm"] == arm]
            cells.append(_cell(values, ".3g"))
        yield f"| {name} | " + " | ".join(cells) + " |"
    floor = records[0]["floor"]
    yield f"\nData against data: MMD {floor['mmd']:.3g}, energy distance {floor['energy']:.3g}."
    if "log_loss_bayes" in records[0]:
        yield f"The exact density scores a noise log-loss of {records[0]['log_loss_bayes']:.4f} on the same points."


def pairs(records: list[Record]) -> list[tuple[str, str]]:
    """Which arms to compare: one with the contrastive loss with the same without it, others with plain; and what the
    published comparison sets against each other, with its parts."""
    arms = list(dict.fromkeys(r["arm"] for r in records))
    found = [(arm, arm.partition("+")[0] if "+" in arm else "plain") for arm in arms]
    extra = [("contrastive", "plain-long"), ("likelihood", "ddpm"), ("likelihood+contrastive", "ddpm")]
    return [(a, b) for a, b in [*found, *extra] if a != b and a in arms and b in arms]


def ratios(records: list[Record]) -> Iterator[str]:
    """A Markdown table of one arm over another, seed by seed: the two began alike and met the same batches."""
    columns = []
    for arm, reference in pairs(records):
        mine, other = ({r["seed"]: r for r in records if r["arm"] == name} for name in (arm, reference))
        columns.append((f"{arm} / {reference}", [(mine[s], other[s]) for s in sorted(set(mine) & set(other))]))
    columns = [(title, both) for title, both in columns if both]
    if not columns:
        return
    yield "\nOne arm over another, seed by seed:\n"
    yield "| | " + " | ".join(f"{title} (seeds: {len(both)})" for title, both in columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for name, figure in FIGURES:
        nats = name == "-log p, nats"
        cells = []
        for _, both in columns:
            values = [figure(a) - figure(b) if nats else figure(a) / figure(b) for a, b in both]
            cells.append(_cell(values, "+.2f" if nats else ".3f"))
        yield f"| {name}{', difference' if nats else ''} | " + " | ".join(cells) + " |"


def _cell(values: list[float], form: str) -> str:
    """mean (smallest … largest); – where nothing was measured."""
    known = [v for v in values if not math.isnan(v)]
    return f"{np.mean(known):{form}} ({min(known):{form}} … {max(known):{form}})" if known else "–"


def picture(records: list[Record], title: str) -> Image.Image:
    """Dots: one row for each figure, relative to the mean of the first arm, one dot per seed and colour per arm."""
    arms = list(dict.fromkeys(r["arm"] for r in records))
    shown = [f for f in FIGURES if not f[0].startswith("-log p") and not any(math.isnan(f[1](r)) for r in records)]
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    left = 36 + round(max(small.getlength(name) for name, _ in shown))
    width, right, top, line = left + 650, 40, 70, 34
    height = top + line * len(shown) + 50
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((left, 12), title, fill="#1d2129", font=font)
    x = 24.0
    for i, arm in enumerate(arms):
        pen.ellipse((x, 42, x + 9, 51), fill=COLOURS[i % len(COLOURS)])
        pen.text((x + 14, 38), arm, fill="#5b6472", font=small)
        x += 30 + pen.textlength(arm, font=small)
    scaled = []
    for _, figure in shown:
        unit = float(np.mean([figure(r) for r in records if r["arm"] == arms[0]]))
        scaled.append([[figure(r) / unit for r in records if r["arm"] == arm] for arm in arms])
    low, high = 0.5, max(1.5, min(2.5, max(float(v) for row in scaled for arm in row for v in arm)))

    def across(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (width - left - right)

    for k in (0.5 + 0.25 * i for i in range(int((high - low) / 0.25) + 1)):
        pen.line((across(k), top - 6, across(k), height - 36), fill="#999999" if k == 1 else "#e3e0d8")
        pen.text((across(k), height - 26), f"{k:g}", fill="#5b6472", font=small, anchor="mm")
    for row, (name, _) in enumerate(shown):
        y = top + line * row + line / 2
        pen.text((left - 12, y), name, fill="#1d2129", font=small, anchor="rm")
        for i, values in enumerate(scaled[row]):
            at = y + (i - (len(arms) - 1) / 2) * min(7, 24 / len(arms))
            for value in values:
                x = across(value)
                pen.ellipse((x - 4, at - 4, x + 4, at + 4), outline="white", fill=COLOURS[i % len(COLOURS)])
    pen.text(
        (left, height - 12),
        f"relative to the mean of {arms[0]}; lower is better",
        fill="#5b6472",
        font=small,
        anchor="lm",
    )
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=None, help="folder for one PNG per set of data")
    given = parser.parse_args()
    records = read_records(given.results)
    for name, steps in dict.fromkeys((r["data"], r["steps"]) for r in records):
        chosen = [r for r in records if (r["data"], r["steps"]) == (name, steps)]
        print(f"\n### {name}, {steps} steps\n")
        for line in table(chosen):
            print(line)
        for line in ratios(chosen):
            print(line)
        if given.output is not None:
            given.output.mkdir(parents=True, exist_ok=True)
            picture(chosen, f"{name}, {steps} steps").save(given.output / f"{name}-{steps}.png", optimize=True)


if __name__ == "__main__":
    main()
