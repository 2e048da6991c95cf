"""`ncdeploy sample` on a graph with a sampler in it: the same samples, figures and messages as around a denoiser."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy_cli import console
from ncdeploy_cli.choices import Execution, choose_classes
from ncdeploy_cli.outputs import claim_samples

if TYPE_CHECKING:
    from ncdeploy.result import Result


def sample_graph(
    engine: Path, *, output: str | None, n: int, seed: int, labels: str | None, guidance: float | None,
    condition: Sequence[str], tolerance: float | None, rows: int | None, device: str, threads: int | None, force: bool,
    plan: dict[str, Any], without: dict[str, Any], in_law: bool,
) -> "tuple[Result, Any, Execution, str]":  # fmt: skip
    """Sample and save. Returns the result, its plan, how it was computed, and where it went.

    plan:    arguments of `make_plan` by option, None where not given
    without: options that mean nothing here, None where not given
    in_law:  whether that is asked for; a graph made for it does so also where it is not

    Raises InputError for options that the graph leaves without meaning.
    """
    from ncdeploy.backends.graphs.run import GraphEngine
    from ncdeploy.errors import InputError
    from ncdeploy.formats.conditions import read_conditions
    from ncdeploy.report.samples import check_output, default_output, save_samples

    graph = GraphEngine(engine, device=device, threads=threads)
    record, info = graph.record, graph.info
    asked = [f"--{option.replace('_', '-')}" for option, value in plan.items() if value is not None]
    refused = [f"--{option.replace('_', '-')}" for option, value in without.items() if value is not None]
    if refused:
        raise InputError(f"{refused[0]}: does not apply to a {record.kind} graph, which has that inside; leave it out")
    if in_law and not record.in_law:
        raise InputError("--accept law: this graph accepts pathwise; export one with --accept law, or leave it out")
    if asked and not record.plan_input:
        raise InputError(
            f"{asked[0]}: this graph carries its plan, {record.plan.name}; leave it out, or export with --plan-input"
        )
    if output is None:
        output = claim_samples(default_output(info), force=force)
    check_output(output, info)
    classes = choose_classes(labels, n, info)
    conditions = read_conditions(condition, info, n)
    chosen = info.plan(**plan) if asked else record.plan
    if not asked:
        info.check_plan(chosen)
    how = Execution.choose(
        chosen, info, parallel=True, window=graph.window(chosen), tolerance=tolerance, rows=rows
    )  # fmt: skip
    with console.progress(f"{chosen.name}, {console.samples(n)}") as bar:
        result = graph.sample(
            range(seed, seed + n), labels=None if classes is None else classes.tolist(), guidance=guidance,
            conditions=conditions, plan=chosen if record.plan_input else None,
            tolerance=tolerance,
            max_rows=how.rows, on_call=lambda done: bar.update(note=f"{done} sweeps"),
        )  # fmt: skip
    graph.close()
    save_samples(output, result.samples, info, labels=classes)
    return result, chosen, how, output
