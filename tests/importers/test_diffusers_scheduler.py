"""Every scheduler of diffusers, every setting of its config changed in turn: nothing may change samples in silence.

The settings, and the values that text may have, come from the signatures of diffusers' own classes.
"""

import inspect
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from ncdeploy.denoisers import Denoiser
from ncdeploy.errors import FileError, NcdeployError
from ncdeploy.importers import import_model
from ncdeploy.importers.diffusers_scheduler import SCHEDULERS
from ncdeploy.sampling.recipe import make_plan
from tiny_diffusers import network, pipeline, run

pytestmark = pytest.mark.filterwarnings(  # diffusers converts its tables with np.array(tensor)
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

STEPS, SAME = 8, 1e-4
EVERY = {
    name: getattr(diffusers, name) for name in dir(diffusers)
    if name.endswith("Scheduler") and issubclass(getattr(diffusers, name), diffusers.SchedulerMixin)
}  # fmt: skip


def parameters(kind: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind).parameters)


def words(name: str) -> list[str]:
    """Every text that some class allows for a setting of this name, by its signature or its documentation."""
    texts = [str(p.annotation) for kind in EVERY.values() for n, p in parameters(kind).items() if n == name]
    for kind in EVERY.values():
        texts += re.findall(rf"^ *{name} \((.*?)\)", kind.__doc__ or "", re.MULTILINE)
    inside = re.findall(r"Literal\[([^\]]*)\]", " ".join(texts))
    return sorted({word for part in inside for word in re.findall(r"[\"'](\w[\w+-]*)[\"']", part)})


def other_values(name: str, parameter: inspect.Parameter) -> Iterator[Any]:
    default, note = parameter.default, str(parameter.annotation)
    if isinstance(default, bool):
        yield not default
    elif isinstance(default, int):
        yield default + 1
    elif isinstance(default, float):
        yield 1.5 * default if np.isfinite(default) else -5.0
    elif isinstance(default, str) or "Literal" in note:
        yield from (word for word in words(name) if word != default)
    elif isinstance(default, list):
        yield [0]
    elif "list[float]" in note:
        yield np.linspace(2e-4, 0.03, 1000).tolist()
    elif "float" in note:
        yield 1.5
    elif "bool" in note:
        yield True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = network()
    made.folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(made.folder / "unet")
    return made.double()


def imported(model: Any, kind: str, **settings: Any) -> Denoiser:
    (model.folder / "scheduler").mkdir(exist_ok=True)
    config = model.folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": kind, **settings}))
    return import_model(model.folder).double()


def made(kind: str, **settings: Any) -> Any:
    with warnings.catch_warnings(action="ignore"):
        return EVERY[kind](**settings)


def clip(config: Any) -> float | None:
    """Where diffusers cuts x0, as far as that is the same for every sample."""
    if config.get("thresholding"):
        return 1.0 if config["sample_max_value"] == 1 else None
    return config["clip_sample_range"] if config.get("clip_sample") else None


def timesteps(scheduler: Any) -> Any:
    scheduler.set_timesteps(STEPS)
    return torch.as_tensor(scheduler.timesteps)


@torch.no_grad()
def error_of_d(denoiser: Denoiser, model: Any, scheduler: Any) -> float:
    """Largest |D - x0 by the scheduler's own table|, at training steps."""
    a = scheduler.alphas_cumprod.double().clone()
    if a[-1] < 1e-12:
        a[-1] = a[-2] / 16
    t = torch.tensor([0, 3, 250, 700, len(a) - 1])
    a = a[t].reshape(-1, 1, 1, 1)
    x_vp = torch.randn(len(t), *denoiser.info.shape, generator=torch.Generator().manual_seed(1)).double()
    output = model(x_vp, t).sample
    noise = (1 - a).sqrt()
    x0 = {
        "epsilon": (x_vp - noise * output) / a.sqrt(), "v_prediction": a.sqrt() * x_vp - noise * output,
        "sample": output,
    }[scheduler.config.prediction_type]  # fmt: skip
    limit = clip(scheduler.config)
    wanted = x0 if limit is None else x0.clamp(-limit, limit)
    got = denoiser(x_vp / a.sqrt(), (noise / a.sqrt()).flatten())
    return float(((got - wanted).abs() / wanted.abs().clamp(min=1)).max())


def error_of_samples(denoiser: Denoiser, model: Any, scheduler: Any, solver: str, **step: Any) -> float:
    """Largest difference to the scheduler's own samples from the same noise; infinite where it fails or overflows."""
    plan = make_plan(**{**denoiser.info.default_plan, "solver": solver, "steps": STEPS})
    noise = np.random.default_rng(0).standard_normal((len(plan), 2, *denoiser.info.shape))
    try:
        theirs = pipeline(model, scheduler, STEPS, noise, None, **step)
    except (TypeError, ValueError, AttributeError, IndexError):
        return np.inf
    return float(np.nan_to_num(np.abs(run(denoiser, plan, noise, None) - theirs), nan=np.inf).max())


def silent(model: Any, kind: str, name: str, value: Any) -> str | None:
    """What is wrong with the import of a scheduler with one setting changed, or None."""
    try:
        denoiser = imported(model, kind, **{name: value})
    except NcdeployError as e:
        return "is refused in several lines" if "\n" in str(e) else None
    scheduler, usual = made(kind, **{name: value}), made(kind)
    if (error := error_of_d(denoiser, model, scheduler)) > SAME:
        return f"D is off by {error:.2g}"
    notes = " ".join(denoiser.notes)
    if name in notes:
        return None
    solver = SCHEDULERS[kind]
    if kind == "EulerDiscreteScheduler" and scheduler.config.timestep_spacing == "leading":
        scheduler.set_timesteps(STEPS)  # its steps are those of ddim from level to level
        plan = make_plan(**{**denoiser.info.default_plan, "steps": STEPS})
        same = np.allclose(plan.sigmas[:STEPS], scheduler.sigmas[:STEPS], rtol=1e-4) and plan.name.startswith("ddim")
        return None if same else "goes by other levels"
    if solver is None:  # its sampler is not taken over, which the notes say: what is left are D and the levels
        assert f"{kind} itself is not taken over" in notes
        table = not torch.equal(scheduler.alphas_cumprod, usual.alphas_cumprod)
        predicts = scheduler.config.prediction_type != usual.config.prediction_type
        plan = denoiser.info.default_plan != imported(model, kind).info.default_plan
        inert = name == "clip_sample_range" and not scheduler.config.clip_sample
        inert |= name == "steps_offset" and torch.equal(timesteps(scheduler), timesteps(usual))
        inert |= name in ("dynamic_thresholding_ratio", "sample_max_value") and not scheduler.config.thresholding
        taken = table or predicts or plan or inert or clip(scheduler.config) != clip(usual.config)
        return None if taken else "is neither taken over nor named"
    steps: tuple[dict[str, Any], ...] = ({},)
    if solver == "ddim" and "clip_sample" in notes:  # the notes say that the samples are those of this option
        steps = ({"use_clipped_model_output": True},)
    error = min(error_of_samples(denoiser, model, scheduler, solver, **step) for step in steps)
    return None if error <= SAME else f"samples are off by {error:.2g}"


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_no_setting_of_a_scheduler_changes_samples_in_silence(kind: str, model: Any) -> None:
    found, tried = {}, 0
    for name, parameter in parameters(EVERY[kind]).items():
        values = list(other_values(name, parameter))
        assert values or name in ("solver_p", "time_shift_type"), f"{name}: untried"
        for value in values:
            tried += 1
            if (wrong := silent(model, kind, name, value)) is not None:
                found[f"{name} {str(value)[:30]}"] = wrong
    assert not found
    assert tried >= 10


def test_this_finds_a_setting_that_is_dropped(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncdeploy.importers.diffusers_scheduler._notes", lambda *_: ["DDIMScheduler"])
    assert "samples are off" in str(silent(model, "DDIMScheduler", "set_alpha_to_one", False))
    assert "samples are off" in str(silent(model, "DDPMScheduler", "variance_type", "fixed_large"))


@pytest.mark.parametrize("kind", sorted(set(EVERY) - set(SCHEDULERS)))
def test_schedulers_of_other_noise_are_refused(kind: str, model: Any) -> None:
    with pytest.raises(FileError, match=f"{kind}, expected a scheduler of discrete"):
        imported(model, kind)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_setting_that_is_absent_has_its_classs_default(kind: str, model: Any) -> None:
    denoiser, scheduler = imported(model, kind), made(kind)
    assert error_of_d(denoiser, model, scheduler) <= SAME
    assert denoiser.clip == clip(scheduler.config)
    spacing = scheduler.config.get("timestep_spacing", "leading")
    assert denoiser.info.default_plan.get("spacing", "leading") == spacing


def test_ddim_with_clipping_is_that_of_use_clipped_model_output_and_says_so(model: Any) -> None:
    denoiser, scheduler = imported(model, "DDIMScheduler"), made("DDIMScheduler")
    assert "use_clipped_model_output" in denoiser.notes[0]
    assert error_of_samples(denoiser, model, scheduler, "ddim", use_clipped_model_output=True) <= SAME
    assert error_of_samples(denoiser, model, scheduler, "ddim") > SAME
    for uncut in (import_model(model.folder, clip=False), imported(model, "DDIMScheduler", clip_sample=False)):
        assert not any("clip" in note for note in uncut.notes)
        assert uncut.clip is None


@pytest.mark.parametrize(("limit", "wanted"), [(1.0, 1.0), (0.995, None), (1.5, None)])
def test_thresholding_cuts_only_where_its_limit_is_the_same_for_every_sample(
    limit: float, wanted: float | None, model: Any
) -> None:
    denoiser = imported(model, "DDPMScheduler", thresholding=True, sample_max_value=limit)
    assert denoiser.clip == wanted
    assert any("D is not cut" in note for note in denoiser.notes) == (wanted is None)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "noise input is no training step"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas is True"),
        ("DDPMScheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000, expected .* 2 to 100000"),
        ("DDPMScheduler", {"num_train_timesteps": "many"}, "num_train_timesteps is 'many'"),
        ("DDIMScheduler", {"thresholding": True, "sample_max_value": "big"}, "its settings give no noise table"),
        ("DDIMScheduler", {"trained_betas": {"a": 1}}, "its settings give no noise table"),
        ("DDIMScheduler", {"prediction_type": ["epsilon"]}, "prediction_type is"),
    ],
)
def test_what_belongs_to_another_noise_or_makes_no_sense(
    kind: str, settings: dict[str, Any], message: str, model: Any
) -> None:
    with pytest.raises(FileError, match=message) as caught:
        imported(model, kind, **settings)
    assert "\n" not in str(caught.value)
