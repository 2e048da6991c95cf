"""`ncdeploy sample --shard`, `--ray`: very many samples, as shards of a folder."""

import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy_cli import console
from ncdeploy_cli.choices import Execution
from ncdeploy_cli.outputs import claim

if TYPE_CHECKING:
    from ncdeploy.backends import Backend
    from ncdeploy.modelinfo import ModelInfo
    from ncdeploy.sampling.plan import Plan


def claim_shards(
    output: str | None, *, ray: str | None, workers: int | None, device: str, deadline: str | None
) -> str:  # fmt: skip
    """`claim` for the folder of shards, which may be there: whether it holds the same run is seen later.

    Raises InputError for options that shards leave without meaning, DependencyError for --ray without Ray.
    """
    from ncdeploy.bulk.cluster import check_ray
    from ncdeploy.errors import InputError

    if workers is not None and ray is None:
        raise InputError("--workers: are those of --ray; give it, or leave them out")
    if deadline is not None:
        raise InputError(f"--deadline {deadline}: shards are drawn to their end; leave it out")
    if output is None:
        raise InputError("--output: shards need a folder, such as -o shards")
    if ray is not None:
        check_ray()
        if ":" in device:
            raise InputError(f"--device {device}: Ray gives each worker a GPU; give {device.partition(':')[0]}")
    claim(output, force=True)
    return output


def sample_shards(
    path: Path, backend: "Backend", plan: "Plan", how: Execution, *, output: str, n: int, seed: int, shard: int | None,
    ray: str | None, workers: int | None, labels: Any, condition: Sequence[str], guidance: float | None, accept: Any,
    device: str, mode: str | None, threads: int | None, trust: bool,
    described: "ModelInfo | None", force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw what is missing in the folder, and say what was drawn.

    backend: of the engine, opened to check what is asked for, and closed here

    Raises InputError for options under which a shard would not be the same a second time.
    """
    from ncdeploy.bulk.folder import begin
    from ncdeploy.bulk.run import LEAST_SHARD, BulkRun, Source
    from ncdeploy.bulk.workers import draw_here, draw_with_ray
    from ncdeploy.errors import InputError
    from ncdeploy.formats.conditions import fill_conditions, load_conditions
    from ncdeploy.sampling.parallel import TOLERANCE

    if how.window == "auto":
        raise InputError(
            "--window auto: follows the clock, so that a shard would differ from one time to the next; give a number, "
            "or leave --parallel out"
        )
    part = None if backend.encoder is None else backend.encoder.part
    conditions = load_conditions(condition, backend.info, part)
    fill_conditions(conditions, backend.info, range(1), part)
    backend.close()
    lanes = how.rows // (how.per_node * (how.window or 1))
    run = BulkRun(
        source=Source.of(
            path, device=device, threads=1 if threads is None and ray is not None else threads, mode=mode,
            allow_module=trust, info=described,
        ),
        plan=plan, seed=seed, n=n, shard=shard or max(1, -(-LEAST_SHARD // lanes)) * lanes, rows=how.rows,
        window=how.window, tolerance=TOLERANCE if how.tolerance is None else how.tolerance, acceptance=accept,
        guidance=guidance, labels=labels, conditions=conditions,
    )  # fmt: skip
    start, folder = time.perf_counter(), Path(output).expanduser().resolve()
    missing = begin(folder, run, force=force)
    there, remark = n - sum(len(run.samples(i)) for i in missing), None
    # Ray says on stdout that a worker died, where results go.
    with redirect_stdout(sys.stderr), console.progress(plan.name, n, "samples", done=there) as bar:
        if ray is None:
            drawn = draw_here(run, str(folder), missing)
        else:
            drawn = draw_with_ray(run, str(folder), missing, address=ray, workers=workers)
        for one in drawn:
            bar.update(more=one.samples)
            remark = one.remark or remark
    wall = time.perf_counter() - start
    if as_json:
        console.print_json(
            {
                "n": n,
                "shards": run.shards,
                "drawn": len(missing),
                "samples": n - there,
                "wall_s": wall,
                "output": output,
            }
        )
    else:
        new = f"{len(missing)} of {run.shards} shards" if there else f"{run.shards} shards"
        console.stdout().print(f"{console.samples(n - there)}, {new}, {plan.name}, {console.duration(wall)}")
        console.stdout().print(f"wrote {output}")
    if remark is not None:
        console.warn(remark)
