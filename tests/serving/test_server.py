"""The server in process: for asyncio, one engine, many callers."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncdeploy import BusyError, InputError, NumericalError, Server, make_plan, open_engine, sample
from ncdeploy.auto.latency import Latency
from oracle import digits
from tiny_models import IMAGES, write_mixture

LATENCY = Latency(rows=(1, 64), seconds=(1e-4, 4e-4), asked=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Path:
    means = digits().means[:32].reshape(-1, 1, 8, 8)
    return write_mixture(tmp_path_factory.mktemp("serve") / "digits.onnx", IMAGES, means)


def within(work: Any, seconds: float = 120) -> Any:
    """What it gives; a test that waits for what does not come fails soon."""
    return asyncio.run(asyncio.wait_for(work, seconds))


class Held:
    """An engine whose calls wait while `gate` is not set, so that no test depends on how fast they are."""

    encoder = decoder = None

    def __init__(self, model: Path) -> None:
        self._engine, self.gate = open_engine(model, threads=1), threading.Event()
        self.info, self.close = self._engine.info, self._engine.close

    def __call__(self, x: Any, sigma: Any) -> Any:
        assert self.gate.wait(60)
        return self._engine(x, sigma)


def server(model: Path, engine: Any = None, **settings: Any) -> Server:
    return Server(engine or open_engine(model, threads=1), LATENCY, **settings)


def test_callers_get_the_samples_of_runs_alone(model: Path) -> None:
    async def run() -> Any:
        async with server(model) as it:
            asked = [("ddim-20", None), ("dpmpp_2m-12", 6), ("heun-8", 4), (None, 3)]
            return await asyncio.gather(
                *(it.sample(plan, seeds=[i, i + 1], window=w) for i, (plan, w) in enumerate(asked * 3))
            )

    engine = open_engine(model, threads=1)
    plans = [engine.info.plan("ddim", 20), engine.info.plan("dpmpp_2m", 12), engine.info.plan("heun", 8)]
    for i, served in enumerate(within(run())):
        plan, window = [*plans, engine.info.plan()][i % 4], (None, 6, 4, 3)[i % 4]
        expected = sample(engine, plan, seeds=[i, i + 1], window=window)
        np.testing.assert_allclose(served.samples, expected.samples, atol=1e-5, rtol=0)
        assert served.to_data().shape == (2, 1, 8, 8)
        assert served.wall_s >= served.waited_s >= 0


def test_who_stops_waiting_stops_the_work(model: Path) -> None:
    async def run() -> None:
        held = Held(model)
        async with server(model, held) as it:
            task = asyncio.ensure_future(it.sample("ddpm-1000", seeds=[0], window=None))
            while not it.in_work:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.gate.set()
            while it.in_work:
                await asyncio.sleep(0.001)
            assert len(it.ticks) < 1000
            held.gate.clear()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(it.sample("ddpm-1000", seeds=[0], window=None), 0.02)
            held.gate.set()
            await it.sample("heun-4", seeds=[0])

    within(run())


def test_a_full_queue_refuses_and_closing_ends_what_is_there(model: Path) -> None:
    async def run() -> None:
        held = Held(model)
        it = server(model, held, queue=2, max_rows=1)
        tasks = [asyncio.ensure_future(it.sample("ddim-40", seeds=[0], window=None))]
        while it.in_work < 1:
            await asyncio.sleep(0.0005)
        tasks += [asyncio.ensure_future(it.sample("ddim-40", seeds=[i], window=None)) for i in (1, 2)]
        while it.waiting < 2:
            await asyncio.sleep(0.0005)
        with pytest.raises(BusyError, match="2 requests are waiting; try again in"):
            await it.sample("ddim-40", seeds=[9])
        held.gate.set()
        await it.close()
        assert [served.samples.shape for served in await asyncio.gather(*tasks)] == [(1, 1, 8, 8)] * 3
        with pytest.raises(BusyError, match="closing"):
            await it.sample(seeds=[0])

    within(run())


def test_closing_does_not_wait_for_ever(model: Path) -> None:
    async def run() -> None:
        held = Held(model)
        it = server(model, held, max_rows=1)
        tasks = [asyncio.ensure_future(it.sample("ddpm-1000", seeds=[i], window=None)) for i in range(3)]
        while not it.in_work:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.2, held.gate.set)
        await it.close(drain=0.05)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, BusyError)

    within(run())


def test_a_fault_of_the_scheduler_leaves_nobody_waiting(model: Path) -> None:
    async def run() -> None:
        async with server(model) as it:
            it._scheduler._share = lambda pools: 1 // 0  # type: ignore[method-assign]
            with pytest.raises(Exception, match="the engine failed: ZeroDivisionError"):
                await it.sample("heun-4", seeds=[0])
            del it._scheduler._share
            await it.sample("heun-4", seeds=[0])

    within(run())


def test_nan_reaches_the_one_who_asked(model: Path) -> None:
    async def run() -> None:
        engine = open_engine(model, threads=1)

        class Wrong:
            info, encoder, decoder, close = engine.info, None, None, engine.close

            def __call__(self, x: Any, sigma: Any) -> Any:
                D = engine(x, sigma)
                D[sigma < 0.5] = np.nan
                return D

        async with Server(Wrong(), LATENCY) as it:  # type: ignore[arg-type]
            short = make_plan("ddim", 8, schedule="karras", sigma_min=1.0, sigma_max=80.0)
            good, bad = await asyncio.gather(
                it.sample(short, seeds=[0]), it.sample("ddim-8", seeds=[0]), return_exceptions=True
            )
            assert isinstance(bad, NumericalError)
            assert not isinstance(good, Exception)

    within(run())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": "ddim"}, "expected a solver and its steps"),
        ({"plan": "ddim-99999"}, "expected a solver and its steps up to 4096"),
        ({"plan": "magic-10"}, "plan: got 'magic-10'"),
        ({"seeds": []}, "seeds: got none"),
        ({"conditions": {"labels": [1]}}, "labels: this model takes none"),
        ({"acceptance": "law", "plan": "heun-4"}, "no law to be exact in"),
        ({"window": 0}, "window: got 0"),
        ({"deadline": -1.0}, "deadline: got -1"),
        ({"priority": 99}, "priority: got 99"),
        ({"guidance": 2.0}, "guidance"),
    ],
)
def test_what_does_not_fit_is_told_at_once(model: Path, arguments: dict[str, Any], message: str) -> None:
    async def run() -> None:
        async with server(model) as it:
            with pytest.raises(InputError, match=message):
                await it.sample(**{"seeds": [0], "plan": "heun-4", **arguments})

    within(run())


def test_a_caller_may_watch(model: Path) -> None:
    async def run() -> Any:
        seen: list[Any] = []
        async with server(model) as it:
            served = await it.sample("ddim-30", seeds=[0], window=None, watch=seen.append)
        return seen, served

    seen, served = within(run())
    assert len(seen) == served.depth - 1 == 29
    assert np.abs(seen[-1] - served.samples).mean() < np.abs(seen[0] - served.samples).mean() / 3
