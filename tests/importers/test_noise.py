"""What a network is told of the noise, and flow matching: as its own framework would ask it, or refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from ncdeploy import InputError, SampleOptions, make_plan, open_engine, sample, wrap_module
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import NoiseTable, build
from ncdeploy.denoisers.flow import TIMES
from ncdeploy.export import export_onnx
from ncdeploy.importers import import_model
from ncdeploy.sampling.noise import normal
from ncdeploy_cli.main import app
from oracle import digits

SIGMAS = NoiseTable.linear().sigmas()


class Told(nn.Module):
    """Returns what it was told, in every place."""

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return 0 * x + noise[:, None]


class Velocity(nn.Module):
    """A smooth v of flow matching, for data near 0: as trained, v = n - x0 at time t."""

    def __init__(self, sign: float = 1.0, reversed: bool = False, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inside = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))
        self.sign, self.reversed, self.factor = sign, reversed, factor

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = time / self.factor
        t = (1 - t if self.reversed else t)[:, None]
        result: Tensor = self.sign * (x * t / (t**2 + 0.3) + 0.3 * self.inside(torch.cat([x, t], 1)))
        return result


@pytest.mark.parametrize(
    ("noise", "formula"),
    [
        ("step", lambda k: k), ("step-int", lambda k: k), ("time01", lambda k: k / 999), ("time1000", lambda k: k),
        ("log-snr", lambda k: -2 * math.log(SIGMAS[k])), ("c-noise", lambda k: math.log(SIGMAS[k]) / 4),
        ("sigma", lambda k: SIGMAS[k]),
    ],
)  # fmt: skip
def test_a_network_is_told_what_is_asked_for(noise, formula):
    denoiser = wrap_module(Told(), shape=(3,), predicts="x0", schedule="linear", noise=noise).eval()
    levels = [0, 1, 48, 500, 999]
    told = denoiser(torch.zeros(5, 3), torch.tensor(SIGMAS[levels]).float())[:, 0]
    np.testing.assert_allclose(told.numpy(), [formula(k) for k in levels], rtol=2e-6, atol=1e-6)
    between = denoiser(torch.zeros(1, 3), torch.tensor([(SIGMAS[500] * SIGMAS[501]) ** 0.5]).float())[0, 0].item()
    assert (between == round(between)) == (noise == "step-int")
    assert build({**denoiser.config, "network": {"kind": "mlp"}}).noise == noise


@pytest.mark.parametrize("noise", ["log-snr", "c-noise", "sigma"])
def test_a_network_of_no_steps_needs_no_schedule(noise):
    given: dict[str, Any] = {"shape": (3,), "predicts": "v", "noise": noise, "sigma_min": 0.01, "sigma_max": 50.0}
    denoiser = wrap_module(Told(), **given).eval()
    x, s = torch.randn(2, 3), torch.tensor([0.5, 4.0])
    told = {"log-snr": -2 * s.log(), "c-noise": s.log() / 4, "sigma": s}[noise][:, None]
    s = s[:, None]
    assert torch.allclose(denoiser(x, s[:, 0]), x / (1 + s**2) - told * s / (1 + s**2).sqrt(), atol=1e-6)
    assert (denoiser.info.sigma_min, denoiser.info.sigma_max) == (0.01, 50.0)
    assert denoiser.info.default_plan["schedule"] == "karras"
    edm = wrap_module(Told(), shape=(3,), predicts="F", noise=noise)
    assert torch.allclose(
        edm(x, s[:, 0]), (0.25 * x + 0.5 * s * (0.25 + s**2).sqrt() * told) / (0.25 + s**2), atol=1e-6
    )
    assert build({**edm.config, "network": {"kind": "mlp"}}).noise == noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predicts": "eps", "noise": "log-snr"}, "give the noise levels it was trained on"),
        ({"predicts": "eps", "noise": "step"}, "needs one: linear"),
        ({"predicts": "eps", "schedule": "linear", "noise": "t"}, "noise: got 't'.*step-int"),
        ({"predicts": "F", "noise": "step"}, "one of log-snr, c-noise, sigma"),
        ({"predicts": "flow"}, "noise: not given.*time01, time1000"),
        ({"predicts": "flow", "noise": "step"}, "noise: got 'step'"),
        ({"predicts": "flow", "noise": "time01", "schedule": "linear"}, "leave it out"),
        ({"predicts": "F", "shift": 3.0}, "shift: is of flow matching"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        wrap_module(Told(), shape=(3,), **options)


@pytest.mark.parametrize(("predicts", "named"), [("eps", "log-snr"), ("F", "c-noise"), ("flow", "time01-reversed")])
def test_an_import_says_what_the_network_is_told(predicts, named):
    with pytest.raises(InputError, match=f"noise: not given; a module does not say.*{named}"):
        import_model("my_module:make", format="module", predicts=predicts, shape=(3,), schedule=None)


@pytest.mark.parametrize("predicts", ["flow", "flow-to-data"])
@pytest.mark.parametrize("noise", TIMES)
def test_flow_matching_asks_as_it_was_trained(predicts, noise):
    """Whatever the sign of v and the direction of time, the same flow is the same denoiser."""
    reference = wrap_module(Velocity(), shape=(4,), predicts="flow", noise="time01").double()
    theirs = Velocity(
        sign=1.0 if predicts == "flow" else -1.0, reversed=noise.endswith("reversed"),
        factor=1000.0 if "1000" in noise else 1.0,
    )  # fmt: skip
    other = wrap_module(theirs, shape=(4,), predicts=predicts, noise=noise).double()
    x, sigma = torch.randn(6, 4).double(), torch.tensor([0.01, 0.2, 1.0, 5.0, 100.0, 1e5]).double()
    t = (sigma / (1 + sigma))[:, None]
    x_t = x * (1 - t)
    wanted = x_t - t * Velocity().double()(x_t, t[:, 0])
    assert torch.allclose(reference(x, sigma), wanted, atol=1e-9)
    assert torch.allclose(other(x, sigma), wanted, atol=1e-6)
    assert type(build({**other.config, "network": {"kind": "mlp"}})) is type(other)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_is_the_euler_steps_of_flow_matching(shift):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28))
    seeds = list(range(8))
    x = torch.from_numpy(np.asarray(normal(np, seeds, [[0]] * 8, 4))[:, 0]).float()
    velocity = Velocity(factor=1000.0)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(velocity(x, t.expand(8)), t, x).prev_sample
    model = wrap_module(velocity, shape=(4,), predicts="flow", noise="time1000", shift=shift)
    engine = TorchBackend(model, threads=1)
    plan = model.info.plan()
    np.testing.assert_allclose(sample(engine, plan, seeds=seeds).samples, x.numpy(), atol=1e-5)
    run = sample(engine, plan, seeds=seeds, window=28, tolerance=1e-3, options=SampleOptions(max_rows=8 * 28))
    assert run.depth <= 10
    np.testing.assert_allclose(run.samples, x.numpy(), atol=5e-3)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_all_of_a_flow_in_one_window_takes_few_calls(shift):
    """Of the exact denoiser of digits."""
    plan = make_plan("ddim", 28, schedule="flow", shift=shift)
    options = SampleOptions(shape=(1, 8, 8), like=np.zeros(()))
    whole = sample(digits(), plan, seeds=range(4), options=options)
    run = sample(digits(), plan, seeds=range(4), window=28, tolerance=1e-3, options=options)
    assert run.depth <= 10
    assert np.sqrt(np.mean((run.samples - whole.samples) ** 2)) < 5e-3


def test_shift_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = wrap_module(Velocity(), shape=(4,), predicts="flow", noise="time01", shift=2.0)
    export_onnx(model, tmp_path / "m.onnx", verify=False)
    engine = open_engine(tmp_path / "m.onnx", threads=1)
    file = str(tmp_path / "m.onnx")

    def run(*words):
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return done.stdout

    for words, shift in ((["--shift", "5"], 5.0), ([], 2.0)):
        run("sample", file, "-n", "3", "--threads", "1", "-o", str(tmp_path / "s.npy"), "--force", *words)
        wanted = sample(engine, engine.info.plan(shift=shift), seeds=range(3)).samples
        np.testing.assert_allclose(np.load(tmp_path / "s.npy"), wanted, atol=1e-5)
    few = ["--solver", "ddim", "--steps", "6", "--window", "none", "--repetitions", "1", "--samples", "4", "--json"]
    assert "--shift 5.0" in json.loads(run("bench", file, "--shift", "5", *few))["recommendation"]["command"]
    with pytest.raises(InputError, match="shift: schedule 'karras' takes no such option"):
        engine.info.plan(schedule="karras", shift=3.0)


def test_flow_schedules():
    assert make_plan("ddim", 28, schedule="flow", shift=3.0).name == "ddim-28"
    t = make_plan("ddim", 4, schedule="flow").sigmas
    np.testing.assert_allclose(t[1:] / (1 + t[1:]), [0.75, 0.5, 0.25, 0])
    with pytest.raises(InputError, match="shift: got 0"):
        make_plan("ddim", 4, schedule="flow", shift=0.0)
    with pytest.raises(InputError, match="takes no such option"):
        make_plan("ddim", 4, schedule="karras", shift=3.0)
