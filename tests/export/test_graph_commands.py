"""`ncdeploy export --graph` and what follows it: `sample` and `inspect`, as a user types them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ncdeploy.denoisers import EDM, MLP, Mixture, MLPConfig, save_model
from ncdeploy.modelinfo import ModelInfo
from oracle import digits

MEANS = digits().means[:50].reshape(-1, 1, 8, 8)
POINTS = ModelInfo(shape=(2,), sigma_min=0.02, sigma_max=80.0, sigma_data=0.6, num_classes=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """image.pt, classes.pt; around the first denoiser.onnx, sampler.onnx and sweep.onnx, which takes its plan as input,
    with what `export --json` said of them."""
    folder = tmp_path_factory.mktemp("graphs")
    save_model(folder / "image.pt", Mixture(MEANS, 0.1))
    save_model(folder / "classes.pt", EDM(MLP(POINTS.shape, MLPConfig(width=16, blocks=1), 3), POINTS))
    plan = ("--solver", "ddim", "--steps", 20, "--window", 8)
    records = {}
    for kind, options in {"sampler": plan, "sweep": (*plan, "--sweeps", 2, "--plan-input"), "denoiser": ()}.items():
        target = folder / f"{kind}.onnx"
        done = call("export", folder / "image.pt", "-o", target, "--graph", kind, "--threads", 1, "--json", *options)
        records[kind] = json.loads(done.stdout)
    return folder, records


def call(*arguments, code=0):
    from ncdeploy_cli.main import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    if code:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    return result


def npz(path):
    with np.load(path) as archive:
        return archive["samples"]


def test_all_three_kinds_sample_the_same(files, tmp_path, monkeypatch):
    folder, records = files
    monkeypatch.chdir(tmp_path)
    assert records["sampler"]["agreement"]["ok"] is records["sweep"]["agreement"]["ok"] is True
    assert records["sampler"]["plan"] == "ddim-20"
    assert records["sampler"]["bytes"] == (folder / "sampler.onnx").stat().st_size
    plan = ("--solver", "ddim", "--steps", 20)
    common = ("-n", 5, "--seed", 9, "--tolerance", "1e-5", "--json", "-o")
    figures = {
        "denoiser": call("sample", "-e", folder / "denoiser.onnx", *common, "a.npz", *plan, "--window", 8),
        "sampler": call("sample", "-e", folder / "sampler.onnx", *common, "b.npz"),
        "sweep": call("sample", "-e", folder / "sweep.onnx", *common, "c.npz", *plan),
        "turns": call("sample", "-e", folder / "sampler.onnx", *common, "d.npz", "--rows", 16),
    }
    wanted = npz("a.npz")
    assert max(np.abs(npz(f"{name}.npz") - wanted).max() for name in "bcd") < 1e-3
    assert np.abs(np.roll(wanted, 1, axis=0) - wanted).max() > 0.1
    found = {name: json.loads(done.stdout) for name, done in figures.items()}
    assert found["sampler"].keys() == found["denoiser"].keys()
    assert abs(found["sampler"]["sweeps"] - found["denoiser"]["sweeps"]) <= 1
    assert found["turns"]["depth"] > found["sampler"]["depth"]
    assert {f["window"] for f in found.values()} == {8}


def test_a_plan_as_input_is_chosen_when_sampling(files, tmp_path, monkeypatch):
    folder, _ = files
    monkeypatch.chdir(tmp_path)
    done = call(
        "sample", "-e", folder / "sweep.onnx", "-n", 2, "--solver", "heun", "--steps", 6, "-o", "a.npz", "--json"
    )
    assert json.loads(done.stdout)["solver"] == "heun"
    summary = call("sample", "-e", folder / "sweep.onnx", "-n", 2, "-o", "a.npz", "--force").stdout
    assert "ddim-20, parallel, window 8" in summary
    assert "wrote a.npz" in summary


def test_guidance_and_classes(files, tmp_path, monkeypatch):
    folder, _ = files
    monkeypatch.chdir(tmp_path)
    plan = ("--graph", "sampler", "--steps", 9, "--threads", 1)
    call("export", folder / "classes.pt", "-o", "s.onnx", "--guidance", *plan)
    common = ("-n", 4, "--labels", "0,2", "--guidance", 2, "--tolerance", "1e-5", "-o")
    call("sample", "-e", "s.onnx", *common, "a.npz")
    call("sample", "-e", folder / "classes.pt", *common, "b.npz", "--steps", 9, "--window", 9)
    np.testing.assert_allclose(npz("a.npz"), npz("b.npz"), atol=1e-4)


def test_inspect_shows_kind_plan_and_inputs(files):
    folder, _ = files
    text = call("inspect", folder / "sampler.onnx").stdout
    for wanted in ("sampler.onnx", "carries its plan: ddim-20", "max_sweeps int64", "evaluations int64", "Loop 1"):
        assert wanted in text
    found = json.loads(call("inspect", folder / "sweep.onnx", "--json").stdout)
    assert found["kind"] == "sweep.onnx"
    assert "takes its plan as input" in found["details"]["graph"]
    sizes = {k: json.loads(call("inspect", folder / f"{k}.onnx", "--json").stdout)["parameters"] for k in files[1]}
    assert sizes["sampler"] > sizes["denoiser"], "the weights in the loop's body count"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "{f}/image.pt", "-o", "x.onnx", "--graph", "loop"], "denoiser, sweep, sampler"),
        (["export", "{f}/image.pt", "-o", "x.onnx", "--solver", "ddim"], "--graph sampler"),
        (["export", "{f}/image.pt", "-o", "x.onnx", "--plan-input"], "--graph sampler"),
        (["export", "{f}/image.pt", "-o", "x.onnx", "--graph", "sampler", "--sweeps", "2"], "--graph sweep"),
        (["export", "{f}/image.pt", "-o", "x.onnx", "--graph", "sweep", "--sweeps", "26"], "1 to the window's 25"),
        (["export", "{f}/image.pt", "-o", "x.onnx", "--graph", "sampler", "--window", "99"], "25 evaluations"),
        (["export", "{f}/image.pt", "-o", "x.onnx", "--graph", "sampler", "--solver", "rk4"], "unknown solver"),
        (["sample", "-e", "{f}/sampler.onnx", "--solver", "heun"], "--plan-input"),
        (["sample", "-e", "{f}/sampler.onnx", "--window", "4"], "does not apply"),
        (["sample", "-e", "{f}/sampler.onnx", "--sequential"], "does not apply"),
        (["sample", "-e", "{f}/sampler.onnx", "--sigma-data", "0.5"], "does not apply"),
        (["sample", "-e", "{f}/sampler.onnx", "--guidance", "2"], "takes none"),
        (["sample", "-e", "{f}/sampler.onnx", "--labels", "1"], "unconditional"),
        (["sample", "-e", "{f}/sampler.onnx", "--rows", "3"], "a window of this graph takes 8"),
        (["sample", "-e", "{f}/sweep.onnx", "--solver", "ddim", "--steps", "0"], "steps"),
        (["verify", "{f}/image.pt", "{f}/sampler.onnx"], "expected a denoiser"),
    ],
)
def test_bad_input(files, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in call(*[a.format(f=files[0]) for a in arguments], code=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_accepts_in_law(files, tmp_path, monkeypatch):
    folder, _ = files
    monkeypatch.chdir(tmp_path)
    options = ("--solver", "ddpm", "--steps", 20, "--window", 8)
    export = ("export", folder / "image.pt", "-o", "law.onnx", "--threads", 1, "--json")
    record = json.loads(call(*export, "--graph", "sampler", "--accept", "law", *options).stdout)
    assert record["acceptance"] == "law"
    assert record["agreement"]["ok"]
    run = ("-n", 5, "--seed", 9, "--json", "-o")
    call("sample", "law.onnx", "--accept", "law", *run, "a.npz")
    call("sample", folder / "denoiser.onnx", "--accept", "law", *run, "b.npz", *options)
    np.testing.assert_allclose(npz("a.npz"), npz("b.npz"), atol=1e-3 * 8)  # the data lie in 0 .. 16
    for words, said in (
        (("sample", "law.onnx", "--tolerance", "0.1", "-o", "c.npz"), "accepts in law and has none"),
        (("sample", folder / "sampler.onnx", "--accept", "law", "-o", "c.npz"), "this graph accepts pathwise"),
        ((*export, "--graph", "sampler", "--accept", "odds", "--force"), "--accept odds: expected pathwise or law"),
        ((*export, "--graph", "sampler", "--solver", "ddim", "--accept", "law", "--force"), "rows without noise"),
        ((*export, "--accept", "law", "--force"), "--accept: a denoiser has no plan in it"),
    ):
        assert said in call(*words, code=1).stderr
