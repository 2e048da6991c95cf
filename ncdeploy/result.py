"""What a sampling run returns."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.arrays import to_host
from ncdeploy.sampling.energy import Energy
from ncdeploy.sampling.result import Choice, Trajectory


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A finished run of n samples.

    Attributes:
        samples: [n, *shape], array kind and dtype of the run, in model units
        decoded: [n, ...] NumPy array, what the decoder of the bundle made of the samples; None without one
        depth: network calls made one after another
        nfe: rows the network evaluated per sample, on average; guidance takes two for each D
        sweeps: int64 [n], network calls each sample took part in
        residual: float64 [n], largest residual that was accepted, relative to sigma; 0 for sequential runs
        wall_s: seconds of the whole run
        engine_s: those spent inside the network
        window: evaluated nodes per sample and sweep at the start, None for sequential
        choice: what window="auto" chose, and why; None where the caller did
        rejections, rejection_odds: int64 and float64 [n], of acceptance in law: drafts that were rejected, and the
            summed probabilities of that, which they equal in the mean; None otherwise
        complete: bool [n], of a run with a deadline: which samples came to their end. The others are the estimate at
            that time, D at the last node of their window, or the mean if not begun; their residual is the largest of
            the nodes left in that window, infinity where nobody knows: not begun, sequential, or in law
        trajectory: of a run with SampleOptions(keep=True), for a later `start`
        info: of the model, where it has one
        labels: int64 [n], or None
    """

    samples: Any
    depth: int
    nfe: float
    sweeps: NDArray[np.int64]
    residual: NDArray[np.float64]
    wall_s: float
    engine_s: float
    window: int | None = None
    choice: Choice | None = None
    rejections: NDArray[np.int64] | None = None
    rejection_odds: NDArray[np.float64] | None = None
    complete: NDArray[np.bool_] | None = None
    trajectory: Trajectory | None = None
    info: ModelInfo | None = None
    labels: NDArray[np.int64] | None = None
    decoded: NDArray[Any] | None = None
    _energy: Callable[[], Energy] | None = None

    @cached_property
    def energy(self) -> Energy | None:
        """How the states of the run compare with what the model was trained on, by noise level.

        None for a model without an error curve, and with guidance, which makes another denoiser of it.
        """
        return None if self._energy is None else self._energy()

    def to_data(self) -> NDArray[np.float32]:
        """The samples as a NumPy array in the units of the training data, which is what a decoder gives where there is
        one. Raises InputError without an info."""
        if self.decoded is not None:
            return self.decoded
        info = self._known()
        return np.asarray(info.to_data_units(to_host(self.samples).astype(np.float64)), np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .png (a grid of pictures, or a plot of points), .npz or .npy, or a folder of pictures.

        .npz has `samples`, in the units of the training data, and `labels` where there are any; .npy the samples alone.
        Raises InputError for samples that the kind cannot hold, or without an info, FileError for the place,
        DependencyError for a plot without matplotlib.
        """
        from ncdeploy.report.samples import save_samples

        info, samples = self._known(), self.samples
        if self.decoded is not None:
            info, samples = info.decoded(self.decoded.shape[1:]), self.decoded
        save_samples(os.fspath(path), to_host(samples), info, labels=self.labels)

    def _known(self) -> ModelInfo:
        if self.info is None:
            raise InputError("result: the denoiser has no info that says what its units are; take result.samples")
        return self.info
