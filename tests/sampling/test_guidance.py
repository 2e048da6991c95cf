"""Classifier-free guidance on the exact denoiser of a labelled mixture: digits 0, 1 and 2 as classes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from keywords import grouped
from ncdeploy import InputError, ModelInfo, iterate, make_plan, sample
from ncdeploy.guidance import Guided
from ncdeploy.result import Result
from oracle import GaussianMixture

CLASSES = 3
NULL = CLASSES
DOUBLE = np.zeros((), np.float64)
LABELS = [0, 1, 2, 2]


class Labelled:
    """D(x, sigma, label) of mixture number `label`, and of all together for the label NULL."""

    def __init__(self, info: ModelInfo | None = None) -> None:
        rng = np.random.default_rng(0)
        means = rng.normal(size=(CLASSES, 5, 8)) + 2 * np.eye(CLASSES, 8)[:, None]
        self.parts = [GaussianMixture(m, 0.2) for m in means] + [GaussianMixture(means.reshape(-1, 8), 0.2)]
        self.rows: list[int] = []
        if info is not None:
            self.info = info

    def __call__(self, x: Any, sigma: Any, labels: Any) -> Any:
        self.rows.append(len(x))
        tensor = isinstance(x, torch.Tensor)
        x, sigma, labels = (np.asarray(a) for a in (x, sigma, labels))
        out = np.empty(x.shape, x.dtype)
        for label in np.unique(labels):
            out[labels == label] = self.parts[label](x[labels == label], sigma[labels == label])
        return torch.from_numpy(out) if tensor else out


INFO = ModelInfo(shape=(8,), sigma_min=0.002, sigma_max=80.0, sigma_data=1.2, num_classes=CLASSES)
PLANS = {
    "ddpm": lambda: make_plan("ddpm", 60),
    "ddim": lambda: make_plan("ddim", 50),
    "heun": lambda: make_plan("heun", 18),
    "dpmpp_2m": lambda: make_plan("dpmpp_2m", 25),
}


def run(name: str = "dpmpp_2m", denoise: Any = None, **options: Any) -> Result:
    model = Labelled(INFO) if denoise is None else denoise
    given = {"shape": (8,), "seeds": range(len(LABELS)), "labels": LABELS, "like": DOUBLE} | options
    return sample(model, PLANS[name](), **grouped(**given))


def batch(dtype: Any = np.float64) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    return (
        rng.normal(size=(6, 8)).astype(dtype),
        np.geomspace(0.05, 20, 6).astype(dtype),
        np.array([0, 1, 2, 0, 1, NULL]),
    )


@pytest.mark.parametrize("w", [-0.5, 0.0, 0.7, 1.0, 1.5, 4.0])
def test_the_formula(w: float) -> None:
    x, sigma, labels = batch()
    D = Labelled(INFO)
    conditional, null = D(x, sigma, labels), D(x, sigma, np.full(6, NULL))
    assert np.abs(Guided(D, w)(x, sigma, labels) - (null + w * (conditional - null))).max() <= 1e-13
    assert np.abs(conditional - null).max() > 0.1


def test_weights_of_one_and_zero_are_the_model_itself() -> None:
    x, sigma, labels = batch()
    D = Labelled(INFO)
    # A matrix product of twice the rows may round differently.
    assert np.abs(Guided(D, 1.0)(x, sigma, labels) - D(x, sigma, labels)).max() <= 1e-14
    assert np.abs(Guided(D, 0.0)(x, sigma, labels) - D(x, sigma, np.full(6, NULL))).max() <= 1e-14


def test_every_row_may_have_its_own_weight_and_torch_agrees() -> None:
    x, sigma, labels = batch(np.float32)
    w = np.linspace(0, 3, 6).astype(np.float32)
    guided = Guided(Labelled(INFO))
    rows = [Guided(Labelled(INFO), float(w[i]))(x[i : i + 1], sigma[i : i + 1], labels[i : i + 1]) for i in range(6)]
    out = guided(x, sigma, labels, w)
    assert np.abs(out - np.concatenate(rows)).max() <= 1e-6
    tensors = guided(*(torch.from_numpy(a) for a in (x, sigma, labels, w)))
    assert np.abs(tensors.numpy() - out).max() <= 1e-6


def test_both_halves_are_one_call() -> None:
    D = Labelled(INFO)
    Guided(D, 1.5)(*batch())
    assert D.rows == [12]


@pytest.mark.parametrize("name", PLANS)
def test_parallel_is_sequential_under_guidance(name: str) -> None:
    plan = PLANS[name]()
    exact = run(name, guidance=1.5)
    zero = run(name, guidance=1.5, window=plan.evaluations, tolerance=0.0)
    assert np.abs(zero.samples - exact.samples).max() <= 1e-11
    close = run(name, guidance=1.5, window=16)
    assert np.sqrt(((close.samples - exact.samples) ** 2).mean(1)).max() <= 5e-3
    assert close.depth < exact.depth
    assert np.abs(run(name).samples - exact.samples).max() > 0.05  # guidance does more than any tolerance here


def test_an_error_curve_serves_under_guidance() -> None:
    curve = Labelled().parts[NULL].error_curve()
    exact = run("ddpm", guidance=2.0)
    fast = run("ddpm", guidance=2.0, window=60, error_curve=curve)
    assert np.sqrt(((fast.samples - exact.samples) ** 2).mean(1)).max() <= 5e-3
    assert fast.depth < exact.depth / 2


@pytest.mark.parametrize("window", [None, 8])
def test_weight_one_samples_the_conditional_and_zero_the_unconditional_model(window: int | None) -> None:
    plain = run(window=window)
    one = run(window=window, guidance=1.0)
    assert np.abs(one.samples - plain.samples).max() <= 1e-12
    zero, null = run(window=window, guidance=0.0), run(window=window, labels=[NULL] * 4)
    assert np.abs(zero.samples - null.samples).max() <= 1e-12
    assert np.abs(null.samples - plain.samples).max() > 0.1
    assert (one.depth, one.nfe) == (plain.depth, 2 * plain.nfe)


@pytest.mark.parametrize("window", [None, 4])
def test_the_evaluations_counted_are_those_the_network_saw(window: int | None) -> None:
    D = Labelled(INFO)
    result = run(denoise=D, guidance=1.5, window=window, max_rows=16)
    assert sum(D.rows) == result.nfe * len(LABELS)
    assert len(D.rows) == result.depth
    assert max(D.rows) <= 16
    with pytest.raises(InputError, match="max_rows: got 7; a window of 4 needs at least 8, with guidance"):
        run(guidance=1.5, window=4, max_rows=7)


def test_guidance_moves_samples_towards_their_class() -> None:
    """The mean log-probability of the class given the sample grows with the weight."""
    labels = [i % CLASSES for i in range(60)]
    parts = Labelled().parts

    def evidence(w: float) -> float:
        x = run(guidance=w, seeds=range(60), labels=labels).samples
        own = np.array([parts[label].log_prob(x[i : i + 1], 0.5)[0] for i, label in enumerate(labels)])
        return float((own - parts[NULL].log_prob(x, 0.5)).mean())

    found = [evidence(w) for w in (0.0, 1.0, 3.0)]
    assert found[0] < found[1] - 0.1
    assert found[1] < found[2]


def test_a_denoiser_that_guides_itself_is_only_handed_the_weights() -> None:
    seen = []

    class Inside(Labelled):
        def __call__(self, x: Any, sigma: Any, labels: Any, guidance: Any = None) -> Any:
            seen.append(None if guidance is None else float(guidance[0]))
            return Guided(Labelled(INFO), 1.0)(x, sigma, labels, guidance)

    inside = Inside(replace(INFO, guidance=True))
    outside = run(guidance=1.5)
    result = run(denoise=inside, guidance=1.5)
    assert np.array_equal(result.samples, outside.samples)
    assert set(seen) == {1.5}
    assert result.nfe == outside.nfe  # the network inside sees every row twice
    plain = run(denoise=inside)
    assert seen[-1] is None
    assert plain.nfe == outside.nfe
    assert np.abs(plain.samples - run().samples).max() <= 1e-12


def test_info_says_that_it_guides() -> None:
    guided = Guided(Labelled(INFO), 2.0)
    assert guided.info == replace(INFO, guidance=True)
    assert Guided(Labelled(), 2.0, null_label=NULL).info is None
    bare = run(denoise=Guided(Labelled(), 2.0, null_label=NULL))
    assert np.array_equal(bare.samples, run(guidance=2.0).samples)
    assert bare.nfe == run(guidance=2.0).nfe


@pytest.mark.parametrize(
    ("info", "options", "message"),
    [
        (replace(INFO, num_classes=0), {}, "takes no labels; leave guidance out"),
        (replace(INFO, unconditional=False), {}, "has no unconditional class"),
        (INFO, {"guidance": float("nan")}, "expected a finite weight"),
        (INFO, {"labels": None}, "needs labels, one class per sample"),
        (None, {}, "null_label="),
    ],
)
def test_what_cannot_be_guided(info: ModelInfo | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(denoise=Labelled(info), **({"guidance": 1.5} | options))
    with pytest.raises(InputError, match="labels: guidance needs a class"):
        Guided(Labelled(INFO))(*batch()[:2])
    with pytest.raises(InputError, match="null_label: got 1"):
        Guided(Labelled(INFO), null_label=1)


def test_a_model_cannot_guide_without_an_unconditional_class() -> None:
    for wrong in ({"num_classes": 0}, {"unconditional": False}):
        with pytest.raises(InputError, match="guidance: needs"):
            replace(INFO, guidance=True, **wrong)


def test_iterate_guides_too() -> None:
    plan = PLANS["dpmpp_2m"]()
    options = grouped(seeds=range(4), labels=LABELS, like=DOUBLE, guidance=1.5, window=4)
    sweeps = list(iterate(Labelled(INFO), plan, **options))
    assert np.abs(sweeps[-1].estimate() - run(guidance=1.5, window=4).samples).max() == 0
    assert max(sweep.rows for sweep in sweeps) <= 16
