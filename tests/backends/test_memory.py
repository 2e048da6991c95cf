"""A device with room for a few rows gives the samples of one with room for all."""

import numpy as np
import pytest

from ncdeploy.backends.memory import halve_until_it_fits
from ncdeploy.errors import OutOfMemoryError
from ncdeploy.run import SampleOptions, sample
from ncdeploy.sampling.recipe import make_plan
from oracle import digits, error_curve


@pytest.mark.parametrize(("window", "room"), [(16, 9), (16, 3), (16, 1), (None, 2), (None, 1), (3, 100)])
def test_it_goes_on_with_less_and_says_so(window, room):
    plan = make_plan("ddim", 20)
    asked, said = [], []

    def denoise(x, sigma):
        asked.append(len(x))
        if len(x) > room:
            raise OutOfMemoryError("out of memory")
        return digits()(x, sigma).astype(x.dtype)

    def run(window, rows):
        return sample(
            denoise, plan, seeds=range(5), window=window,
            options=SampleOptions(shape=(64,), max_rows=rows, error_curve=error_curve()),
        )  # fmt: skip

    result = halve_until_it_fits(run, window=window, samples=5, rows=4096, say=said.append)
    exact = sample(
        lambda x, s: digits()(x, s).astype(x.dtype), plan, seeds=range(5), options=SampleOptions(shape=(64,))
    )
    assert np.sqrt(np.mean((result.samples - exact.samples) ** 2)) < 2e-3
    assert bool(said) == (room < 100)
    assert all("going on with" in line for line in said)
    assert max(asked[-result.depth :]) <= room


def test_where_one_evaluation_does_not_fit_it_stops():
    tried = []

    def run(window, rows):
        tried.append((window, rows))
        raise OutOfMemoryError("out of memory")

    with pytest.raises(OutOfMemoryError):
        halve_until_it_fits(run, window=8, samples=3, rows=1000, per_node=2, say=lambda line: None)
    assert tried == [(8, 1000), (4, 24), (2, 12), (1, 6), (1, 3), (1, 2)]


def test_the_host_may_have_too_little_memory_too():
    told = []

    def run(window, rows):
        if rows > 16:
            raise MemoryError
        return window, rows

    found = halve_until_it_fits(run, window=16, samples=4, rows=64, say=told.append)
    assert found[1] <= 16
    assert told[0].startswith("the host is out of memory; going on")

    def never(window, rows):
        raise MemoryError("Unable to allocate 3 GiB")

    with pytest.raises(OutOfMemoryError, match="Unable to allocate 3 GiB"):
        halve_until_it_fits(never, window=16, samples=4, rows=64, say=told.append)
