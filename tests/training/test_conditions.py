"""Training with conditions: each row learns from its own, some from none, and files bring them in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from ncdeploy import Condition, SampleOptions, open_engine, sample
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import build, default_config, load_model, load_record
from ncdeploy.errors import InputError
from ncdeploy.export import export_onnx
from ncdeploy.importers.module import wrap_module
from ncdeploy.training import (
    ContrastiveConfig,
    Dataset,
    TrainConfig,
    load_data,
    resume_training,
    save_training,
    start,
    start_from,
)
from ncdeploy.training.fit import describe
from ncdeploy.training.objective import Objective

SMALL = {"width": 32, "blocks": 2}


def reach(rows: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """x lies where a camera with pixels of 0 .. 640 has seen a target: x = (obs - 320) / 160, and a little noise."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(0, 640, (rows, 2))
    return ((obs - 320) / 160 + 0.05 * rng.standard_normal(obs.shape)).astype(np.float32), obs.astype(np.float32)


def targets() -> Dataset:
    x, obs = reach()
    return Dataset(
        name="targets", x=x[200:], held_out=x[:200], conditions={"obs": obs[200:]},
        held_out_conditions={"obs": obs[:200]},
    )  # fmt: skip


def test_a_trained_model_goes_where_its_condition_says() -> None:
    training = start(targets(), TrainConfig(steps=400, batch=64, device="cpu"), network=SMALL)
    for _ in training.run():
        pass
    trained = training.finish()
    assert trained.info.conditions == (Condition(name="obs", dtype="float32", shape=(2,), null=-641.0),)
    obs = np.array([[100, 100], [100, 540], [540, 320], [320, 320]], np.float32)
    engine = TorchBackend(trained, threads=1)

    def drawn(**options: Any) -> np.ndarray:
        given = {"obs": np.repeat(obs, 8, axis=0)}
        run = sample(
            engine, trained.info.plan(), seeds=range(32), conditions=given, window=8, options=SampleOptions(**options)
        )
        return run.samples.reshape(4, 8, 2)

    wanted = ((obs - 320) / 160)[:, None]
    off = np.median(np.abs(drawn() - wanted), axis=1)
    assert off.max() < 0.25, "targets lie 1.4 apart"
    assert np.median(np.abs(drawn(guidance=0.0) - wanted)) > 0.5, "without a condition: anywhere"
    assert trained.info.error_curve is not None
    at_one = np.interp(1.0, trained.info.error_curve.sigmas, trained.info.error_curve.mse)
    assert at_one < 0.2, "the error was measured with the conditions of the held-out data"


def objective(conditions: tuple[Condition, ...], **settings: Any) -> Objective:
    config = TrainConfig(batch=64, device="cpu", **settings)
    x = np.random.default_rng(1).standard_normal((300, 2)).astype(np.float32)
    data = Dataset(
        name="itself", x=x, held_out=x[:1], conditions={"obs": x}, held_out_conditions={"obs": x[:1]},
        labels=np.zeros(300, np.int64), held_out_labels=np.zeros(1, np.int64), num_classes=1,
    )  # fmt: skip
    info = build(default_config((2,), num_classes=1, conditions=conditions)).info
    return Objective(data, config, info=info, batch=64, process=0, device=torch.device("cpu"))


def test_every_row_of_both_losses_has_its_own_condition() -> None:
    """The condition is the sample itself, so that D = condition is exact in every row, whatever the noise."""
    obs = (Condition(name="obs", dtype="float32", shape=(2,)),)
    loss = objective(obs, contrastive=ContrastiveConfig(terms=4, fraction=0.5, gap=0.0, s_min=2.0))

    def exact(x: Tensor, sigma: Tensor, labels: Any, conditions: dict[str, Tensor], sample: Tensor) -> Tensor:
        return conditions["obs"][sample]

    def of_another(x: Tensor, sigma: Tensor, labels: Any, conditions: dict[str, Tensor], sample: Tensor) -> Tensor:
        return conditions["obs"].roll(1, dims=0)[sample]

    right, wrong = loss(exact, 3), loss(of_another, 3)
    assert right.denoising == 0
    assert wrong.denoising > 0.1
    assert right.contrastive is not None
    assert wrong.contrastive is not None
    assert right.contrastive < 0.1 < 1 < wrong.contrastive


def test_what_is_dropped_is_dropped_together() -> None:
    null = Condition(name="obs", dtype="float32", shape=(2,), null=(7.0, 8.0))
    seen: list[tuple[Tensor, Tensor]] = []

    def record(x: Tensor, sigma: Tensor, labels: Tensor, conditions: dict[str, Tensor], sample: Tensor) -> Tensor:
        seen.append((labels, conditions["obs"][sample]))
        return x

    objective((null,), conditional=True, label_dropout=0.3)(record, 0)
    labels, obs = seen[0]
    dropped = (obs == torch.tensor([7.0, 8.0])).all(dim=1)
    assert 5 < int(dropped.sum()) < 35
    assert torch.equal(labels == 1, dropped)
    objective((Condition(name="obs", dtype="float32", shape=(2,)),), label_dropout=0.3)(record, 0)
    assert not (seen[1][1] == torch.tensor([7.0, 8.0])).any()


def test_a_condition_of_zero_is_a_condition() -> None:
    """Where zeros are data, as of an angle or a switch, zero does not mean none."""
    x = reach(100)[0]
    switch = (x[:, 0] > 0).astype(np.float32)
    data = Dataset(
        name="switch", x=x, held_out=x, conditions={"on": switch}, held_out_conditions={"on": switch}
    )  # fmt: skip
    model = start(data, TrainConfig(device="cpu"), network=SMALL).denoiser.eval()
    for weights in model.parameters():
        nn.init.normal_(weights, std=0.3)
    off, on, none = (
        model(torch.ones(1, 2), torch.ones(1), None, {"on": torch.tensor([v])}, torch.zeros(1, dtype=torch.int64))
        for v in (0.0, 1.0, model.info.conditions[0].none().item())
    )
    assert model.info.conditions[0].null == -2
    assert min((off - on).abs().max(), (off - none).abs().max(), (on - none).abs().max()) > 0.01


def test_without_dropout_there_is_nothing_to_guide_away_from() -> None:
    assert describe(targets(), TrainConfig(label_dropout=0.0)).conditions[0].null is None


class Policy(nn.Module):
    """A module of a user's, with a condition of integers and one that is no vector."""

    def __init__(self) -> None:
        super().__init__()
        self.task = nn.Embedding(3, 4)
        self.inside = nn.Linear(2 + 1 + 4 + 6, 2)

    def forward(self, x: Tensor, noise: Tensor, task: Tensor, view: Tensor) -> Tensor:
        output: Tensor = self.inside(torch.cat([x, noise[:, None], self.task(task), view.flatten(1)], 1))
        return output


def test_any_module_learns_from_any_condition() -> None:
    x = reach(100)[0]
    rng = np.random.default_rng(2)
    given = {"task": rng.integers(0, 3, 100), "view": rng.standard_normal((100, 2, 3))}
    data = Dataset(
        name="own", x=x, held_out=x[:10], conditions=given,
        held_out_conditions={name: values[:10] for name, values in given.items()},
    )  # fmt: skip
    conditions = [
        Condition(name="task", dtype="int64", shape=()),
        Condition(name="view", dtype="float32", shape=(2, 3), null=0),
    ]
    model = wrap_module(Policy(), shape=(2,), predicts="F", conditions=conditions)
    before = model.network.module.task.weight.clone()  # type: ignore[union-attr]
    training = start_from(model, data, TrainConfig(steps=3, batch=8, device="cpu"))
    for _ in training.run():
        pass
    assert training.finish().info.conditions == tuple(conditions)
    assert not torch.equal(before, training.denoiser.network.module.task.weight)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="this model takes task int64 \\(\\), view float32 \\(2, 3\\)"):
        start_from(model, targets(), TrainConfig(device="cpu"))
    plain = build(default_config((2,), network=SMALL))
    with pytest.raises(InputError, match="got 'obs'; this model takes none"):
        start_from(plain, targets(), TrainConfig(device="cpu"))
    with pytest.raises(InputError, match="task: holds integers, and this network takes real numbers"):
        start(data, TrainConfig(device="cpu"), network=SMALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    x, obs = reach(60)
    np.savez(tmp_path / "demo.npz", x=x, obs=obs, labels=np.arange(60) % 2)
    np.save(tmp_path / "far.npy", np.arange(60))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_conditions_stay_with_their_samples(folder: Path) -> None:
    data = load_data("demo.npz", conditions=["obs", "far=far.npy"])
    x, obs = reach(60)
    where = {tuple(row): i for i, row in enumerate(obs.tolist())}
    for part, given in ((data.x, data.conditions), (data.held_out, data.held_out_conditions)):
        rows = [where[tuple(row)] for row in given["obs"].tolist()]
        np.testing.assert_allclose(part * data.scale + data.offset, x[rows], atol=1e-5)
        np.testing.assert_array_equal(given["far"], rows)
    assert load_data(**data.origin).digest == data.digest
    assert load_data("demo.npz", conditions=["obs"]).digest != data.digest
    assert load_data(**{**data.origin, "conditions": ["obs=demo.npz:obs", "far=far.npy"]}).digest == data.digest


WRONG = {
    "no such array": (["demo.npz", ["goal"]], "name one of its arrays"),
    "twice": (["demo.npz", ["obs", "obs=far.npy"]], "given twice"),
    "no archive": (["moons", ["obs"]], "moons has no arrays with names"),
    "rows": (["moons", ["obs=far.npy"]], r"obs: got \(60,\); expected \(10000,\)"),
    "name": (["demo.npz", ["sigma=far.npy"]], "the name is taken"),
}


@pytest.mark.parametrize("name", WRONG)
def test_conditions_that_do_not_fit_the_data(folder: Path, name: str) -> None:
    (spec, conditions), said = WRONG[name]
    with pytest.raises(InputError, match=said) as e:
        load_data(spec, conditions=conditions)
    assert "\n" not in str(e.value)


def test_a_resumed_run_ends_in_the_same_weights(folder: Path) -> None:
    def run(steps: int) -> Any:
        config = TrainConfig(steps=6, batch=8, device="cpu", contrastive=ContrastiveConfig(terms=2))
        training = start(load_data("demo.npz", conditions=["obs"]), config, network=SMALL)
        for _, _progress in zip(range(steps), training.run(), strict=False):
            pass
        return training

    whole = run(6)
    save_training("part.pt", run(3))
    resumed = resume_training("part.pt")
    for _ in resumed.run():
        pass
    for name, tensor in whole.ema.denoiser.state_dict().items():
        assert torch.equal(tensor, resumed.ema.denoiser.state_dict()[name]), name
    assert float(whole.denoiser.state_dict()["network.conditioning.observed.0.mean"][0]) > 200


def test_from_data_to_samples_on_the_command_line(folder: Path) -> None:
    from ncdeploy_cli.main import app

    def run(*args: Any) -> Any:
        done = CliRunner().invoke(app, [str(a) for a in args])
        assert done.exit_code == 0, done.output
        return done

    few = ["--updates", 3, "--batch", 8, "--device", "cpu"]
    run("train", "--data", "demo.npz", "--condition", "obs", "--conditional", *few, "-o", "m.pt")
    assert load_record("m.pt")["data"]["conditions"] == ["obs"]
    run("train", "--resume", "m.pt", "--updates", 4)
    run("train", "--data", "demo.npz", "--init-from", "m.pt", *few, "-o", "n.pt")
    run("export", "n.pt", "-o", "n.onnx")
    run(
        "sample", "-e", "n.onnx", "-n", 3, "--condition", "obs=demo.npz:obs", "--labels", "1", "--guidance", 2,
        "-o", "s.npy",
    )  # fmt: skip
    assert np.load("s.npy").shape == (3, 2)
    assert open_engine("n.onnx").info.conditions == load_model("n.pt").info.conditions


def test_pictures_and_their_graph(folder: Path) -> None:
    """The U-Net takes them too; its graph projects them once a sample."""
    conditions = (Condition(name="obs", dtype="float32", shape=(2,)), Condition(name="far", dtype="float32", shape=()))
    network = {"channels": 8, "multipliers": (1, 2), "attention": (), "blocks": 1, "width": 16, "head_width": 8}
    model = build(default_config((1, 8, 8), network=network, conditions=conditions)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    assert build(model.config).info.conditions == conditions
    export = export_onnx(model, folder / "u.onnx", threads=1)
    assert export.parity is not None
    assert export.parity.ok
    with pytest.raises(InputError, match="network: song takes no conditions; choose one of unet, mlp"):
        build({**model.config, "network": {"kind": "song"}})
