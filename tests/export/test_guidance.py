"""Guidance inside an exported graph: the same numbers as outside, in one call of the graph."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from ncdeploy import SampleOptions, make_plan, sample
from ncdeploy.backends import open_engine
from ncdeploy.backends.base import Backend
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import EDM, MLP, MLPConfig, save_model
from ncdeploy.errors import FileError, InputError, ParityError
from ncdeploy.export import export_onnx
from ncdeploy.export.guidance import GuidedDenoiser
from ncdeploy.formats.describe import info_from_flags
from ncdeploy.formats.onnxfile import read_onnx
from ncdeploy.guidance import Guided
from ncdeploy.inspection import inspect_file
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.parity import compare
from ncdeploy_cli.main import app

INFO = ModelInfo(
    shape=(4,), sigma_min=0.01, sigma_max=80.0, sigma_data=0.6, num_classes=3,
    default_plan={"solver": "dpmpp_2m", "steps": 8, "sigma_max": 60.0},
)  # fmt: skip


def conditional(info: ModelInfo = INFO) -> EDM:
    denoiser = EDM(MLP(info.shape, MLPConfig(width=16, blocks=1), info.num_classes), info).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    for name, parameter in denoiser.named_parameters():
        if "label" in name:
            parameter.data *= 10  # classes that differ
    return denoiser


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """model.pt, and the graph with an input for guidance."""
    folder = tmp_path_factory.mktemp("guided")
    save_model(folder / "model.pt", conditional())
    done = export_onnx(conditional(), folder / "guided.onnx", guidance=True)
    assert done.parity is not None
    assert done.parity.ok
    assert done.info.guidance
    return {"pt": folder / "model.pt", "onnx": folder / "guided.onnx"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def batch(rows: int) -> list[Any]:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    sigma = np.geomspace(5, 0.02, rows).astype(np.float32)
    return [x * sigma[:, None], sigma, rng.integers(0, 3, rows), rng.uniform(-1, 4, rows).astype(np.float32)]


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_graph_guides_as_the_host_does(rows: int, files: dict[str, Path]) -> None:
    x, sigma, labels, weights = batch(rows)
    inside, outside = open_engine(files["onnx"]), Guided(open_engine(files["pt"]))
    wanted = outside(x, sigma, labels, weights)
    assert np.abs(inside(x, sigma, labels, weights) - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())
    plain = open_engine(files["pt"])(x, sigma, labels)
    assert np.abs(inside(x, sigma, labels) - plain).max() <= 1e-5 * max(1, np.abs(plain).max())
    assert np.abs(wanted - plain).max() > 1e-3


def test_samples_of_both_are_the_same_in_sequence_and_in_parallel(files: dict[str, Path]) -> None:
    plan = make_plan("ddim", 20)
    inside, outside = open_engine(files["onnx"]), open_engine(files["pt"])
    options: dict[str, Any] = {
        "seeds": range(4),
        "conditions": {"labels": [0, 1, 2, 0]},
        "options": SampleOptions(guidance=1.5),
    }
    for window in (None, 8):
        a, b = (sample(engine, plan, window=window, **options) for engine in (inside, outside))
        assert np.abs(a.samples - b.samples).max() <= 1e-3
        if window is None:
            assert a.nfe == b.nfe == 2 * plan.evaluations


def test_the_file_says_that_it_takes_guidance(files: dict[str, Path], run: Callable[..., Result]) -> None:
    assert inspect_file(files["onnx"]).info == replace(open_engine(files["onnx"]).info)
    ports = {port.name: (port.dtype, port.shape) for port in read_onnx(files["onnx"]).inputs}
    assert ports["guidance"] == ("float32", ("batch",))
    assert "a weight per row" in run("inspect", files["onnx"]).stdout
    assert json.loads(run("inspect", files["onnx"], "--json").stdout)["info"]["guidance"] is True
    assert "a weight per row" not in run("inspect", files["pt"]).stdout


def test_verify_guides_the_model_that_does_not_guide_itself(files: dict[str, Path], run: Callable[..., Result]) -> None:
    for pair in ((files["pt"], files["onnx"]), (files["onnx"], files["pt"])):
        done = run("verify", *pair)
        assert done.exit_code == 0, done.output
        assert "guided" in done.stdout


class Corrupt(GuidedDenoiser):
    """Guides by w + 0.02 instead of w."""

    def forward(self, x: Any, sigma: Any, labels: Any = None, guidance: Any = None) -> Any:
        return super().forward(x, sigma, labels, guidance=guidance + 0.02)


class Swapped(GuidedDenoiser):
    """Gives every row the weight of its neighbour."""

    def forward(self, x: Any, sigma: Any, labels: Any = None, guidance: Any = None) -> Any:
        return super().forward(x, sigma, labels, guidance=guidance.roll(1))


@pytest.mark.parametrize("kind", [Corrupt, Swapped])
def test_wrong_weights_fail_the_comparison(kind: type[GuidedDenoiser]) -> None:
    right: Backend = TorchBackend(GuidedDenoiser(conditional()))
    assert compare(right, TorchBackend(conditional())).ok
    assert not compare(right, TorchBackend(kind(conditional()))).ok


def test_a_graph_that_guides_wrongly_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    traced: Any = __import__("ncdeploy.export.denoiser", fromlist=["trace"])
    trace = traced.trace
    monkeypatch.setattr(traced, "trace", lambda model, **given: trace(Corrupt(model.denoiser).eval(), **given))
    with pytest.raises(ParityError, match="not written"):
        export_onnx(conditional(), tmp_path / "m.onnx", guidance=True)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (replace(INFO, num_classes=0), "takes no labels; leave guidance out, or train with --conditional"),
        (replace(INFO, unconditional=False), "has no unconditional class to guide away from"),
    ],
)
def test_models_that_cannot_be_guided_say_so(info: ModelInfo, message: str, run: Callable[..., Result]) -> None:
    save_model("model.pt", conditional(info))
    for command in (("export", "model.pt"), ("sample", "-e", "model.pt", "-n", 2, "--labels", "all")):
        done = run(*command, "--guidance", *([1.5] if command[0] == "sample" else []))
        assert done.exit_code == 1
        assert message in " ".join(done.stderr.split())
    assert not Path("model.onnx").exists()


def test_sampling_with_guidance_on_the_command_line(files: dict[str, Path], run: Callable[..., Result]) -> None:
    found, options = {}, ("-n", 4, "--labels", "0,2", "--json")
    for name, engine, extra in (
        ("outside", files["pt"], ("--guidance", 1.5)), ("inside", files["onnx"], ("--guidance", 1.5)),
        ("parallel", files["onnx"], ("--guidance", 1.5, "--parallel")), ("plain", files["pt"], ()),
    ):  # fmt: skip
        done = run("sample", "-e", engine, *options, *extra, "-o", f"{name}.npy")
        assert done.exit_code == 0, done.output
        found[name] = (json.loads(done.stdout), np.load(f"{name}.npy"))
    assert np.abs(found["inside"][1] - found["outside"][1]).max() <= 1e-3
    assert np.abs(found["parallel"][1] - found["outside"][1]).max() <= 1e-2
    assert np.abs(found["plain"][1] - found["outside"][1]).max() > 0.05
    assert found["outside"][0]["nfe"] == found["inside"][0]["nfe"] == found["inside"][0]["sequential_nfe"] == 16
    assert found["plain"][0]["nfe"] == found["plain"][0]["sequential_nfe"] == 8
    assert (found["plain"][0]["guidance"], found["outside"][0]["guidance"]) == (None, 1.5)
    for labels in ((), ("--labels", "none")):
        done = run("sample", "-e", files["pt"], "--guidance", 1.5, *labels)
        assert done.exit_code == 1
        assert "--labels 3,3,7 or --labels all" in " ".join(done.stderr.split())


@pytest.mark.parametrize("rows", [None, 3])
def test_rows_of_a_call_count_both_halves(rows: int | None, files: dict[str, Path], run: Callable[..., Result]) -> None:
    batches = () if rows is None else ("--rows", rows)
    done = run("sample", "-e", files["pt"], "-n", 4, "--labels", "all", "--guidance", 2, "--json", *batches)
    record = json.loads(done.stdout)
    assert record["depth"] == record["sequential_depth"] == 8 * (1 if rows is None else 4)


def test_a_model_without_an_unconditional_class_wants_labels(run: Callable[..., Result]) -> None:
    save_model("model.pt", conditional(replace(INFO, unconditional=False)))
    done = run("sample", "-e", "model.pt", "-n", 2)
    assert done.exit_code == 1
    assert "--labels all" in " ".join(done.stderr.split())
    assert run("sample", "-e", "model.pt", "-n", 4, "--labels", "all", "-o", "s.npy").exit_code == 0
    assert "no unconditional class" in run("inspect", "model.pt").stdout
    assert run("export", "model.pt").exit_code == 0  # the labels of the comparison are classes alone
    assert not open_engine("model.onnx").info.unconditional


@pytest.mark.parametrize("kind", ["pt", "onnx"])
def test_guidance_is_checked(kind: str, files: dict[str, Path]) -> None:
    x, sigma, labels, weights = batch(3)
    engine = TorchBackend(GuidedDenoiser(conditional())) if kind == "pt" else open_engine(files["onnx"])
    bad = [weights[:2], weights.astype(np.float64), np.full(3, np.nan, np.float32), 1.5]
    for wrong in bad:
        with pytest.raises(InputError, match=r"^guidance: "):
            engine(x, sigma, labels, wrong)
    with pytest.raises(InputError, match="guidance: this model takes none"):
        open_engine(files["pt"])(x, sigma, labels, weights)


def test_graph_and_description_must_agree_on_guidance(files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(files["onnx"])
    onnx.helper.set_model_props(model, {"ncdeploy": INFO.to_json()})
    onnx.save(model, tmp_path / "lies.onnx")
    with pytest.raises(FileError, match=r"expected x, sigma, labels$"):
        open_engine(tmp_path / "lies.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "silent.onnx")
    info = info_from_flags(tmp_path / "silent.onnx", sigma_min=0.01, sigma_max=80.0, sigma_data=0.6, num_classes=3)
    assert info is not None
    assert info.guidance
    open_engine(tmp_path / "silent.onnx", info=info)


def test_a_guided_model_is_not_saved_as_a_model_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save the model without it"):
        save_model(tmp_path / "m.pt", GuidedDenoiser(conditional()))
