"""Whatever D does with its inputs and outputs, and whatever it is made of, the samples are the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ncdeploy import InputError, make_plan, sample
from ncdeploy.run import SampleOptions
from ncdeploy.sampling.noise import check_seeds

PLANS = [make_plan("ddpm", 30), make_plan("unipc", 12), make_plan("heun", 8)]
SHAPE = (3, 4)


def shrink(x: Any, sigma: Any) -> Any:
    """D of Gaussian data of standard deviation 1."""
    return x / (1 + sigma.reshape(-1, 1, 1) ** 2)


def in_place(x: Any, sigma: Any) -> Any:
    x /= 1 + sigma.reshape(-1, 1, 1) ** 2
    return x


def spoils_its_inputs(x: Any, sigma: Any) -> Any:
    out = shrink(x, sigma)
    x *= 0
    sigma *= 0
    return out


class OneBuffer:
    """As a replayed CUDA graph: every call writes to the same place."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def __call__(self, x: Any, sigma: Any) -> Any:
        out = self.kept.setdefault(len(x), x * 0)
        out[:] = shrink(x, sigma)
        return out


class Module(torch.nn.Module):
    """With weights, so that autograd has something to keep."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * self.one / (1 + sigma.reshape(-1, 1, 1) ** 2)


def draw(denoise: Callable[..., Any], plan: Any, window: Any, like: Any = None) -> Any:
    options = SampleOptions(shape=SHAPE, like=like, max_rows=None if window is None else 48)
    return sample(denoise, plan, seeds=range(4), window=window, tolerance=0, options=options).samples


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize("like", [np.zeros(()), torch.zeros((), dtype=torch.float64)], ids=["numpy", "torch"])
@pytest.mark.parametrize("make", [lambda: in_place, lambda: spoils_its_inputs, OneBuffer], ids=["in", "spoils", "one"])
def test_inputs_that_are_written_to_and_outputs_that_are_used_again(
    make: Any, like: Any, plan: Any, window: Any
) -> None:
    assert np.array_equal(np.asarray(draw(make(), plan, window, like)), np.asarray(draw(shrink, plan, window, like)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [None, 6, "auto"])
def test_a_torch_module_needs_no_like_and_keeps_no_graph(window: Any, dtype: torch.dtype) -> None:
    module = Module(dtype)
    expected = draw(shrink, PLANS[0], window if window != "auto" else None, torch.zeros((), dtype=dtype))
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            found = draw(module, PLANS[0], window)
        assert found.dtype == dtype
        assert not found.requires_grad
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_denoiser_may_ask_for_gradients_itself() -> None:
    def by_its_potential(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x.requires_grad_()
            energy = (x**2 / (1 + sigma.reshape(-1, 1, 1) ** 2)).sum() / 2
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    like = torch.zeros((), dtype=torch.float64)
    for window in (None, 6):
        found = draw(by_its_potential, PLANS[0], window, like)
        assert not found.requires_grad
        assert torch.allclose(found, draw(shrink, PLANS[0], window, like))


def test_memory_does_not_grow_with_the_steps() -> None:
    """What a graph keeps is found from the states: none of them knows where it comes from."""
    states = []

    class Watched(Module):
        def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            states.append((x.grad_fn, torch.is_grad_enabled()))
            return super().forward(x, sigma)

    for window in (None, 6, "auto"):
        draw(Watched(torch.float32), PLANS[0], window)
    assert set(states) == {(None, False)}


@pytest.mark.parametrize("seeds", [[0.5], "123", ["1"], [None], [1.0]])
def test_seeds_are_whole_numbers(seeds: Any) -> None:
    with pytest.raises(InputError, match="seeds"):
        check_seeds(seeds)


def test_whole_numbers_of_any_library_are_seeds() -> None:
    assert check_seeds([1, np.int64(2), np.uint8(3), torch.tensor(4)]) == [1, 2, 3, 4]
    assert check_seeds(np.arange(3)) == [0, 1, 2]
