"""A checkpoint of Diffusion Policy, imported: the network of its weights, its normalizer, and no code of the file."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import policy_files as files
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers import detect_format, import_model
from policy_files import LOWDIM, LOWDIM_POLICY


def write(path: Path, change: Any = None, *, states: tuple[str, ...] = ("model", "ema_model"), **beside: Any) -> Any:
    policy = copy.deepcopy(LOWDIM_POLICY)
    if change is not None:
        change(policy)
    weights = files.unet_weights(LOWDIM, 6)
    own = {name: files.policy_state({k: v + i for k, v in weights.items()}) for i, name in enumerate(states[::-1])}
    files.write_diffusion_policy(path, policy, own, **beside)
    return weights


@torch.no_grad()
def test_d_is_the_averaged_network_in_their_formula(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    weights = write(tmp_path / "p.ckpt")
    assert detect_format(tmp_path / "p.ckpt") == "diffusion-policy"
    denoiser = import_model(tmp_path / "p.ckpt")
    assert "the weights are those of ema_model" in denoiser.notes[-1]
    a = DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=100).alphas_cumprod.double()
    t, obs = torch.tensor([0, 50, 99]), torch.randn(3, 6, dtype=torch.float64)
    x_vp, at = torch.randn(3, 8, 2, dtype=torch.float64), a[t][:, None, None]
    output = files.unet(weights, x_vp, t.double(), obs, 4)
    expected = ((x_vp - (1 - at).sqrt() * output) / at.sqrt()).clamp(-1, 1)
    sigma = ((1 - a[t]) / a[t]).sqrt()
    got = denoiser.double()(x_vp / at.sqrt(), sigma, None, {"obs": obs}, torch.arange(3))
    assert (got - expected).abs().max() < 1e-5
    assert (denoiser.info.default_plan["solver"], denoiser.info.default_plan["steps"]) == ("ddpm", 100)


@pytest.mark.parametrize(("actions_from_now", "only"), [(True, False), (False, False), (False, True)])
@torch.no_grad()
def test_parts_are_its_normalizer_and_its_choice_of_steps(tmp_path: Path, actions_from_now: bool, only: bool) -> None:
    write(
        tmp_path / "p.ckpt",
        lambda policy: policy.update(oa_step_convention=actions_from_now, pred_action_steps_only=only),
    )
    encoder, decoder = import_model(tmp_path / "p.ckpt").parts
    assert [(p.name, p.shape) for p in encoder.inputs] == [("observation", (2, 3))]
    observation, chunk = torch.randn(5, 2, 3), torch.randn(5, 4 if only else 8, 2)
    expected = observation * torch.tensor([0.5, 1, 1.5]) + torch.tensor([-0.5, 0.5, 1.5])
    torch.testing.assert_close(encoder.module(observation), expected.flatten(1))
    first = 0 if only else 1 if actions_from_now else 2
    acted = (chunk - torch.tensor([-0.5, 0.5])) / torch.tensor([0.5, 1.0])
    torch.testing.assert_close(decoder.module(chunk), acted[:, first : first + 4])


def test_weights_can_be_chosen(tmp_path: Path) -> None:
    write(tmp_path / "p.ckpt")
    averaged, other = (import_model(tmp_path / "p.ckpt", ema=ema).state_dict() for ema in (True, False))
    assert all(torch.equal(averaged[name] + 1, other[name]) for name in averaged)
    write(tmp_path / "one.ckpt", states=("model",))
    assert import_model(tmp_path / "one.ckpt").notes == ()
    with pytest.raises(InputError, match="has no ema_model"):
        import_model(tmp_path / "one.ckpt", ema=True)


def test_ddim_and_what_goes_to_its_step(tmp_path: Path) -> None:
    def change(policy: dict[str, Any]) -> None:
        target = "diffusers.schedulers.scheduling_ddim.DDIMScheduler"
        policy["noise_scheduler"] |= {"_target_": target, "set_alpha_to_one": False}
        policy |= {"num_inference_steps": 8, "eta": 0.5, "other": 1}

    write(tmp_path / "p.ckpt", change)
    denoiser = import_model(tmp_path / "p.ckpt")
    plan = denoiser.info.default_plan
    assert (plan["solver"], plan["steps"], plan["eta"]) == ("ddim", 8, 0.5)
    said = " ".join(denoiser.notes)
    assert "set_alpha_to_one" in said
    assert "other of its sampler is not taken over" in said


REFUSED: dict[str, tuple[Any, str]] = {
    "images": (lambda p: p.update(_target_="diffusion_policy.policy.a.DiffusionUnetHybridImagePolicy"), "image"),
    "transformer": (lambda p: p["model"].update(_target_="a.TransformerForDiffusion"), "transformers"),
    "inpainting": (lambda p: p.update(obs_as_global_cond=False), "obs_as_global_cond"),
    "local": (lambda p: p["model"].update(local_cond_dim=3), "local_cond_dim"),
    "unresolved": (lambda p: p.update(horizon="${horizon}"), "horizon: is"),
    "sizes": (lambda p: p["model"].update(global_cond_dim=9), "not those"),
    "widths": (lambda p: p["model"].update(down_dims=[16, 40]), "has shape"),
    "steps": (lambda p: p.update(n_action_steps=8), "a horizon of 8 has 7"),
    "scheduler": (lambda p: p["noise_scheduler"].update(_target_="diffusers.PNDMScheduler"), "PNDM"),
    "deep": (lambda p: p.update(other=[[[[[[[[[[[[[1]]]]]]]]]]]]]), "nested too deeply"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    change, said = REFUSED[what]
    write(tmp_path / "p.ckpt", change)
    with pytest.raises(FileError, match=said) as refused:
        import_model(tmp_path / "p.ckpt")
    assert "\n" not in str(refused.value)


class Runs:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_code_in_the_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "p.ckpt", beside=Runs())
    with pytest.raises(FileError, match=r"builtin.*exec.*nothing of it was run|exec, which is not on the list"):
        import_model(tmp_path / "p.ckpt", format="diffusion-policy")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "p.ckpt")
    whole = (tmp_path / "p.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"cfg": {}}))
    for name in ("cut.ckpt", "bare.ckpt"):
        with pytest.raises(FileError):
            import_model(tmp_path / name, format="diffusion-policy")
