"""What stands before and behind a policy's denoiser: raw observations to its condition, its sample to actions."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ncdeploy.denoisers.base import PartModule
from ncdeploy.denoisers.foreign.policy_unet import OBSERVATION
from ncdeploy.errors import FileError
from ncdeploy.ports import Value


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Normalised = (raw - shift) / scale + offset, and back; float32 of a shape that broadcasts to the feature's."""

    shift: Tensor
    scale: Tensor
    offset: Tensor

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise FileError unless the numbers are finite, none divides by zero, and they fit a feature of this shape."""
        for values in (self.shift, self.scale, self.offset):
            try:
                fits = torch.broadcast_shapes(values.shape, shape) == torch.Size(shape)
            except RuntimeError:
                fits = False
            if not fits:
                raise FileError(f"the statistics of {name} have shape {tuple(values.shape)}, expected {shape}")
            if not values.isfinite().all():
                raise FileError(f"the statistics of {name} hold NaN or infinity; they were never computed from data")
        if (self.scale == 0).any():
            raise FileError(f"the statistics of {name} divide by zero; expected a spread above 0")


class Normalise(nn.Module):
    """Raw values [..., *shape] to normalised ones, or back."""

    shift: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, scaling: Scaling, *, back: bool = False) -> None:
        super().__init__()
        for name in ("shift", "scale", "offset"):
            self.register_buffer(name, getattr(scaling, name).float())
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        if self.back:
            return (x - self.offset) * self.scale + self.shift
        return (x - self.shift) / self.scale + self.offset


class PolicyEncoder(nn.Module):
    """Raw observations, [B, steps, *shape] each in the order of `scalings` -> obs [B, steps * features].

    scalings: of each observation, None for one that is taken as it is
    eyes:     name -> network from pictures [N, 3, height, width] to [N, features], for observations that are pictures
    """

    def __init__(self, scalings: Mapping[str, Scaling | None], eyes: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.normalise = nn.ModuleList(nn.Identity() if s is None else Normalise(s) for s in scalings.values())
        self.eyes = nn.ModuleList(eyes.get(name, nn.Identity()) for name in scalings)

    def forward(self, *observations: Tensor) -> Tensor:
        features = []
        for raw, normalise, eye in zip(observations, self.normalise, self.eyes, strict=True):
            x = normalise(raw)
            if x.ndim == 5:
                x = eye(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            features.append(x)
        return torch.cat(features, 2).flatten(1)


class PolicyDecoder(nn.Module):
    """A sample [B, horizon, values] -> the actions that are carried out, in the robot's units, [B, count, actions].

    first, count: which of the horizon
    """

    def __init__(self, scaling: Scaling | None, *, first: int, count: int) -> None:
        super().__init__()
        self.normalise = nn.Identity() if scaling is None else Normalise(scaling, back=True)
        self.first, self.count = first, count

    def forward(self, sample: Tensor) -> Tensor:
        actions: Tensor = self.normalise(sample[:, self.first : self.first + self.count])
        return actions


def policy_parts(
    encoder: PolicyEncoder, decoder: PolicyDecoder, observations: Mapping[str, tuple[int, ...]]
) -> tuple[PartModule, PartModule]:
    """observations: name -> shape of one sample, in the order in which the encoder takes them."""
    inputs = tuple(Value(name=name, dtype="float32", shape=shape) for name, shape in observations.items())
    return (
        PartModule(role="encoder", module=encoder.eval(), inputs=inputs, outputs=(OBSERVATION,)),
        PartModule(role="decoder", module=decoder.eval(), inputs=None, outputs=("action",)),
    )
