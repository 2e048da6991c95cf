"""Training: it learns, it averages, it resumes to the very same weights, and it stops at NaN."""

import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ncdeploy.denoisers import checkpoint, load_checkpoint, save_model
from ncdeploy.denoisers.torchfile import read_torch
from ncdeploy.errors import FileError, InputError, NumericalError, OutOfMemoryError
from ncdeploy.training import (
    ContrastiveConfig,
    Dataset,
    StopRequest,
    TrainConfig,
    Training,
    load_data,
    resume_training,
    save_training,
    start,
)
from ncdeploy.training.ema import EMA, decay_at

SMALL = {"width": 16, "blocks": 1}
CONTRASTIVE = ContrastiveConfig(terms=4)


@pytest.fixture(scope="module")
def moons() -> Dataset:
    return load_data("moons")


def classes() -> Dataset:
    """Class 0 lies left, class 1 right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    x = (rng.normal(size=(600, 2)) * 0.1 + np.stack([2.0 * labels - 1, 0 * labels], axis=1)).astype(np.float32)
    return Dataset(
        name="sides", x=x[100:], held_out=x[:100], labels=labels[100:], held_out_labels=labels[:100], num_classes=2
    )


def finish(training: Training) -> Training:
    for _ in training.run():
        pass
    return training


def tensors(training: Training) -> dict[str, torch.Tensor]:
    """Everything that must be equal: weights, averages, optimiser."""
    found = {f"now.{k}": v for k, v in training.denoiser.state_dict().items()}
    found |= {f"ema.{k}": v for k, v in training.ema.denoiser.state_dict().items()}
    for i, state in training.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    return found


def different(a: Training, b: Training) -> list[str]:
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@pytest.mark.parametrize("contrastive", [None, CONTRASTIVE], ids=["denoising", "contrastive"])
def test_resuming_gives_bit_identical_weights(tmp_path: Path, moons: Dataset, contrastive: ContrastiveConfig) -> None:
    config = TrainConfig(steps=6, batch=32, contrastive=contrastive, device="cpu")
    whole = finish(start(moons, config, network=SMALL))

    first = start(moons, config, network=SMALL)
    for progress in first.run():
        if progress.step == 3:
            break
    save_training(tmp_path / "model.pt", first)
    torch.manual_seed(99)  # the global generator must not matter
    resumed = resume_training(tmp_path / "model.pt")
    assert resumed.step == 3
    assert different(finish(resumed), whole) == []
    assert {"now", "ema", "optimizer"} == {name.split(".")[0] for name in different(first, whole)}
    other_seed = finish(start(moons, replace(config, seed=1), network=SMALL))
    assert different(other_seed, whole)


def test_resuming_a_network_with_dropout_and_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1, 8, 8)).astype(np.float32)
    labels = rng.integers(0, 3, 40)
    data = Dataset(name="noise", x=x, held_out=x[:4], labels=labels, held_out_labels=labels[:4], num_classes=3)
    config = TrainConfig(steps=4, batch=4, conditional=True, contrastive=CONTRASTIVE, device="cpu")
    network = {"channels": 8, "multipliers": [1, 1], "attention": [], "width": 16, "dropout": 0.3}
    whole = finish(start(data, config, network=network))
    first = start(data, config, network=network)
    next(p for p in first.run() if p.step == 2)
    save_training(tmp_path / "model.pt", first)
    assert different(finish(resume_training(tmp_path / "model.pt", data=data)), whole) == []


def test_resume_refuses_what_would_not_be_the_same_run(tmp_path: Path, moons: Dataset) -> None:
    path = tmp_path / "model.pt"
    done = finish(start(moons, TrainConfig(steps=2, batch=8, device="cpu"), network=SMALL))
    save_training(path, done)
    with pytest.raises(InputError, match=r"2 steps are done.*--updates 4"):
        resume_training(path)
    assert finish(resume_training(path, steps=3)).step == 3
    with pytest.raises(InputError, match=r"not what .* was trained on"):
        resume_training(path, steps=3, data="spirals")
    save_model(path, done.model(), record={})
    with pytest.raises(FileError, match="nothing to resume"):
        resume_training(path)
    save_model(path, done.model(), record={}, training_state={"weights": {}, "optimizer": {}})
    with pytest.raises(FileError, match="lacks config"):
        resume_training(path)
    save_model(path, done.model(), record=done.record(), training_state={"weights": {}, "optimizer": {}})
    with pytest.raises(FileError, match="training state is damaged"):
        resume_training(path, steps=3)


def test_resume_refuses_moments_of_no_step(tmp_path: Path, moons: Dataset) -> None:
    training = finish(start(moons, TrainConfig(steps=2, batch=8, device="cpu"), network=SMALL))
    for value in (-1.0, 0.0, 3.0, math.nan):
        training.optimizer.state_dict()["state"][0]["step"].fill_(value)
        save_training(tmp_path / "model.pt", training)
        with pytest.raises(FileError, match=r"training state is damaged.*weight 0"):
            resume_training(tmp_path / "model.pt", steps=4)


def test_a_run_is_resumed_from_one_reading_of_a_file_that_another_run_replaces(
    tmp_path: Path, moons: Dataset, monkeypatch
) -> None:
    """Never the record of one and the weights of the other, and never a wait for the other run's end."""
    path, later = tmp_path / "model.pt", tmp_path / "later.pt"
    training = start(moons, TrainConfig(steps=9, batch=8, device="cpu"), network=SMALL)
    for step in training.run():
        if step.step in (2, 3):
            save_training(path if step.step == 2 else later, training)
    wanted = resume_training(path)
    assert different(wanted, resume_training(later))

    def replaced(of: Path) -> Any:
        payload = read_torch(of)
        shutil.copy(later, tmp_path / "new.pt")
        (tmp_path / "new.pt").replace(path)
        return payload

    monkeypatch.setattr(checkpoint, "read_torch", replaced)
    resumed = resume_training(path)
    assert resumed.step == 2
    assert different(resumed, wanted) == []


def test_a_batch_without_memory_is_told(moons: Dataset) -> None:
    training = start(moons, TrainConfig(steps=2, batch=2**53, device="cpu"), network=SMALL)
    with pytest.raises(OutOfMemoryError, match=f"step 1: out of memory with a batch of {2**53}; train with a smaller"):
        finish(training)


@pytest.mark.parametrize("contrastive", [None, CONTRASTIVE], ids=["denoising", "contrastive"])
def test_training_lowers_the_held_out_error(tmp_path: Path, contrastive: ContrastiveConfig) -> None:
    config = TrainConfig(steps=200, batch=128, lr=1e-2, ema=0.95, contrastive=contrastive, device="cpu")
    training = start(load_data("eight-gaussians"), config, network={"width": 32, "blocks": 2})
    before = training.finish().info.error_curve
    records = list(training.run())
    denoiser = training.finish()
    after = denoiser.info.error_curve
    assert before is not None
    assert after is not None
    assert len(after.sigmas) == 32
    assert (after.sigmas[0], after.sigmas[-1]) == pytest.approx((0.002, 160.0))
    middle = (np.array(after.sigmas) > 0.2) & (np.array(after.sigmas) < 0.6)
    assert np.all(np.array(after.mse)[middle] < 0.85 * np.array(before.mse)[middle])
    assert [r.step for r in records] == list(range(1, 201))
    assert all(math.isfinite(r.loss) and r.rate > 0 and r.norm > 0 for r in records)
    expected = {(r.contrastive is not None) for r in records}
    assert expected == {contrastive is not None}

    save_training(tmp_path / "model.pt", training)
    loaded, record, state = load_checkpoint(tmp_path / "model.pt")
    assert loaded.info.error_curve == after
    assert loaded.info.data == "eight-gaussians"
    assert loaded.info.default_plan["solver"] == "dpmpp_2m"
    assert record["step"] == 200
    assert record["config"]["steps"] == 200
    assert record["losses"]["denoising"] == pytest.approx(np.mean([r.denoising for r in records[-100:]]))
    x, sigma = torch.randn(3, 2), torch.tensor([0.1, 1.0, 10.0])
    assert torch.equal(loaded(x, sigma), denoiser(x, sigma))
    assert state["weights"].keys() == loaded.state_dict().keys()


def test_conditional_training_learns_classes_and_their_mixture() -> None:
    config = TrainConfig(steps=250, batch=128, lr=1e-2, ema=0.95, conditional=True, label_dropout=0.4, device="cpu")
    denoiser = finish(start(classes(), config, network=SMALL)).finish()
    assert denoiser.info.num_classes == 2
    with torch.no_grad():
        guess = denoiser(torch.zeros(3, 2), torch.full((3,), 20.0), torch.tensor([0, 1, 2]))[:, 0]
    assert float(guess[0]) < -0.5
    assert float(guess[1]) > 0.5
    assert abs(float(guess[2])) < 0.4


def test_average_follows_its_recurrence() -> None:
    training = start(load_data("moons"), TrainConfig(steps=4, batch=8, device="cpu", ema=0.3), network=SMALL)
    name = "network.inner.weight"
    wanted = training.denoiser.state_dict()[name].clone()
    decays = [0.1, 2 / 11, 0.25, 0.3]  # (1 + k) / (10 + k) until that passes 0.3
    for decay, _ in zip(decays, training.run(), strict=True):
        wanted = decay * wanted + (1 - decay) * training.denoiser.state_dict()[name]
        torch.testing.assert_close(training.ema.denoiser.state_dict()[name], wanted)
    assert not torch.equal(wanted, training.denoiser.state_dict()[name])
    assert decay_at(0.999, 10**6) == 0.999


def test_buffers_that_training_changes_are_those_of_the_last_step() -> None:
    """As running statistics of a module from elsewhere."""
    denoiser = start(load_data("moons"), TrainConfig(steps=1, batch=8, device="cpu"), network=SMALL).denoiser
    denoiser.register_buffer("seen", torch.zeros(2))
    ema = EMA(denoiser, 0.9)
    denoiser.seen += 3.0
    ema.update(denoiser, 0)
    assert torch.equal(ema.denoiser.seen, torch.full((2,), 3.0))


def test_nan_ends_the_run_and_names_the_step(moons: Dataset) -> None:
    training = start(moons, TrainConfig(steps=5, batch=8, device="cpu"), network=SMALL)
    run = training.run()
    next(run)
    with torch.no_grad():
        next(training.denoiser.parameters()).fill_(math.nan)
    with pytest.raises(NumericalError, match="step 2: the loss is NaN"):
        next(run)
    assert all(bool(p.isfinite().all()) for p in training.ema.denoiser.parameters())


def test_what_does_not_fit_is_refused(moons: Dataset) -> None:
    with pytest.raises(InputError, match="no labels"):
        start(moons, TrainConfig(conditional=True, device="cpu"))
    model = start(moons, TrainConfig(device="cpu"), network=SMALL).denoiser
    with pytest.raises(InputError, match=r"shape: the model has \(2,\)"):
        Training(model, load_data("digits"), TrainConfig(device="cpu"))


def test_first_interrupt_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_few_data_train_a_small_network_unless_told_otherwise() -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (64, 3, 16, 16)).astype(np.float32)
    few = Dataset(name="few", x=pixels[:50], held_out=pixels[50:])
    config = TrainConfig(steps=1, batch=2, device="cpu")

    def megabytes(**given: str) -> float:
        return sum(p.numel() for p in start(few, config, **given).denoiser.parameters()) * 4 / 1e6

    assert megabytes() == megabytes(network="small") < 5
    assert megabytes(network="medium") > 15
