"""The examples against Python: the same samples from the same seeds, in the same sweeps."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundle_files import reseal
from conditioned import PerSample, make
from cpp_build import run
from keywords import grouped
from ncdeploy import make_plan, open_engine, sample
from ncdeploy.bundle import Bundle, make_bundle
from ncdeploy.denoisers import EDM, UNet, UNetConfig
from ncdeploy.drawing.images import pixels
from ncdeploy.export import export_onnx
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.formats.planfile import encode
from ncdeploy.parity.inputs import draw_samples
from oracle import digits
from tiny_models import IMAGES, write_mixture

PLANS = [
    make_plan("ddpm", 1000), make_plan("ddim", 100), make_plan("dpmpp_2m", 25), make_plan("heun", 18),
    make_plan("heun", 9, churn=3),
    make_plan("dpmpp_2m_sde", 20), make_plan("unipc", 10),
]  # fmt: skip
SEEDS = range(5, 8)
WINDOW = 32


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("oracle")
    info = replace(IMAGES, mean=tuple(digits().means.mean(axis=0).tolist()))
    model = write_mixture(folder / "m.onnx", info, digits().means.reshape(-1, 1, 8, 8))
    return make_bundle(model, folder / "bundle", plans=PLANS, window=WINDOW, verify=False)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A conditional U-Net that is not trained, but does not end in zeros as a new one does."""
    folder = tmp_path_factory.mktemp("unet")
    config = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_width=8, width=16)
    torch.manual_seed(0)
    network = UNet(IMAGES.shape, config, 3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    export_onnx(EDM(network, replace(IMAGES, num_classes=3)), folder / "m.onnx", verify=False)
    return make_bundle(folder / "m.onnx", folder / "bundle", plans=PLANS, window=WINDOW, verify=False)


def simple(release: Path, bundle: Path, tmp_path: Path, **options: Any) -> tuple[np.ndarray, list[int]]:
    """Samples [n, ...] and sweeps of the example."""
    raw = tmp_path / "raw"
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    said = run(release / "simple", bundle, "--raw", raw, "--n", len(SEEDS), "--seed", SEEDS[0], "--threads", 1, *given)
    sweeps = [int(n) for n in re.findall(r"(\d+) sweeps", said)]
    return np.fromfile(raw, np.float32).reshape(len(SEEDS), -1), sweeps


def python(bundle: Bundle, plan: str, *, window: int | None, **options: Any) -> tuple[np.ndarray, list[int]]:
    entry = bundle.plan(plan)
    engine = open_engine(bundle, threads=1)
    done = sample(engine, entry.plan, **grouped(seeds=SEEDS, window=window, tolerance=entry.tolerance, **options))
    return done.samples.reshape(len(SEEDS), -1), done.sweeps.tolist()


@pytest.mark.parametrize("window", [None, WINDOW], ids=["sequential", "parallel"])
@pytest.mark.parametrize("plan", [plan.name for plan in PLANS])
@pytest.mark.parametrize("model", ["oracle", "unet"])
def test_samples_and_sweeps_are_those_of_python(request, release, tmp_path, model, plan, window) -> None:
    bundle: Bundle = request.getfixturevalue(model)
    options: dict[str, Any] = {"labels": [1] * len(SEEDS)} if bundle.info.num_classes else {}
    width = window and min(window, bundle.plan(plan).plan.evaluations)
    wanted, sweeps = python(bundle, plan, window=width, **options)
    label = {"label": 1} if options else {}
    got, did = simple(release, bundle.path, tmp_path, plan=plan, window=width or 0, **label)
    assert np.abs(got - wanted).max() <= 1e-4
    assert did == sweeps
    assert np.abs(got - np.roll(wanted, 1, axis=0)).max() > 0.1, "samples must differ from one another"


@pytest.mark.parametrize("window", [None, WINDOW], ids=["sequential", "parallel"])
def test_plans_that_cut_are_run_as_python_runs_them(release, tmp_path, window) -> None:
    model = write_mixture(tmp_path / "m.onnx", IMAGES, digits().means.reshape(-1, 1, 8, 8))
    plans = [make_plan("ddim", 40, clip=0.9, raw_noise=True), make_plan("dpmpp_2m", 25, clip=0.5)]
    bundle = make_bundle(model, tmp_path / "b", plans=plans, window=WINDOW, tolerance=1e-5, verify=False)
    for plan in plans:
        width = window and min(window, plan.evaluations)
        wanted, _ = python(bundle, plan.name, window=width)
        got, _ = simple(release, bundle.path, tmp_path, plan=plan.name, window=width or 0)
        assert np.abs(got - wanted).max() <= 1e-4
        engine = open_engine(bundle, threads=1)
        whole = sample(engine, replace(plan, clip=None, cut=None), seeds=SEEDS).samples.reshape(len(SEEDS), -1)
        assert np.abs(got - whole).max() > 0.05


def test_the_residual_is_that_of_python(release, tmp_path) -> None:
    """The largest that was accepted, which in a sweep of Heun's without a mean to start from is not the last."""
    model = write_mixture(tmp_path / "m.onnx", IMAGES, digits().means.reshape(-1, 1, 8, 8))
    bundle = make_bundle(model, tmp_path / "b", plans=[make_plan("heun", 18)], window=WINDOW, verify=False)
    engine, plan = open_engine(bundle, threads=1), bundle.plan().plan
    wanted = sample(engine, plan, seeds=SEEDS, window=WINDOW, tolerance=1e-2).residual
    given = ("--n", len(SEEDS), "--seed", SEEDS[0], "--threads", 1, "--tolerance", 1e-2, "--raw", tmp_path / "raw")
    told = re.findall(r"residual (\S+)", run(release / "simple", bundle.path, *given))
    np.testing.assert_allclose([float(text) for text in told], wanted, rtol=0.02)


@pytest.mark.parametrize("plan", ["ddpm-1000", "heun-18"])
def test_without_a_known_jacobian_both_estimate_the_same(release, oracle, tmp_path, plan) -> None:
    bare = replace(IMAGES, error_curve=None)
    model = write_mixture(tmp_path / "m.onnx", bare, digits().means.reshape(-1, 1, 8, 8))
    bundle = make_bundle(model, tmp_path / "bundle", plans=PLANS, window=WINDOW, verify=False)
    assert bundle.plan(plan).jacobian is None
    wanted, sweeps = python(bundle, plan, window=WINDOW)
    got, did = simple(release, bundle.path, tmp_path, plan=plan)
    assert np.abs(got - wanted).max() <= 1e-4
    assert did == sweeps != python(oracle, plan, window=WINDOW)[1]


def test_guidance_and_rows_in_turn_are_those_of_python(release, unet, tmp_path) -> None:
    options = {"plan": "dpmpp_2m_sde-20", "window": 8, "label": 2}
    wanted, sweeps = python(unet, "dpmpp_2m_sde-20", window=8, labels=[2] * len(SEEDS), guidance=1.5)
    got, did = simple(release, unet.path, tmp_path, guidance=1.5, max_rows=32, **options)
    assert np.abs(got - wanted).max() <= 1e-4
    assert did == sweeps
    assert np.abs(simple(release, unet.path, tmp_path, guidance=1.0, **options)[0] - wanted).max() > 1e-2


def test_a_changed_coefficient_would_be_noticed(release, oracle, tmp_path) -> None:
    """The comparison above finds a plan that is off by a hundredth in one row."""
    plan = oracle.plan("ddim-100").plan
    denoised = plan.denoised.copy()
    denoised[90, 0] *= 1.01
    path = oracle.path / "plans" / "ddim-100.ncplan"
    before = {p: p.read_bytes() for p in (path, oracle.path / "manifest.json", oracle.path / "manifest.sha256")}
    try:
        path.write_bytes(encode(replace(plan, denoised=denoised), oracle.plan("ddim-100").jacobian))
        reseal(oracle.path, "plans/ddim-100.ncplan")
        got, _ = simple(release, oracle.path, tmp_path, plan="ddim-100", window=0)
    finally:
        for file, data in before.items():
            file.write_bytes(data)
    assert np.abs(got - python(oracle, "ddim-100", window=None)[0]).max() > 1e-4


def test_pictures_show_the_samples(release, oracle, tmp_path) -> None:
    run(release / "simple", oracle.path, "--plan", "dpmpp_2m-25", "--n", 2, "--output", tmp_path / "s")
    done = sample(open_engine(oracle, threads=1), PLANS[2], seeds=[0, 1], window=25)
    for i, wanted in enumerate(pixels(done.samples)):
        with Image.open(tmp_path / f"s-{i}.pgm") as picture:
            assert np.abs(np.asarray(picture, int) - wanted[..., 0]).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "none"], "has no plan 'none'; it has ddpm-1000, ddim-100"),
        (["--window", "-1"], "--window: got '-1', expected a number in its range"),
        (["--labels", "1"], "--labels: unknown option, or its value is missing"),
        (["--label", "1"], "labels: this model is unconditional and takes none"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(release, oracle, arguments, said) -> None:
    done = subprocess.run([release / "simple", oracle.path, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 2
    assert not done.stdout


def test_a_graph_that_does_not_fit_its_manifest_is_refused(release, oracle, unet, tmp_path) -> None:
    broken = tmp_path / "b"
    broken.mkdir()
    for file in oracle.path.rglob("*"):
        if file.is_file():
            (broken / file.relative_to(oracle.path)).parent.mkdir(exist_ok=True)
            (broken / file.relative_to(oracle.path)).write_bytes(file.read_bytes())
    for content, said in (
        (unet.engine.read_bytes(), "the graph's inputs are x, sigma, labels"),
        (b"no", "is a damaged ONNX file"),
        (b"\x08\x07", "cannot load it"),
    ):
        (broken / "model.onnx").write_bytes(content)
        reseal(broken, "model.onnx")
        done = subprocess.run([release / "simple", broken], capture_output=True, text=True)
        assert done.returncode == 1
        assert said in done.stderr


@pytest.mark.parametrize("plan", ["ddpm-1000", "dpmpp_2m-25"])
def test_one_run_of_the_sampler_graph_draws_the_same(release, oracle, tmp_path, plan) -> None:
    of = oracle.plan(plan).plan
    window = min(WINDOW, of.evaluations)
    export_graph(
        oracle.engine, tmp_path / "s.onnx", choose_record(of, oracle.info, kind="sampler", window=window), verify=False
    )
    raw = tmp_path / "raw"
    said = run(release / "sampler_graph", tmp_path / "s.onnx", len(SEEDS), SEEDS[0], raw)
    wanted, sweeps = python(oracle, plan, window=window)
    got = np.fromfile(raw, np.float32).reshape(wanted.shape)
    assert np.sqrt(np.mean((got - wanted) ** 2)) <= 1e-4
    assert np.abs(np.array([int(n) for n in re.findall(r"(\d+) sweeps", said)]) - sweeps).max() <= 1


def test_the_sampler_graph_takes_conditions_from_raw_files(release, tmp_path) -> None:
    model = make(PerSample)
    export_onnx(model, tmp_path / "m.onnx", threads=1)
    plan = make_plan("ddim", 12, schedule="karras")
    record = choose_record(plan, model.info, kind="sampler", window=4)
    export_graph(tmp_path / "m.onnx", tmp_path / "s.onnx", record, verify=False)
    given = draw_samples(model.info, 3, np.random.default_rng(0))
    for name, values in given.items():
        values.tofile(tmp_path / name)
    words = [f"{name}={tmp_path / name}" for name in given]
    run(release / "sampler_graph", tmp_path / "s.onnx", 3, SEEDS[0], tmp_path / "raw", *words)
    with open_engine(tmp_path / "m.onnx", threads=1) as engine:
        wanted = sample(engine, plan, seeds=SEEDS, conditions=given, window=4).samples
    got = np.fromfile(tmp_path / "raw", np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    for others, said in (
        (words[1:], "obs: this graph needs it"),
        ([*words, f"obs={tmp_path / 'task'}"], "expected 72"),
    ):
        command = [str(release / "sampler_graph"), str(tmp_path / "s.onnx"), "3", *others]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert said in done.stderr


@pytest.mark.timing
def test_latency_tells_both_ways_of_sampling_and_the_driver_costs_little(release, unet) -> None:
    said = run(release / "latency", unet.path, 1)
    assert len(re.findall(r"t\( ?\d+\) = +[\d.]+ ms", said)) == 7
    for name, entry in unet.plans.items():
        both = rf"parallel +\d+ calls.*\n +sequential +{entry.plan.evaluations} calls"
        assert re.search(rf"{name}, window {entry.window}\n +{both}", said)
    assert np.median([float(share) for share in re.findall(r"= ([\d.]+) % of the network", said)]) < 10


def test_the_control_loop_runs_beside_the_sampler(release, oracle) -> None:
    said = run(release / "control_loop", oracle.path, 0.4, 1000)
    ticks, late, idle, chunks, whole = (int(n) for n in re.findall(r"\d+", said)[:5])
    assert ticks == 100
    assert chunks >= whole >= 1
    assert idle < ticks
    assert late <= ticks
    assert re.search(r"the oldest action was of \d+ ms before", said)
