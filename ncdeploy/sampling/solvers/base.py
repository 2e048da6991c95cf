"""What is known of a solver beside the plans it makes."""

from collections.abc import Callable
from functools import update_wrapper
from inspect import Parameter, signature
from typing import Generic, ParamSpec

from ncdeploy.sampling.plan import Plan

P = ParamSpec("P")


class Solver(Generic[P]):
    """A function (sigmas, *, scale=None, ... options) -> Plan, called as such, that carries what is known of it.

    Attributes:
        name: of the function, by which `make_plan` finds it
        order: of convergence, with default options
        stochastic: whether it draws noise, with default options; `Plan.stochastic` says it of a plan
        schedule: the noise levels that it usually takes, by their name in `make_plan`
        options: names of its keyword arguments beside scale
    """

    def __init__(self, make: Callable[P, Plan], *, order: int, stochastic: bool, schedule: str) -> None:
        update_wrapper(self, make)
        self.name, self.order, self.stochastic, self.schedule = make.__name__, order, stochastic, schedule
        known = signature(make).parameters.values()
        self.options = tuple(p.name for p in known if p.kind is Parameter.KEYWORD_ONLY and p.name != "scale")
        self._make = make

    def __call__(self, *args: P.args, **options: P.kwargs) -> Plan:
        return self._make(*args, **options)

    def __repr__(self) -> str:
        return f"<solver {self.name}>"


def solver(
    *, order: int, stochastic: bool = False, schedule: str = "karras"
) -> Callable[[Callable[P, Plan]], Solver[P]]:
    """Make a `Solver` of the function below."""
    return lambda make: Solver(make, order=order, stochastic=stochastic, schedule=schedule)
