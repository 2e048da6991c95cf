"""The study of the published claim: models trained at once, the contrast as released, and what the page makes of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ncdeploy.training import Dataset, Training

STEPS = 200


@pytest.mark.parametrize("name", ["likelihood", "edm + contrast"])
def test_models_trained_at_once_are_those_that_the_library_trains(name: str) -> None:
    """Weights and averages after 200 steps of one of two, same draws; with clipping, and a rate that falls."""
    from benchmarks.contrastive.claim.arms import ARMS, ArmLoss, model, settings
    from benchmarks.contrastive.claim.batched import Batched

    x = np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32)
    data, arm = Dataset(name="points", x=x, held_out=x[:8]), ARMS[name]
    configs = [replace(settings(arm, steps=STEPS, seed=seed), clip=0.5, batch=32) for seed in range(2)]
    models = [model(arm, data, seed) for seed in range(2)]
    alone, fresh = Training(model(arm, data, 1), data, configs[1]), model(arm, data, 1)
    together = Batched(models, [ArmLoss(arm, data, config, models[0].info) for config in configs], configs[0])
    for _ in alone.run():
        together.advance()
    for key, weight in alone.denoiser.named_parameters():
        torch.testing.assert_close(together.weights[key][1], weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.average[key][1], alone.ema.denoiser.get_parameter(key), rtol=0, atol=1e-5)
        assert float((together.weights[key][0] - weight).detach().abs().max()) > 1e-4  # the other one is another
        assert float((fresh.get_parameter(key) - weight).detach().abs().max()) > 1e-4  # and all have moved


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from benchmarks.contrastive.claim.arms import ARMS, model, start
    from benchmarks.contrastive.claim.batched import trained

    x = np.random.default_rng(0).standard_normal((200, 2)).astype(np.float32)
    data, arm = Dataset(name="points", x=x, held_out=x[:8]), ARMS["likelihood + contrast"]
    whole, first = (start(arm, data, seeds=2, steps=4) for _ in range(2))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    first.save(tmp_path / "arm.pt")
    second = start(arm, data, seeds=2, steps=4)
    second.restore(tmp_path / "arm.pt")
    while second.step < 4:
        second.advance()
    second.save(tmp_path / "arm.pt")
    for averaged, stack in ((False, whole.weights), (True, whole.average)):
        for seed, denoiser in enumerate(trained(tmp_path / "arm.pt", model(arm, data, 0), averaged=averaged)):
            for key, weight in denoiser.named_parameters():
                assert torch.equal(weight, stack[key][seed])


def test_the_contrast_of_the_release_is_the_ratio_of_two_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the exact denoiser of a Gaussian its draws come to log p_zeta - log p in the mean."""
    from benchmarks.contrastive.claim import released

    monkeypatch.setattr(released, "POINTS", 1)
    monkeypatch.setattr(released, "DRAWS", 200_000)
    variances, w, share = torch.tensor([1.0, 0.6]), torch.tensor([[1.2, -0.4]]), 0.7

    def exact(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return variances / (variances + sigma[:, None] ** 2) * x

    drawn = released.draw_contrast(variances, torch.Generator().manual_seed(0))
    drawn |= {"share": torch.tensor([share]), "noised": torch.tensor([False])}
    loss = released.contrast(exact, w, drawn, variances).double()  # softplus of the ratio
    noised = share * variances + 1 - share
    ratio = -0.5 * (w**2 / noised - w**2 / variances + (noised / variances).log()).sum()
    assert float(loss.expm1().log()) == pytest.approx(float(ratio), abs=0.1)
    told = released.contrast(exact, w, drawn | {"noised": torch.tensor([True]), "noise": (w - share**0.5 * w)
                                                / (1 - share) ** 0.5}, variances)  # fmt: skip
    assert float(told) == pytest.approx(math.log1p(math.exp(-float(ratio))), abs=0.05)  # the same point, labelled -1


def test_the_distance_is_unbiased() -> None:
    from benchmarks.contrastive.claim.judge import BANDWIDTH, Judge
    from benchmarks.contrastive.sets import mixture

    study = mixture("points", np.array([[0.0, 0.0], [1.0, 1.0]]), 0.2, steps=1, counts=(400, 30))
    judge = Judge(study, samples=20)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * BANDWIDTH)) / math.sqrt(2 * math.pi * BANDWIDTH)

    x, y = study.data.x[:20].astype(float), study.data.held_out.astype(float)
    pairs = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    assert judge.mmd(x) == pytest.approx(sum(pairs) - 2 * np.mean([kernel(a, b) for a in x for b in y]))
    floor = judge.floor(200)
    assert abs(np.mean(floor)) < 4 * np.std(floor) / math.sqrt(200) + 0.02  # of the held-out points' own draw
    assert min(floor) < 0


def test_the_page_has_the_ratios_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.contrastive.claim import judge, page

    asked = {f"{k:g} {sigma:g}": 0.1 * (1 + k) for k in judge.FACTORS for sigma in judge.SIGMAS}
    lines = [{"arm": "data", "step": 0, "averaged": False, "seed": 0, "mmd": [1e-4, -1e-4]}]
    for arm, mmd in (("ddpm", 8e-3), ("likelihood", 4e-3), ("likelihood + contrast", 5e-3)):
        for seed in range(2):
            value = mmd * (1 + 0.1 * seed)
            plain = {"arm": arm, "step": 10, "seed": seed, "mmd": value}
            parallel = {"mmd": value, "sequential": value, "rms": 1e-3, "median": 1e-4, "sweeps": 20.0}
            churn = {str(c): value for c in judge.CHURNS}
            lines += [{**plain, "averaged": False},
                      {**plain, "averaged": True, "parallel": parallel, "churn": churn, "mismatch": asked}]  # fmt: skip
    (tmp_path / "figures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "README.md").write_text("above\n" + page.BEGIN + "stale\n" + page.END + "below\n")
    monkeypatch.setattr("sys.argv", ["page", str(tmp_path), "-o", str(tmp_path)])
    page.main()
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "stale" not in text
    levels = next(line for line in text.splitlines() if line.startswith("| – of that by noise levels"))
    assert "4.20 ± 0.28, × 0.50 ± 0.03" in levels
    contrast = next(line for line in text.splitlines() if line.startswith("| – of that by the contrast"))
    assert "likelihood + contrast / likelihood × 1.25 ± 0.08" in contrast
    assert (tmp_path / "pictures" / "claim.png").read_bytes().startswith(b"\x89PNG")
