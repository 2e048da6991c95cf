"""Plans that cut D: DDIM as diffusers' pipeline has it and as OpenAI's code has it, in every driver, file and graph."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from export_graphs import MEANS, Bench, rms
from mutations import mutate
from ncdeploy import Plan, SampleOptions, make_plan, open_bundle, open_engine, sample
from ncdeploy.bundle import make_bundle
from ncdeploy.denoisers import Mixture
from ncdeploy.errors import FileError, InputError
from ncdeploy.export.compose import choose_record
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.formats.planfile import decode, encode
from ncdeploy.importers import import_model
from ncdeploy.parity.trajectory import run_both
from ncdeploy.sampling.device import DeviceRun
from ncdeploy.sampling.evaluator import Evaluator
from ncdeploy.sampling.noise import normal
from ncdeploy.sampling.parallel import ParallelRun
from ncdeploy.sampling.solvers import FILES
from tiny_diffusers import network, pipeline
from tiny_models import IMAGES, write_mixture

STEPS, SEEDS = 12, [0, 1]
MIXTURE = Mixture(np.random.default_rng(0).uniform(-1, 1, (20, 2, 3)).astype(np.float32), 0.1).double()
CURVE, LIKE, CLIP = MIXTURE.info.error_curve, torch.zeros((), dtype=torch.float64), 0.4
RAW = {"clip": CLIP, "raw_noise": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose D leaves -1 .. 1: the noise that it predicts is too small."""
    made = network()
    with torch.no_grad():
        made.conv_out.weight.mul_(0.5)
    folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(folder / "unet")
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("raw", [True, False])
def test_ddim_has_the_samples_of_diffusers(eta: float, raw: bool, folder: Path) -> None:
    model = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval().double()
    denoiser = import_model(folder, raw_noise=True).double()
    plan = denoiser.info.plan(steps=STEPS, eta=eta, raw_noise=None if raw else False)
    nodes = np.broadcast_to(np.arange(len(plan)), (len(SEEDS), len(plan)))
    noise = normal(np, SEEDS, nodes, denoiser.info.dim).reshape(len(SEEDS), len(plan), *denoiser.info.shape)
    theirs, other = (
        pipeline(
            model, diffusers.DDIMScheduler(), STEPS, noise.swapaxes(0, 1), None, eta=eta, use_clipped_model_output=cut
        )
        for cut in (not raw, raw)
    )
    for window in (None, 6):
        ours = sample(denoiser, plan, seeds=SEEDS, window=window, tolerance=0.0, options=SampleOptions(like=LIKE))
        assert np.abs(ours.samples.numpy() - theirs).max() < 1e-4
    assert np.abs(other - theirs).max() > 1e-2, "D must leave the range"
    if not raw:  # and so it is where the model cuts itself
        cutting = import_model(folder).double()
        same = sample(cutting, cutting.info.plan(steps=STEPS, eta=eta), seeds=SEEDS, options=SampleOptions(like=LIKE))
        assert np.abs(same.samples.numpy() - theirs).max() < 1e-4


def test_what_an_import_says_and_lets_others_do(folder: Path) -> None:
    default, raw = import_model(folder), import_model(folder, raw_noise=True)
    assert (default.info.clip, raw.info.clip) == (1.0, None)
    assert any("import with --raw-noise" in note for note in default.notes)
    assert any("has the samples of DDIMPipeline" in note for note in raw.notes)
    assert raw.info.plan("ddpm", 10) == make_plan("ddpm", 10, clip=1.0), "another solver gets the cut D"
    with pytest.raises(InputError, match=r"this model cuts D to -1 .. 1 itself; .* --no-clip"):
        default.info.plan(clip=1.0)
    with pytest.raises(InputError, match="this model cuts D"):
        sample(default, make_plan("ddpm", 3, clip=1.0), seeds=[0], options=SampleOptions(like=torch.zeros(1)))
    with pytest.raises(InputError, match="raw-noise: nothing is cut"):
        import_model(folder, raw_noise=True, clip=False)


@pytest.mark.parametrize("solver", FILES)
def test_a_plan_that_cuts_is_the_plan_with_a_d_that_is_cut(solver: str) -> None:
    def cut(x: Any, sigma: Any) -> Any:
        return MIXTURE(x, sigma).clamp(-CLIP, CLIP)

    options = SampleOptions(like=LIKE, shape=(2, 3), keep=True)
    wanted = sample(cut, make_plan(solver, 9), seeds=SEEDS, options=options)
    got = sample(MIXTURE, make_plan(solver, 9, clip=CLIP), seeds=SEEDS, options=options)
    assert (got.samples - wanted.samples).abs().max() < 1e-12
    assert got.trajectory.outputs.abs().max() > CLIP, "what is kept is D itself"


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    "plan", [make_plan("ddim", 30, eta=0.5, **RAW), make_plan("ddim", 30, **RAW), make_plan("unipc", 10, clip=CLIP)]
)
def test_parallel_drivers_come_to_the_sequential_samples(plan: Plan, online: bool) -> None:
    wanted = sample(MIXTURE, plan, seeds=range(3), options=SampleOptions(like=LIKE)).samples
    whole = sample(MIXTURE, replace(plan, clip=None, cut=None), seeds=range(3), options=SampleOptions(like=LIKE))
    assert (wanted - whole.samples).abs().max() > 0.05
    for kind in (ParallelRun, DeviceRun):
        run: Any = kind(
            Evaluator(MIXTURE, (2, 3), None, LIKE), plan, seeds=[0, 1, 2], dim=6, window=7, tolerance=1e-6,
            floor=0.1, curve=None if online else CURVE, mean=None, lanes=2, like=LIKE,
        )  # fmt: skip
        calls = sum(1 for _ in run.run())
        assert (run.samples.reshape(3, 2, 3) - wanted).abs().max() < 1e-5
        assert calls < 3 * plan.evaluations


def test_in_law_it_keeps_mean_and_spread() -> None:
    """Drafts that were taken for exact, or means of the D that is not cut, would be off by more than a tenth."""

    def denoise(x: Any, sigma: Any) -> Any:
        return 0.3 + 1.5 * np.tanh(x / np.hypot(1, sigma)[:, None]).astype(np.float32)

    plan, options = make_plan("ddim", 20, eta=1.0, clip=0.5, raw_noise=True), SampleOptions(shape=(1,))
    wanted = sample(denoise, plan, seeds=range(4000), options=options).samples
    in_law = replace(options, acceptance="law")
    law = sample(denoise, plan, seeds=range(4000, 8000), window=8, options=in_law)
    whole = sample(denoise, replace(plan, clip=None, cut=None), seeds=range(4000, 8000), window=8, options=in_law)
    spread = wanted.std()
    assert law.sweeps.mean() < 16
    assert abs(law.samples.mean() - wanted.mean()) < 0.07 * spread < abs(whole.samples.mean() - wanted.mean())
    assert abs(law.samples.std() / spread - 1) < 0.05


FORMS: dict[str, dict[str, Any]] = {
    "sampler": {"kind": "sampler"}, "whole": {"kind": "sampler", "whole": True}, "sweep": {"kind": "sweep"},
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("acceptance", ["pathwise", "law"])
def test_graphs_sample_as_the_host_does(form: str, acceptance: str, bench: Bench) -> None:
    plan = make_plan("ddim", 20, eta=0.5, clip=0.9, raw_noise=True)
    graph = bench.graph(plan, window=8, acceptance=acceptance, **FORMS[form])
    tolerance = 1e-3 if acceptance == "law" else 1e-5
    got = graph.sample(range(4), tolerance=None if acceptance == "law" else tolerance)
    options = SampleOptions(acceptance=acceptance)
    wanted = sample(bench.host, plan, seeds=range(4), window=8, tolerance=tolerance, options=options)
    assert rms(got.samples, wanted.samples).max() <= 1e-4
    if form != "sweep":  # whose sweeps of one call do not place the states anew between them
        np.testing.assert_array_equal(got.sweeps, wanted.sweeps)
    whole = sample(bench.host, replace(plan, clip=None, cut=None), seeds=range(4), window=8, options=options)
    assert rms(whole.samples, wanted.samples).max() > 1e-2


def test_a_graph_that_takes_its_plan_takes_none_that_cuts(bench: Bench) -> None:
    plan = make_plan("ddim", 20, clip=0.6)
    with pytest.raises(InputError, match="clip: a graph that takes its plan as input has no place for that of ddim-20"):
        choose_record(plan, IMAGES, kind="sampler", plan_input=True)
    graph = bench.graph(make_plan("ddim", 20), kind="sampler", plan_input=True)
    with pytest.raises(InputError, match="clip: a graph that takes its plan as input"):
        graph.sample([0], plan=plan)


def test_files_carry_it_and_older_readers_refuse_them(bench: Bench, tmp_path: Path) -> None:
    plan, plain = make_plan("ddim", 9, **RAW), make_plan("ddim", 9)
    data = encode(plan)
    assert decode(data, "p").plan == plan != plain
    assert (data[6], encode(plain)[6]) == (2, 1), "who reads version 1 alone refuses it, saying that it is of version 2"
    for version, flags in ((1, 2), (2, 0), (3, 2)):
        with pytest.raises(FileError, match=r"flags|version 3"):
            decode(data[:6] + bytes([version]) + data[7:20] + bytes([flags]) + data[21:], "p")
    rng = np.random.default_rng(0)
    for _ in range(500):
        changed = mutate(data, rng)
        try:
            read = decode(changed, "p")
        except FileError:
            continue
        assert encode(read.plan, read.jacobian) == changed

    record = choose_record(plan, IMAGES, kind="sampler")
    written = json.loads(record.to_json())
    assert written["plan"]["requires"] == ["clip"]
    assert GraphRecord.from_json(record.to_json()).plan == plan
    assert not {"clip", "cut", "requires"} & set(
        json.loads(choose_record(plain, IMAGES, kind="sampler").to_json())["plan"]
    )

    bundle = make_bundle(bench.denoiser, tmp_path / "b", plans=[plan], verify=False)
    assert open_bundle(bundle.path).plan().plan == plan
    engine = open_engine(bundle.path, threads=1)
    host = sample(bench.host, plan, seeds=SEEDS).samples
    assert np.array_equal(sample(engine, plan, seeds=SEEDS).samples, host)


def test_a_model_that_cuts_says_so_in_every_file(tmp_path: Path) -> None:
    model = write_mixture(tmp_path / "m.onnx", replace(IMAGES, clip=1.0), MEANS)
    with pytest.raises(InputError, match="this model cuts D"):
        make_bundle(model, tmp_path / "b", plans=[make_plan("ddim", 9, clip=1.0)], verify=False)
    with pytest.raises(InputError, match="this model cuts D"):
        choose_record(make_plan("ddim", 9, clip=1.0), open_engine(model, threads=1).info, kind="sweep")


def test_trajectories_of_two_models_are_compared_with_the_cut(bench: Bench) -> None:
    class Cutting:
        info = bench.host.info

        def __call__(self, x: Any, sigma: Any, **given: Any) -> Any:
            return np.clip(bench.host(x, sigma, **given), -0.5, 0.5)

    for plan, same in ((make_plan("ddim", 9, clip=0.5), True), (make_plan("ddim", 9), False)):
        found = run_both(bench.host, Cutting(), plan, np.random.default_rng(0), 0.1)  # type: ignore[arg-type]
        assert (found.worst_node_rms < 1e-6) == same


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"clip": 0.0}, "clip is 0.0, expected a positive"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"raw_noise": True}, "give clip"),
        ({"solver": "ddpm", "clip": 1.0, "raw_noise": True}, "raw_noise: solver 'ddpm' takes no such option"),
    ],
)
def test_options_that_make_no_sense(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(**{"solver": "ddim", "steps": 5, **asked})
    plan = make_plan("ddim", 5)
    for wrong in ({"cut": np.ones(6)}, {"clip": 1.0, "cut": np.ones(5)}, {"clip": 1.0, "cut": np.full(6, np.nan)}):
        with pytest.raises(InputError, match="cut"):
            replace(plan, **wrong)
