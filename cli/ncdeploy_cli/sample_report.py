"""What `ncdeploy sample` says of a run: a table for people, or the figures as JSON."""

from typing import TYPE_CHECKING, Any

from ncdeploy_cli import console
from ncdeploy_cli.choices import Execution

if TYPE_CHECKING:
    from rich.table import Table

    from ncdeploy.result import Result
    from ncdeploy.sampling.plan import Plan


def report(
    result: "Result", plan: "Plan", how: Execution, n: int, output: str, guidance: float | None, json: bool
) -> None:
    """Print it, and warn of samples that a deadline cut short, and of states that the model does not know."""
    if json:
        console.print_json({**_record(result, plan, how, n, output), "guidance": guidance})
    else:
        if result.choice is not None:
            console.stdout().print(str(result.choice))
        console.stdout().print(_summary(result, plan, how, n))
        if result.complete is not None and not result.complete.all():
            late = int((~result.complete).sum())
            console.warn(
                f"{late} of {console.samples(n)} did not come to their end by the deadline: what is known of them"
            )
        console.stdout().print(f"wrote {output}")
    remark = None if result.energy is None else result.energy.remark()
    if remark is not None:
        console.warn(remark)


def _record(result: "Result", plan: "Plan", how: Execution, n: int, output: str) -> dict[str, Any]:
    """What --json prints; sweeps are a mean over samples, residual the largest of them."""
    name, _, steps = plan.name.rpartition("-")  # in a bundle, people may name plans otherwise
    return {
        "n": n,
        "solver": name or plan.name,
        "steps": int(steps) if steps.isdecimal() else None,
        "window": result.window,
        "auto": how.window == "auto",
        "depth": result.depth,
        "nfe": result.nfe,
        "sweeps": float(result.sweeps.mean()),
        "residual": float(result.residual.max()),
        "energy": None if result.energy is None else result.energy.to_dict(),
        "complete": None if result.complete is None else int(result.complete.sum()),
        "rejections": None if result.rejections is None else float(result.rejections.mean()),
        "wall_s": result.wall_s,
        "engine_s": result.engine_s,
        "sequential_depth": how.sequential_depth(plan, n),
        "sequential_nfe": how.sequential_nfe(plan),
        "output": output,
    }


def _summary(result: "Result", plan: "Plan", how: Execution, n: int) -> "Table":
    from rich.table import Table

    mode = "sequential" if result.window is None else f"parallel, window {result.window}"
    table = Table(
        box=None, title=f"{console.samples(n)}, {plan.name}, {mode}", title_justify="left", title_style="bold"
    )
    table.add_column("")
    table.add_column("this run", justify="right")
    lanes = n if result.choice is None else result.choice.lanes
    apart = "" if lanes == n else f", {console.samples(lanes)} at a time"
    rows = [
        ("depth", f"{result.depth}", f"{how.sequential_depth(plan, n)}", f"network calls, one after another{apart}"),
        ("NFE", f"{result.nfe:.1f}", f"{how.sequential_nfe(plan)}", "evaluations per sample"),
        ("wall time", console.duration(result.wall_s), "", f"{console.duration(result.engine_s)} of it in the network"),
    ]
    if result.window is None:
        for name, this, _, note in rows:
            table.add_row(name, this, note)
        return table
    table.add_column("sequential", justify="right")
    accepted = ("residual", f"{result.residual.max():.1e}", "", "largest accepted, relative to the noise level")
    if result.rejections is not None:
        accepted = ("rejections", f"{result.rejections.mean():.1f}", "", "drafts refused per sample; exact in law")
    for row in [*rows, accepted]:
        table.add_row(*row)
    return table
