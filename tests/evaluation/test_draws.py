"""Spread random numbers keep the law of independent ones, and cover it better."""

import numpy as np
import pytest

from ncdeploy.evaluation.draws import shifted_grid, spread_noise


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_grid_has_one_quantile_in_each_part_and_is_uniform() -> None:
    u = shifted_grid(rng(), 2000, 8)
    assert (np.floor(u * 8) == np.arange(8)).all()
    assert np.allclose(np.diff(u, axis=1), 1 / 8)
    assert np.abs(np.sort(u.ravel()) - (np.arange(u.size) + 0.5) / u.size).max() < 0.01


@pytest.mark.parametrize(("dim", "count"), [(1, 8), (2, 16), (5, 7), (64, 16)])
def test_noise_is_standard_normal(dim: int, count: int) -> None:
    n = spread_noise(rng(), 4000, count, dim=dim)[:, :, :5]
    assert n.shape == (4000, count, min(dim, 5))
    values = n[:, :, 0].ravel()  # one value of each vector; 4000 independent rows
    wanted = np.sort(rng(1).standard_normal(values.size))
    assert np.abs(np.sort(values) - wanted)[200:-200].max() < 0.06
    mean, cov = n.mean(axis=(0, 1)), np.einsum("rki,rkj->ij", n, n) / (n.shape[0] * count)
    assert np.abs(mean).max() < 0.05
    assert np.abs(cov - np.eye(len(cov))).max() < 0.06


def test_lengths_follow_the_chi_law() -> None:
    for dim in (1, 3, 64):
        lengths = np.linalg.norm(spread_noise(rng(), 500, 32, dim=dim), axis=-1)
        independent = np.linalg.norm(rng(1).standard_normal((16_000, dim)), axis=-1)
        assert (
            np.abs(np.quantile(lengths, [0.01, 0.5, 0.99]) - np.quantile(independent, [0.01, 0.5, 0.99])).max() < 0.06
        )


def test_neighbours_are_orthogonal() -> None:
    n = spread_noise(rng(), 3, 8, dim=4)
    for block in (n[:, :4], n[:, 4:]):
        inner = np.einsum("rki,rli->rkl", block, block)
        assert np.abs(inner[:, ~np.eye(4, dtype=bool)]).max() < 1e-12


def test_quadratic_forms_average_out_many_times_better() -> None:
    """The point of it all: with independent vectors the same mean scatters far more."""
    weights = np.geomspace(0.1, 2, 6)
    spread, plain = spread_noise(rng(), 400, 36, dim=6), rng(1).standard_normal((400, 36, 6))
    deviations = [((n**2) @ weights).mean(axis=1).std() for n in (spread, plain)]
    assert deviations[0] < 0.5 * deviations[1]
