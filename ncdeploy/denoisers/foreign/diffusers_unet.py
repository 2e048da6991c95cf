"""diffusers' UNet2DModel as a network: made by diffusers from its own settings, so diffusers must be installed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ncdeploy.errors import DependencyError, InputError, install


@dataclass(frozen=True, kw_only=True)
class DiffusersUNetConfig:
    """unet: arguments of `diffusers.UNet2DModel`, as its config.json has them, without what begins with _."""

    unet: Mapping[str, Any]

    def check(self, shape: tuple[int, ...], num_classes: int) -> None:
        """Raise InputError for a variant that no denoiser of real-valued steps and integer classes can be made of."""
        unet = self.unet
        embedding = unet.get("time_embedding_type", "positional")
        if embedding != "positional":
            raise InputError(
                f"time_embedding_type: got {embedding!r}, expected 'positional'; a 'fourier' model is a score model "
                "with noise of its own kind, and 'learned' steps have nothing between them"
            )
        if unet.get("class_embed_type") is not None:
            raise InputError(f"class_embed_type: got {unet['class_embed_type']!r}, expected none (classes by number)")
        channels = unet.get("in_channels", 3), unet.get("out_channels", 3)
        if len(shape) != 3 or channels != (shape[0], shape[0]):
            raise InputError(
                f"channels: the network takes {channels[0]} and returns {channels[1]} for samples of shape {shape}; "
                "expected (C, height, width) with C of each"
            )
        embeddings = unet.get("num_class_embeds") or 0
        if num_classes and embeddings not in (num_classes, num_classes + 1):
            raise InputError(f"num_class_embeds: got {embeddings} for {num_classes} classes")
        if embeddings and not num_classes:
            raise InputError(f"num_classes: got 0, but the network wants one of {embeddings} classes with every sample")
        step = 2 ** (len(unet.get("block_out_channels", (0,) * 4)) - 1)
        if shape[1] % step or shape[2] % step:
            raise InputError(f"shape: got {shape}, the network needs height and width divisible by {step}")


class DiffusersUNet(nn.Module):
    """x [B, C, H, W], step [B] real-valued, labels int64 [B] or None -> [B, C, H, W].

    Raises DependencyError without diffusers, InputError for settings that it refuses.
    """

    def __init__(self, shape: tuple[int, ...], config: DiffusersUNetConfig, num_classes: int = 0) -> None:
        super().__init__()
        try:
            config.check(shape, num_classes)
        except TypeError as e:
            raise InputError(f"its settings are of other types than they should be: {first_line(e)}") from e
        diffusers = require_diffusers()
        self.config: dict[str, Any] = {"kind": "diffusers", "unet": dict(config.unet)}
        try:
            self.unet: nn.Module = diffusers.UNet2DModel(**config.unet)
        except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, AttributeError) as e:
            raise InputError(f"diffusers {diffusers.__version__} cannot make this network: {first_line(e)}") from e
        self.classes = num_classes > 0

    def forward(self, x: Tensor, step: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.unet(x, step, class_labels=labels if self.classes else None, return_dict=False)[0]
        return output


def require_diffusers() -> Any:
    """The package. Raises DependencyError with the line that installs it."""
    try:
        import diffusers
    except ImportError as e:
        raise DependencyError(
            f"this model's network comes from diffusers, which is not installed: {install('diffusers')}"
        ) from e
    return diffusers


def first_line(error: BaseException) -> str:
    """Why, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
