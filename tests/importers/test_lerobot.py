"""A policy of LeRobot, imported: D is its U-Net and its scheduler's formula, the parts are its processors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policy_files as files
from ncdeploy import export_onnx, open_engine
from ncdeploy.denoisers import load_model, save_model
from ncdeploy.errors import FileError
from ncdeploy.importers import detect_format, import_model
from policy_files import ACTION, ENV, LOWDIM, STATE

CAMERA = "observation.images.front"
VARIANTS: dict[str, dict[str, Any]] = {
    "scales": {},
    "shifts, one level, sample prediction": {
        "use_film_scale_modulation": False, "down_dims": [16], "prediction_type": "sample", "kernel_size": 5,
        "horizon": 7,
    },
    "three levels, linear betas, no clip, mean and std": {
        "down_dims": [8, 16, 24], "beta_schedule": "linear", "clip_sample": False, "n_groups": 8,
        "normalization_mapping": {"STATE": "MEAN_STD", "ENV": "IDENTITY", "ACTION": "MEAN_STD"},
    },
    "DDIM in 10 steps": {"noise_scheduler_type": "DDIM", "num_inference_steps": 10},
}  # fmt: skip


def write(folder: Path, variant: str = "scales", **options: Any) -> tuple[dict[str, Any], files.Weights, Any]:
    config = {**LOWDIM, **VARIANTS[variant]}
    weights = files.unet_weights(config, 2 * (3 + 2))
    return config, weights, files.write_lerobot(folder, config, weights, **options)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_d_is_the_formula_of_their_scheduler(tmp_path: Path, variant: str) -> None:
    from diffusers import DDPMScheduler

    config, weights, _ = write(tmp_path / "policy", variant)
    denoiser = import_model(tmp_path / "policy").double()
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    a = DDPMScheduler(**{name: config[name] for name in names}).alphas_cumprod.double()
    t = torch.tensor([0, 3, 50, 99])
    x_vp, obs = torch.randn(4, config["horizon"], 2, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
    sample = torch.tensor([1, 0, 0, 1])
    output = files.unet(weights, x_vp, t.double(), obs[sample], config["n_groups"])
    at = a[t][:, None, None]
    x0 = output if config["prediction_type"] == "sample" else (x_vp - (1 - at).sqrt() * output) / at.sqrt()
    expected = x0.clamp(-1, 1) if config["clip_sample"] and denoiser.info.default_plan["solver"] == "ddpm" else x0
    sigma = ((1 - a[t]) / a[t]).sqrt()
    got = denoiser(x_vp / at.sqrt(), sigma, None, {"obs": obs}, sample)
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_plan_is_their_sampler(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", "DDIM in 10 steps")
    first, second = (import_model(tmp_path / name).info.default_plan for name in "ab")
    assert (first["solver"], first["steps"]) == ("ddpm", 100)
    assert (second["solver"], second["steps"]) == ("ddim", 10)
    assert (second["clip"], second["raw_noise"]) == (1.0, True)
    assert [import_model(tmp_path / name).info.clip for name in "ab"] == [1.0, None]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("variant", ["scales", "three levels, linear betas, no clip, mean and std"])
@torch.no_grad()
def test_parts_normalise_as_they_do(tmp_path: Path, variant: str, inside: bool) -> None:
    _, _, stats = write(tmp_path / "policy", variant, inside=inside)
    encoder, decoder = import_model(tmp_path / "policy").parts
    assert [(p.name, p.shape) for p in encoder.inputs] == [(STATE, (2, 3)), (ENV, (2, 2))]
    assert (encoder.outputs, decoder.inputs, decoder.outputs) == (("obs",), None, (ACTION,))
    state, env, chunk = torch.randn(5, 2, 3), torch.randn(5, 2, 2), torch.randn(5, 8, 2)
    s, a = stats[STATE], stats[ACTION]
    if variant == "scales":
        state_in = 2 * (state - s["min"]) / (s["max"] - s["min"]) - 1
        acted = (chunk + 1) / 2 * (a["max"] - a["min"]) + a["min"]
    else:
        state_in, acted = (state - s["mean"]) / (s["std"] + 1e-8), chunk * a["std"] + a["mean"]
    torch.testing.assert_close(encoder.module(state, env), torch.cat([state_in, env], 2).flatten(1))
    torch.testing.assert_close(decoder.module(chunk), acted[:, 1:5])


@torch.no_grad()
def test_a_camera_is_cropped_normalised_and_located(tmp_path: Path) -> None:
    features = {CAMERA: {"type": "VISUAL", "shape": [3, 37, 70]}, STATE: LOWDIM["input_features"][STATE]}
    config = {**LOWDIM, "input_features": features, "crop_shape": [33, 64]}
    eyes = files.eye_weights(4, (33, 64))
    stats = files.write_lerobot(tmp_path / "p", config, files.unet_weights(config, 2 * (3 + 8)), eyes=eyes)
    encoder, _ = import_model(tmp_path / "p").parts
    assert [(p.name, p.shape) for p in encoder.inputs] == [(STATE, (2, 3)), (CAMERA, (2, 3, 37, 70))]
    state, pictures = torch.randn(2, 2, 3), torch.rand(2, 2, 3, 37, 70)
    s, c = stats[STATE], stats[CAMERA]
    inner = ((pictures - c["mean"]) / (c["std"] + 1e-8))[..., 2:35, 3:67]
    seen = files.eye(eyes, inner.flatten(0, 1)).unflatten(0, (2, 2))
    expected = torch.cat([2 * (state - s["min"]) / (s["max"] - s["min"]) - 1, seen], 2).flatten(1)
    assert seen.std() > 0.1
    torch.testing.assert_close(encoder.module(state, pictures), expected, atol=1e-4, rtol=1e-4)


def test_file_and_graph_are_the_same_model(tmp_path: Path) -> None:
    write(tmp_path / "policy")
    denoiser = import_model(tmp_path / "policy")
    save_model(tmp_path / "p.pt", denoiser)
    again = load_model(tmp_path / "p.pt")
    export_onnx(again, tmp_path / "p.onnx")
    x, obs = np.random.default_rng(0).standard_normal((3, 8, 2), np.float32), np.ones((2, 10), np.float32)
    sigma, sample = np.array([0.1, 1, 1000], np.float32), np.array([0, 1, 1])
    rows = [torch.from_numpy(v) for v in (x, sigma)], {"obs": torch.from_numpy(obs)}, torch.from_numpy(sample)
    with torch.no_grad():
        expected = denoiser(*rows[0], None, *rows[1:]).numpy()
        np.testing.assert_array_equal(again(*rows[0], None, *rows[1:]).numpy(), expected)
    got = open_engine(tmp_path / "p.onnx")(x, sigma, conditions={"obs": obs}, sample=sample)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_run_and_a_compiled_policy_are_found(tmp_path: Path) -> None:
    config = dict(LOWDIM)
    weights = {f"_orig_mod.{name}": tensor for name, tensor in files.unet_weights(config, 10).items()}
    files.write_lerobot(tmp_path / "last" / "pretrained_model", config, weights)
    assert detect_format(tmp_path / "last") == "lerobot"
    assert import_model(tmp_path / "last").info.shape == (8, 2)


def edited(folder: Path, name: str, change: Any) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def no_statistics(folder: Path) -> None:
    for file in folder.glob("policy_*"):
        file.unlink()


REFUSED: dict[str, tuple[Any, str]] = {
    "no statistics": (no_statistics, "nothing says how"),
    "state gone": (lambda f: next(f.glob("policy_preprocessor_step*")).unlink(), "there is no such file"),
    "a step with code": (
        lambda f: edited(f, "policy_preprocessor.json", lambda c: c["steps"].insert(0, {"registry_name": "mine"})),
        "step 'mine'",
    ),
    "a file elsewhere": (
        lambda f: edited(f, "policy_postprocessor.json", lambda c: c["steps"][0].update(state_file="../x")),
        "no file beside it",
    ),
    "no observation": (lambda f: edited(f, "config.json", lambda c: c["input_features"].pop(STATE)), "lacks"),
    "other widths": (lambda f: edited(f, "config.json", lambda c: c.update(down_dims=[16, 40])), "has shape"),
    "endless widths": (lambda f: edited(f, "config.json", lambda c: c.update(down_dims=[16] * 30)), "horizon|weights"),
    "huge": (lambda f: edited(f, "config.json", lambda c: c.update(diffusion_step_embed_dim=10**6)), "has shape"),
    "too many actions": (lambda f: edited(f, "config.json", lambda c: c.update(n_action_steps=8)), "from now on"),
    "even kernel": (lambda f: edited(f, "config.json", lambda c: c.update(kernel_size=4)), "odd"),
    "groups": (lambda f: edited(f, "config.json", lambda c: c.update(n_groups=5)), "multiples of 5"),
    "text": (lambda f: edited(f, "config.json", lambda c: c.update(horizon="8")), "horizon: is '8'"),
    "scheduler": (lambda f: edited(f, "config.json", lambda c: c.update(noise_scheduler_type="PNDM")), "PNDM"),
    "mode": (
        lambda f: edited(
            f, "policy_preprocessor.json", lambda c: c["steps"][3]["config"].update(norm_map={"STATE": "X"})
        ),
        "STATE: is 'X'",
    ),
    "inference": (lambda f: edited(f, "config.json", lambda c: c.update(num_inference_steps=101)), "1 to 100"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    write(tmp_path / "policy")
    spoil, said = REFUSED[what]
    spoil(tmp_path / "policy")
    with pytest.raises(FileError, match=said) as refused:
        import_model(tmp_path / "policy", format="lerobot")
    assert "\n" not in str(refused.value)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    features = {CAMERA: {"type": "VISUAL", "shape": [3, 33, 64]}, STATE: LOWDIM["input_features"][STATE]}
    config = {**LOWDIM, "input_features": features, "vision_backbone": "resnet50"}
    files.write_lerobot(tmp_path / "p", config, files.unet_weights(config, 2 * (3 + 8)))
    with pytest.raises(FileError, match=r"resnet50.*resnet18 or resnet34"):
        import_model(tmp_path / "p")


@pytest.mark.parametrize(("values", "said"), [([float("inf")] * 3, "infinity"), ([0.0] * 4, "shape")])
def test_statistics_that_make_no_sense_are_refused(tmp_path: Path, values: list[float], said: str) -> None:
    from safetensors.torch import load_file, save_file

    write(tmp_path / "policy")
    file = next((tmp_path / "policy").glob("policy_preprocessor_step*"))
    state = {**load_file(file), f"{STATE}.min": torch.tensor(values), f"{STATE}.max": torch.tensor(values) + 1}
    save_file(state, file)
    with pytest.raises(FileError, match=said):
        import_model(tmp_path / "policy")
