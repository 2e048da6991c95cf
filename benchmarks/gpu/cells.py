"""What is measured, the most important first: a run that is cut short has what matters."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu.engines import Setting
from benchmarks.gpu.measure import Effort
from benchmarks.gpu.networks import FULL, QUICK, Recipe
from ncdeploy.run import Window
from ncdeploy.sampling.plan import Plan
from ncdeploy.sampling.recipe import make_plan

EAGER, GRAPHS = Setting(runtime="torch"), Setting(runtime="torch", mode="graphs")
COMPILED = Setting(runtime="torch", mode="compile")
ORT = Setting(runtime="onnxruntime")
PLAN, REPLAYED = Setting(runtime="tensorrt"), Setting(runtime="tensorrt", mode="graphs")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement. network: its recipe; plan: (solver, steps)."""

    kind: str
    network: Recipe
    engine: Setting | None = None
    plan: tuple[str, int] | None = None
    samples: int | None = None

    @property
    def plan_name(self) -> str | None:
        return None if self.plan is None else f"{self.plan[0]}-{self.plan[1]}"

    @property
    def id(self) -> str:
        """Unique, for people too: "sampling | unet32 | torch eager fp32 | ddpm-1000 | n=1"."""
        parts = [self.kind, self.network.name]
        parts += [self.engine.name] if self.engine else []
        parts += [self.plan_name] if self.plan_name else []
        parts += [f"n={self.samples}"] if self.samples else []
        return " | ".join(parts)

    def make_plan(self) -> Plan:
        assert self.plan is not None
        return make_plan(*self.plan)

    def record(self, status: str, reason: str = "") -> dict[str, Any]:
        """The cell's entry in results.json, without a result."""
        return {
            "id": self.id, "kind": self.kind, "network": self.network.name,
            "engine": asdict(self.engine) if self.engine else None, "plan": self.plan_name, "samples": self.samples,
            "status": status, "reason": reason, "seconds": None, "result": None,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scope:
    """networks: the first is the one that is looked at closest; plans: a long one, then a shorter one; windows: by the
    number of samples; window: of overhead and copies."""

    networks: tuple[Recipe, ...]
    plans: tuple[tuple[str, int], tuple[str, int]]
    windows: dict[int, list[Window]]
    window: int
    precisions: tuple[str, ...]
    effort: Effort


WHOLE = Scope(
    networks=FULL,
    plans=(("ddpm", 1000), ("ddim", 100)),
    windows={1: [16, 32, 64, 128, 256, "auto"], 4: [16, 32, 128, "auto"], 16: [4, 16, 64, "auto"]},
    window=64,
    precisions=("fp32", "tf32", "fp16", "bf16"),
    effort=Effort(),
)
SMALL = Scope(
    networks=QUICK,
    plans=(("ddpm", 40), ("ddim", 10)),
    windows={1: [4, 10, "auto"], 2: [4, "auto"]},
    window=8,
    precisions=("fp32", "fp16"),
    effort=Effort(repetitions=1, rows=8, seconds=0.05),
)


def cells(scope: Scope) -> list[Cell]:
    """All of them, each once."""
    return list(dict.fromkeys(_ordered(scope)))


def _ordered(scope: Scope) -> Iterator[Cell]:
    main, *others = scope.networks
    one, *more = scope.windows
    long, short = scope.plans

    def sampling(network: Recipe, engine: Setting, n: int) -> Iterator[Cell]:
        for plan in (long, short):
            yield Cell(kind="sampling", network=network, engine=engine, plan=plan, samples=n)

    yield Cell(kind="network", network=main)
    for engine in (EAGER, GRAPHS, ORT, REPLAYED, PLAN):
        yield from sampling(main, engine, one)
        for kind in ("copies", "overhead"):
            yield Cell(kind=kind, network=main, engine=engine, plan=long, samples=one)
        yield Cell(kind="latency", network=main, engine=engine)
    for precision in scope.precisions[::-1]:
        for each in (GRAPHS, ORT, REPLAYED):
            engine = Setting(runtime=each.runtime, mode=each.mode, precision=precision)
            yield Cell(kind="latency", network=main, engine=engine)
            yield Cell(kind="sampling", network=main, engine=engine, plan=long, samples=one)
    for network in others:
        yield Cell(kind="network", network=network)
        for engine in (EAGER, GRAPHS, ORT, REPLAYED):
            yield from sampling(network, engine, one)
            yield Cell(kind="latency", network=network, engine=engine)
    for network in scope.networks:
        for n in more:
            for engine in (EAGER, GRAPHS, ORT, REPLAYED):
                yield from sampling(network, engine, n)
    for network in scope.networks:
        yield Cell(kind="latency", network=network, engine=COMPILED)
        yield from sampling(network, COMPILED, one)
        for precision in scope.precisions:
            for each in (EAGER, ORT, REPLAYED, PLAN):
                engine = Setting(runtime=each.runtime, mode=each.mode, precision=precision)
                yield Cell(kind="latency", network=network, engine=engine)
