"""What a run may be told beside its plan and seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from numpy.typing import ArrayLike

from ncdeploy.auto.latency import Latency
from ncdeploy.errors import InputError
from ncdeploy.sampling.errorcurve import ErrorCurve
from ncdeploy.sampling.law import THETA, check_theta
from ncdeploy.sampling.parallel import ERROR_FLOOR
from ncdeploy.sampling.result import Sweep, Trajectory

Window = int | Literal["auto"] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleOptions:
    """Options of `ncdeploy.sample` and `ncdeploy.iterate` that most calls leave alone.

    Attributes:
        guidance: weight of classifier-free guidance, for a model with classes and an unconditional one: 1 is the
            conditional model, 0 the unconditional one. Each D then takes two rows of the same call
        shape: of one sample, without the batch axis; a denoiser with a ModelInfo in `.info` tells it
        latency: of the engine, for window="auto", which checks it for long runs where it decides between sequential and
            parallel; None measures it now, which takes about a second
        error_curve: the model's denoising error (None: ModelInfo.error_curve); without one the parallel driver
            estimates the scalar Jacobian from its iterates
        mean: [*shape], the mean of the data (None: ModelInfo.mean), first guess of the parallel driver
        error_floor: in model units; below this noise level the tolerance is absolute
        max_rows: most rows the network sees in one call; more samples than fit are worked on in turn
        like: an array whose kind, dtype and device the run uses; None: a PyTorch module's, else NumPy float32
        on_sweep: called after every network call
        acceptance: of the parallel driver: "pathwise" iterates to the sequential sample of the seed, to the tolerance;
            "law" draws a sample from exactly the sampler's distribution, in fewer calls and without a tolerance, but
            not that of sequential sampling from the seed: for plans whose rows all add noise (ddpm, ddim with eta > 0,
            dpmpp_2m_sde), on NumPy arrays (see `ncdeploy.sampling.law`). With window="auto", which follows the clock, a
            seed does not give the same sample twice
        theta: of acceptance in law: most probable rejection of a draft that is put to the test, above 0 to 1. The law
            is exact for each; it changes the speed a little, and 1, which tests all, was as fast as any
        start: of the parallel driver: where the first guess of D comes from. The trajectory of an earlier run of the
            same plan and seeds, whose conditions were nearly these; or a guess of the samples [n, *shape] in model
            units. A bad one costs sweeps, never truth
        keep: whether the result has a `trajectory` for a later start; takes n * nodes * values of a sample in memory
        deadline: seconds after the first call begins by which the run should end: when another call is not likely to
            fit it ends with what it knows, see `Result.complete`. One call is always made

    Raises:
        InputError: for an error_floor, acceptance, theta or deadline out of range
    """

    guidance: float | None = None
    shape: tuple[int, ...] | None = None
    latency: Latency | None = None
    error_curve: ErrorCurve | None = None
    mean: ArrayLike | None = None
    error_floor: float = ERROR_FLOOR
    max_rows: int | None = None
    like: Any = None
    on_sweep: Callable[[Sweep], None] | None = None
    acceptance: Literal["pathwise", "law"] = "pathwise"
    theta: float = THETA
    start: Trajectory | ArrayLike | None = None
    keep: bool = False
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not self.error_floor > 0:
            raise InputError(f"error_floor: got {self.error_floor}; expected a positive number")
        if self.acceptance not in ("pathwise", "law"):
            raise InputError(f"acceptance: got {self.acceptance!r}; expected pathwise or law")
        check_theta(self.theta)
        if self.deadline is not None and not 0 < self.deadline < inf:
            raise InputError(f"deadline: got {self.deadline}; expected seconds, above 0")
