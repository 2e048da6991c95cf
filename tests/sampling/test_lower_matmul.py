"""The drivers' matrix product: right for every shape, and done by the thread that asks for it."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ncdeploy.sampling.arrays import lower_matmul

SHAPES = [
    ((1, 1), (1, 5)), ((7, 7), (7, 3)), ((64, 64), (64, 64)), ((65, 65), (65, 2)), ((200, 200), (200, 70)),
    ((16, 16), (16, 3000)), ((100, 100), (3, 100, 150)), ((2, 130, 130), (2, 130, 65)), ((0, 0), (0, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("lower", "right"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_product(lower: tuple[int, ...], right: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, x = np.tril(rng.standard_normal(lower)).astype(dtype), rng.standard_normal(right).astype(dtype)
    found = lower_matmul(np, a, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.matmul(a, x), atol=1e-4 if dtype is np.float32 else 1e-12)


def test_a_triangle_may_be_a_part_of_longer_rows() -> None:
    """As those of `WindowTables` are."""
    rows, x = np.tril(np.random.default_rng(0).standard_normal((100, 199))), np.ones((100, 80))
    np.testing.assert_allclose(lower_matmul(np, rows[:, :100], x), rows[:, :100] @ x, atol=1e-12)


_RUN = """
import time
import numpy as np
from ncdeploy import SampleOptions, make_plan, sample
def denoise(x, sigma):
    return x / (1 + sigma[:, None] ** 2)
for window, dim in ((128, 64), (24, 3072), (64, 3072)):
    for seeds in ([0], [0, 1]):
        options = SampleOptions(shape=(dim,))
        sample(denoise, make_plan("ddpm", 1000), seeds=seeds, window=window, options=options)
print((time.process_time() - time.thread_time()) / time.thread_time())
"""


@pytest.mark.timing
def test_a_parallel_run_wakes_no_threads_of_blas() -> None:
    """They would go on spinning while the network runs on the same cores."""
    env = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    found = subprocess.run([sys.executable, "-c", _RUN], env=env, capture_output=True, text=True, check=True)
    assert float(found.stdout) < 0.05
