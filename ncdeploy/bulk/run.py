"""What a bulk run draws, so that any process that can read the engine draws the same."""

import hashlib
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends import Backend, open_engine
from ncdeploy.errors import FileError
from ncdeploy.files import real_path
from ncdeploy.formats.bundle import open_bundle
from ncdeploy.formats.conditions import fill_conditions
from ncdeploy.formats.filetype import MANIFEST, Kind, detect, is_bundle
from ncdeploy.formats.sidecar import digest, graph_digest
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.plan import Plan

FORMAT = 1
LEAST_SHARD = 1024  # samples, where nobody says how many


@dataclass(frozen=True, kw_only=True)
class Source:
    """An engine as every worker opens it.

    path:   absolute, the same wherever a worker runs
    sha256: of the file with what belongs to it; of a bundle's manifest, which has those of all files
    gpu:    whether it needs one
    info:   JSON of a model that does not describe itself, or None; the others are as of `open_engine`
    """

    path: str
    sha256: str
    gpu: bool
    device: str
    threads: int | None
    mode: str | None
    allow_module: bool
    info: str | None

    @classmethod
    def of(
        cls, path: Path, *, device: str, threads: int | None, mode: str | None, allow_module: bool,
        info: ModelInfo | None,
    ) -> Self:  # fmt: skip
        """Of an engine file or a bundle. Raises FileError for what cannot be read."""
        path = real_path(path)
        file = open_bundle(path).engine if is_bundle(path) else path
        return cls(
            path=str(path), sha256=_engine_digest(path), gpu=device != "cpu" or detect(file) is Kind.TENSORRT,
            device=device, threads=threads, mode=mode, allow_module=allow_module,
            info=None if info is None else info.to_json(),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class BulkRun:
    """Samples 0 to n - 1, from seeds that begin with `seed`.

    shard: samples of a file; the last one has the rest
    rows: most rows of a network call; window: None for sequential
    labels: int64 [n], or None; conditions: as `load_conditions` gives them, repeated to fill n
    """

    source: Source
    plan: Plan
    seed: int
    n: int
    shard: int
    rows: int
    window: int | None
    tolerance: float
    acceptance: Literal["pathwise", "law"]
    guidance: float | None
    labels: NDArray[np.int64] | None
    conditions: dict[str, NDArray[Any]]

    @property
    def shards(self) -> int:
        """Files."""
        return -(-self.n // self.shard)

    def samples(self, shard: int) -> range:
        """Those of a file, by their numbers."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.n))

    def name(self, shard: int) -> str:
        """Of its file."""
        return f"shard-{shard:05}-of-{self.shards:05}.npz"

    def record(self) -> dict[str, Any]:
        """Everything that the samples depend on, for JSON."""
        plan = [self.plan.sigmas, self.plan.state, self.plan.denoised, self.plan.noise, self.plan.evaluated]
        plan += [] if self.plan.cut is None else [self.plan.cut, np.array(self.plan.clip)]
        return {
            "format": FORMAT,
            "engine": self.source.sha256,
            "device": self.source.device,
            "mode": self.source.mode,
            "model": self.source.info,
            "plan": self.plan.name,
            "plan_sha256": _digest(*plan),
            "seed": self.seed,
            "n": self.n,
            "shard": self.shard,
            "rows": self.rows,
            "window": self.window,
            "tolerance": None if self.window is None or self.acceptance == "law" else self.tolerance,
            "acceptance": self.acceptance,
            "guidance": self.guidance,
            "labels": None if self.labels is None else _digest(self.labels),
            "conditions": {name: _digest(values) for name, values in sorted(self.conditions.items())},
        }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A shard that is there now. remark: what there is to say of its states, or None"""

    shard: int
    samples: int
    remark: str | None


def draw(run: BulkRun, shard: int, folder: str) -> Drawn:
    """Draw a shard and write it. The engine stays open for the next one.

    Raises what `open_engine`, `sample` and `Result.save` do, and FileError for an engine that is another one here.
    """
    engine, at = _opened(run.source), run.samples(shard)
    part = None if engine.encoder is None else engine.encoder.part
    conditions = fill_conditions(run.conditions, engine.info, at, part)
    result = sample(
        engine, run.plan, seeds=[run.seed + i for i in at],
        conditions={"labels": None if run.labels is None else run.labels[at.start : at.stop], **conditions},
        window=run.window, tolerance=run.tolerance,
        options=SampleOptions(
            guidance=run.guidance, max_rows=run.rows, acceptance=run.acceptance,
            like=None if run.acceptance == "law" else engine.like,
        ),
    )  # fmt: skip
    result.save(Path(folder) / run.name(shard))
    energy = result.energy
    return Drawn(shard=shard, samples=len(at), remark=None if energy is None else energy.remark())


def _engine_digest(path: Path) -> str:
    if is_bundle(path):
        return digest(path / MANIFEST)
    return graph_digest(path) if detect(path) is Kind.ONNX else digest(path)


@lru_cache(maxsize=1)
def _opened(source: Source) -> Backend:
    if _engine_digest(Path(source.path)) != source.sha256:
        raise FileError(
            f"{source.path}: is another engine on {platform.node()} than where the run was started; copy it there again"
        )
    return open_engine(
        source.path, device=source.device, threads=source.threads, mode=source.mode, allow_module=source.allow_module,
        info=None if source.info is None else ModelInfo.from_json(source.info),
    )  # fmt: skip


def _digest(*arrays: NDArray[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
