"""Distances against brute force and closed forms, and the properties that make them distances."""

import numpy as np
import pytest

from ncdeploy.errors import InputError
from ncdeploy.evaluation import distances
from ncdeploy.evaluation.distances import energy_distance, estimate_energy_distance, median_distance, mmd


def _sets(n: int = 23, m: int = 31) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, 2, 3)), rng.normal(size=(m, 2, 3)) + 0.7


def _brute_force(a: np.ndarray, b: np.ndarray, kernel) -> float:
    def mean(x, y):
        return np.mean([kernel(np.linalg.norm(p - q)) for p in x for q in y])

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def test_both_agree_with_the_double_sums():
    a, b = _sets()
    assert energy_distance(a, b) == pytest.approx(_brute_force(a, b, lambda r: -r), rel=1e-12)
    assert mmd(a, b, bandwidth=1.3) == pytest.approx(_brute_force(a, b, lambda r: np.exp(-(r**2) / 3.38)), rel=1e-12)


def test_known_values_in_one_dimension():
    # Two points against one: 2 * 1/2 (1 + 3) - 1/4 (2 + 2) = 3. Two single points: k(0) + k(0) - 2 k(2).
    assert energy_distance([[0.0], [2.0]], [[3.0]]) == pytest.approx(2 * 2 - 1, abs=1e-14)
    assert mmd([[0.0]], [[2.0]], bandwidth=1.0) == pytest.approx(2 - 2 * np.exp(-2), abs=1e-14)


def test_energy_distance_of_two_normals_reaches_its_closed_form():
    # E|x - y| for a difference N(shift, 2) is a folded normal; within a set, shift = 0.
    rng = np.random.default_rng(0)
    n, shift = 3000, 2.0
    quantiles = (np.arange(n) + 0.5) / n
    grid = np.sort(rng.normal(size=200_000))[(quantiles * 200_000).astype(int)]
    between = 2 / np.sqrt(np.pi) * np.exp(-(shift**2) / 4) + shift * 0.8427007929  # erf(1)
    assert energy_distance(grid[:, None], grid[:, None] + shift) == pytest.approx(
        2 * between - 4 / np.sqrt(np.pi), rel=0.01
    )


@pytest.mark.parametrize("distance", [energy_distance, lambda a, b: mmd(a, b, bandwidth=1.0)])
def test_a_distance_is_zero_on_equal_sets_symmetric_and_blind_to_order_and_motion(distance):
    a, b = _sets()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    moved = [(x.reshape(len(x), 6) @ rotation + 100.0) for x in (a, b)]
    assert distance(a, a) < 1e-12
    assert distance(a, b) > 0.1
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12)
    assert distance(a[::-1], b) == pytest.approx(distance(a, b), rel=1e-12)
    assert distance(*moved) == pytest.approx(distance(a, b), rel=1e-9)


def test_coinciding_points_count_as_zero_far_from_the_origin():
    a = np.full((4, 3), 1e6) + np.arange(4)[:, None]
    assert energy_distance(a, a) < 1e-9


def test_blocks_do_not_change_the_value(monkeypatch):
    a, b = _sets()
    whole = energy_distance(a, b)
    monkeypatch.setattr(distances, "_CHUNK_VALUES", 64)
    assert energy_distance(a, b) == pytest.approx(whole, rel=1e-13)


def test_default_bandwidth_is_the_median_distance_between_different_points():
    assert median_distance([[0.0], [1.0]], [[5.0]]) == pytest.approx(4.0)
    a, b = _sets()
    assert mmd(a, b) == mmd(a, b, bandwidth=median_distance(a, b))


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), r"\(3, 2\) and \(3, 4\)"),
        (np.zeros(3), np.zeros(3), "expected"),
        (np.zeros((0, 2)), np.zeros((3, 2)), r"\(0, 2\)"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "NaN"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(a, b, said):
    with pytest.raises(InputError, match=said):
        energy_distance(a, b)


def test_a_bandwidth_must_be_positive():
    with pytest.raises(InputError, match="bandwidth"):
        mmd(np.zeros((2, 1)), np.zeros((2, 1)))


def test_the_estimate_agrees_with_the_sums_over_different_points(monkeypatch):
    monkeypatch.setattr(distances, "_CHUNK_VALUES", 64)  # several blocks
    a, b = _sets()

    def mean(x, y):
        return np.mean([np.linalg.norm(p - q) for p in x for q in y if p is not q])

    rows_a, rows_b = list(a), list(b)
    wanted = 2 * mean(rows_a, rows_b) - mean(rows_a, rows_a) - mean(rows_b, rows_b)
    assert estimate_energy_distance(a, b).value == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_estimate_is_right_in_the_mean_and_its_error_is_the_spread(shift):
    rng = np.random.default_rng(1)
    draws = [
        estimate_energy_distance(rng.normal(size=(40, 2)), rng.normal((shift, 0), size=(60, 2))) for _ in range(400)
    ]
    values, error = np.array([d.value for d in draws]), float(np.mean([d.error for d in draws]))
    spread = values.std(ddof=1)
    true = 0.0 if shift == 0 else estimate_energy_distance(*_large(rng, shift)).value
    assert abs(values.mean() - true) < 4 * spread / 20 + (0.0 if shift == 0 else 0.02)
    if shift:
        assert error == pytest.approx(spread, rel=0.15)
    else:  # degenerate: the error errs upwards, by no more than it must
        assert spread < error < 2.5 * spread


def _large(rng: np.random.Generator, shift: float) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(3000, 2)), rng.normal((shift, 0), size=(3000, 2))


def test_what_two_estimates_share_cancels_in_their_difference():
    rng = np.random.default_rng(2)
    data, samples = rng.normal(size=(200, 2)), rng.normal((1, 0), size=(100, 2))
    one = estimate_energy_distance(samples, data)
    other = estimate_energy_distance(samples + 0.01 * rng.normal(size=samples.shape), data)
    difference, error = one.beyond(other)
    assert difference == one.value - other.value
    assert 0 < error < one.error / 20
    assert one.beyond(one) == (0.0, 0.0)


def test_an_estimate_needs_two_of_each():
    with pytest.raises(InputError, match="at least 2 of each"):
        estimate_energy_distance([[0.0]], [[1.0], [2.0]])
