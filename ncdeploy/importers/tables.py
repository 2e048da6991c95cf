"""The training steps of a variance-preserving model that no file describes, by name."""

from difflib import get_close_matches

from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import Prediction
from ncdeploy.errors import InputError

SCHEDULES = ("linear", "scaled-linear", "cosine")
PREDICTIONS: tuple[Prediction, ...] = ("eps", "v", "x0")


def named_table(
    schedule: str, *, train_steps: int = 1000, beta_start: float | None = None, beta_end: float | None = None
) -> NoiseTable:
    """linear (Ho et al. 2020), scaled-linear (latent diffusion) or cosine (Nichol & Dhariwal 2021).

    beta_start, beta_end: of the first two; None = their usual values
    Raises InputError for an unknown name, a value out of range, or betas where they would do nothing.
    """
    if schedule not in SCHEDULES:
        near = get_close_matches(schedule, SCHEDULES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"schedule: got {schedule!r}; {hint}known: {', '.join(SCHEDULES)}")
    if train_steps < 2:
        raise InputError(f"train-steps: got {train_steps}, expected at least 2")
    betas = {name: b for name, b in (("beta_start", beta_start), ("beta_end", beta_end)) if b is not None}
    if schedule == "cosine":
        if betas:
            raise InputError(f"{next(iter(betas)).replace('_', '-')}: the cosine schedule has none; leave it out")
        return NoiseTable.cosine(train_steps)
    for name, beta in betas.items():
        if not 0 < beta < 1:
            raise InputError(f"{name.replace('_', '-')}: got {beta}, expected a number between 0 and 1")
    make = NoiseTable.linear if schedule == "linear" else NoiseTable.scaled_linear
    return make(train_steps, **betas)


def named_prediction(predicts: str, *, also: tuple[str, ...] = ()) -> Prediction:
    """eps, v or x0. Raises InputError for anything else; `also` is what the caller takes beside them."""
    for known in PREDICTIONS:
        if predicts == known:
            return known
    raise InputError(f"predicts: got {predicts!r}, expected one of {', '.join((*PREDICTIONS, *also))}")
