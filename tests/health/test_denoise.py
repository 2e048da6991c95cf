"""One-step denoising: the level is found, and what comes back is the model's own answer at it."""

from dataclasses import replace

import numpy as np
import pytest

from ncdeploy import InputError, denoise_samples
from ncdeploy.ports import Condition
from oracle import digits
from tiny_models import IMAGES


class Exact:
    """The exact denoiser of the digits, which counts its calls."""

    encoder = decoder = like = None
    name, info = "oracle", IMAGES

    def __init__(self, info=IMAGES):
        self.info, self.calls = info, []

    def __call__(self, x, sigma, *given, **more):
        self.calls.append((len(x), given, more))
        return digits()(x, sigma).astype(np.float32)


def _noisy(sigma, n=40, seed=0):
    x0 = digits().sample(n, seed=seed).reshape(n, 1, 8, 8)
    return x0, x0 + sigma * np.random.default_rng(seed).standard_normal(x0.shape)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 3.0])
def test_the_level_is_found_in_one_call(sigma):
    x0, y = _noisy(sigma)
    engine = Exact()
    found = denoise_samples(engine, y)
    assert [rows for rows, *_ in engine.calls] == [25 * 40, 40]
    assert abs(np.median(found.sigma) / sigma - 1) < 0.07
    assert np.quantile(np.abs(found.sigma / sigma - 1), 0.8) < 0.3
    assert not found.outside.any()
    assert np.mean((found.samples - x0) ** 2) < 0.7 * sigma**2
    given = denoise_samples(engine, y, sigma=sigma)
    assert np.abs(given.samples - digits()(y.astype(np.float32), sigma)).max() < 1e-5
    assert given.sigma.tolist() == [sigma] * 40


def test_what_is_off_the_ladder_is_told():
    _, y = _noisy(40.0, n=4)
    found = denoise_samples(Exact(), y)
    assert found.outside.all()
    assert np.allclose(found.sigma, 7 * IMAGES.sigma_data)


def test_what_cannot_be_asked_is_refused():
    _, y = _noisy(0.3, n=2)
    with pytest.raises(InputError, match="no error curve"):
        denoise_samples(Exact(replace(IMAGES, error_curve=None)), y)
    with pytest.raises(InputError, match="sigma: got 500"):
        denoise_samples(Exact(), y, sigma=500.0)
    with pytest.raises(InputError, match="this model takes"):
        denoise_samples(Exact(), y[:, 0])
    with pytest.raises(InputError, match="needs a class"):
        denoise_samples(Exact(replace(IMAGES, num_classes=3, unconditional=False)), y)
    obs = Condition(name="obs", dtype="float32", shape=(2,))
    with pytest.raises(InputError, match="needs obs"):
        denoise_samples(Exact(replace(IMAGES, conditions=(obs,))), y)


def test_classes_and_conditions_are_none():
    _, y = _noisy(0.3, n=2)
    obs = Condition(name="obs", dtype="float32", shape=(2,), null=-3.0)
    engine = Exact(replace(IMAGES, num_classes=3, conditions=(obs,)))
    denoise_samples(engine, y, sigma=0.3)
    _, given, more = engine.calls[-1]
    assert given[0].tolist() == [3, 3]
    assert np.all(more["conditions"]["obs"] == -3.0)
