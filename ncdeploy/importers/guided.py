"""State dicts of improved- and guided-diffusion: a U-Net that predicts eps, known by the names of its weights.

The file holds tensors alone. Their shapes tell the architecture; what they cannot tell are the picture size, the
attention heads and the noise levels, which are options here as they are in those projects' own scripts.

A network with learned variance returns twice the channels. Its second half is dropped: D needs the mean alone, and
the solvers here have variances of their own.
"""

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.foreign.guided import GuidedUNet, GuidedUNetConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import VP, Prediction
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.foreign import LATENT, is_latent, names_in
from ncdeploy.importers.learned_variance import DROPPED
from ncdeploy.importers.weights import find_weights
from ncdeploy.modelinfo import ModelInfo

MARKS = (b"input_blocks.0.0.weight", b"middle_block.", b"output_blocks.", b"time_embed.")
NEEDED = (
    "input_blocks.0.0.weight", "input_blocks.1.0.emb_layers.1.weight", "output_blocks.0.0.in_layers.0.weight",
    "out.2.weight", "time_embed.0.weight",
)  # fmt: skip
_CLASSIFIER = "the noisy classifiers of that project have no output_blocks and are not denoisers"

RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "film": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "skip": "skip_connection",
}  # fmt: skip
ATTENTION = {"norm": "norm", "query_key_value": "qkv", "outer": "proj_out"}


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether the file looks like one, by the names in it; nothing of it is executed."""
    head = names_in(user_path(path))
    return all(mark in head for mark in MARKS) and not is_latent(head)


def load(
    path: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
    num_heads_upsample: int | None = None,
    num_head_channels: int | None = None,
    new_attention_order: bool = False,
    noise_schedule: str = "linear",
    diffusion_steps: int = 1000,
    rescale_timesteps: bool | None = None,
    predict_xstart: bool = False,
    clip_denoised: bool = True,
    key: str | None = None,
    strip: str | None = None,
) -> Denoiser:
    """The model of a state dict. The options bear the names of that project's scripts.

    image_size:          height and width; it must be said
    num_heads:           attention heads, 4 unless those scripts were told otherwise; this or the next must be said
    num_heads_upsample:  heads on the way up, where those scripts were told another number than num_heads
    num_head_channels:   channels per head, 64 in the published ImageNet models
    new_attention_order: queries, keys and values stand before heads in the weights
    noise_schedule:      "linear" or "cosine", with diffusion_steps steps
    rescale_timesteps:   steps were scaled to 0 .. 1000; must be said where there are not 1000 of them
    predict_xstart:      the network predicts x0 instead of eps
    clip_denoised:       cut D to [-1, 1], as those samplers do unless told otherwise
    key, strip:          where the weights stand, and the prefix of their names; see `find_weights`

    Classes are 0 .. n - 1 and none is "unconditional", because these networks saw a class with every sample.

    Raises FileError for a file that is damaged, holds anything but tensors or is another network; InputError for
    options that are missing or impossible.
    """
    if image_size is None:
        raise InputError(f"{path}: does not say how large its pictures are; give --image-size, such as 64")
    if (num_heads is None) == (num_head_channels is None):
        raise InputError(
            f"{path}: does not say how its attention is split; give either --num-heads (4 by default in that project) "
            "or --num-head-channels (64 in its published ImageNet models)"
        )
    if num_heads_upsample is not None and (num_heads is None or num_heads_upsample < 1):
        raise InputError(f"num-heads-upsample: got {num_heads_upsample}, expected at least 1, beside --num-heads")
    table = noise_table(noise_schedule, diffusion_steps)
    if rescale_timesteps is None and diffusion_steps != 1000:
        raise InputError(
            f"{path}: with {diffusion_steps} steps, give --rescale-timesteps (the default of improved-diffusion) or "
            "--keep-timesteps (that of guided-diffusion)"
        )
    if is_latent(names_in(user_path(path))):
        raise FileError(f"{path}: is {LATENT}")
    weights, notes = read(path, key=key, strip=strip)
    try:
        config = read_config(
            weights, heads=num_heads or 0, head_width=num_head_channels or 0,
            heads_up=num_heads_upsample if num_heads_upsample and num_heads_upsample != num_heads else 0,
            time_scale=1000 / diffusion_steps if rescale_timesteps else 1.0,
        )  # fmt: skip
    except InputError as e:  # of a setting that was read off the shapes, or does not go with them
        raise FileError(f"{path}: {e}") from e
    channels = weights["input_blocks.0.0.weight"].shape[1]
    num_classes = len(weights["label_emb.weight"]) if "label_emb.weight" in weights else 0
    shape = (channels, image_size, image_size)
    config.check(shape)
    with without_memory(len(weights)):  # what a damaged file claims must not be allocated before it is checked
        wanted = GuidedUNet(shape, config, num_classes).state_dict()
    ours = convert(path, weights, wanted, config, legacy_order=not new_attention_order)
    with torch.random.fork_rng(devices=[]):  # initial weights, replaced below, must not disturb the caller
        network = GuidedUNet(shape, config, num_classes)
    network.load_state_dict(ours)
    levels = table.sigmas()
    info = ModelInfo(
        shape=shape,
        sigma_min=float(levels[0]),
        sigma_max=float(levels[-1]),
        sigma_data=0.5,
        num_classes=num_classes,
        unconditional=num_classes == 0,
        offset=127.5,
        scale=127.5,
        default_plan=table.plan(solver="ddim", steps=50),
    )
    predicts: Prediction = "x0" if predict_xstart else "eps"
    denoiser = VP(network, info, predicts=predicts, table=table, clip=1.0 if clip_denoised else None)
    if len(weights["out.2.weight"]) == 2 * channels:
        notes += (DROPPED,)
    denoiser.notes = notes
    return denoiser.eval()


def noise_table(schedule: str, steps: int) -> NoiseTable:
    """ "linear" or "cosine" in so many steps; beta of the linear one shrinks as the steps grow from 1000."""
    if schedule not in ("linear", "cosine"):
        raise InputError(f"noise_schedule: got {schedule!r}, expected linear or cosine")
    if not 25 <= steps <= 100_000:  # below, beta of the linear schedule comes near 1
        raise InputError(f"diffusion_steps: got {steps}, expected 25 to 100000")
    if schedule == "cosine":
        return NoiseTable.cosine(steps)
    return NoiseTable.linear(steps, beta_start=0.1 / steps, beta_end=20 / steps)


def read(
    path: str | os.PathLike[str], *, key: str | None = None, strip: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Names and tensors, in float32, on the CPU, and what is to be said. Raises as `find_weights` does."""
    found, notes = find_weights(path, NEEDED, key=key, strip=strip)
    for name, tensor in found.items():
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.ndim == 0:
            raise FileError(f"{path}: {name[:80]!r} is not a tensor of numbers; expected the weights of a U-Net")
    for name in NEEDED:
        if name not in found:
            raise FileError(f"{path}: has no {name}, so it is not a U-Net of guided-diffusion; {_CLASSIFIER}")
    return {name: tensor.float() for name, tensor in found.items()}, notes


def read_config(
    weights: Mapping[str, Tensor], *, heads: int, head_width: int, time_scale: float, heads_up: int = 0
) -> GuidedUNetConfig:
    """The architecture, off names and shapes. Raises InputError where they do not fit together."""
    first, last = weights["input_blocks.0.0.weight"], weights["out.2.weight"]
    if first.ndim != 4 or last.ndim != 4 or weights["time_embed.0.weight"].ndim != 2:
        raise InputError("the weights do not have the ranks of a network for pictures")
    channels, outputs = first.shape[1], len(last)
    if (channels, outputs) in ((6, 3), (6, 6)):
        raise InputError("is a super-resolution network, which needs a small picture beside x; not supported")
    if outputs not in (channels, 2 * channels):
        raise InputError(f"takes {channels} channels and returns {outputs}; expected as many, or twice with a variance")
    stages = 1 + max(int(m[1]) for name in weights if (m := re.match(r"output_blocks\.(\d{1,4})\.", name)))
    grown = [name for name in weights if re.match(r"output_blocks\.\d+\.[12]\.(conv|in_layers\.0)\.weight$", name)]
    seen = {int(m[1]) for name in weights if (m := re.match(r"input_blocks\.(\d{1,4})\.", name))}
    pooled = max(seen) + 1 - len(seen)  # averaging has no weights
    resampling = "residual" if any("in_layers" in name for name in grown) else "convolution" if grown else "plain"
    levels = 1 + (len(grown) or pooled)
    blocks = stages // levels - 1
    widths, attention = [], []
    for level in range(levels):
        here = f"input_blocks.{1 + level * (blocks + 1)}"
        if stages % levels or stages > len(weights) or f"{here}.0.out_layers.3.weight" not in weights:
            raise InputError(f"{stages} blocks cannot be shared among {levels} levels; the weights are incomplete")
        widths.append(len(weights[f"{here}.0.out_layers.3.weight"]))
        if f"{here}.1.qkv.weight" in weights:
            attention.append(level)
    film = weights["input_blocks.1.0.emb_layers.1.weight"]
    return GuidedUNetConfig(
        channels=weights["time_embed.0.weight"].shape[1],
        widths=tuple(widths),
        blocks=blocks,
        attention=tuple(attention),
        heads=heads,
        heads_up=heads_up,
        head_width=head_width,
        scale_shift=len(film) == 2 * widths[0],
        resampling=resampling,  # type: ignore[arg-type]  # one of the three above
        time_scale=time_scale,
    )


def convert(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    config: GuidedUNetConfig,
    *,
    legacy_order: bool,
) -> dict[str, Tensor]:
    """Our names and shapes from theirs. Raises FileError if a weight is missing, left over or of another shape.

    legacy_order: attention weights stand as heads x (queries, keys, values); ours are (queries, keys, values) x heads
    """
    names, left = module_names(config), set(weights)
    ours: dict[str, Tensor] = {}
    for name, like in wanted.items():
        module, _, leaf = name.rpartition(".")
        theirs = f"{names[module]}.{leaf}"
        if theirs not in weights:
            raise FileError(f"{path}: has no weight {theirs}; it is incomplete, or another network")
        tensor = weights[theirs]
        left.discard(theirs)
        if module == "outer":
            tensor = tensor[: len(like)]  # the rest is the variance
        if ".attention." in module and leaf == "weight" and tensor.ndim == 3:
            tensor = tensor[..., None]  # one-dimensional convolutions of theirs
        if tensor.shape != like.shape:
            raise FileError(
                f"{path}: {theirs} has shape {tuple(weights[theirs].shape)}, which does not go with {tuple(like.shape)}"
            )
        if legacy_order and module.endswith("query_key_value"):
            width = len(tensor) // 3
            up = config.heads_up if module.startswith("up.") else 0
            heads = up or config.heads or width // config.head_width
            tensor = tensor.reshape(heads, 3, width // heads, -1).transpose(0, 1).reshape(like.shape)
        ours[name] = tensor.clone()
    if left:
        raise FileError(f"{path}: has {len(left)} weights that its network does not need, such as {min(left)[:80]}")
    return ours


def module_names(config: GuidedUNetConfig) -> dict[str, str]:
    """Our modules -> theirs. They count every block of a half of the U; ours stand in four lists."""
    names = {
        "embedding.first": "time_embed.0", "embedding.second": "time_embed.2", "embedding.label": "label_emb",
        "inner": "input_blocks.0.0", "norm": "out.0", "outer": "out.2",
    }  # fmt: skip

    def add(ours: str, theirs: str, parts: Mapping[str, str]) -> None:
        names.update({f"{ours}.{mine}": f"{theirs}.{other}" for mine, other in parts.items()})

    def add_stage(ours: str, theirs: str) -> None:
        add(f"{ours}.residual", f"{theirs}.0", RESIDUAL)
        add(f"{ours}.attention", f"{theirs}.1", ATTENTION)

    levels, blocks = len(config.widths), config.blocks
    add_stage("middle", "middle_block")
    add("middle_end", "middle_block.2", RESIDUAL)
    for index in range(levels * blocks):
        level, block = divmod(index, blocks)
        add_stage(f"down.{index}", f"input_blocks.{1 + level * (blocks + 1) + block}")
    for index in range(levels * (blocks + 1)):
        add_stage(f"up.{index}", f"output_blocks.{index}")
    residual = config.resampling == "residual"
    for step in range(levels - 1):
        end = (step + 1) * (blocks + 1)
        add(f"shrink.{step}", f"input_blocks.{end}.0", RESIDUAL if residual else {"conv": "op"})
        behind = 2 if levels - 1 - step in config.attention else 1
        add(f"grow.{step}", f"output_blocks.{end - 1}.{behind}", RESIDUAL if residual else {"conv": "conv"})
    return names
