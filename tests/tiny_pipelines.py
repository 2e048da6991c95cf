"""Pipelines of diffusers at random initial weights, tiny, and what they make of given embeddings and noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as d
import torch
from torch import Tensor

SIDE, TOKENS, WIDTH, POOLED = 8, 5, 16, 12
LEADING = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
NO_PARTS = {
    "StableDiffusionPipeline": ("text_encoder", "tokenizer", "safety_checker", "feature_extractor"),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    "StableDiffusion3Pipeline": (
        "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3",
    ),
    "FluxPipeline": ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    "PixArtAlphaPipeline": ("text_encoder", "tokenizer"),
    "PixArtSigmaPipeline": ("text_encoder", "tokenizer"),
}  # fmt: skip
UNET: dict[str, Any] = {
    "sample_size": SIDE, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": WIDTH,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}


def vae(**settings: Any) -> Any:
    return d.AutoencoderKL(
        **{"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4, **settings}
    )


def stable_diffusion(**settings: Any) -> Any:
    ddim = d.DDIMScheduler(**{**LEADING, "clip_sample": False, "set_alpha_to_one": False, **settings})
    parts = dict.fromkeys(NO_PARTS["StableDiffusionPipeline"])
    unet = d.UNet2DConditionModel(**UNET)
    return d.StableDiffusionPipeline(vae=vae(), unet=unet, scheduler=ddim, **parts, requires_safety_checker=False)


def xl() -> Any:
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    unet = d.UNet2DConditionModel(**UNET, **more, projection_class_embeddings_input_dim=POOLED + 6 * 4)
    euler = d.EulerDiscreteScheduler(**LEADING, timestep_spacing="leading")
    means = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.1, 0.9, 1.0, 1.2]}
    parts = dict.fromkeys(NO_PARTS["StableDiffusionXLPipeline"])
    return d.StableDiffusionXLPipeline(
        vae=vae(**means), unet=unet, scheduler=euler, **parts, force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )  # fmt: skip


def sd3(**settings: Any) -> Any:
    transformer = d.SD3Transformer2DModel(
        **HEADS, sample_size=SIDE, in_channels=4, out_channels=4, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pooled_projection_dim=POOLED, pos_embed_max_size=6, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **settings})
    parts = dict.fromkeys(NO_PARTS["StableDiffusion3Pipeline"])
    decoder = vae(scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    return d.StableDiffusion3Pipeline(vae=decoder, transformer=transformer, scheduler=scheduler, **parts)


def flux(*, distilled: bool = True) -> Any:
    transformer = d.FluxTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1, in_channels=16,
        joint_attention_dim=WIDTH, pooled_projection_dim=POOLED, guidance_embeds=distilled, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    parts = dict.fromkeys(NO_PARTS["FluxPipeline"])
    decoder = vae(scaling_factor=0.36, shift_factor=0.12)
    return d.FluxPipeline(vae=decoder, transformer=transformer, scheduler=scheduler, **parts)


def dit() -> Any:
    transformer = d.DiTTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, sample_size=SIDE, num_embeds_ada_norm=1000
    )  # fmt: skip
    with torch.no_grad():  # it begins with outputs of zero
        for parameter in transformer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return d.DiTPipeline(transformer=transformer, vae=vae(), scheduler=d.DDIMScheduler(clip_sample=False))


def pixart(*, large: bool = False) -> Any:
    transformer = d.PixArtTransformer2DModel(
        **{**HEADS, "attention_head_dim": 12}, in_channels=4, out_channels=8, sample_size=SIDE, cross_attention_dim=24,
        caption_channels=WIDTH, use_additional_conditions=large,
    )  # fmt: skip
    scheduler = d.DDIMScheduler(clip_sample=False)
    parts = dict.fromkeys(NO_PARTS["PixArtAlphaPipeline"])
    return d.PixArtAlphaPipeline(vae=vae(), transformer=transformer, scheduler=scheduler, **parts)


MAKERS: dict[str, Callable[[], Any]] = {
    "SD": stable_diffusion, "SDXL": xl, "SD3": sd3, "Flux": flux, "DiT": dit, "PixArt": pixart,
}  # fmt: skip


def make(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pipeline = MAKERS[name]()
    for part in (pipeline.vae, getattr(pipeline, "unet", None) or pipeline.transformer):
        part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write(pipeline: Any, folder: Path, **how: Any) -> Path:
    pipeline.save_pretrained(folder, **how)
    return folder


def embeddings(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Of n prompts, by the names of all pipelines' arguments; every family takes some of them."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(TOKENS)[None] < torch.tensor([3, 5, 2, 4])[:n, None]
    return {
        "prompt_embeds": torch.randn(n, TOKENS, WIDTH, generator=generator),
        "pooled_prompt_embeds": torch.randn(n, POOLED, generator=generator),
        "prompt_attention_mask": mask.long(),
        "time_ids": torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]] * n).float(),
        "guidance_scale": torch.full((n,), 3.5),
    }
