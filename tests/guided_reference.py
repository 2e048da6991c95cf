"""The U-Net of guided-diffusion as one function of a state dict, and state dicts to try it on.

It follows the names alone: what a block does is decided by which weights it has. Nothing of it is shared with the
network under test.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

Weights = dict[str, Tensor]


def evaluate(
    w: Weights, x: Tensor, t: Tensor, y: Tensor | None = None, *,
    heads: int = 0, head_width: int = 0, new_order: bool = False, heads_up: int = 0,
) -> Tensor:  # fmt: skip
    """The output, learned variance included, in the dtype of x."""
    w = {name: tensor.to(x.dtype) for name, tensor in w.items()}
    half = w["time_embed.0.weight"].shape[1] // 2
    phase = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half).to(x.dtype)
    emb = linear(w, "time_embed.0", torch.cat([phase.cos(), phase.sin()], 1))
    emb = linear(w, "time_embed.2", fn.silu(emb))
    if y is not None:
        emb = emb + w["label_emb.weight"][y]

    def has(name: str) -> bool:
        return any(key.startswith(name + ".") for key in w)

    def attend(name: str, h: Tensor) -> Tensor:
        B, C = h.shape[:2]
        n = (name.startswith("output_blocks") and heads_up) or heads or C // head_width
        qkv = conv(w, f"{name}.qkv", norm(w, f"{name}.norm", h).flatten(2))  # (B, 3 C, T)
        split = qkv.reshape(B, 3, n, C // n, -1) if new_order else qkv.reshape(B, n, 3, C // n, -1)
        q, k, v = split.unbind(1 if new_order else 2)
        weight = torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(C // n)
        mixed = torch.einsum("bhts,bhcs->bhct", weight.softmax(-1), v).reshape(B, C, -1)
        return h + conv(w, f"{name}.proj_out", mixed).reshape(h.shape)

    def residual(name: str, h: Tensor, resize: Any = lambda a: a) -> Tensor:
        inner = conv(w, f"{name}.in_layers.2", resize(fn.silu(norm(w, f"{name}.in_layers.0", h))), 1)
        add = linear(w, f"{name}.emb_layers.1", fn.silu(emb))[:, :, None, None]
        if add.shape[1] == 2 * inner.shape[1]:
            scale, shift = add.chunk(2, 1)
            inner = norm(w, f"{name}.out_layers.0", inner) * (1 + scale) + shift
        else:
            inner = norm(w, f"{name}.out_layers.0", inner + add)
        shortcut = resize(h)
        if has(f"{name}.skip_connection"):
            shortcut = conv(w, f"{name}.skip_connection", shortcut)
        return shortcut + conv(w, f"{name}.out_layers.3", fn.silu(inner), 1)

    skips = [conv(w, "input_blocks.0.0", x, 1)]
    last = max(int(key.split(".")[1]) for key in w if key.startswith("input_blocks."))
    stages = 1 + max(int(key.split(".")[1]) for key in w if key.startswith("output_blocks."))
    enlarging = [f"{j}.{part}" for j in (1, 2) for part in ("conv", "in_layers")]
    ups = [i for i in range(stages) if any(has(f"output_blocks.{i}.{end}") for end in enlarging)]
    per_level = ups[0] + 1 if ups else None
    if per_level is None:
        gaps = [i for i in range(1, last) if not has(f"input_blocks.{i}")]
        per_level = gaps[0] if gaps else stages
    h = skips[0]
    for i in range(1, last + 1):
        name = f"input_blocks.{i}"
        if i % per_level == 0:
            if has(f"{name}.0.op"):
                h = fn.conv2d(h, w[f"{name}.0.op.weight"], w[f"{name}.0.op.bias"], stride=2, padding=1)
            elif has(f"{name}.0"):
                h = residual(f"{name}.0", h, lambda a: fn.avg_pool2d(a, 2))
            else:
                h = fn.avg_pool2d(h, 2)
        else:
            h = residual(f"{name}.0", h)
            h = attend(f"{name}.1", h) if has(f"{name}.1") else h
        skips.append(h)
    h = residual("middle_block.2", attend("middle_block.1", residual("middle_block.0", h)))
    for i in range(stages):
        name = f"output_blocks.{i}"
        h = residual(f"{name}.0", torch.cat([h, skips.pop()], 1))
        h = attend(f"{name}.1", h) if has(f"{name}.1.qkv") else h
        if (i + 1) % per_level == 0 and i + 1 < stages:
            end = f"{name}.2" if has(f"{name}.1.qkv") else f"{name}.1"
            if has(f"{end}.in_layers"):
                h = residual(end, h, double)
            else:
                h = conv(w, f"{end}.conv", double(h), 1) if has(end) else double(h)
    return conv(w, "out.2", fn.silu(norm(w, "out.0", h)), 1)


def double(a: Tensor) -> Tensor:
    return a.repeat_interleave(2, -1).repeat_interleave(2, -2)


def linear(w: Weights, name: str, h: Tensor) -> Tensor:
    return fn.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w: Weights, name: str, h: Tensor) -> Tensor:
    return fn.group_norm(h, 32, w[f"{name}.weight"], w[f"{name}.bias"])


def conv(w: Weights, name: str, h: Tensor, padding: int = 0) -> Tensor:
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return fn.conv1d(h, weight, bias) if weight.ndim == 3 else fn.conv2d(h, weight, bias, padding=padding)


def state_dict(
    *, channels: int = 32, widths: tuple[int, ...] = (32, 64), blocks: int = 1, attention: tuple[int, ...] = (1,),
    scale_shift: bool = True, resampling: str = "convolution", classes: int = 0, learned: bool = False,
    picture: int = 3, seed: int = 0,
) -> Weights:  # fmt: skip
    """Random weights under the names and in the shapes of that project."""
    g = torch.Generator().manual_seed(seed)
    w: Weights = {}
    wide = 4 * channels

    def put(name: str, out: int, *rest: int) -> None:
        fan = max(1, math.prod(rest))
        w[f"{name}.weight"] = torch.randn(out, *rest, generator=g) / math.sqrt(fan) + (0.0 if rest else 1.0)
        w[f"{name}.bias"] = 0.1 * torch.randn(out, generator=g)

    def residual(name: str, before: int, after: int) -> None:
        put(f"{name}.in_layers.0", before)
        put(f"{name}.in_layers.2", after, before, 3, 3)
        put(f"{name}.emb_layers.1", after * (1 + scale_shift), wide)
        put(f"{name}.out_layers.0", after)
        put(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            put(f"{name}.skip_connection", after, before, 1, 1)

    def attend(name: str, width: int) -> None:
        put(f"{name}.norm", width)
        put(f"{name}.qkv", 3 * width, width, 1)
        put(f"{name}.proj_out", width, width, 1)

    def resize(name: str, width: int, leaf: str) -> None:
        if resampling == "residual":
            residual(name, width, width)
        elif resampling == "convolution":
            put(f"{name}.{leaf}", width, width, 3, 3)

    put("time_embed.0", wide, channels)
    put("time_embed.2", wide, wide)
    if classes:
        w["label_emb.weight"] = torch.randn(classes, wide, generator=g)
    put("input_blocks.0.0", widths[0], picture, 3, 3)
    now, skips, i = widths[0], [widths[0]], 1
    for level, width in enumerate(widths):
        for _ in range(blocks):
            residual(f"input_blocks.{i}.0", now, width)
            if level in attention:
                attend(f"input_blocks.{i}.1", width)
            now, i = width, i + 1
            skips.append(now)
        if level + 1 < len(widths):
            resize(f"input_blocks.{i}.0", now, "op")
            i += 1
            skips.append(now)
    residual("middle_block.0", now, now)
    attend("middle_block.1", now)
    residual("middle_block.2", now, now)
    i = 0
    for level, width in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            residual(f"output_blocks.{i}.0", now + skips.pop(), width)
            now = width
            if level in attention:
                attend(f"output_blocks.{i}.1", width)
            if level and block == blocks:
                resize(f"output_blocks.{i}.{1 + (level in attention)}", width, "conv")
            i += 1
    put("out.0", now)
    put("out.2", picture * (1 + learned), now, 3, 3)
    return w
