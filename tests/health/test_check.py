"""`check_engine`: sound engines pass, and each fault is found and named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ncdeploy import InputError, ModelInfo, check_engine
from ncdeploy.health.check import MOST_DATA
from ncdeploy.ports import Condition
from oracle import digits
from tiny_models import IMAGES

Floats = np.ndarray
INFO = replace(IMAGES, mean=tuple(digits().means.mean(axis=0)))


class Wired:
    """The exact denoiser of the digits, wired in some way."""

    encoder = decoder = like = None
    name = "oracle"

    def __init__(self, wiring: Callable[[Floats, Floats], Floats], info: ModelInfo = INFO) -> None:
        self._wiring, self.info, self.rows = wiring, info, list[int]()

    def __call__(self, x: Floats, sigma: Floats, *given: Any, **more: Any) -> Floats:
        self.rows.append(len(x))
        return self._wiring(x, sigma).astype(np.float32)


def exact(x: Floats, sigma: Floats) -> Floats:
    return digits()(x, sigma)


def dead_input(x: Floats, sigma: Floats) -> Floats:
    x = x.copy()
    x[:, :, 5] = 0
    return exact(x, sigma)


def dead_output(x: Floats, sigma: Floats) -> Floats:
    out = exact(x, sigma)
    out[:, :, 0, 2:4] = 0.25
    return out


FAULTS = {
    "in another order": lambda x, s: np.roll(exact(x, s), 1, axis=0),
    "that of its first row": lambda x, s: exact(x, np.full_like(s, s[0])),
    "that of the mean": lambda x, s: exact(x, np.full_like(s, s.mean())),
    "depends on the others": lambda x, s: exact(x, s) + 0.3 * (x - x.mean(axis=0)),
    "8 of 64 values (40, 41, 42, 43, 44, 45, 46, 47) of the input make no difference": dead_input,
    "2 of 64 values (2, 3) of the output are the same": dead_output,
    "is scaled by about 0.9": lambda x, s: 0.95 * exact(x, s),
    "the output, or the input, is scaled": lambda x, s: exact(0.95 * x, s),
}


@pytest.mark.parametrize("seed", range(4))
def test_a_sound_engine_passes(seed: int) -> None:
    found = check_engine(Wired(exact), seed=seed, data=digits().sample(20, seed=seed).reshape(-1, 1, 8, 8))
    assert found.faults == ()
    assert found.ok
    assert found.curve
    assert len(found.levels) == 6
    assert len(found.data_levels) == 4
    assert found.to_dict()["ok"] is True


@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_is_found_and_named(said: str) -> None:
    for seed in range(2):
        found = check_engine(Wired(FAULTS[said]), seed=seed)
        assert not found.ok
        assert said in found.faults[0]


def test_data_of_another_range_are_told() -> None:
    data = digits().sample(30, seed=3).reshape(-1, 1, 8, 8)
    for wrong in (data / 2 + 0.5, data / 16 - 0.9, -data, 8 * data):
        found = check_engine(Wired(exact), data=wrong)
        assert "the data do not look like what this model was trained on" in found.faults[0]
        assert f"lie in {wrong.min():.3g} .. {wrong.max():.3g}" in found.faults[0]
    assert check_engine(Wired(exact), data=data[:1]).ok
    with pytest.raises(InputError, match="takes samples of"):
        check_engine(Wired(exact), data=data[:, 0])


def test_nan_is_a_fault() -> None:
    found = check_engine(Wired(lambda x, s: np.where(s[:, None, None, None] < 1, np.nan, exact(x, s))))
    assert "NaN" in found.faults[0]


def test_without_an_error_curve_rows_and_levels_are_still_checked() -> None:
    info = replace(INFO, error_curve=None)
    sound = check_engine(Wired(exact, info))
    assert sound.ok
    assert not sound.curve
    assert sound.levels == ()
    assert not check_engine(Wired(FAULTS["in another order"], info)).ok
    assert not check_engine(Wired(dead_input, info)).ok


def test_classes_conditions_and_a_limit_on_rows_are_kept_to() -> None:
    conditions = (Condition(name="obs", dtype="float32", shape=(3,)),)
    engine = Wired(exact, replace(INFO, num_classes=10, conditions=conditions))
    engine.max_rows = 20  # type: ignore[attr-defined]
    assert check_engine(engine, data=digits().sample(MOST_DATA + 5).reshape(-1, 1, 8, 8)).ok
    assert max(engine.rows) == 20
