"""Fine-tuning: a run that begins with a model's weights and keeps what belongs to the model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from typer.testing import CliRunner

from ncdeploy.denoisers import Denoiser, build, default_config, load_model, load_record
from ncdeploy.errors import InputError
from ncdeploy.importers import import_model
from ncdeploy.training import TrainConfig, load_data, start_from

CONFIG = TrainConfig(steps=4, batch=8, lr=1e-4, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "unet")
    DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.02).save_pretrained(
        tmp_path / "scheduler"
    )
    return tmp_path


def test_the_first_step_starts_at_the_models_weights(folder: Path) -> None:
    model = import_model(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = start_from(model, load_data("digits"), CONFIG)
    assert all(torch.equal(before[name], t) for name, t in training.ema.denoiser.state_dict().items())
    for _ in training.run():
        pass
    after = training.finish()
    moved = max(float((after.state_dict()[name] - t).abs().max()) for name, t in before.items())
    assert 0 < moved <= 4 * 1e-4 * 4, "four steps of Adam, each at most about lr"
    assert after.info.default_plan == model.info.default_plan
    assert (after.info.sigma_data, after.info.data, after.info.scale) == (0.5, "digits", 8.0)
    assert (training.config.sigma_min, training.config.sigma_max) == (model.info.sigma_min, model.info.sigma_max)
    assert after.info.error_curve is not None


def test_data_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(InputError, match="shape"):
        start_from(import_model(folder), load_data("moons"), CONFIG)
    with pytest.raises(InputError, match="takes no labels"):
        start_from(import_model(folder), load_data("digits"), TrainConfig(conditional=True))
    few = build(default_config((1, 8, 8), num_classes=3, network={"kind": "mlp", "width": 8, "blocks": 1}))
    with pytest.raises(InputError, match="num_classes: the model has 3"):
        start_from(few, load_data("digits"), CONFIG)


def classes() -> Denoiser:
    return build(default_config((1, 8, 8), num_classes=10, network={"kind": "mlp", "width": 8, "blocks": 1}))


def test_a_conditional_model_goes_on_with_labels() -> None:
    training = start_from(classes(), load_data("digits"), CONFIG)
    assert training.config.conditional
    assert training.model().info.num_classes == 10


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncdeploy_cli.main import app

    def run(*args: object) -> None:
        done = CliRunner().invoke(app, [str(a) for a in args])
        assert done.exit_code == 0, done.output

    monkeypatch.chdir(folder)
    run("import", ".", "-o", "m.pt")
    small = ("--batch", 4, "--device", "cpu")
    options = ("--objective", "contrastive", "--contrastive-terms", 2)
    run("train", "--init-from", "m.pt", "--data", "digits", "--updates", 2, *small, *options, "-o", "t.pt")
    record, parent, tuned = load_record("t.pt"), load_model("m.pt"), load_model("t.pt")
    assert record["config"]["lr"] == 1e-4
    assert record["parent"]["weights_digest"] == parent.info.weights_digest
    assert tuned.info.default_plan == parent.info.default_plan
    run("train", "--resume", "t.pt", "--updates", 3)
    assert load_record("t.pt")["parent"] == record["parent"]
    assert load_model("t.pt").info.default_plan == parent.info.default_plan
    run("export", "t.pt", "-o", "t.onnx", "--threads", 1)
    run("sample", "-e", "t.onnx", "--steps", 4, "-n", 2, "-o", "s.npz", "--parallel", "--solver", "ddpm")
    assert np.isfinite(np.load("s.npz")["samples"]).all()


def test_options_that_do_not_go_together(folder: Path, check: Callable[..., str]) -> None:
    assert "--init-from" in check("train", "--resume", "m.pt", "--init-from", "m.pt")
    assert "has its own" in check(
        "train", "--init-from", "m.pt", "--network", "small", "--data", "digits", "-o", "n.pt"
    )
    assert "--network: a resumed run keeps" in check("train", "--resume", "m.pt", "--network", "small")
    assert "--trust" in check("train", "--data", "digits", "--trust", "-o", "m.pt")
    assert "ncdeploy import m.pt -o m.safetensors" in check("train", "--data", "digits", "-o", "m.safetensors")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    from ncdeploy_cli.main import app

    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> str:
        done = CliRunner().invoke(app, list(args))
        assert done.exit_code == 1
        return done.stderr

    return run
