"""The residual energy of a run: as expected where all is well, and not where something is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ncdeploy import ModelInfo, Plan, SampleOptions, make_plan, sample
from ncdeploy.result import Result
from oracle import digits, error_curve

SHAPE = (1, 8, 8)
SDE, ODE = make_plan("ddpm", 60), make_plan("dpmpp_2m", 25)
Floats = np.ndarray


def _run(plan: Plan, n: int, denoise: Callable[..., Any] | None = None, **given: Any) -> Result:
    window = given.pop("window", None)
    options = SampleOptions(**{"shape": SHAPE, "error_curve": error_curve(), **given})
    exact = lambda x, s: digits()(x, s).astype(x.dtype)  # noqa: E731
    return sample(denoise or exact, plan, seeds=range(n), window=window, options=options)


@pytest.mark.parametrize("given", [{}, {"window": 16}, {"window": 16, "acceptance": "law"}], ids=str)
def test_it_is_one_at_all_levels_of_a_sound_run(given: dict[str, Any]) -> None:
    energy = _run(SDE, 16, **given).energy
    assert energy is not None
    assert energy.remark() is None
    assert len(energy.sigmas) >= 6
    assert np.all(np.diff(energy.sigmas) < 0)
    assert energy.sigmas[-1] < 0.05
    seen = energy.sigmas > 0.2  # below it the curve, interpolated between levels, is off by as much as is left
    assert np.abs(energy.ratio - 1)[seen].max() < 0.2
    assert energy.band[seen].max() < 0.8


def test_runs_of_few_samples_and_values_stay_within_their_band() -> None:
    outside = sum(_run(ODE, 1, window=w).energy.remark() is not None for w in (None, 8))  # type: ignore[union-attr]
    assert outside == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, s: 0.95 * digits()(x, s),
        lambda x, s: np.roll(digits()(x, s), 1, axis=0),
        lambda x, s: digits()(np.concatenate([np.zeros_like(x[..., :3, :]), x[..., 3:, :]], axis=-2), s),
    ],
    ids=["scaled output", "rows swapped", "dead input"],
)
@pytest.mark.parametrize("window", [None, 8])
def test_a_miswired_engine_leaves_its_band(wrong: Callable[[Floats, Floats], Floats], window: int | None) -> None:
    energy = _run(ODE, 16, lambda x, s: wrong(x, s).astype(x.dtype), window=window).energy
    assert energy is not None
    remark = energy.remark()
    assert remark is not None
    assert "does not look like what this model was trained on" in remark
    worst = int(np.argmax(np.abs(energy.ratio - 1) / energy.band))
    assert f"{energy.ratio[worst]:.3g} x" in remark


def test_tensors_and_arrays_give_the_same() -> None:
    def on_tensors(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(digits()(x.numpy(), s.numpy())).to(x.dtype)

    for window in (None, 8):
        found = [
            _run(ODE, 3, on_tensors, like=torch.zeros((), dtype=torch.float64), window=window).energy,
            _run(ODE, 3, digits(), like=np.zeros(()), window=window).energy,
        ]
        a, b = (each.to_dict() for each in found if each is not None)
        for name in ("sigmas", "ratio", "band"):
            assert np.allclose(a[name], b[name], rtol=1e-6)


def test_there_is_none_without_a_curve_or_with_guidance() -> None:
    assert _run(ODE, 2, error_curve=None).energy is None

    class Conditional:
        info = ModelInfo(
            shape=SHAPE, sigma_min=0.01, sigma_max=100.0, sigma_data=0.75, num_classes=2, error_curve=error_curve()
        )

        def __call__(self, x: Floats, sigma: Floats, labels: Floats) -> Floats:
            return digits()(x, sigma).astype(x.dtype)

    labels = {"labels": [0, 1]}
    plain = sample(Conditional(), ODE, seeds=[0, 1], conditions=labels)
    guided = sample(Conditional(), ODE, seeds=[0, 1], conditions=labels, options=SampleOptions(guidance=2.0))
    assert plain.energy is not None
    assert guided.energy is None
