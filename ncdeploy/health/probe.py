"""An engine asked for rows in float64, whatever it runs on and however many it takes at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.backends.base import Backend
from ncdeploy.sampling.arrays import namespace, suited_to, to_host
from ncdeploy.sampling.evaluator import Evaluator

Floats = NDArray[np.float64]


class Probe:
    """Rows of some samples, each under the conditions of its own.

    given: labels and conditions, a value for each of so many samples
    """

    def __init__(self, engine: Backend, given: dict[str, Any], samples: int) -> None:
        self.info = engine.info
        self._like = suited_to(engine) if engine.like is None else engine.like
        labels = given.get("labels")
        others = {name: values for name, values in given.items() if name != "labels"}
        self._call = Evaluator(engine, engine.info.shape, labels, self._like, others or None)
        self._most, self._samples = getattr(engine, "max_rows", None), samples

    def __call__(self, y: Floats, sigma: Floats, sample: NDArray[np.int64]) -> Floats:
        """D float64 [B, d] at rows y [B, d] with levels sigma [B], of the samples [B]."""
        xp, out = namespace(self._like), []
        most = self._most or len(y)
        for first in range(0, len(y), most):
            at = slice(first, first + most)
            x = xp.asarray(y[at], dtype=self._like.dtype, device=getattr(self._like, "device", None))
            out.append(to_host(self._call(x, sigma[at], np.arange(len(x)), sample[at] % self._samples)).copy())
        self._call.check()
        return np.concatenate(out).astype(np.float64)
