"""Any PyTorch module: wrapped in Python, named on the command line, and run only where somebody trusts it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from ncdeploy.backends import open_engine
from ncdeploy.denoisers import NoiseTable, build, load_model, save_model
from ncdeploy.errors import DependencyError, FileError, InputError
from ncdeploy.export import export_onnx
from ncdeploy.importers import detect_format, import_model, wrap_module

CODE = """
from pathlib import Path
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x, noise, labels=None):
        hidden = self.inner(torch.cat([x, noise[:, None] / 1000], 1))
        return self.outer(hidden.tanh() if labels is None else (hidden + labels[:, None]).tanh())

def make():
    Path("witness").touch()
    torch.manual_seed(5)
    return Net()

def half(): return Net(4)
def text(): return "no module"
def fails(): raise RuntimeError("no luck")
number = 3
"""


class Net(nn.Module):
    """Predicts a known function of its inputs, so that D can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        output = self.gain * x + noise[:, None] / 100
        return output if labels is None else output + labels[:, None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    from ncdeploy_cli.main import app

    (tmp_path / "my_net_for_tests.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_net_for_tests", raising=False)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


NAME = "my_net_for_tests:make"
OPTIONS = ("--predicts", "eps", "--noise", "step", "--schedule", "linear", "--shape", "3")


@pytest.mark.parametrize("predicts", ["eps", "v", "x0", "F"])
def test_d_is_the_formula_of_its_prediction(predicts: str) -> None:
    edm = predicts == "F"
    denoiser = wrap_module(Net(), shape=(3,), predicts=predicts, schedule=None if edm else "cosine").double()
    sigmas = NoiseTable.cosine().sigmas()
    x, sigma = torch.randn(4, 3).double(), torch.tensor(sigmas[[0, 10, 500, 990]])
    s = sigma[:, None]
    alpha = 1 / (1 + s**2).sqrt()
    noise = torch.tensor([[0.0], [10], [500], [990]], dtype=torch.float64) / 100
    gain = float(torch.tensor(0.3))
    with torch.no_grad():
        if edm:
            c_in = 1 / (s**2 + 0.25).sqrt()
            wanted = 0.25 * c_in**2 * x + s * 0.5 * c_in * (gain * c_in * x + s.log() / 400)
        else:
            output = gain * alpha * x + noise
            wanted = {"eps": x - s * output, "v": alpha**2 * x - s * alpha * output, "x0": output}[predicts]
        got = denoiser(x, sigma)
    scale = 1 + s
    assert ((got - wanted).abs() / scale).max() < 1e-6
    assert ((got - 1.001 * wanted).abs() / scale).max() > 1e-6


def test_three_lines_to_onnx_and_no_way_to_a_file_that_could_not_be_read(tmp_path: Path) -> None:
    denoiser = wrap_module(Net(), shape=(3,), predicts="eps", schedule="linear")
    assert export_onnx(denoiser, tmp_path / "m.onnx", threads=1).parity.ok
    with pytest.raises(InputError, match="could not be rebuilt"):
        save_model(tmp_path / "m.pt", denoiser)


def test_classes(tmp_path: Path) -> None:
    every = wrap_module(Net(), shape=(3,), predicts="x0", schedule="linear", num_classes=2)
    x, sigma = torch.randn(2, 3), torch.ones(2)
    with pytest.raises(InputError, match="label"):
        every(x, sigma)
    null = wrap_module(Net(), shape=(3,), predicts="x0", schedule="linear", num_classes=2, unconditional=True)
    with torch.no_grad():
        assert torch.allclose(null(x, sigma), every(x, sigma, torch.zeros(2, dtype=torch.int64)) + 2)


class WithVariance(nn.Module):
    """Returns a mean, 2 x, and behind it a variance."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.gain, self.channels = nn.Parameter(torch.tensor(2.0)), channels

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([self.gain * x] + [7 * torch.ones_like(x)] * (self.channels - 1), 1)


def test_a_learned_variance_is_dropped_where_it_is_said(tmp_path: Path, run: Callable[..., Result]) -> None:
    how: dict[str, Any] = {"shape": (3, 2, 2), "predicts": "x0", "schedule": "linear"}
    with pytest.raises(InputError, match="--learned-variance drop"):
        wrap_module(WithVariance(), **how)
    with pytest.raises(InputError, match="expected drop"):
        wrap_module(WithVariance(), **how, learned_variance="keep")
    for channels in (1, 3):
        with pytest.raises(InputError, match="expected twice the channels"):
            wrap_module(WithVariance(channels), **how, learned_variance="drop")
    denoiser = wrap_module(WithVariance(), **how, learned_variance="drop").eval()
    x = torch.randn(2, 3, 2, 2)
    with torch.no_grad():
        alpha = 1 / 5**0.5
        assert torch.allclose(denoiser(x, torch.tensor([2.0, 2.0])), 2 * alpha * x)
    assert "variance was dropped" in denoiser.notes[0]
    assert export_onnx(denoiser, tmp_path / "m.onnx", threads=1).parity.ok

    with (tmp_path / "my_net_for_tests.py").open("a") as f:
        f.write("\nclass Twice(Net):\n    def forward(self, x, noise):\n")
        f.write("        return super().forward(x, noise).repeat(1, 2)\n")
    done = run("import", "my_net_for_tests:Twice", *OPTIONS, "--learned-variance", "drop", "-o", "m.pt")
    assert done.exit_code == 0, done.output
    assert "variance was dropped" in " ".join(done.output.split())
    assert load_model("m.pt", allow_module=True)(torch.ones(2, 3), torch.ones(2)).shape == (2, 3)


def test_weights_under_a_key_and_behind_a_prefix(tmp_path: Path, run: Callable[..., Result]) -> None:
    own = {"inner.weight": torch.ones(8, 4), "inner.bias": torch.ones(8), "outer.weight": torch.ones(3, 8),
           "outer.bias": torch.ones(3)}  # fmt: skip
    wrapped = {f"module.{name}": tensor for name, tensor in own.items()}
    torch.save({"model": {n: 0 * t for n, t in wrapped.items()}, "teacher": wrapped, "step": 3}, tmp_path / "w.pt")

    def bring(*options: str) -> Result:
        return run("import", NAME, *OPTIONS, "--weights", "w.pt", "-o", "m.pt", "--force", *options)

    asked = bring()
    assert asked.exit_code == 1
    assert "--key 'model' --strip 'module.' or --key 'teacher'" in " ".join(asked.output.split())
    done = bring("--key", "teacher", "--strip", "module.")
    assert done.exit_code == 0, done.output
    assert "under 'teacher', without the prefix 'module.'" in " ".join(done.output.split())
    assert load_model(tmp_path / "m.pt", allow_module=True).state_dict()["network.module.outer.bias"].sum() == 3
    lost = bring("--key", "nobody")
    assert "no weights under 'nobody'; it has: 'model', 'teacher'" in " ".join(lost.output.split())
    nothing = run("import", NAME, *OPTIONS, "-o", "m.pt", "--force", "--key", "model")
    assert "give --weights, too" in " ".join(nothing.output.split())


class StepTable(nn.Module):
    """Looks its step up, as networks of whole steps do."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(1000, 1)
        self.rows.weight.data = torch.arange(1000.0)[:, None]

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return 0 * x + self.rows(noise.long())


@pytest.mark.parametrize("schedule", ["linear", "scaled-linear", "cosine"])
def test_a_network_of_whole_steps_is_asked_at_its_own_in_the_exported_graph_too(schedule: str, tmp_path: Path) -> None:
    denoiser = wrap_module(StepTable(), shape=(1,), predicts="x0", schedule=schedule).eval()
    sigma = torch.exp(denoiser.log_sigmas).float().numpy()
    export_onnx(denoiser, tmp_path / "m.onnx", threads=1, verify=False)  # between two steps it jumps
    backend = open_engine(tmp_path / "m.onnx", threads=1)
    for engine in (backend, lambda x, s: denoiser(torch.from_numpy(x), torch.from_numpy(s)).detach().numpy()):
        got = engine(np.zeros((1000, 1), np.float32), sigma)
        assert np.array_equal(got[:, 0], np.arange(1000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predicts": "noise", "schedule": "linear"}, "predicts: got 'noise'"),
        ({"predicts": "eps"}, "needs one: linear"),
        ({"predicts": "eps", "schedule": "liner"}, "did you mean linear"),
        ({"predicts": "F", "schedule": "linear"}, "leave it out"),
        ({"predicts": "eps", "schedule": "linear", "sigma_max": 3.0}, "leave them out"),
        ({"predicts": "F", "sigma_min": 90.0}, "sigma range"),
        ({"predicts": "F", "unconditional": True}, "there are no classes"),
        ({"predicts": "F", "shape": (4, 4)}, "failed|returned"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrap_module(Net(), **{"shape": (3,), **options})


class Short(nn.Module):
    """Returns less than it was given."""

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x[:, :1]


def test_a_module_that_returns_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"returned \(2, 1\), expected the shape of x"):
        wrap_module(Short(), shape=(3,), predicts="F")


def test_code_runs_only_where_it_is_trusted(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("import", NAME, *OPTIONS, "-o", "m.pt").exit_code == 0
    witness = tmp_path / "witness"
    witness.unlink()
    for command in (
        ("export", "m.pt"), ("sample", "-e", "m.pt"), ("inspect", "m.pt"), ("verify", "m.pt", "m.pt"),
        ("import", "m.pt", "-o", "b.pt"), ("train", "--init-from", "m.pt", "--data", "moons", "-o", "c.pt"),
    ):  # fmt: skip
        done = run(*command)
        assert done.exit_code == 1
        assert NAME in done.stderr
        assert "--trust" in done.stderr
    with pytest.raises(FileError, match="allow_module=True"):
        load_model("m.pt")
    with pytest.raises(FileError, match="allow_module=True"):
        open_engine("m.pt")
    with pytest.raises(InputError, match="allow_module=True"):
        build(torch.load("m.pt", weights_only=True)["config"])
    assert not witness.exists()
    assert load_model("m.pt", allow_module=True).info.shape == (3,)
    assert witness.exists()
    for command in (
        ("export", "m.pt", "--trust"), ("sample", "-e", "m.pt", "--trust", "--steps", "5", "-n", "2"),
        ("inspect", "m.pt", "--trust"), ("import", "m.pt", "-o", "m.safetensors", "--trust"),
        ("verify", "m.safetensors", "m.onnx", "--trust"),
    ):  # fmt: skip
        done = run(*command)
        assert done.exit_code == 0, done.stderr


def test_weights_from_a_file(run: Callable[..., Result], tmp_path: Path) -> None:
    from ncdeploy.denoisers.foreign.module import run_factory

    wanted = run_factory(NAME)
    with torch.no_grad():
        for p in wanted.parameters():
            p.add_(1)
    save_file(wanted.state_dict(), "w.safetensors")
    torch.save(wanted.state_dict(), "w.pt")
    for file in ("w.safetensors", "w.pt"):
        done = run("import", NAME, "--weights", file, *OPTIONS, "-o", "m.pt", "--force")
        assert done.exit_code == 0, done.stderr
        again = load_model("m.pt", allow_module=True)
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(again.state_dict()[f"network.module.{name}"], tensor)
    options: dict[str, Any] = {"predicts": "eps", "noise": "step", "schedule": "linear", "shape": (3,)}
    with pytest.raises(FileError, match="do not belong together"):
        import_model("my_net_for_tests:half", weights="w.pt", **options)
    torch.save({"history": [1.0, 2.0]}, "none_inside.pt")
    with pytest.raises(FileError, match="it holds history"):
        import_model(NAME, weights="none_inside.pt", **options)
    Path("text.pt").write_text("hello")
    with pytest.raises(FileError, match=r"text.pt: .*(damaged|holds Python objects)"):
        import_model(NAME, weights="text.pt", **options)
    with pytest.raises(FileError, match="no such file"):
        import_model(NAME, weights="none.pt", **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_net_for_tests:none", "has no 'none'"),
        ("no_such_module_here:make", "no module 'no_such_module_here'"),
        ("my_net_for_tests:number", "expected a function"),
        ("my_net_for_tests:text", "returned str"),
        ("my_net_for_tests:fails", "no luck"),
    ],
)
def test_factories_that_do_not_work(run: Callable[..., Result], name: str, message: str) -> None:
    done = run("import", name, *OPTIONS, "-o", "m.pt")
    assert done.exit_code == 1
    assert message in done.stderr
    assert not Path("m.pt").exists()


def test_a_factory_that_needs_a_missing_package(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "needs_more_for_tests.py").write_text("import no_such_package_here\n")
    with pytest.raises(DependencyError, match="no_such_package_here"):
        import_model("needs_more_for_tests:make", predicts="F", noise="c-noise", shape=(3,))


def test_detection_and_options(run: Callable[..., Result], tmp_path: Path) -> None:
    assert detect_format(NAME) == "module"
    Path("notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    for source, message in (("none.pt", "no such file"), ("notes.txt", "none of the known"), ("folder", "none of the")):
        with pytest.raises(FileError, match=message):
            detect_format(source)
    done = run("import", "notes.txt", "--format", "difusers", "-o", "m.pt")
    assert "did you mean diffusers" in done.stderr
    done = run("import", NAME, *OPTIONS, "--image-size", "64", "-o", "m.pt")
    assert "image-size: the format module has no such option; it has: weights" in done.stderr
    done = run("import", NAME, "-o", "m.pt")
    assert "--predicts eps --noise step --schedule linear --shape" in done.stderr
    done = run("import", NAME, *OPTIONS[:-1], "three", "-o", "m.pt")
    assert "expected sizes" in done.stderr


def test_ambiguous_sources_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncdeploy import importers

    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert detect_format(tmp_path) == "diffusers"
    monkeypatch.setattr(importers.guided, "can_import", lambda path: True)
    with pytest.raises(FileError, match="could be diffusers or guided-diffusion; say which with --format"):
        detect_format(tmp_path)


def test_sampled_points_do_not_depend_on_the_file(run: Callable[..., Result]) -> None:
    assert run("import", NAME, *OPTIONS, "-o", "m.pt").exit_code == 0
    assert run("import", "m.pt", "--trust", "-o", "m.safetensors").exit_code == 0
    x, sigma = np.ones((2, 3), np.float32), np.float32([0.1, 5])
    outputs = [open_engine(name, allow_module=True)(x, sigma) for name in ("m.pt", "m.safetensors")]
    np.testing.assert_array_equal(*outputs)
