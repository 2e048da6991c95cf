"""Checkpoints of robot policies as LeRobot and Diffusion Policy write them, and their networks as functions of the
weights. Nothing of it is shared with the networks under test."""

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as fn

Weights = dict[str, Tensor]

STATE, ENV, ACTION = "observation.state", "observation.environment_state", "action"
LOWDIM: dict[str, Any] = {
    "type": "diffusion", "n_obs_steps": 2, "horizon": 8, "n_action_steps": 4,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    "input_features": {STATE: {"type": "STATE", "shape": [3]}, ENV: {"type": "ENV", "shape": [2]}},
    "output_features": {ACTION: {"type": "ACTION", "shape": [2]}},
    "vision_backbone": "resnet18", "resize_shape": None, "crop_shape": None, "use_group_norm": True,
    "spatial_softmax_num_keypoints": 4, "use_separate_rgb_encoder_per_camera": False,
    "down_dims": [16, 32], "kernel_size": 3, "n_groups": 4, "diffusion_step_embed_dim": 8,
    "use_film_scale_modulation": True, "noise_scheduler_type": "DDPM", "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "epsilon",
    "clip_sample": True, "clip_sample_range": 1.0, "num_inference_steps": None,
}  # fmt: skip


def unet_weights(config: dict[str, Any], observation: int) -> Weights:
    """Random ones by LeRobot's names, without the prefix diffusion.unet."""
    g = torch.Generator().manual_seed(3)
    w: Weights = {}

    def layer(name: str, *shape: int) -> None:
        w[f"{name}.weight"] = torch.randn(shape, generator=g) / math.sqrt(math.prod(shape[1:]))
        w[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=g)

    def unit(name: str, before: int, after: int) -> None:
        layer(f"{name}.0", after, before, config["kernel_size"])
        w[f"{name}.1.weight"], w[f"{name}.1.bias"] = (
            torch.rand(after, generator=g) + 0.5,
            torch.rand(after, generator=g),
        )

    def block(name: str, before: int, after: int) -> None:
        unit(f"{name}.conv1.block", before, after)
        unit(f"{name}.conv2.block", after, after)
        layer(f"{name}.cond_encoder.1", after * (1 + config["use_film_scale_modulation"]), embedding + observation)
        if before != after:
            layer(f"{name}.residual_conv", after, before, 1)

    dims, embedding = config["down_dims"], config["diffusion_step_embed_dim"]
    actions = config["output_features"][ACTION]["shape"][0]
    layer("diffusion_step_encoder.1", 4 * embedding, embedding)
    layer("diffusion_step_encoder.3", embedding, 4 * embedding)
    for i, (before, after) in enumerate(zip([actions, *dims], dims, strict=False)):
        block(f"down_modules.{i}.0", before, after)
        block(f"down_modules.{i}.1", after, after)
        if i < len(dims) - 1:
            layer(f"down_modules.{i}.2", after, after, 3)
    for i in range(2):
        block(f"mid_modules.{i}", dims[-1], dims[-1])
    for i, below in enumerate(dims[:0:-1]):
        after = dims[-2 - i]
        block(f"up_modules.{i}.0", 2 * below, after)
        block(f"up_modules.{i}.1", after, after)
        layer(f"up_modules.{i}.2", after, after, 4)
    unit("final_conv.0.block", dims[0], dims[0])
    layer("final_conv.1", actions, dims[0], 1)
    return w


def unet(w: Weights, x: Tensor, t: Tensor, obs: Tensor, groups: int) -> Tensor:
    """x [B, T, actions], whole training steps [B] and obs [B, n] -> [B, T, actions], in the dtype of x."""
    w = {name: tensor.to(x.dtype) for name, tensor in w.items()}

    def linear(name: str, h: Tensor) -> Tensor:
        return fn.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def conv(name: str, h: Tensor, **how: int) -> Tensor:
        return fn.conv1d(h, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def unit(name: str, h: Tensor, groups: int = groups) -> Tensor:
        h = conv(f"{name}.0", h, padding=w[f"{name}.0.weight"].shape[2] // 2)
        return fn.mish(fn.group_norm(h, groups, w[f"{name}.1.weight"], w[f"{name}.1.bias"]))

    def block(name: str, h: Tensor) -> Tensor:
        out = unit(f"{name}.conv1.block", h)
        film = linear(f"{name}.cond_encoder.1", fn.mish(told))[:, :, None]
        n = out.shape[1]
        out = film[:, :n] * out + film[:, n:] if film.shape[1] == 2 * n else out + film
        out = unit(f"{name}.conv2.block", out)
        return out + (conv(f"{name}.residual_conv", h) if f"{name}.residual_conv.weight" in w else h)

    half = w["diffusion_step_encoder.1.weight"].shape[1] // 2
    phase = t[:, None] * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1))).to(x.dtype)
    time = linear("diffusion_step_encoder.1", torch.cat([phase.sin(), phase.cos()], 1))
    told = torch.cat([linear("diffusion_step_encoder.3", fn.mish(time)), obs], 1)
    h, skips, level = x.transpose(1, 2), [], 0
    while f"down_modules.{level}.0.conv1.block.0.weight" in w:
        h = block(f"down_modules.{level}.1", block(f"down_modules.{level}.0", h))
        skips.append(h)
        if f"down_modules.{level}.2.weight" in w:
            h = conv(f"down_modules.{level}.2", h, stride=2, padding=1)
        level += 1
    h = block("mid_modules.1", block("mid_modules.0", h))
    for i in range(level - 1):
        h = block(f"up_modules.{i}.0", torch.cat([h, skips.pop()], 1))
        h = block(f"up_modules.{i}.1", h)
        name = f"up_modules.{i}.2"
        h = fn.conv_transpose1d(h, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    return conv("final_conv.1", unit("final_conv.0.block", h, 8)).transpose(1, 2)


def eye_weights(keypoints: int, size: tuple[int, int]) -> Weights:
    """Of LeRobot's DiffusionRgbEncoder with group norms, for pictures of this size; names without their prefix."""
    g = torch.Generator().manual_seed(4)
    w: Weights = {}

    def conv(name: str, after: int, before: int, kernel: int, norm: str) -> None:
        w[f"backbone.{name}.weight"] = (
            torch.randn(after, before, kernel, kernel, generator=g) / math.sqrt(before) / kernel
        )
        w[f"backbone.{norm}.weight"] = torch.rand(after, generator=g) + 0.5
        w[f"backbone.{norm}.bias"] = 0.1 * torch.randn(after, generator=g)

    conv("0", 64, 3, 7, "1")
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 4):
        for i in range(2):
            name = f"{stage}.{i}"
            conv(f"{name}.conv1", width, before, 3, f"{name}.bn1")
            conv(f"{name}.conv2", width, width, 3, f"{name}.bn2")
            if before != width:
                conv(f"{name}.downsample.0", width, before, 1, f"{name}.downsample.1")
            before = width
    height, width = (math.ceil(n / 32) for n in size)
    grid = torch.cartesian_prod(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)).flip(1)
    w["pool.pos_grid"] = grid
    w["pool.nets.weight"] = torch.randn(keypoints, 512, 1, 1, generator=g)
    w["pool.nets.bias"] = torch.randn(keypoints, generator=g)
    w["out.weight"] = torch.randn(2 * keypoints, 2 * keypoints, generator=g)
    w["out.bias"] = torch.randn(2 * keypoints, generator=g)
    return w


def eye(w: Weights, x: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] -> [N, 2 * keypoints]."""

    def norm(name: str, h: Tensor) -> Tensor:
        return fn.group_norm(h, h.shape[1] // 16, w[f"backbone.{name}.weight"], w[f"backbone.{name}.bias"])

    def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"backbone.{name}.weight"]
        return fn.conv2d(h, kernel, stride=stride, padding=kernel.shape[2] // 2)

    h = fn.max_pool2d(fn.relu(norm("1", conv("0", x, 2))), 3, 2, 1)
    for stage in range(4, 8):
        for i in range(2):
            name, stride = f"{stage}.{i}", 2 if stage > 4 and i == 0 else 1
            inner = fn.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", h, stride)))
            inner = norm(f"{name}.bn2", conv(f"{name}.conv2", inner))
            if f"backbone.{name}.downsample.0.weight" in w:
                h = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", h, stride))
            h = fn.relu(inner + h)
    maps = fn.conv2d(h, w["pool.nets.weight"], w["pool.nets.bias"]).flatten(2)
    points = (maps.softmax(2)[:, :, :, None] * w["pool.pos_grid"]).sum(2)
    return fn.relu(fn.linear(points.flatten(1), w["out.weight"], w["out.bias"]))


def statistics(features: dict[str, Any]) -> dict[str, Weights]:
    """Feature -> statistic -> values."""
    g = torch.Generator().manual_seed(5)
    found = {}
    for name, feature in features.items():
        shape = (3, 1, 1) if feature["type"] == "VISUAL" else tuple(feature["shape"])
        low, spread = torch.randn(shape, generator=g), 0.2 + torch.rand(shape, generator=g)
        found[name] = {"min": low, "max": low + spread, "mean": low + spread / 2, "std": spread / 3}
    return found


def write_lerobot(
    folder: Path, config: dict[str, Any], unet: Weights, *, eyes: Weights | None = None, inside: bool = False
) -> dict[str, Weights]:
    """A folder as save_pretrained leaves it; returns the statistics. inside: as those of before September 2025."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {f"diffusion.unet.{name}": tensor for name, tensor in unet.items()}
    weights |= {f"diffusion.rgb_encoder.{name}": tensor for name, tensor in (eyes or {}).items()}
    features = config["input_features"] | config["output_features"]
    stats = statistics(features)
    for name, values in stats.items() if inside else ():
        group = "unnormalize_outputs" if name == ACTION else "normalize_inputs"
        weights |= {f"{group}.buffer_{name.replace('.', '_')}.{k}": v.clone() for k, v in values.items()}
    save_file(weights, folder / "model.safetensors")
    if inside:
        return stats
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "device_processor", "config": {"device": "cuda", "float_dtype": None}},
    ]
    for name, kind, steps in (
        ("policy_preprocessor", "normalizer_processor", before), ("policy_postprocessor", "unnormalizer_processor", [])
    ):  # fmt: skip
        state = f"{name}_step_{len(steps)}_{kind}.safetensors"
        own = {"eps": 1e-8, "features": features, "norm_map": config["normalization_mapping"]}
        steps = [*steps, {"registry_name": kind, "config": own, "state_file": state}]
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": steps}))
        save_file({f"{f}.{k}": v.clone() for f, values in stats.items() for k, v in values.items()}, folder / state)
    return stats


class Omega:
    """Classes that pickle as OmegaConf's and dill's do, in modules of their names while it is used as a context."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.classes: dict[str, type] = {}

    def __enter__(self) -> "Omega":
        for where, names in {
            "omegaconf": (), "dill": (), "omegaconf.dictconfig": ("DictConfig",), "omegaconf.nodes": ("AnyNode",),
            "omegaconf.listconfig": ("ListConfig",), "omegaconf.base": ("ContainerMetadata", "Metadata"),
        }.items():  # fmt: skip
            module = types.ModuleType(where)
            for name in names:
                self.classes[name] = type(name, (), {"__module__": where})
                setattr(module, name, self.classes[name])
            self.patch.setitem(sys.modules, where, module)
        dill = types.ModuleType("dill._dill")

        def load_type(name: str) -> type:
            return dict

        load_type.__module__, load_type.__qualname__ = "dill._dill", "_load_type"
        dill._load_type = load_type  # type: ignore[attr-defined]
        self.patch.setitem(sys.modules, "dill._dill", dill)
        self.load_type = load_type
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def wrap(self, value: Any, parent: Any = None) -> Any:
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        made = self.classes[kind]()
        metadata = self.classes["Metadata" if kind == "AnyNode" else "ContainerMetadata"]()
        load_type = self.load_type

        class TypeName:
            def __reduce__(self) -> Any:
                return load_type, ("dict",)

        metadata.__dict__ |= {"ref_type": Any, "object_type": TypeName(), "optional": True, "flags": {}}
        made.__dict__ |= {"_metadata": metadata, "_parent": parent}
        if kind == "DictConfig":
            made._content = {key: self.wrap(inner, made) for key, inner in value.items()}
        elif kind == "ListConfig":
            made._content = [self.wrap(inner, made) for inner in value]
        else:
            made._val = value
        return made


def write_diffusion_policy(path: Path, policy: dict[str, Any], states: dict[str, Weights], **beside: Any) -> None:
    """A checkpoint of a workspace: settings of the policy, and state dicts by name."""
    with Omega() as omega:
        settings = {"_target_": "diffusion_policy.workspace.x.TrainDiffusionUnetLowdimWorkspace", "policy": policy}
        content = {
            "cfg": omega.wrap(settings),
            "state_dicts": states,
            "pickles": {"epoch": b"\x80\x04K\x03."},
            **beside,
        }
        torch.save(content, path)


LOWDIM_POLICY: dict[str, Any] = {
    "_target_": "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy",
    "model": {
        "_target_": "diffusion_policy.model.diffusion.conditional_unet1d.ConditionalUnet1D", "input_dim": 2,
        "local_cond_dim": None, "global_cond_dim": 6, "diffusion_step_embed_dim": 8, "down_dims": [16, 32],
        "kernel_size": 3, "n_groups": 4, "cond_predict_scale": True,
    },
    "noise_scheduler": {
        "_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler", "num_train_timesteps": 100,
        "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small",
        "clip_sample": True, "prediction_type": "epsilon",
    },
    "horizon": 8, "obs_dim": 3, "action_dim": 2, "n_action_steps": 4, "n_obs_steps": 2, "num_inference_steps": 100,
    "obs_as_local_cond": False, "obs_as_global_cond": True, "pred_action_steps_only": False, "oa_step_convention": True,
}  # fmt: skip


def policy_state(weights: Weights) -> Weights:
    """The state dict of a DiffusionUnetLowdimPolicy with these weights, which have LeRobot's names."""
    state: Weights = {"mask_generator._dummy_variable": torch.empty(0)}
    for name, tensor in weights.items():
        name = name.replace(".conv1.", ".blocks.0.").replace(".conv2.", ".blocks.1.")
        parts = name.split(".")
        if parts[0] in ("down_modules", "up_modules") and parts[2] == "2":
            parts.insert(3, "conv")
        state[f"model.{'.'.join(parts)}"] = tensor
    for field, size in (("obs", 3), ("action", 2)):
        state[f"normalizer.params_dict.{field}.scale"] = torch.arange(1, size + 1) / 2
        state[f"normalizer.params_dict.{field}.offset"] = torch.arange(size) - 0.5
        state[f"normalizer.params_dict.{field}.input_stats.min"] = torch.zeros(size)
    return state
