"""Which weight of an EDM network is which of ours, and how its numbers are laid out there."""

import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ncdeploy.denoisers.foreign.adm import ADM, HEAD_WIDTH
from ncdeploy.denoisers.foreign.song import Song
from ncdeploy.errors import FileError

Kind = Literal["song", "adm"]

LAYERS = {
    "norm1": "norm0",
    "conv1": "conv0",
    "film": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "skip": "skip",
    "attention.norm": "norm2",
    "attention.query_key_value": "qkv",
    "attention.outer": "proj",
}
CONDITIONING = {"first": "map_layer0", "second": "map_layer1"}
LABELS, FREQUENCIES = "conditioning.label.weight", "conditioning.frequencies"
# The filters follow from the settings, and the inputs of augmentation are zero when sampling.
UNUSED = re.compile(r"(.*\.)?resample_filter|map_augment\.weight")


def bring_weights(network: Song | ADM, kind: Kind, height: int, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `network`, which may be on the meta device, from the weights of the original.

    height: of the pictures; the names of the original count in it

    Raises FileError naming a weight that is missing, of another shape, or unknown.
    """
    left = {name: tensor for name, tensor in foreign.items() if not UNUSED.fullmatch(name)}
    levels = len(network.config["multipliers"])
    brought = {}
    for name, wanted in network.state_dict().items():
        if name == LABELS:
            brought[name] = _labels(left, kind, wanted)
        elif name == FREQUENCIES:
            brought[name] = 2 * math.pi * _take(left, "map_noise.freqs", wanted.shape)
        elif "query_key_value" in name:
            original = foreign_name(name, kind, height, levels)
            brought[name] = _queries_keys_values(_take(left, original, wanted.shape), kind)
        else:
            brought[name] = _take(left, foreign_name(name, kind, height, levels), wanted.shape)
    if left:
        raise FileError(f"has {len(left)} weights that its network does not know, {min(left)[:100]!r} among them")
    return {name: tensor.to(torch.float32).contiguous() for name, tensor in brought.items()}


def foreign_name(name: str, kind: Kind, height: int, levels: int) -> str:
    """trunk.down.1.blocks.0.conv1.weight -> enc.16x16_block0.conv0.weight, and so on."""
    part, _, rest = name.partition(".")
    stem, _, leaf = rest.rpartition(".")
    if part == "conditioning":
        return f"{CONDITIONING[stem]}.{leaf}"
    if stem == "inner":
        return f"enc.{height}x{height}_conv.{leaf}"
    if stem in ("norm", "outer"):
        end = "norm" if stem == "norm" else "conv"
        return f"out_{end}.{leaf}" if kind == "adm" else f"dec.{height}x{height}_aux_{end}.{leaf}"
    way, index, place, layer = stem.split(".", 3)
    level = int(index) if way == "down" else levels - 1 - int(index)
    side = height >> level
    stage = f"{'enc' if way == 'down' else 'dec'}.{side}x{side}"
    if place == "side":
        return f"{stage}_aux_residual.{leaf}"
    if place == "enter" and way == "down":
        return f"{stage}_down.{LAYERS[layer]}.{leaf}"
    number, _, layer = layer.partition(".")
    if place == "blocks":
        return f"{stage}_block{number}.{LAYERS[layer]}.{leaf}"
    lowest = level == levels - 1
    return f"{stage}_{f'in{number}' if lowest else 'up'}.{LAYERS[layer]}.{leaf}"


def _take(left: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in left:
        raise FileError(f"lacks the weight {name!r}, which its constructor arguments call for")
    tensor = left.pop(name)
    if tensor.shape != shape or not tensor.is_floating_point():
        raise FileError(
            f"the weight {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, its constructor arguments call for "
            f"real numbers of shape {tuple(shape)}"
        )
    return tensor


def _labels(left: dict[str, Tensor], kind: Kind, wanted: Tensor) -> Tensor:
    """The original multiplies a matrix with a one-hot vector, or zeros for "no class"; here each has its row."""
    rows, width = wanted.shape
    classes = rows - 1
    table = _take(left, "map_label.weight", torch.Size([width, classes])).T
    if kind == "adm":
        return torch.cat([table, torch.zeros(1, width)])
    bias = _take(left, "map_label.bias", torch.Size([width]))
    return torch.cat([table * math.sqrt(classes), torch.zeros(1, width)]) + bias


def _queries_keys_values(weight: Tensor, kind: Kind) -> Tensor:
    """Channels in the order (head, channel, one of q k v) come to the order (one of q k v, head, channel)."""
    channels = weight.shape[0] // 3
    heads = 1 if kind == "song" else channels // HEAD_WIDTH
    apart = weight.reshape(heads, channels // heads, 3, *weight.shape[1:])
    return apart.movedim(2, 0).reshape(weight.shape)
