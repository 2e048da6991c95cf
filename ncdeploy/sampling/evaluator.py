"""The only place where a driver meets the network: it calls, counts, times and checks."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError, NumericalError
from ncdeploy.sampling.arrays import device_of, evaluate, namespace, read_back, to_host
from ncdeploy.sampling.callsizes import filled, least_size, sizes_of
from ncdeploy.sampling.energy import EnergyMeter

Denoise = Callable[..., Any]


class Evaluator:
    """Calls denoise(x, sigma[, labels]) on flat rows and keeps count; with conditions [n, *shape], those of the samples
    in a call go along, once each, with `sample`, which says whose a row is. A meter sees what comes out.

    `calls` and `rows` are the depth and the rows the network evaluated so far, with guidance two for each row of x;
    `seconds` the time spent inside the network (on a GPU: until the call returned, which may be before the device
    finished).
    """

    def __init__(
        self,
        denoise: Denoise,
        shape: tuple[int, ...],
        labels: NDArray[np.int64] | None,
        like: Any,
        conditions: Mapping[str, NDArray[Any]] | None = None,
        meter: EnergyMeter | None = None,
    ) -> None:
        self._denoise, self.shape, self._labels, self._like = denoise, shape, labels, like
        self._xp, self.sizes, self._largest = namespace(like), sizes_of(denoise), 0
        self._conditions, self._meter = conditions, meter
        self._live, self._held = np.zeros(0, np.int64), dict[str, Any]()
        self.calls = self.rows = 0
        self.per_row = evaluations_per_row(denoise)
        self.seconds = 0.0
        self._unchecked: tuple[Callable[[], NDArray[Any]], Any, Any, Any, Any] | None = None

    def __call__(self, x: Any, sigma: NDArray[np.float64], node: NDArray[np.int64], sample: NDArray[np.int64]) -> Any:
        """D for rows x [B, d] at noise levels sigma [B]; `node` [B] and `sample` [B], or [1] of all, say what a row is.

        Valid until the next call: a denoiser may return the same array each time.

        Raises InputError when D has the wrong shape or dtype, and what `check` raises: of this call for NumPy arrays,
        of the one before for others, so that a GPU is not waited for.
        """
        self.check()
        xp, device = self._xp, device_of(self._like)
        # Copies: what is handed out may be written to.
        inputs = [xp.reshape(xp.asarray(x, copy=True), (-1, *self.shape))]
        inputs.append(xp.asarray(sigma, dtype=x.dtype, device=device, copy=True))
        if self._labels is not None:
            inputs.append(xp.asarray(np.broadcast_to(self._labels[sample], len(node)).copy(), device=device))
        given = {} if self._conditions is None else self._given(self._conditions, np.broadcast_to(sample, len(node)))
        size = self.size(len(node))
        self._largest = max(self._largest, size)
        if given:
            given["sample"] = filled(given["sample"], size)
        out = self.call(*(filled(each, size) for each in inputs), **given)[: len(node)]
        self.rows += len(node) * self.per_row
        out = xp.reshape(out, tuple(x.shape))
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told below
            self._unchecked = read_back(xp.isfinite(out.sum())), out, sigma, node, sample
        if xp is np:
            self.check()
        if self._meter is not None:
            self._meter.add(x, out, sigma, node, sample)
        return out

    def call(self, x: Any, *inputs: Any, **given: Any) -> Any:
        """D of rows x [B, *shape], counted and timed. Raises InputError when D has the wrong shape or dtype."""
        start = time.perf_counter()
        out = evaluate(self._denoise, x, *inputs, **given)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        if getattr(out, "shape", None) != x.shape or out.dtype != x.dtype:
            found = f"{getattr(out, 'dtype', type(out).__name__)} {tuple(getattr(out, 'shape', ()))}"
            raise InputError(
                f"denoiser: returned {found} for {x.dtype} {tuple(x.shape)}; D must match x in shape and dtype"
            )
        return out

    def size(self, rows: int) -> int:
        """Rows of the call that this many are evaluated with."""
        return rows if self.sizes is None else self.sizes.fit(rows, least_size(self._largest))

    def near(self, rows: int) -> int:
        """Rows that should be evaluated where so many might be, a few more or less, to make a full call."""
        return rows if self.sizes is None else self.sizes.near(rows, least_size(self._largest))

    def _given(self, conditions: Mapping[str, NDArray[Any]], sample: NDArray[np.int64]) -> dict[str, Any]:
        """The conditions of the samples in a call, which stay on the device while these are the same, and whose rows
        the call's are."""
        live, index = np.unique(sample, return_inverse=True)
        if not np.array_equal(live, self._live):
            self._live, self._held = live, self._placed({name: value[live] for name, value in conditions.items()})
        held = {name: self._xp.asarray(value, copy=True) for name, value in self._held.items()}
        sample = self._xp.asarray(index.astype(np.int64), device=device_of(self._like))
        return {"conditions": held, "sample": sample}

    def check(self) -> None:
        """Raise NumericalError if the last call returned NaN or infinity, naming node and sigma."""
        if self._unchecked is None:
            return
        (finite, out, sigma, node, sample), self._unchecked = self._unchecked, None
        xp = self._xp
        if finite() or bool(xp.all(xp.isfinite(out))):
            return
        row = int(np.argmin(to_host(xp.all(xp.isfinite(out), axis=-1))))
        raise not_finite(node[row], sigma[row], sample[row if len(sample) > 1 else 0])

    def on_device(self) -> tuple[Any, dict[str, Any]]:
        """Labels [n] or None, and conditions [n, *shape] by name, of all samples, on the device of the run."""
        labels = None if self._labels is None else self._xp.asarray(self._labels, device=device_of(self._like))
        return labels, self._placed(self._conditions or {})

    def _placed(self, conditions: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """As the run's arrays, of its dtype where they are real."""
        dtypes = {"f": self._like.dtype, "i": self._xp.int64}
        return {
            name: self._xp.asarray(value, dtype=dtypes[value.dtype.kind], device=device_of(self._like))
            for name, value in conditions.items()
        }

    def saw(self, rows: int, squares: NDArray[np.float64], sigma: NDArray[np.float64]) -> None:
        """Of a `call`, what is known later: how many rows were no filling, and |x - D|^2 of each sample's first."""
        self.rows += rows * self.per_row
        if self._meter is not None:
            self._meter.saw(squares, sigma)


def not_finite(node: int, sigma: float, sample: int) -> NumericalError:
    """What a driver raises for a D that is not finite."""
    return NumericalError(
        f"the network returned NaN or infinity at node {node} (sigma = {sigma:.6g}) of sample {sample}; check the "
        "model there (ncdeploy verify), or its precision"
    )


def evaluations_per_row(denoise: Denoise) -> int:
    """Rows that the network sees for one row of x: 2 where the denoiser guides itself (see `guidance`), else 1."""
    return int(getattr(getattr(denoise, "info", None), "evaluations", getattr(denoise, "evaluations", 1)))
