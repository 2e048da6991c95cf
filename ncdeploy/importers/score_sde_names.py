"""The numbered modules of score_sde's NCSN++ and DDPM++ (`all_modules.N`), read as the network that they are, by the
names that EDM gave the same layers."""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from ncdeploy.denoisers.foreign.song import SongConfig
from ncdeploy.errors import FileError

Kind = Literal["fourier", "linear", "conv", "norm", "block", "resize", "attention", "pyramid"]
BLOCK = {
    "GroupNorm_0": "norm0", "Conv_0": "conv0", "Dense_0": "affine", "GroupNorm_1": "norm1", "Conv_1": "conv1",
    "Conv_2": "skip",
}  # fmt: skip
Module = dict[str, Tensor]


def modules_of(weights: Mapping[str, Tensor]) -> list[tuple[Kind, Module]]:
    """What each of the modules is, with its tensors by their own names. Raises FileError for one that is not known."""
    numbered: dict[int, Module] = {}
    for name, tensor in weights.items():
        if match := re.fullmatch(r"all_modules\.(\d{1,4})\.(.+)", name):
            numbered.setdefault(int(match[1]), {})[match[2]] = tensor
    if sorted(numbered) != list(range(len(numbered))):
        raise FileError("its modules are not numbered from 0 on; it is incomplete")
    return [(_kind(number, numbered[number]), numbered[number]) for number in range(len(numbered))]


def _kind(number: int, module: Module) -> Kind:
    weight = module.get("weight")
    if module.keys() == {"W"}:
        return "fourier"
    if weight is not None and module.keys() == {"weight", "bias"} and weight.ndim in (1, 2, 4):
        return "norm" if weight.ndim == 1 else "linear" if weight.ndim == 2 else "conv"
    if "NIN_3.W" in module and len(module) == 10:
        return "attention"
    if module.keys() == {"Conv2d_0.weight", "Conv2d_0.bias"}:
        return "pyramid"
    first = module.get("Conv_0.weight")
    if first is not None and first.ndim == 4 and "Dense_0.weight" in module and "NIN_0.W" not in module:
        return "resize" if "Conv_2.weight" in module and first.shape[0] == first.shape[1] else "block"
    raise FileError(
        f"module {number} is none of DDPM++ or of NCSN++ with a residual pyramid; networks whose blocks are DDPM's "
        "and those with skips to the input and the output (256 pixels and more) are not read"
    )


def config_of(modules: list[tuple[Kind, Module]], height: int) -> SongConfig:
    """The architecture for pictures of this height. Raises FileError where there is none that these would make."""
    kinds = [kind for kind, _ in modules]
    fourier = kinds[:1] == ["fourier"]
    levels = 1 + kinds.count("resize") // 2
    if kinds[fourier : fourier + 3] != ["linear", "linear", "conv"] or levels < 2:
        raise FileError("its modules do not begin as such a network's do, or never change the size of the picture")
    start = fourier + 3
    first = modules[start - 1][1]["weight"]
    multipliers, attends, at = [], [], start
    for _ in range(levels):
        if kinds[at : at + 1] != ["block"]:
            raise FileError(f"module {at} is a {kinds[at] if at < len(kinds) else 'nothing'}, expected a block")
        multipliers.append(modules[at][1]["Conv_0.weight"].shape[0] // first.shape[0])
        attends.append(kinds[at + 1 : at + 2] == ["attention"])
        at = next((i + 1 for i in range(at, len(kinds)) if kinds[i] == "resize"), at)
        at += kinds[at : at + 1] == ["pyramid"]
    return SongConfig(
        channels=first.shape[0],
        multipliers=tuple(multipliers),
        blocks=kinds[start : kinds.index("resize")].count("block"),
        attention=tuple(height >> level for level in range(levels) if attends[level]),
        width=modules[fourier][1]["weight"].shape[0],
        dropout=0.1,
        embedding="fourier" if fourier else "positional",
        features=modules[fourier][1]["weight"].shape[1],
        pyramid="pyramid" in kinds,
        taps=(1.0, 3.0, 3.0, 1.0) if "pyramid" in kinds else (1.0, 1.0),
    )


def edm_weights(modules: list[tuple[Kind, Module]], config: SongConfig, height: int) -> dict[str, Tensor]:
    """The weights by EDM's names, as `bring_weights` takes them. Raises FileError where the modules are others."""
    places = list(_places(config, height))
    if [kind for kind, _ in places] != [kind for kind, _ in modules]:
        raise FileError("its modules stand in another order than those of DDPM++ and NCSN++; it is another network")
    found: dict[str, Tensor] = {}
    for (kind, stem), (_, module) in zip(places, modules, strict=True):
        if kind == "fourier":
            found[f"{stem}.freqs"] = module["W"]
        elif kind in ("block", "resize"):
            for name, tensor in module.items():
                part, _, leaf = name.rpartition(".")
                found[f"{stem}.{BLOCK.get(part, part)}.{leaf}"] = tensor
        elif kind == "attention":
            found |= _attention(stem, module)
        else:
            found |= {f"{stem}.{name.rpartition('.')[2]}": tensor for name, tensor in module.items()}
    return found


def _places(config: SongConfig, height: int) -> Iterator[tuple[Kind, str]]:
    """What the modules are in order, and EDM's names of them."""
    if config.embedding == "fourier":
        yield "fourier", "map_noise"
    yield "linear", "map_layer0"
    yield "linear", "map_layer1"
    yield "conv", f"enc.{height}x{height}_conv"
    last = len(config.multipliers) - 1
    sides = [height >> level for level in range(last + 1)]
    for level, side in enumerate(sides):
        if level:
            yield "resize", f"enc.{side}x{side}_down"
            if config.pyramid:
                yield "pyramid", f"enc.{side}x{side}_aux_residual"
        for index in range(config.blocks):
            yield "block", f"enc.{side}x{side}_block{index}"
            if side in config.attention:
                yield "attention", f"enc.{side}x{side}_block{index}"
    for side in reversed(sides):
        if side == sides[-1]:
            yield "block", f"dec.{side}x{side}_in0"
            yield "attention", f"dec.{side}x{side}_in0"
            yield "block", f"dec.{side}x{side}_in1"
        else:
            yield "resize", f"dec.{side}x{side}_up"
        for index in range(config.blocks + 1):
            yield "block", f"dec.{side}x{side}_block{index}"
        if side in config.attention:
            yield "attention", f"dec.{side}x{side}_block{config.blocks}"
    yield "norm", f"dec.{height}x{height}_aux_norm"
    yield "conv", f"dec.{height}x{height}_aux_conv"


def _attention(stem: str, module: Module) -> Module:
    """Queries, keys and values one after the other, channel by channel, and matrices turned, as EDM has them."""
    weights = [module[f"NIN_{index}.W"] for index in range(4)]
    if any(weight.ndim != 2 or weight.shape != weights[0].shape for weight in weights):
        raise FileError(f"the attention of {stem} has matrices of different shapes")
    biases = [module[f"NIN_{index}.b"] for index in range(3)]
    return {
        f"{stem}.norm2.weight": module["GroupNorm_0.weight"],
        f"{stem}.norm2.bias": module["GroupNorm_0.bias"],
        f"{stem}.qkv.weight": torch.stack([weight.T for weight in weights[:3]], 1).flatten(0, 1)[:, :, None, None],
        f"{stem}.qkv.bias": torch.stack(biases, 1).flatten(),
        f"{stem}.proj.weight": weights[3].T[:, :, None, None],
        f"{stem}.proj.bias": module["NIN_3.b"],
    }
