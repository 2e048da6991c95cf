"""Networks of diffusers other than UNet2DModel, see `diffusers_families`, as networks of denoisers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ncdeploy.denoisers.foreign.diffusers_families import FAMILIES, taken
from ncdeploy.denoisers.foreign.diffusers_unet import first_line, require_diffusers
from ncdeploy.errors import InputError
from ncdeploy.ports import Condition


@dataclass(frozen=True, kw_only=True)
class DiffusersModelConfig:
    """model: one of FAMILIES; settings: its arguments, as its config.json has them, without what begins with _."""

    model: str
    settings: Mapping[str, Any]


class DiffusersModel(nn.Module):
    """x [B, *shape], noise [B], labels int64 [B] or None, conditions by name [S, *shape] with int64 sample [B], which
    says whose each row is -> [B, *shape]. The second half of the output, where it is a variance, is left out.

    Raises DependencyError without diffusers, InputError for settings that it, or this, refuses.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        config: DiffusersModelConfig,
        num_classes: int = 0,
        conditions: Sequence[Condition] = (),
    ) -> None:
        super().__init__()
        if config.model not in FAMILIES:
            raise InputError(f"model: got {config.model!r:.60}, expected one of {', '.join(FAMILIES)}")
        self.family = FAMILIES[config.model]
        diffusers = require_diffusers()
        settings = dict(config.settings)
        try:
            self.family.check(settings, shape)
            taken(self.family, settings, conditions)
            if num_classes != self.family.classes(settings):
                raise InputError(f"num_classes: got {num_classes}, the network has {self.family.classes(settings)}")
        except (TypeError, ValueError, LookupError) as e:
            raise InputError(f"its settings are of other types than they should be: {first_line(e)}") from e
        self.config: dict[str, Any] = {"kind": "diffusers-model", "model": config.model, "settings": settings}
        try:
            self.model: nn.Module = getattr(diffusers, config.model)(**settings)
        except Exception as e:  # settings of any type meet code that checks few of them
            raise InputError(f"diffusers {diffusers.__version__} cannot make this network: {first_line(e)}") from e

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        sample: Tensor | None = None,
    ) -> Tensor:
        given: dict[str, Tensor] = {}
        if conditions is not None and sample is not None:
            given = {name: value.index_select(0, sample) for name, value in conditions.items()}
        output = self.family.ask(self.model, x, noise, labels, given)
        output = getattr(output, "sample", output)
        result: Tensor = output[:, : x.shape[1]]
        return result
