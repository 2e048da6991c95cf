"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, equation 6) around any denoiser.

    D_w(x, sigma, given) = D(x, sigma, null) + w (D(x, sigma, given) - D(x, sigma, null))

where null is the unconditional class, and the null value of every condition that has one; other conditions stay.

w = 0 is the unconditional denoiser, w = 1 the conditional one, and w > 1 trades variety for likeness to the class.
(That paper's own weight is w - 1.) Since eps and D differ by a linear map that both halves share, guiding one is
guiding the other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition
from ncdeploy.sampling.arrays import device_of, namespace
from ncdeploy.sampling.callsizes import CallSizes, sizes_of


class Guided:
    """A conditional denoiser with guidance: a callable of the same kind, at two evaluations a row, in one call.

    `info` is that of the denoiser with info.guidance = True, or None. A denoiser that takes guidance itself (an
    exported graph) is only handed the weights.

    Attributes:
        denoise: callable D(x, sigma, labels), or with conditions, see `ncdeploy.backends.base`; arrays or tensors
        weight: w of every row, unless a call brings its own
        null_label: the label that means "no class"; told by `denoise.info` where there is one

    Raises:
        InputError: for a model without classes or without an unconditional one, and for a weight that is not finite
    """

    def __init__(self, denoise: Callable[..., Any], weight: float = 1.0, *, null_label: int | None = None) -> None:
        if not math.isfinite(weight):
            raise InputError(f"guidance: got {weight}; expected a finite weight, 1 for none, 1.5 for a little")
        info = getattr(denoise, "info", None)
        self.info = replace(guidable(info), guidance=True) if isinstance(info, ModelInfo) else None
        if self.info is not None and null_label not in (None, self.info.null_label):
            raise InputError(f"null_label: got {null_label}, but this model takes {self.info.describe_labels()}")
        self.null_label = null_label if self.info is None else self.info.null_label
        if self.info is None and self.null_label is None:
            raise InputError("guidance: the denoiser has no info; say which label means no class with null_label=")
        self.weight = float(weight)
        self._denoise, self._inside = denoise, bool(isinstance(info, ModelInfo) and info.guidance)

    @property
    def evaluations(self) -> int:
        """Rows that the network evaluates for one row of x."""
        return 2

    @property
    def sizes(self) -> CallSizes | None:
        """Rows of x that a call should have, where the denoiser inside has call sizes."""
        inside = sizes_of(self._denoise)
        return inside if inside is None else inside.per(self.calls_rows)

    @property
    def name(self) -> str:
        """Of the denoiser, for reports."""
        return f"{getattr(self._denoise, 'name', type(self._denoise).__name__)}, guided"

    @property
    def calls_rows(self) -> int:
        """Rows that the denoiser inside is called with for one row of x."""
        return 1 if self._inside else 2

    def __call__(
        self,
        x: Any,
        sigma: Any,
        labels: Any = None,
        guidance: Any = None,
        *,
        conditions: Mapping[str, Any] | None = None,
        sample: Any = None,
    ) -> Any:
        """x [B, *shape], sigma [B], labels int64 [B], guidance [B] or None (= the weight) -> D_w [B, *shape].

        conditions, sample: as for `ncdeploy.backends.base.Backend`

        Raises InputError without labels where the model has classes.
        """
        if labels is None and self.null_label is not None:
            raise InputError("labels: guidance needs a class for every sample")
        xp = namespace(x)
        w = xp.full((x.shape[0],), self.weight, dtype=x.dtype, device=device_of(x)) if guidance is None else guidance
        given = {} if conditions is None else {"conditions": conditions, "sample": sample}
        if self._inside:
            return self._denoise(x, sigma, labels, guidance=w, **given)
        rows = x.shape[0]
        both = () if labels is None else (xp.concat([labels, self._null_labels(labels)]),)
        if conditions is not None:
            nulls = {} if self.info is None else {c.name: c for c in self.info.conditions}
            given["conditions"] = {name: with_null(value, nulls.get(name)) for name, value in conditions.items()}
            given["sample"] = xp.concat([sample, sample + next(iter(conditions.values())).shape[0]])
        D = self._denoise(xp.concat([x, x]), xp.concat([sigma, sigma]), *both, **given)
        w = xp.reshape(w, (rows, *[1] * (x.ndim - 1)))
        return w * D[:rows] + (1 - w) * D[rows:]  # in this form exact at w = 0 and w = 1

    def _null_labels(self, labels: Any) -> Any:
        """The unconditional class in every row; where there is none, the classes as they are."""
        return labels if self.null_label is None else namespace(labels).full_like(labels, self.null_label)

    def close(self) -> None:
        """Close the denoiser, if it is one that closes."""
        close = getattr(self._denoise, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def guidable(info: ModelInfo) -> ModelInfo:
    """The info itself. Raises InputError, with the remedy, for a model that cannot be guided."""
    if info.guidable:
        return info
    if info.conditions:
        raise InputError("guidance: none of this model's conditions has a null value to guide away from; leave it out")
    if info.num_classes == 0:
        raise InputError("guidance: this model takes no labels; leave guidance out, or train with --conditional")
    raise InputError(
        "guidance: this model has no unconditional class to guide away from, it was trained with a class on every "
        "sample; leave guidance out"
    )


def with_null(value: Any, condition: Condition | None) -> Any:
    """[S, *shape] -> [2 S, *shape]: as given, then the null value, or as given again for a condition without one."""
    xp = namespace(value)
    if condition is None or condition.null is None:
        return xp.concat([value, value])
    null = xp.asarray(condition.none().copy(), dtype=value.dtype, device=device_of(value))
    return xp.concat([value, xp.broadcast_to(null, value.shape)])
