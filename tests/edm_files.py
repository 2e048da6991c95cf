"""Pickles with the structure of NVlabs/edm's network files, made without its code, and what its code computes.

`importers/edm_golden.npz` holds numbers alone: for a few small networks the names and shapes of their weights, their
constructor arguments, what the original implementation returned for the inputs of `inputs` under the weights of
`weights`, and samples of its sampler.
"""

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ncdeploy.sampling.noise import normal

GOLDEN = Path(__file__).parent / "importers" / "edm_golden.npz"
SIGMAS = (0.002, 0.3, 5.0, 80.0)
SEEDS = (3, 4)


def layouts() -> dict[str, dict[str, Any]]:
    """Case -> {"outer", "inner": class names, "process", "arguments": settings, "weights": [[name, shape], ...]}."""
    with np.load(GOLDEN) as golden:
        return {
            name.removesuffix(".layout"): json.loads(golden[name].tobytes())
            for name in golden.files
            if name.endswith(".layout")
        }


def golden(case: str, what: str) -> np.ndarray:
    with np.load(GOLDEN) as archive:
        return archive[f"{case}.{what}"]


def weights(layout: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values for every weight, none of them zero or one, so that each is seen in the output."""
    rng = np.random.default_rng(0)
    values = {}
    for name, shape in sorted(layout["weights"]):
        draw = rng.standard_normal(shape)
        if name.endswith("freqs"):
            draw = 16 * draw
        elif len(shape) > 1:
            draw = draw / np.sqrt(np.prod(shape[1:]))
        else:
            draw = 0.3 * draw + ("norm" in name and name.endswith("weight"))
        values[name] = draw.astype(np.float32)
    return values


def inputs(num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """x [4, 3, 8, 8], sigma [4], and labels [4] that end in "no class", or None."""
    sigma = np.array(SIGMAS, np.float32)
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)) * np.sqrt(0.25 + sigma**2)[:, None, None, None]
    labels = np.array([0, 1, num_classes - 1, num_classes]) if num_classes else None
    return x.astype(np.float32), sigma, labels


def latents() -> np.ndarray:
    """The noise [2, 3, 8, 8] that our sampler starts from with SEEDS."""
    return normal(np, SEEDS, np.zeros((2, 1), np.int64), 192)[:, 0].reshape(2, 3, 8, 8).astype(np.float32)


class Layer(nn.Module):
    """Pickles itself as the original's persistence does: class name, source code and attributes, for one function."""

    def __init__(self, kind: str, source: str = "") -> None:
        super().__init__()
        self.__dict__.update(kind=kind, source=source, skip_scale=np.sqrt(0.5))

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.kind}
        return reconstruct(), ({**meta, "state": dict(self.__dict__)},), None


def reconstruct() -> Any:
    return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj


def network(layout: dict[str, Any], source: str = "", values: dict[str, np.ndarray] | None = None) -> Layer:
    """A tree of modules with the names of the original and seeded weights."""
    outer, inner = Layer(layout["outer"], source), Layer(layout["inner"], source)
    outer.__dict__.update(layout["process"])
    inner.__dict__.update(_init_args=(), _init_kwargs=dict(layout["arguments"]))
    outer.model = inner
    for name, value in (weights(layout) if values is None else values).items():
        *path, leaf = name.split(".")
        at: nn.Module = inner
        for step in path:
            if step not in at._modules:
                at.add_module(step, nn.ModuleDict() if step in ("enc", "dec") else Layer("Layer"))
            at = at._modules[step]  # type: ignore[assignment]
        tensor = torch.from_numpy(np.array(value))
        if leaf == "freqs":
            at.register_buffer(leaf, tensor)
        else:
            at.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    for level in inner.enc.children():  # type: ignore[union-attr]
        level.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))
    return outer


def dumps(value: Any, protocol: int | None = None) -> bytes:
    """`pickle.dumps`, with a stand-in for the module whose function the original's files name."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        exec(meta["module_src"])

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    package.persistence = module  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        return pickle.dumps(value, protocol)
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def tiny_layout() -> dict[str, Any]:
    """A DDPM++ of one level and a few hundred weights, for the tests that damage files."""
    width, noise = 4, 4
    block = {
        "norm0.weight": [4], "norm0.bias": [4], "conv0.weight": [4, 4, 3, 3], "conv0.bias": [4],
        "affine.weight": [4, width], "affine.bias": [4], "norm1.weight": [4], "norm1.bias": [4],
        "conv1.weight": [4, 4, 3, 3], "conv1.bias": [4],
    }  # fmt: skip
    attention = {
        "norm2.weight": [4], "norm2.bias": [4], "qkv.weight": [12, 4, 1, 1], "qkv.bias": [12],
        "proj.weight": [4, 4, 1, 1], "proj.bias": [4],
    }  # fmt: skip
    wide = {
        **block, "norm0.weight": [8], "norm0.bias": [8], "conv0.weight": [4, 8, 3, 3], "skip.weight": [4, 8, 1, 1],
        "skip.bias": [4],
    }  # fmt: skip
    parts = {
        "enc.4x4_block0": block, "dec.4x4_in0": {**block, **attention}, "dec.4x4_in1": block,
        "dec.4x4_block0": wide, "dec.4x4_block1": wide,
    }  # fmt: skip
    shapes = {
        "map_layer0.weight": [width, noise], "map_layer0.bias": [width], "map_layer1.weight": [width, width],
        "map_layer1.bias": [width], "enc.4x4_conv.weight": [4, 1, 3, 3], "enc.4x4_conv.bias": [4],
        "dec.4x4_aux_norm.weight": [4], "dec.4x4_aux_norm.bias": [4], "dec.4x4_aux_conv.weight": [1, 4, 3, 3],
        "dec.4x4_aux_conv.bias": [1],
    }  # fmt: skip
    shapes |= {f"{part}.{name}": shape for part, layers in parts.items() for name, shape in layers.items()}
    arguments = {
        "model_channels": 4, "channel_mult": [1], "channel_mult_emb": 1, "num_blocks": 1, "attn_resolutions": [],
        "dropout": 0.0, "img_resolution": 4,
    }  # fmt: skip
    process = {"img_resolution": 4, "img_channels": 1, "label_dim": 0, "sigma_data": 0.5}
    return {
        "outer": "EDMPrecond", "inner": "SongUNet", "process": process, "arguments": arguments,
        "weights": [list(item) for item in shapes.items()],
    }  # fmt: skip
