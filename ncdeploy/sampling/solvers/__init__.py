"""Solvers: each turns a schedule into a plan. One file a family, coefficients in the open.

posterior.py            ddpm, ddim               the Gaussian posterior q(x' | x, x0) with x0 = D
ode.py                  euler, heun              one-step methods on dx/dsigma = (x - D) / sigma
dpm.py                  dpmpp_2m, dpmpp_2m_sde   exponential integrators in lambda = -ln sigma
predictor_corrector.py  unipc                    the same, corrected by the evaluation they predict
adams.py                ipndm                    Adams-Bashforth on eps = (x - D) / sigma

sigmas: [steps + 1] levels in units of the data, decreasing; the last may be 0
scale:  coefficient of the first node's noise. None = sigmas[0], for sigmas[0] far above the data's
        standard deviation; variance-preserving processes start at sqrt(1 + sigmas[0]^2)

All raise InputError for levels that do not decrease and for options out of range.
"""

from ncdeploy.sampling.solvers.adams import ipndm
from ncdeploy.sampling.solvers.dpm import dpmpp_2m, dpmpp_2m_sde
from ncdeploy.sampling.solvers.ode import euler, heun
from ncdeploy.sampling.solvers.posterior import ddim, ddpm
from ncdeploy.sampling.solvers.predictor_corrector import unipc

__all__ = ["ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "euler", "heun", "ipndm", "unipc"]
