"""Do two backends compute the same denoiser? Level by level, row by row, and along whole sampled trajectories.

Both see the same float32 inputs x = x0 + sigma n, because only noisy data matter, and some of pure noise. Every row
of a batch has its own sigma, the rows are shuffled, and the reference is evaluated in other batches than the
candidate; all outputs of a batch size are kept before any is compared. So a candidate fails that mixes rows up, uses
one sigma for a batch, depends on the batch size, or hands out a buffer that it overwrites later.
"""

from ncdeploy.parity.comparison import LIMITS, check_tolerances, compare, default_plan, open_pair
from ncdeploy.parity.inputs import LEVELS, Pool
from ncdeploy.parity.report import Level, ParityReport, Trajectory

__all__ = [
    "LEVELS",
    "LIMITS",
    "Level",
    "ParityReport",
    "Pool",
    "Trajectory",
    "check_tolerances",
    "compare",
    "default_plan",
    "open_pair",
]
