import numpy as np
import pytest
import torch

from ncdeploy.errors import InputError
from ncdeploy.sampling.arrays import namespace
from ncdeploy.sampling.noise import _philox, check_seeds, normal, round_keys


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of Random123 for philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ],
)
def test_philox_known_answer(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    block, node, _, _ = (np.full((1, 1, 1), c, np.int64) for c in counter)
    words = _philox(block, node, round_keys([key[1] << 32 | key[0]])[..., None, None])
    assert tuple(int(w.item()) for w in words) == expected


def test_philox_uses_every_bit_of_key_and_counter() -> None:
    def word(block: int = 5, node: int = 7, low: int = 11, high: int = 13) -> int:
        c0, c1 = (np.full((1, 1, 1), v, np.int64) for v in (block, node))
        return int(_philox(c0, c1, round_keys([high << 32 | low])[..., None, None])[0].item())

    first = word()
    for name in ("block", "node", "low", "high"):
        for bit in (0, 15, 31):
            start = {"block": 5, "node": 7, "low": 11, "high": 13}[name]
            assert word(**{name: start ^ (1 << bit)}) != first


def test_draws_are_standard_normal() -> None:
    z = normal(np, range(64), np.tile(np.arange(64), (64, 1)), 50)
    assert z.shape == (64, 64, 50)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / z.size)
    flat = z.reshape(-1, 50)
    correlation = flat.T @ flat / len(flat) - np.eye(50)
    assert np.abs(correlation).max() < 6 / np.sqrt(len(flat))


def test_a_draw_depends_on_seed_and_node_alone() -> None:
    together = normal(np, [3, 2**63, 9], np.array([[0, 1, 5], [2, 5, 1], [5, 0, 0]]), 10)
    alone = normal(np, [2**63], np.array([[5]]), 10)
    np.testing.assert_array_equal(alone[0, 0], together[1, 1])
    np.testing.assert_array_equal(normal(np, [9], [[5]], 6)[0, 0], together[2, 0, :6])
    assert np.abs(normal(np, [0], [[5]], 10) - alone).min() > 0  # the high word of the seed counts


def test_torch_draws_the_same_numbers() -> None:
    xp = namespace(torch.zeros(1))
    ours = normal(np, [1, 2], [[0, 3], [4, 1]], 7)
    theirs = normal(xp, [1, 2], [[0, 3], [4, 1]], 7)
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-14)


@pytest.mark.parametrize("seeds", [[], [-1], [2**64]])
def test_seeds_outside_64_bits_are_refused(seeds: list[int]) -> None:
    with pytest.raises(InputError, match="seeds"):
        check_seeds(seeds)
