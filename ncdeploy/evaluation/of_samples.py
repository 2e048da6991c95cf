"""A model with conditions as one that is told, in the place of a class, whose conditions each row has."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Backend


class OfSamples:
    """D(x, sigma, sample int64 [B]), where row i has the label and the conditions of sample number sample[i].

    labels: int64 [n] of a model with classes, else None; conditions: [n, *shape] each

    info is that of the model with n classes, the samples, instead of its own classes and its conditions.
    """

    def __init__(
        self, engine: Backend, labels: NDArray[np.int64] | None, conditions: Mapping[str, NDArray[Any]]
    ) -> None:
        self._engine, self._labels, self._conditions = engine, labels, conditions
        n = len(next(iter(conditions.values())))
        self.info = replace(engine.info, num_classes=n, unconditional=True, conditions=())

    def __call__(self, x: NDArray[Any], sigma: NDArray[Any], sample: NDArray[np.int64]) -> Any:
        live, own = np.unique(sample, return_inverse=True)
        return self._engine(
            x, sigma, None if self._labels is None else self._labels[sample],
            conditions={name: values[live] for name, values in self._conditions.items()}, sample=own.astype(np.int64),
        )  # fmt: skip
