"""Diffusion policies of LeRobot: a folder that its save_pretrained wrote.

    folder/config.json, folder/model.safetensors                                     the policy
    folder/policy_preprocessor.json, folder/policy_preprocessor_step_*.safetensors   statistics of observations
    folder/policy_postprocessor.json, folder/policy_postprocessor_step_*             and of actions

Checkpoints of before September 2025 keep the statistics among the weights (normalize_inputs, unnormalize_outputs).
A folder that holds `pretrained_model`, as a run's checkpoints do, is followed into it.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.foreign.policy_unet import PolicyUNetConfig
from ncdeploy.denoisers.foreign.resnet import BLOCKS, KeypointEncoder
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.diffusers_files import read_json
from ncdeploy.importers.policies.network import policy_denoiser
from ncdeploy.importers.policies.noise import read_noise
from ncdeploy.importers.policies.parts import PolicyDecoder, PolicyEncoder, Scaling, policy_parts
from ncdeploy.importers.weights import check_weights, put_weights, read_weights

STATE, ENVIRONMENT, ACTION = "observation.state", "observation.environment_state", "action"
KINDS = ("STATE", "ENV", "VISUAL", "ACTION")
# Steps of a processor that change nothing but the batch axis and the place of tensors.
HARMLESS = ("to_batch_processor", "device_processor")
RENAMES = "rename_observations_processor"
NORMALISERS = {"policy_preprocessor": "normalizer_processor", "policy_postprocessor": "unnormalizer_processor"}
OLD = ("normalize_inputs.buffer_", "unnormalize_outputs.buffer_", "normalize_targets.buffer_")
MODES = {
    "IDENTITY": (), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"),
    "MEAN_STD": ("mean", "std"),
}  # fmt: skip
EPS = 1e-8
MOST_CAMERAS = 32


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of one of LeRobot's diffusion policies."""
    try:
        config = read_json(_folder(path) / "config.json", "LeRobot")
    except FileError:
        return False
    return config.get("type") == "diffusion" and "input_features" in config


def load(path: str | os.PathLike[str]) -> Denoiser:
    """The policy of a folder: a denoiser of normalised action chunks [horizon, actions] with the condition obs, its
    encoder and its decoder as `parts`.

    Raises FileError for a folder that is incomplete or damaged, and for a policy that these networks cannot be.
    """
    folder = _folder(path)
    file = folder / "config.json"
    settings = Arguments(read_json(file, "LeRobot"))
    try:
        return _load(folder, settings)
    except InputError as e:
        raise FileError(f"{file}: {e}") from e
    except FileError as e:
        raise e if str(folder) in str(e) else FileError(f"{file}: {e}") from e


def _folder(path: str | os.PathLike[str]) -> Path:
    root = user_path(path)
    inside = root / "pretrained_model"
    return inside if (inside / "config.json").is_file() else root


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One thing that a robot sees or does at a time step."""

    name: str
    kind: str
    shape: tuple[int, ...]


def _load(folder: Path, settings: Arguments) -> Denoiser:
    seen = _features(settings.inner("input_features"))
    actions = [f for f in _features(settings.inner("output_features")) if f.kind == "ACTION"]
    if len(actions) != 1 or actions[0].name != ACTION or len(actions[0].shape) != 1:
        raise FileError("output_features: expected one vector, 'action'")
    observations = _ordered(seen)
    steps, horizon = settings.whole("n_obs_steps"), settings.whole("horizon")
    count, first = settings.whole("n_action_steps"), steps - 1
    if first + count > horizon:
        raise FileError(f"n_action_steps: is {count}, but a horizon of {horizon} has {horizon - first} from now on")

    file = folder / "model.safetensors"
    weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in read_weights(file).items()}
    scalings, notes = _scalings(folder, settings, weights, [*observations, actions[0]])
    eyes = _eyes(settings, observations, _under(weights, "diffusion.rgb_encoder."), file)
    widths = [2 * _keypoints(settings) if f.kind == "VISUAL" else f.shape[0] for f in observations]
    config = PolicyUNetConfig(
        observation=steps * sum(widths),
        widths=settings.wholes("down_dims"),
        embedding=settings.whole("diffusion_step_embed_dim"),
        kernel=settings.whole("kernel_size"),
        groups=settings.whole("n_groups"),
        scales=settings.flag("use_film_scale_modulation"),
    )
    solver = settings.choice("noise_scheduler_type", None, ("DDPM", "DDIM")).lower()
    inference = settings.values.get("num_inference_steps")
    noise = read_noise(settings, solver, None if inference is None else settings.whole("num_inference_steps"))
    denoiser = policy_denoiser(
        _under(weights, "diffusion.unet."), file, shape=(horizon, *actions[0].shape), config=config, noise=noise,
        data=folder.resolve().name,
    )  # fmt: skip
    denoiser.notes = (*denoiser.notes, *notes)
    denoiser.parts = policy_parts(
        PolicyEncoder({f.name: scalings[f.name] for f in observations}, eyes),
        PolicyDecoder(scalings[ACTION], first=first, count=count),
        {f.name: (steps, *f.shape) for f in observations},
    )
    return denoiser


def _features(settings: Arguments) -> list[Feature]:
    """In the order of the file, which is that of the cameras in the network's condition."""
    found = []
    for name in settings.values:
        feature = settings.inner(name)
        kind = feature.choice("type", None, KINDS)
        shape = feature.wholes("shape")
        if len(shape) != (3 if kind == "VISUAL" else 1):
            raise FileError(f"{name[:80]}: has shape {shape}, expected a vector, or (3, height, width) of a picture")
        found.append(Feature(name=name, kind=kind, shape=shape))
    return found


def _ordered(seen: list[Feature]) -> list[Feature]:
    """Those that the policy looks at, in the order in which it joins them."""
    state = [f for f in seen if f.name == STATE and f.kind == "STATE"]
    environment = [f for f in seen if f.kind == "ENV"][:1]
    cameras = [f for f in seen if f.kind == "VISUAL"]
    if not state:
        raise FileError(f"input_features: lacks {STATE!r}, without which LeRobot's diffusion policies do not run")
    if len({f.shape for f in cameras}) > 1 or len(cameras) > MOST_CAMERAS:
        raise FileError(f"input_features: expected pictures of one size, at most {MOST_CAMERAS}")
    return [*state, *cameras, *environment]


def _keypoints(settings: Arguments) -> int:
    return settings.whole("spatial_softmax_num_keypoints")


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _eyes(
    settings: Arguments, observations: list[Feature], weights: Mapping[str, Tensor], file: Path
) -> dict[str, nn.Module]:
    """The vision encoder of each camera, the same for all unless the policy has one for each."""
    cameras = [f for f in observations if f.kind == "VISUAL"]
    if not cameras:
        return {}
    channels, *size = cameras[0].shape
    if channels != 3:
        raise FileError(f"{cameras[0].name[:80]}: has {channels} channels, expected pictures in colour")
    sizes: dict[str, Any] = {}
    for name, setting in (("resize", "resize_shape"), ("crop", "crop_shape")):
        if settings.values.get(setting) is not None:
            sizes[name] = settings.wholes(setting)
            if len(sizes[name]) != 2:
                raise FileError(f"{setting}: expected height and width")

    def make() -> KeypointEncoder:
        return KeypointEncoder(
            (size[0], size[1]), **sizes, backbone=settings.choice("vision_backbone", None, tuple(BLOCKS)),
            keypoints=_keypoints(settings), grouped=settings.flag("use_group_norm"),
        )  # fmt: skip

    apart = settings.flag("use_separate_rgb_encoder_per_camera")
    made: list[nn.Module] = []
    for number in range(len(cameras) if apart else 1):
        own = _under(weights, f"{number}.") if apart else dict(weights)
        with without_memory(len(own)):
            check_weights(make(), own, file)
        with torch.random.fork_rng(devices=[]):
            made.append(make())
        put_weights(made[-1], own, file)
    return {camera.name: made[number if apart else 0] for number, camera in enumerate(cameras)}


def _scalings(
    folder: Path, settings: Arguments, weights: Mapping[str, Tensor], features: list[Feature]
) -> tuple[dict[str, Scaling | None], tuple[str, ...]]:
    """How each feature is normalised, None where not at all, and what is to be said of it."""
    inside = _statistics_inside(weights)
    found: dict[str, Scaling | None] = {}
    notes: tuple[str, ...] = ()
    for name, registered in NORMALISERS.items():
        wanted = [f for f in features if (f.kind == "ACTION") == (name == "policy_postprocessor")]
        file = folder / f"{name}.json"
        if file.is_file():
            modes, statistics, eps = _processor(file, registered)
        elif inside:
            modes, statistics, eps = settings.inner("normalization_mapping"), inside, EPS
        else:
            raise FileError(
                f"{folder}: has neither {file.name} nor statistics among its weights, so nothing says how observations "
                "and actions are normalised; copy the whole folder"
            )
        for feature in wanted:
            mode = modes.choice(feature.kind, "IDENTITY", tuple(MODES))
            own = statistics.get(feature.name if file.is_file() else feature.name.replace(".", "_"))
            found[feature.name] = None if own is None else _scaling(feature, mode, own, eps)
            if own is None and mode != "IDENTITY":
                notes += (f"{feature.name[:80]} has no statistics, so it is not normalised, as in LeRobot",)
    return found, notes


def _scaling(feature: Feature, mode: str, statistics: Mapping[str, Tensor], eps: float) -> Scaling | None:
    names = MODES[mode]
    if not names:
        return None
    missing = [name for name in names if name not in statistics]
    if missing:
        raise FileError(f"{feature.name[:80]}: is normalised by {mode}, but its statistics lack {missing[0]!r}")
    first, second = (statistics[name].float() for name in names)
    if feature.kind == "VISUAL" and first.ndim == second.ndim == 1:
        first, second = first[:, None, None], second[:, None, None]
    if first.shape != second.shape:
        raise FileError(f"{feature.name[:80]}: its statistics {names[0]} and {names[1]} have different shapes")
    if mode == "MEAN_STD":
        scaling = Scaling(shift=first, scale=second if feature.kind == "ACTION" else second + eps, offset=0 * first)
    else:
        spread = torch.where(second == first, torch.full_like(first, eps), second - first)
        scaling = Scaling(shift=first, scale=spread / 2, offset=torch.full_like(first, -1.0))
    scaling.check(feature.name[:80], feature.shape)
    return scaling


def _statistics_inside(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Of an old checkpoint: feature, with _ for its dots -> statistic -> values."""
    found: dict[str, dict[str, Tensor]] = {}
    for prefix in OLD:
        for name, values in _under(weights, prefix).items():
            feature, _, statistic = name.rpartition(".")
            found.setdefault(feature, {})[statistic] = values
    return found


def _processor(file: Path, registered: str) -> tuple[Arguments, dict[str, dict[str, Tensor]], float]:
    """The modes by kind of feature, the statistics by feature, and eps, of a processor's file."""
    steps = read_json(file, "LeRobot").get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise FileError(f"{file}: has no list of steps; copy it again")
    for step in steps:
        name, config = step.get("registry_name"), step.get("config")
        if name == RENAMES and isinstance(config, dict) and not config.get("rename_map"):
            continue
        if name not in (*HARMLESS, registered):
            raise FileError(f"{file}: has the step {str(name)[:60]!r}, which is not known; policies with it need code")
    own = [step for step in steps if step["registry_name"] == registered]
    if len(own) != 1:
        raise FileError(f"{file}: has {len(own)} steps {registered}, expected one")
    settings = Arguments(own[0]).inner("config")
    state = own[0].get("state_file")
    statistics: dict[str, dict[str, Tensor]] = {}
    if state is not None:
        if not isinstance(state, str) or Path(state).name != state:
            raise FileError(f"{file}: its state_file is no file beside it; the file was altered")
        for name, values in read_weights(file.parent / state).items():
            feature, _, statistic = name.rpartition(".")
            statistics.setdefault(feature, {})[statistic] = values
    keys = settings.values.get("normalize_observation_keys")
    if keys is not None and registered == NORMALISERS["policy_preprocessor"]:
        if not isinstance(keys, list):
            raise FileError(f"{file}: normalize_observation_keys is no list of names; copy it again")
        statistics = {name: values for name, values in statistics.items() if name in keys}
    eps = settings.real("eps", EPS)
    if not 0 < eps < math.inf:
        raise FileError(f"{file}: eps is {eps}, expected a positive number")
    return settings.inner("norm_map"), statistics, eps
