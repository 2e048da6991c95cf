"""Who draws the shards: this process, or workers of a Ray cluster."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ncdeploy.bulk.cluster import LOCAL, check_room, start_ray
from ncdeploy.bulk.run import BulkRun, Drawn, draw
from ncdeploy.errors import BackendError, NcdeployError

_RETRIES = 5  # of a shard whose worker or machine dies
_AHEAD = 1000  # shards that Ray knows of at once


def draw_here(run: BulkRun, folder: str, shards: Sequence[int]) -> Iterator[Drawn]:
    """Draw them one after the other. Raises as `draw` does."""
    for shard in shards:
        yield draw(run, shard, folder)


def draw_with_ray(
    run: BulkRun, folder: str, shards: Sequence[int], *, address: str, workers: int | None = None
) -> Iterator[Drawn]:
    """Draw them by tasks of Ray, which take up again what a killed worker or lost machine leaves.

    folder:  absolute, and as the engine readable under the same name wherever a worker runs
    address: "local" for a cluster that begins and ends with this process, "auto" for that of this machine, or where one
        is: HOST:PORT, ray://HOST:PORT
    workers: shards that are drawn at once at most; None: as many as the cluster has room for

    Raises as `draw` does, and BackendError for a cluster that is not there or fails.
    """
    if not shards:
        return
    ray = start_ray(address)
    source = run.source
    needs = {"num_cpus": source.threads or 1, "num_gpus": int(source.gpu)}
    try:
        if address == LOCAL:
            check_room(ray, needs)
        # Without max_calls=0 a worker with a GPU would end after every shard, and its engine with it.
        task = ray.remote(max_retries=_RETRIES, max_calls=0, **needs)(draw)
        shared, waiting, running = ray.put(run), deque(shards), dict[Any, int]()
        while waiting or running:
            while waiting and len(running) < (workers or _AHEAD):
                shard = waiting.popleft()
                running[task.remote(shared, shard, folder)] = shard
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            yield _outcome(ray, done, run.name(running.pop(done)))
    finally:
        ray.shutdown()


def _outcome(ray: Any, done: Any, name: str) -> Drawn:
    try:
        drawn: Drawn = ray.get(done)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, NcdeployError):
            raise e.cause from None
        raise BackendError(f"{name}: its worker failed: {type(e.cause).__name__}: {e.cause}") from e
    except ray.exceptions.RayError as e:
        raise BackendError(
            f"{name}: Ray gave it up after {_RETRIES + 1} workers ({type(e).__name__}); the same command goes on"
        ) from e
    return drawn
