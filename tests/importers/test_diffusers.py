"""Imported diffusers models are the model and its scheduler's formulas, in one function of sigma."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor

from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import Denoiser, load_model, save_model
from ncdeploy.errors import DependencyError, FileError, InputError
from ncdeploy.export import export_onnx
from ncdeploy.importers import detect_format, import_model
from ncdeploy.importers.tables import named_table
from ncdeploy.run import sample
from ncdeploy.sampling.recipe import make_plan
from tiny_diffusers import network, pipeline, run

pytestmark = pytest.mark.filterwarnings(  # diffusers converts its tables with np.array(tensor)
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ATTENDS = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}

# name: (network, scheduler)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "epsilon, attention at the bottom, as google/ddpm-cifar10-32": (
        {**ATTENDS, "attention_head_dim": None, "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0,
         "norm_eps": 1e-6},
        {},
    ),
    "epsilon, attention on top, three levels, groups of one": (
        {"block_out_channels": (8, 8, 16), "norm_num_groups": 8,
         "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
         "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D")},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "v-prediction, cosine": ({}, {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}),
    "sample prediction, time scale-shift": (
        {"resnet_time_scale_shift": "scale_shift"}, {"prediction_type": "sample"},
    ),
    "classes, no middle attention": ({**ATTENDS, "num_class_embeds": 3, "add_attention": False}, {}),
    "blocks that resample, three colours, uneven sides": (
        {"in_channels": 3, "out_channels": 3, "sample_size": (8, 4), "downsample_type": "resnet",
         "upsample_type": "resnet", "center_input_sample": True},
        {"num_train_timesteps": 400},
    ),
    "v-prediction, zero terminal SNR, trailing": (
        ATTENDS,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "given betas, clipped": ({}, {"trained_betas": np.linspace(1e-3, 0.3, 50).tolist(), "num_train_timesteps": 50,
                                  "clip_sample": True, "clip_sample_range": 1.5}),
}  # fmt: skip
NAMES = list(MODELS)
CLASSES, ZERO_SNR, CLIPPED = NAMES[4], NAMES[6], NAMES[7]


def save(folder: Path, name: str, *, kind: Any = DDPMScheduler, safe: bool = True) -> UNet2DModel:
    settings, scheduler = MODELS[name]
    model = network(**settings)
    model.save_pretrained(folder / "unet", safe_serialization=safe)
    kind(**{"clip_sample": False, **scheduler}).save_pretrained(folder / "scheduler")
    return model


def scheduler_of(name: str, kind: Any = DDPMScheduler, **settings: Any) -> Any:
    return kind(**{"clip_sample": False, **MODELS[name][1], **settings})


def formula(model: UNet2DModel, scheduler: Any, x_vp: Tensor, a: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """x0 as `DDPMScheduler.step` computes it, from alphas_cumprod a and the step t of each row."""
    output = model(x_vp, t, class_labels=labels).sample
    a = a.reshape(-1, 1, 1, 1)
    if scheduler.config.prediction_type == "epsilon":
        x0 = (x_vp - (1 - a).sqrt() * output) / a.sqrt()
    elif scheduler.config.prediction_type == "v_prediction":
        x0 = a.sqrt() * x_vp - (1 - a).sqrt() * output
    else:
        x0 = output
    limit = scheduler.config.clip_sample_range
    return x0.clamp(-limit, limit) if scheduler.config.clip_sample else x0


@torch.no_grad()
def difference(denoiser: Denoiser, model: UNet2DModel, scheduler: Any, t: Tensor) -> float:
    """Largest |D - formula| at real-valued steps t, in float64, over the size of D where that is above 1.

    Between two steps, sigma is their geometric interpolation.
    """
    a = scheduler.alphas_cumprod.double().numpy().copy()
    if a[-1] < 1e-12:
        a[-1] = a[-2] / 16
    sigma = np.exp(np.interp(t.numpy(), np.arange(a.size), 0.5 * np.log((1 - a) / a)))
    sigma = torch.from_numpy(sigma)
    info = denoiser.info
    clean = torch.randn(len(t), *info.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.randn(len(t), *info.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = 0.5 * clean + sigma.reshape(-1, 1, 1, 1) * noise
    labels = torch.arange(len(t)) % info.num_classes if info.num_classes else None
    signal = 1 / (1 + sigma**2)
    wanted = formula(model, scheduler, x * signal.sqrt().reshape(-1, 1, 1, 1), signal, t, labels)
    return float(((denoiser(x, sigma, labels) - wanted).abs() / wanted.abs().clamp(min=1)).max())


@pytest.fixture
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Denoiser, UNet2DModel, Any]:
    model = save(tmp_path, request.param)
    return import_model(tmp_path).double(), model.double(), scheduler_of(request.param)


@pytest.mark.parametrize("imported", NAMES, indirect=True)
def test_d_is_the_model_and_its_schedulers_formula(imported: tuple[Denoiser, UNet2DModel, Any]) -> None:
    denoiser, model, scheduler = imported
    steps = scheduler.config.num_train_timesteps
    every = torch.arange(steps, dtype=torch.float64)
    assert difference(denoiser, model, scheduler, every) < 1e-5
    between = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (steps - 1)
    assert difference(denoiser, model, scheduler, between) < 1e-5
    with torch.no_grad():
        next(denoiser.parameters()).mul_(1.001)
    assert difference(denoiser, model, scheduler, between[:20]) > 1e-5, "a wrong weight must show"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
def test_samples_are_those_of_the_pipeline(name: str, solver: str, tmp_path: Path) -> None:
    model = save(tmp_path, name).double()
    denoiser = import_model(tmp_path).double()
    steps = 50
    plan = make_plan(**{**denoiser.info.default_plan, "solver": solver, "steps": steps})
    noise = np.random.default_rng(0).standard_normal((len(plan), 2, *denoiser.info.shape))
    labels = torch.tensor([2, 0]) if denoiser.info.num_classes else None
    kind, step = (DDPMScheduler, {}) if solver == "ddpm" else (DDIMScheduler, {"use_clipped_model_output": True})
    theirs = pipeline(model, scheduler_of(name, kind), steps, noise, labels, **step)
    ours = run(denoiser, plan, noise, labels)
    assert np.abs(ours - theirs).max() < 1e-4
    wrong = make_plan(**{**denoiser.info.default_plan, "solver": solver, "steps": steps - 1})
    assert np.abs(run(denoiser, wrong, noise[:-1], labels) - theirs).max() > 1e-4


def test_its_export_agrees(tmp_path: Path) -> None:
    save(tmp_path, CLASSES)
    done = export_onnx(import_model(tmp_path), tmp_path / "m.onnx", threads=1)
    assert done.parity.ok


def test_what_the_model_says_of_itself(tmp_path: Path) -> None:
    save(tmp_path, NAMES[0])
    info = import_model(tmp_path).info
    assert (info.shape, info.num_classes, info.offset, info.scale) == ((1, 8, 8), 0, 127.5, 127.5)
    assert info.default_plan == {"solver": "ddim", "steps": 50, "schedule": "ddpm"}
    assert info.sigma_min == pytest.approx(0.01, rel=1e-3)
    assert info.sigma_max == pytest.approx(157.4, rel=1e-3)


def test_the_last_step_of_a_zero_snr_table_is_kept(tmp_path: Path) -> None:
    save(tmp_path, ZERO_SNR)
    denoiser = import_model(tmp_path)
    assert np.isfinite(denoiser.info.sigma_max)
    last = denoiser.step(torch.tensor([denoiser.info.sigma_max], dtype=torch.float64))
    assert last.item() == pytest.approx(999)
    assert make_plan(**denoiser.info.default_plan).sigmas[0] == denoiser.info.sigma_max


def test_classes_without_and_with_an_unconditional_one(tmp_path: Path) -> None:
    model = save(tmp_path, CLASSES)
    every = import_model(tmp_path)
    assert (every.info.num_classes, every.info.null_label) == (3, None)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 2.0])
    with pytest.raises(InputError, match="label"):
        every(x, sigma)
    last = import_model(tmp_path, null_class=True)
    assert (last.info.num_classes, last.info.null_label) == (2, 2)
    assert torch.equal(last(x, sigma), every(x, sigma, torch.tensor([2, 2])))
    assert not torch.equal(last(x, sigma, torch.tensor([0, 1])), last(x, sigma))
    assert model.config.num_class_embeds == 3


def test_a_saved_import_is_the_same_model(tmp_path: Path) -> None:
    save(tmp_path, CLIPPED, safe=False)
    denoiser = import_model(tmp_path)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 20.0])
    for name in ("m.pt", "m.safetensors"):
        save_model(tmp_path / name, denoiser)
        again = load_model(tmp_path / name)
        assert torch.equal(again(x, sigma), denoiser(x, sigma))
        assert again.config["clip"] == 1.5
        again.train()
        assert again(x, sigma).abs().max() > 1.5, "while training D is not cut"
    assert denoiser(x, sigma).abs().max() <= 1.5


def test_half_precision_and_old_names(tmp_path: Path) -> None:
    model = save(tmp_path, NAMES[0], safe=False)
    file = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in model.state_dict().items():
        for now, before in names.items():
            name = name.replace(f".{now}.", f".{before}.")
        old[name] = tensor.half()
    assert set(old) != set(model.state_dict())
    torch.save(old, file)
    imported = import_model(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(imported[f"network.unet.{name}"], tensor.half().float())


@pytest.mark.parametrize("layout", ["unet folder", "beside", "inside"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    save(tmp_path, NAMES[2])
    source = tmp_path / "unet"
    if layout != "unet folder":
        shutil.copy(tmp_path / "scheduler" / "scheduler_config.json", source)
        shutil.rmtree(tmp_path / "scheduler")
    if layout == "inside":
        source = source.rename(tmp_path / "flat")
    assert detect_format(source) == "diffusers"
    assert import_model(source).config["predicts"] == "v"


def test_without_a_scheduler_one_must_say_how_it_was_trained(tmp_path: Path) -> None:
    save(tmp_path, NAMES[2])
    shutil.rmtree(tmp_path / "scheduler")
    with pytest.raises(InputError, match="--predicts eps --schedule linear"):
        import_model(tmp_path)
    with pytest.raises(InputError, match="predicts"):
        import_model(tmp_path, schedule="linear")
    with pytest.raises(InputError, match="did you mean cosine"):
        import_model(tmp_path, schedule="cosin", predicts="v")
    with pytest.raises(InputError, match=r"predicts: .*eps, v, x0"):
        import_model(tmp_path, schedule="linear", predicts="noise")
    denoiser = import_model(tmp_path, schedule="cosine", predicts="v", train_steps=100)
    assert (denoiser.config["predicts"], len(denoiser.config["table"]["alphas_cumprod"])) == ("v", 100)


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "unet" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def scheduler(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def truncate(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(_class_name="UNet2DConditionModel"), "nothing beside the network says how long"),
        (config(time_embedding_type="fourier"), "fourier"),
        (config(class_embed_type="timestep"), "class_embed_type"),
        (config(out_channels=2), "returns 2"),
        (config(sample_size=None), "--shape"),
        (config(sample_size=9), "divisible by 2"),
        (config(block_out_channels=[16, 16]), "do not belong together"),
        (config(layers_per_block=2), "lacks the weight"),
        (config(layers_per_block=10**8), "asks for more than .* weights"),
        (config(block_out_channels=[2**18, 2**18]), "do not belong together"),
        (config(norm_num_groups=3), "diffusers .* cannot make"),
        (config(wings=2), "cannot make.*wings"),
        (scheduler(_class_name="KarrasVeScheduler"), "KarrasVeScheduler"),
        (scheduler(prediction_type="flow_prediction"), "flow_prediction"),
        (scheduler(beta_schedule="magic"), "no noise table"),
        (scheduler(trained_betas=[2.0, 3.0]), "no noise table"),
        (truncate, "truncated or damaged"),
        (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "has no diffusion_pytorch"),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"), "not JSON"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    save(tmp_path, NAMES[2])
    change(tmp_path)
    with pytest.raises((FileError, InputError), match=message) as error:
        import_model(tmp_path)
    assert "\n" not in str(error.value)


def test_an_import_samples_in_parallel_as_in_sequence(tmp_path: Path) -> None:
    save(tmp_path, NAMES[3])
    engine = TorchBackend(import_model(tmp_path))
    plan = make_plan(**{**engine.info.default_plan, "steps": 12})
    exact = sample(engine, plan, seeds=[1, 2])
    fast = sample(engine, plan, seeds=[1, 2], window=12, tolerance=0)
    np.testing.assert_allclose(fast.samples, exact.samples, atol=1e-4)


def test_without_diffusers_one_learns_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, NAMES[2])
    save_model(tmp_path / "m.pt", import_model(tmp_path))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for attempt in (lambda: import_model(tmp_path), lambda: load_model(tmp_path / "m.pt")):
        with pytest.raises(DependencyError, match=r"pip install .*'\.\[diffusers\]'"):
            attempt()


@pytest.mark.parametrize(
    ("asked", "schedule", "first"),
    [
        ({"steps": 25}, "table", None),
        ({"solver": "ddpm", "steps": 100}, "table", None),
        ({"solver": "dpmpp_2m", "steps": 25}, "table", None),
        ({"schedule": "karras"}, "karras", 1.0),
        ({"solver": "heun", "schedule": "karras", "sigma_max": 10.0}, "karras", 10.0),
    ],
)
def test_another_solver_keeps_the_models_own_levels(
    tmp_path: Path, asked: dict[str, Any], schedule: str, first: float | None
) -> None:
    save(tmp_path, NAMES[1])
    info = import_model(tmp_path).info
    assert info.default_plan["schedule"] == "table"
    plan = info.plan(**asked)  # a warning would be an error here
    levels = np.asarray(info.default_plan["levels"])
    own = all(np.isclose(levels, s, rtol=1e-9).any() for s in plan.sigmas[plan.evaluated])
    assert own == (schedule == "table")
    if first is not None:
        assert plan.sigmas[0] == (info.sigma_max if first == 1.0 else first)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"schedule": "linear"}, {}),
        ({"schedule": "linear", "train_steps": 200, "beta_start": 1e-3, "beta_end": 0.1},
         {"num_train_timesteps": 200, "beta_start": 1e-3, "beta_end": 0.1}),
        ({"schedule": "scaled-linear"}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ({"schedule": "cosine"}, {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)  # fmt: skip
def test_named_tables_are_the_schedulers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    wanted = DDPMScheduler(**theirs).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(named_table(**ours).alphas_cumprod, wanted, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine", "beta_start": 0.1}, "beta-start: the cosine"),
        ({"schedule": "linear", "beta_end": 2.0}, "beta-end: got 2.0"),
        ({"schedule": "linear", "train_steps": 1}, "at least 2"),
    ],
)
def test_tables_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_table(**options)
