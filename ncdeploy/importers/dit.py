"""State dicts of DiT (facebookresearch/DiT) and SiT (willisma/SiT): one network, whose files look alike.

DiT predicts eps on the linear schedule of 1000 steps, SiT the velocity data - noise along straight paths, at a time
that is 1 at data. Nothing in a file says which it is, so `predicts` must. A checkpoint of training holds `ema` beside
`model`; the averaged weights are taken.
"""

import math
import os
import re
from collections.abc import Mapping

from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.flow import Flow
from ncdeploy.denoisers.foreign.dit import DiT, DiTConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import VP
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.foreign import names_in
from ncdeploy.importers.learned_variance import DROPPED
from ncdeploy.importers.module import FLOW_RANGE
from ncdeploy.importers.weights import filled, find_weights
from ncdeploy.modelinfo import ModelInfo

NEEDED = (
    "x_embedder.proj.weight", "pos_embed", "y_embedder.embedding_table.weight", "blocks.0.attn.qkv.weight",
    "blocks.0.mlp.fc1.weight", "final_layer.linear.weight",
)  # fmt: skip
HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}  # of the sizes XL, L, B and S
PREDICTS = ("eps", "flow-to-data")
LATENTS = (
    "samples are latents of the autoencoder that it was trained with, which is not in the file (of published models "
    "x / 0.18215 is what Stable Diffusion's decodes)"
)
NO_CLASS = "the last row of its table of classes is taken for 'no class', as both projects train it"
GUIDES_THREE = "DiT's own scripts guide three of the channels of a latent; --guidance guides all"


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether the file looks like one, by the names in it; nothing of it is executed."""
    head = names_in(user_path(path))
    return all(name.encode() in head for name in NEEDED)


def load(
    path: str | os.PathLike[str],
    *,
    predicts: str | None = None,
    num_heads: int | None = None,
    key: str | None = None,
    strip: str | None = None,
) -> Denoiser:
    """The model of a state dict.

    predicts:   "eps" for DiT, "flow-to-data" for SiT trained with its defaults (velocity, linear path)
    num_heads:  attention heads; None = those of the published sizes
    key, strip: where the weights stand, and the prefix of their names; see `find_weights`

    Raises InputError for options that are missing or do not fit, FileError for a file that is damaged or holds another
    network.
    """
    if predicts not in PREDICTS:
        raise InputError(
            f"predicts: got {predicts!r}; files of DiT and SiT look alike and are trained differently: give "
            "--predicts eps for DiT, --predicts flow-to-data for SiT"
        )
    weights, notes = find_weights(path, NEEDED, key=key, strip=strip)
    shape, classes, config = _architecture(path, weights, num_heads)
    try:
        network = filled(lambda: DiT(shape, config, classes), weights, path)
    except InputError as e:
        raise FileError(f"{path}: {e}") from e
    table = NoiseTable.linear()
    sigmas = table.sigmas()
    flows = predicts != "eps"
    low, high = FLOW_RANGE if flows else (float(sigmas[0]), float(sigmas[-1]))
    info = ModelInfo(
        shape=shape,
        sigma_min=low,
        sigma_max=high,
        sigma_data=1.0,
        num_classes=classes,
        default_plan={"solver": "ddim", "steps": 50, "schedule": "flow"} if flows else table.plan(),
    )
    denoiser: Denoiser
    if flows:
        denoiser = Flow(network, info, towards="data", noise="time01-reversed")
    else:
        denoiser = VP(network, info, predicts="eps", table=table)
    dropped = (DROPPED,) if config.outputs == 2 * shape[0] else ()
    denoiser.notes = (*notes, *dropped, LATENTS, NO_CLASS, *(() if flows else (GUIDES_THREE,)))
    return denoiser.eval()


def _architecture(
    path: str | os.PathLike[str], weights: Mapping[str, Tensor], num_heads: int | None
) -> tuple[tuple[int, ...], int, DiTConfig]:
    """Shape of a sample, classes and settings, off the shapes of weights; sides of a picture are equal."""
    for name in NEEDED:
        if name not in weights:
            raise FileError(f"{path}: has no {name}, so it is no network of DiT or SiT")
    first, places, last = (weights[name] for name in (NEEDED[0], NEEDED[1], NEEDED[5]))
    table, inner = weights[NEEDED[2]], weights[NEEDED[4]]
    if (first.ndim, places.ndim, table.ndim, inner.ndim, last.ndim) != (4, 3, 2, 2, 2):
        raise FileError(f"{path}: its weights do not have the ranks of such a network")
    width, channels, patch = first.shape[:3]
    side = math.isqrt(places.shape[1])
    if side * side != places.shape[1] or not patch or len(last) % (patch * patch) or len(table) < 2:
        raise FileError(f"{path}: pos_embed, final_layer and y_embedder do not fit each other; they are incomplete")
    if num_heads is None and width not in HEADS:
        raise InputError(f"num-heads: {path} does not say how its attention is split; give --num-heads")
    depth = 1 + max(int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d{1,4})\.", name)))
    try:
        config = DiTConfig(
            width=width, depth=depth, heads=HEADS[width] if num_heads is None else num_heads, patch=patch,
            inner=len(inner), outputs=len(last) // (patch * patch),
        )  # fmt: skip
    except InputError as e:
        raise e if num_heads is not None else FileError(f"{path}: {e}") from e
    return (channels, side * patch, side * patch), len(table) - 1, config
