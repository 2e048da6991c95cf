"""The U-Net of Ho et al. 2020 by the names that its first PyTorch versions gave it, as diffusers' UNet2DModel.

Nothing in a state dict tells the groups of its norms and that its attention has one head; they are as published.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ncdeploy.errors import FileError

OLD_NEEDED = ("temb.dense.0.weight", "conv_in.weight", "down.0.block.0.conv1.weight", "mid.attn_1.q.weight")
NEEDED = ("time_embedding.linear_1.weight", "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight")
_PARTS = (
    (r"temb\.dense\.0\.", "time_embedding.linear_1."),
    (r"temb\.dense\.1\.", "time_embedding.linear_2."),
    (r"mid\.block_1\.", "mid_block.resnets.0."),
    (r"mid\.block_2\.", "mid_block.resnets.1."),
    (r"mid\.attn_1\.", "mid_block.attentions.0."),
    (r"norm_out\.", "conv_norm_out."),
    (r"down\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"down\.(\d+)\.attn\.", r"down_blocks.\1.attentions."),
    (r"down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"up\.(\d+)\.block\.", r"up_blocks.\1.resnets."),
    (r"up\.(\d+)\.attn\.", r"up_blocks.\1.attentions."),
    (r"up\.(\d+)\.upsample\.", r"up_blocks.\1.upsamplers.0."),
)
_LEAVES = (
    (r"\.temb_proj\.", ".time_emb_proj."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by diffusers' names; its levels on the way up are counted from the lowest."""
    levels = 1 + max((int(m[1]) for name in weights if (m := re.match(r"down\.(\d{1,2})\.", name))), default=-1)
    new: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if match := re.match(r"up\.(\d{1,2})\.", name):
            name = f"up.{levels - 1 - int(match[1])}.{name[match.end() :]}"
        for old, by in _PARTS:
            name = re.sub(f"^{old}", by, name)
        for old, by in _LEAVES:
            name = re.sub(old, by, name)
        one = re.search(r"attentions\.\d+\.to_", name) and tensor.ndim == 4
        new[name] = tensor.flatten(1) if one else tensor  # a convolution of 1 x 1
    return new


def settings_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `diffusers.UNet2DModel`, off the shapes. Raises FileError where some are missing."""
    for name in NEEDED:
        if name not in weights:
            raise FileError(f"has no {name}, so it is no U-Net of this kind")
    if any(weights[name].ndim != 4 for name in NEEDED[1:]):
        raise FileError("the weights do not have the ranks of a network for pictures")
    levels = 1 + max(int(m[1]) for name in weights if (m := re.match(r"down_blocks\.(\d{1,2})\.", name)))
    blocks = 1 + max(int(m[1]) for name in weights if (m := re.match(r"down_blocks\.0\.resnets\.(\d{1,3})\.", name)))
    widths, attends = [], []
    for level in range(levels):
        first = weights.get(f"down_blocks.{level}.resnets.0.conv1.weight")
        if first is None:
            raise FileError(f"has no block on level {level}; it is incomplete")
        widths.append(first.shape[0])
        attends.append(f"down_blocks.{level}.attentions.0.to_q.weight" in weights)
    return {
        "in_channels": weights["conv_in.weight"].shape[1],
        "out_channels": weights["conv_in.weight"].shape[1],
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "attention_head_dim": None,
        "norm_num_groups": 32,
        "norm_eps": 1e-6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
    }
