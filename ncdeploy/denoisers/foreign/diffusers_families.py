"""Networks of diffusers that take conditions, are transformers, or have one axis: what each takes and how it is asked.

A network is made by diffusers from its own settings. Its conditions have the names that diffusers' pipelines give
them, because what a pipeline's `encode_prompt` returns is what goes in.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ncdeploy.errors import InputError
from ncdeploy.ports import Condition

PROMPT, POOLED, MASK = "prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask"
TIME_IDS, SCALE = "time_ids", "guidance_scale"
FROM_TEXT = (PROMPT, POOLED, MASK)  # what an empty prompt gives other values of
Sizes = Mapping[str, int]
Given = Mapping[str, Tensor]


class Family(ABC):
    """One class of networks.

    model: its name in diffusers
    time:  what it is told of the noise level, see `ncdeploy.denoisers.told`, of flow matching `Flow`
    only:  settings -> the values that are known to have no meaning beyond the architecture
    """

    model: str
    time: Literal["step", "time01", "time1000"] = "step"
    only: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def flows(self) -> bool:
        """Whether it is trained by flow matching."""
        return self.time != "step"

    def channels(self, settings: Mapping[str, Any]) -> tuple[int, int]:
        """Of a sample, and that the network returns for it: as many, or twice with a learned variance."""
        channels = settings["in_channels"]
        returned = settings.get("out_channels")
        return channels, channels if returned is None else returned

    def classes(self, settings: Mapping[str, Any]) -> int:
        """Classes that it takes as labels, beside one for "no class"."""
        return 0

    def patch(self, settings: Mapping[str, Any]) -> int:
        """Side of what a transformer sees as one token; 1 for other networks."""
        return 1

    def conditions(self, settings: Mapping[str, Any], sizes: Sizes) -> tuple[Condition, ...]:
        """What it takes. sizes: "tokens" of a prompt, "time_ids" of SDXL's picture sizes."""
        return ()

    def check(self, settings: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        """Raise InputError for settings that give the inputs another meaning, and for samples of another shape."""
        for name, values in self.only:
            if settings.get(name) not in values:
                known = " or ".join(map(repr, values))
                raise InputError(f"{name}: got {settings.get(name)!r:.60}, expected {known}; others are not supported")
        channels, returned = self.channels(settings)
        if len(shape) != self.axes or shape[0] != channels or returned not in (channels, 2 * channels):
            raise InputError(
                f"channels: {self.model} takes {channels} and returns {returned} for samples of shape {shape}; "
                "expected as many as a sample has, or twice with a learned variance (no inpainting or upscaling)"
            )
        patch = self.patch(settings)
        if any(side % patch for side in shape[1:]):
            raise InputError(f"shape: got {shape}, expected sides divisible by {patch}, a patch of the transformer")

    axes: int = 3

    @abstractmethod
    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        """x [B, *shape], noise [B], conditions one a row -> output."""


class TextUNet(Family):
    """UNet2DConditionModel, of Stable Diffusion 1, 2 and XL."""

    model = "UNet2DConditionModel"
    only = (
        ("class_embed_type", (None,)), ("num_class_embeds", (None,)), ("time_cond_proj_dim", (None,)),
        ("addition_embed_type", (None, "text_time")), ("encoder_hid_dim_type", (None, "text_proj")),
        ("time_embedding_type", (None, "positional")), ("attention_type", (None, "default")),
    )  # fmt: skip

    def conditions(self, settings: Mapping[str, Any], sizes: Sizes) -> tuple[Condition, ...]:
        width = settings.get("encoder_hid_dim") or settings.get("cross_attention_dim", 1280)
        widths = {width} if isinstance(width, int) else set(width)
        if len(widths) != 1:
            raise InputError(f"cross_attention_dim: got {width!r:.60}, expected one width for all levels")
        prompt = _prompt(sizes, widths.pop())
        if settings.get("addition_embed_type") is None:
            return (prompt,)
        ids = sizes.get("time_ids", 6)
        pooled = settings["projection_class_embeddings_input_dim"] - ids * settings["addition_time_embed_dim"]
        return prompt, _real(POOLED, pooled), _real(TIME_IDS, ids)

    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        added = {"text_embeds": given[POOLED], "time_ids": given[TIME_IDS]} if POOLED in given else None
        return model(x, noise, given[PROMPT], added_cond_kwargs=added)


class SD3(Family):
    """SD3Transformer2DModel, of Stable Diffusion 3 and 3.5."""

    model, time = "SD3Transformer2DModel", "time1000"

    def conditions(self, settings: Mapping[str, Any], sizes: Sizes) -> tuple[Condition, ...]:
        prompt = _prompt(sizes, settings.get("joint_attention_dim", 4096))
        return prompt, _real(POOLED, settings.get("pooled_projection_dim", 2048))

    def patch(self, settings: Mapping[str, Any]) -> int:
        return int(settings.get("patch_size", 2))

    def check(self, settings: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        super().check(settings, shape)
        most = settings.get("pos_embed_max_size", 96) * self.patch(settings)
        if max(shape[1:]) > most:
            raise InputError(f"shape: got {shape}, expected sides of at most {most}, its table of places")

    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        return model(x, given[PROMPT], given[POOLED], noise)


class Flux(Family):
    """FluxTransformer2DModel. It sees latents in patches of 2 x 2, one token each."""

    model, time = "FluxTransformer2DModel", "time01"
    only = (("patch_size", (None, 1)),)

    def channels(self, settings: Mapping[str, Any]) -> tuple[int, int]:
        packed, returned = super().channels(settings)
        return packed // 4, returned // 4

    def conditions(self, settings: Mapping[str, Any], sizes: Sizes) -> tuple[Condition, ...]:
        prompt = _prompt(sizes, settings.get("joint_attention_dim", 4096))
        pooled = _real(POOLED, settings.get("pooled_projection_dim", 768))
        distilled = (Condition(name=SCALE, dtype="float32", shape=()),) if settings.get("guidance_embeds") else ()
        return prompt, pooled, *distilled

    def patch(self, settings: Mapping[str, Any]) -> int:
        return 2

    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        h, w = x.shape[2] // 2, x.shape[3] // 2
        packed = x.unflatten(2, (h, 2)).unflatten(4, (w, 2)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        places = torch.zeros(h, w, 3, dtype=x.dtype, device=x.device)
        places[..., 1] = torch.arange(h, device=x.device)[:, None]
        places[..., 2] = torch.arange(w, device=x.device)
        output = model(
            packed, given[PROMPT], given[POOLED], noise, places.flatten(0, 1),
            torch.zeros(given[PROMPT].shape[1], 3, dtype=x.dtype, device=x.device), given.get(SCALE),
            return_dict=False,
        )[0]  # fmt: skip
        patches = output.unflatten(2, (-1, 2, 2)).unflatten(1, (h, w))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class DiT(Family):
    """DiTTransformer2DModel, told a class."""

    model = "DiTTransformer2DModel"

    def classes(self, settings: Mapping[str, Any]) -> int:
        return int(settings.get("num_embeds_ada_norm", 1000))

    def patch(self, settings: Mapping[str, Any]) -> int:
        return int(settings.get("patch_size", 2))

    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        return model(x, noise, labels)


class PixArt(Family):
    """PixArtTransformer2DModel, of PixArt-alpha and -sigma. Those of 1024 pixels are told the picture's size."""

    model = "PixArtTransformer2DModel"
    only = (("attention_type", (None, "default")),)

    def conditions(self, settings: Mapping[str, Any], sizes: Sizes) -> tuple[Condition, ...]:
        width = settings.get("caption_channels")
        if width is None:
            raise InputError("caption_channels: is not given, but a model of prompts has them")
        prompt = _prompt(sizes, width)
        return prompt, Condition(name=MASK, dtype="int64", shape=prompt.shape[:1])

    def patch(self, settings: Mapping[str, Any]) -> int:
        return int(settings.get("patch_size", 2))

    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if model.use_additional_conditions:
            h, w = (PIXELS * n for n in x.shape[2:])
            added = {"resolution": x.new_tensor([[h, w]]).expand(x.shape[0], -1)}
            added["aspect_ratio"] = x.new_tensor([[h / w]]).expand(x.shape[0], -1)
        mask = given[MASK].reshape(x.shape[0], -1)  # says that there are as many rows, which the exporter cannot know
        return model(x, given[PROMPT], noise, added, encoder_attention_mask=mask)


class UNet1D(Family):
    """UNet1DModel with training steps: sequences (channels, length)."""

    model, axes = "UNet1DModel", 2
    only = (("time_embedding_type", ("positional",)), ("extra_in_channels", (None, 0)))

    def check(self, settings: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        super().check(settings, shape)
        if settings.get("out_block_type") == "ValueFunction":
            raise InputError("out_block_type: is ValueFunction, which judges a sample; expected a denoiser")

    def ask(self, model: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, given: Given) -> Any:
        return model(x, noise)


FAMILIES: dict[str, Family] = {
    family.model: family for family in (TextUNet(), SD3(), Flux(), DiT(), PixArt(), UNet1D())
}
PIXELS = 8  # of a picture's side for one of its latent, which PixArt's pipelines take for granted


def taken(family: Family, settings: Mapping[str, Any], given: Sequence[Condition]) -> tuple[Condition, ...]:
    """What a network takes, with the sizes that `given` has. Raises InputError where they do not fit each other."""
    shapes = {condition.name: condition.shape for condition in given}
    sizes = {"tokens": shapes.get(PROMPT, (1,))[0], "time_ids": shapes.get(TIME_IDS, (1,))[0]}
    wanted = family.conditions(settings, sizes)
    if [(c.name, c.dtype, c.shape) for c in wanted] != [(c.name, c.dtype, c.shape) for c in given]:
        takes = ", ".join(condition.describe() for condition in wanted) or "none"
        raise InputError(f"conditions: {family.model} with these settings takes {takes}")
    return wanted


def _prompt(sizes: Sizes, width: int) -> Condition:
    return Condition(name=PROMPT, dtype="float32", shape=(sizes["tokens"], width))


def _real(name: str, width: int) -> Condition:
    return Condition(name=name, dtype="float32", shape=(width,))
