"""Solvers: each turns a schedule into a plan. One file a family, coefficients in the open.

posterior.py            ddpm, ddim               the Gaussian posterior q(x' | x, x0) with x0 = D
ode.py                  euler, heun              one-step methods on dx/dsigma = (x - D) / sigma
dpm.py                  dpmpp_2m, dpmpp_2m_sde   exponential integrators in lambda = -ln sigma
predictor_corrector.py  unipc                    the same, corrected by the evaluation they predict
adams.py                ipndm                    Adams-Bashforth on eps = (x - D) / sigma

sigmas: [steps + 1] levels in units of the data, decreasing; the last may be 0
scale:  coefficient of the first node's noise. None = sigmas[0], for sigmas[0] far above the data's
        standard deviation; variance-preserving processes start at sqrt(1 + sigmas[0]^2)

All raise InputError for levels that do not decrease and for options out of range. Each is a `Solver`, which carries its
order, its options, whether it draws noise, and the schedule it usually takes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncdeploy.sampling.solvers.adams import ipndm as ipndm
    from ncdeploy.sampling.solvers.dpm import dpmpp_2m as dpmpp_2m
    from ncdeploy.sampling.solvers.dpm import dpmpp_2m_sde as dpmpp_2m_sde
    from ncdeploy.sampling.solvers.ode import euler as euler
    from ncdeploy.sampling.solvers.ode import heun as heun
    from ncdeploy.sampling.solvers.posterior import ddim as ddim
    from ncdeploy.sampling.solvers.posterior import ddpm as ddpm
    from ncdeploy.sampling.solvers.predictor_corrector import unipc as unipc

# Solver -> its file, looked up on first use, so that their names cost nothing. A file named as a solver would hide it.
FILES = {
    "ddpm": "posterior",
    "ddim": "posterior",
    "euler": "ode",
    "heun": "ode",
    "dpmpp_2m": "dpm",
    "dpmpp_2m_sde": "dpm",
    "unipc": "predictor_corrector",
    "ipndm": "adams",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(FILES)
