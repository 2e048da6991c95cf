"""Rows with labels, conditions and guidance of their own in one call."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ncdeploy import Condition, InputError, SampleOptions, make_plan, sample
from ncdeploy.backends.base import check_inputs
from ncdeploy.run.request import check
from ncdeploy.serving.job import Job
from ncdeploy.serving.scheduler import Scheduler
from oracle import digits
from serving_bench import INFO, LATENCY

OBS = Condition(name="obs", dtype="float32", shape=(2,), null=0.0)
PLANS = make_plan("ddim", 20), make_plan("ddpm", 30)


class Conditional:
    """The mixture, pulled to one side by class and observation, as a backend that checks its inputs."""

    def __init__(self, info: Any) -> None:
        self.info, self.calls, self.encoder, self.decoder = info, 0, None, None

    def __call__(
        self,
        x: Any,
        sigma: Any,
        labels: Any = None,
        guidance: Any = None,
        *,
        conditions: Any = None,
        sample: Any = None,
    ) -> Any:
        check_inputs(self.info, x, sigma, labels, guidance, conditions, sample)
        self.calls += 1
        pull = np.zeros(len(x), np.float32)
        if labels is not None:
            pull += np.where(labels == self.info.null_label, 0, 0.1 * (labels + 1))
        if conditions is not None:
            pull += conditions["obs"][sample].sum(axis=1)
        return (digits()(x, sigma) + (pull / (1 + sigma**2))[:, None]).astype(np.float32)


INFOS = {
    "classes": replace(INFO, num_classes=3),
    "conditions": replace(INFO, conditions=(OBS,)),
    "both": replace(INFO, num_classes=3, conditions=(OBS,)),
}


@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_each_sample_has_its_own_conditions_and_guidance(info: Any) -> None:
    engine, outcomes = Conditional(info), {}
    scheduler = Scheduler(engine, info, LATENCY, limit=256)
    rng = np.random.default_rng(0)
    asked = []
    for i in range(8):
        conditions: dict[str, Any] = {}
        if info.num_classes:
            conditions["labels"] = [i % 3, (i + 1) % 3]
        if info.conditions:
            conditions["obs"] = 0.3 * rng.standard_normal((2, 2)).astype(np.float32)
        options = SampleOptions(guidance=(None, 1.5, 0.5)[i % 3])
        request = check(engine, PLANS[i % 2], [i, i + 50], conditions, (None, 5)[i % 2], 1e-3, options)
        job = Job(request=request, done=lambda outcome, i=i: outcomes.update({i: outcome}))
        scheduler.submit(job)
        asked.append((conditions, options))
    while not scheduler.idle:
        scheduler.tick()
    together, engine.calls = engine.calls, 0
    for i, (conditions, options) in enumerate(asked):
        expected = sample(
            engine, PLANS[i % 2], seeds=[i, i + 50], conditions=conditions, window=(None, 5)[i % 2], options=options
        )
        np.testing.assert_allclose(outcomes[i].samples, expected.samples, atol=1e-5, rtol=0)
        assert outcomes[i].nfe == pytest.approx(expected.nfe)
    assert together < engine.calls / 3


def test_labels_that_are_missing_or_too_many_are_refused() -> None:
    for info, labels, message in (
        (INFOS["classes"], None, "labels: this model needs them, 0 to 3"),
        (INFO, [1], "labels: this model takes none"),
    ):
        engine = Conditional(info)
        request = check(engine, PLANS[0], [0], {"labels": labels}, None, 1e-3, None)
        with pytest.raises(InputError, match=message):
            Scheduler(engine, info, LATENCY, limit=64).submit(Job(request=request, done=print))
