"""From what was typed to what is run: plan, classes, window and rows of a sampling command."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncdeploy.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ncdeploy.backends import Backend
    from ncdeploy.bundle import Bundle
    from ncdeploy.modelinfo import ModelInfo
    from ncdeploy.run import Window
    from ncdeploy.sampling.plan import Plan

DEFAULT_WINDOW = 32  # nodes of a sample in one call, where nothing is known of the engine
BATCH_VALUES = 1 << 18  # inputs of one network call, 1 MiB; the activations of a U-Net take some hundred times that


def describe(
    path: Path, *, shape: str | None, sigma_min: float | None, sigma_max: float | None,
    sigma_data: float | None, num_classes: int | None,
) -> "ModelInfo | None":  # fmt: skip
    """What the options say of a file that does not describe its model; None if they are not about that.

    The noise range alone is not: it may be meant for the schedule of a model that does describe itself.
    """
    from ncdeploy.formats.describe import info_from_flags

    if shape is None and sigma_data is None and num_classes is None:
        return None
    try:
        sizes = None if shape is None else [int(part) for part in shape.split(",")]
    except ValueError as e:
        raise InputError(f'--shape {shape}: expected sizes like "3,64,64"') from e
    info = info_from_flags(
        path, shape=sizes, sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data, num_classes=num_classes
    )
    return None if info is None else replace(info, default_plan={"sigma_min": sigma_min, "sigma_max": sigma_max})


def choose_conditions(texts: Sequence[str] | None, backend: "Backend", n: int) -> "dict[str, NDArray[Any]]":
    """The values of --condition for n samples, for the model or the encoder that stands before it."""
    from ncdeploy.formats.conditions import read_conditions

    part = None if backend.encoder is None else backend.encoder.part
    return read_conditions(texts or [], backend.info, n, part)


def choose_plans(info: "ModelInfo", pairs: Sequence[tuple[str, int]], **given: Any) -> "list[Plan]":
    """`info.plan` of each solver and its steps; options that only some of the solvers have go to those.

    Raises InputError as `info.plan` does, so for an option that none of the solvers has.
    """
    from ncdeploy.sampling.recipe import SOLVER_OPTIONS

    def takes(name: str, option: str) -> bool:
        return option in SOLVER_OPTIONS.get(name, ())

    of_some = {option for option in given if any(takes(name, option) for name, _ in pairs)}
    return [
        info.plan(name, steps, **{k: value for k, value in given.items() if k not in of_some or takes(name, k)})
        for name, steps in pairs
    ]


def choose_run(
    bundle: "Bundle | None", info: "ModelInfo", name: str | None, *, parallel: bool | None, window: "Window",
    tolerance: float | None, **given: Any,
) -> "tuple[Plan, Window, float | None]":  # fmt: skip
    """The plan, and its tolerance where none was said: of a bundle, the plan `name` or the first, unless arguments of
    `make_plan` are given; of any other engine, what `info.plan` returns. The window of a bundle's plan is for hosts
    that cannot tell what is fastest; here that is "auto", as for any engine.

    Raises InputError for a name without a bundle, or beside arguments of `make_plan`.
    """
    asked = [f"--{option.replace('_', '-')}" for option, value in given.items() if value is not None]
    if name is not None and bundle is None:
        raise InputError(f"--plan {name}: only a bundle has plans; choose with --solver and --steps")
    if name is not None and asked:
        raise InputError(f"--plan {name}: {asked[0]} asks for another plan; leave one of them out")
    if bundle is None or asked:
        return info.plan(**given), window, tolerance
    stored = bundle.plan(name)
    info.check_plan(stored.plan)
    if (parallel or (parallel is None and window is not None)) and tolerance is None:
        tolerance = stored.tolerance
    return stored.plan, window, tolerance


def parse_window(text: str | None) -> "Window":
    """What --window says: a number, "auto", or nothing. Raises InputError for anything else."""
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise InputError(f'--window {text}: expected a number of nodes, or "auto"')
    return int(text)


def choose_classes(text: str | None, n: int, info: "ModelInfo") -> "NDArray[np.int64] | None":
    """Labels int64 [n] from "3,3,7", "all" or "none"; None for an unconditional model.

    Raises InputError for labels where there are none, text that is not a list, classes that do not exist, and for
    none where the model needs some.
    """
    import numpy as np

    if info.num_classes == 0:
        if text not in (None, "none"):
            raise InputError(f"--labels {text}: this model is unconditional; leave --labels out")
        return None
    if text in (None, "none"):
        if info.null_label is None:
            raise InputError(
                "--labels: this model needs a class for every sample; give --labels all, or classes like --labels 3,3,7"
            )
        chosen = [info.null_label]
    elif text == "all":
        chosen = list(range(info.num_classes))
    else:
        try:
            chosen = [int(part) for part in str(text).split(",")]
        except ValueError as e:
            raise InputError(f'--labels {text}: expected classes like "3,3,7", or "all", or "none"') from e
        wrong = next((c for c in chosen if not 0 <= c < info.num_classes), None)
        if wrong is not None:
            raise InputError(f"--labels: there is no class {wrong}; this model has 0 to {info.num_classes - 1}")
    return np.resize(np.array(chosen, np.int64), n)


def check_guidance(weight: float | None, labels: str | None, info: "ModelInfo") -> None:
    """Raise InputError for a weight of guidance that the model or the absence of classes leaves without meaning."""
    from ncdeploy.guidance import guidable

    if weight is None:
        return
    guidable(info)
    if info.null_label is not None and labels in (None, "none"):
        raise InputError("--guidance: leads towards a class; say which with --labels 3,3,7 or --labels all")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a plan is computed: `window` None is sequential, "auto" is chosen; `rows` is the most in one network call.

    per_node: rows that one evaluation of D takes, 2 with guidance
    """

    window: "Window"
    tolerance: float | None
    rows: int
    per_node: int = 1

    @classmethod
    def choose(
        cls, plan: "Plan", info: "ModelInfo", *, parallel: bool | None, window: "Window",
        tolerance: float | None, rows: int | None, guided: bool = False,
    ) -> "Execution":  # fmt: skip
        """Fill in what was not said. Raises InputError for options that would do nothing, and for `rows` < 1."""
        if not (parallel or (parallel is None and window is not None)):
            for option, value in (("--window", window), ("--tolerance", tolerance)):
                if value is not None:
                    remedy = "leave it or --sequential out" if parallel is False else "add --parallel or leave it out"
                    raise InputError(f"{option}: sequential sampling has none; {remedy}")
            width: Window = None
        else:
            width = "auto" if window is None else window
        if rows is not None and rows < 1:
            raise InputError(f"--rows: got {rows}, expected at least 1 row in a network call")
        per_node = 2 if guided else info.evaluations
        least = (width if isinstance(width, int) else 1) * per_node
        rows = max(BATCH_VALUES // info.dim, least) if rows is None else rows
        return cls(window=width, tolerance=tolerance, rows=rows, per_node=per_node)

    def sequential_depth(self, plan: "Plan", n: int) -> int:
        """Network calls that sequential sampling of n samples takes with the same rows in a call."""
        return plan.evaluations * -(-n // max(1, self.rows // self.per_node))

    def sequential_nfe(self, plan: "Plan") -> int:
        """Rows that the network evaluates for a sample in sequential sampling."""
        return plan.evaluations * self.per_node
