"""Checkpoints of score_sde_pytorch (Song et al. 2021, arXiv 2011.13456): DDPM++ and NCSN++ with a residual pyramid.

    ve       NCSN++ with Fourier features of ln sigma: D = x + sigma F. Its data were 0 to 1 and its first layer doubles
             them, so in the units of -1 to 1, which are used here, its noise levels are twice those of its settings
    vp       DDPM++, and NCSN++ told the time, in continuous time
    linear   the same on DDPM's 1000 discrete steps

A file holds the weights of training under "model" and the averaged ones, without names, under "ema"; those are taken.
It does not say which of the last two it is, so `schedule` must. sub-VP, and VE on discrete steps, are not read.
"""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.foreign.song import Song
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import VESDE, VP, VPSDE
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers.edm_names import bring_weights
from ncdeploy.importers.edm_pickle import STEPS
from ncdeploy.importers.foreign import names_in
from ncdeploy.importers.score_sde_names import config_of, edm_weights, modules_of
from ncdeploy.importers.weights import find_weights, read_beside
from ncdeploy.modelinfo import ModelInfo

NEEDED = ("all_modules.0.weight", "all_modules.0.W")  # one of them
SCHEDULES = ("vp", "linear")
BETA_D, BETA_MIN, VP_RANGE = 19.9, 0.1, (0.0101, 152.2)  # of its settings, from t = 1e-3 to 1
AVERAGED = "the averaged weights, 'ema', were taken"
AS_PUBLISHED = "{filter}, and sums over the square root of two, are as published; nothing in the file tells them"


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether the file looks like one, by the names in it; nothing of it is executed."""
    head = names_in(user_path(path))
    return b"all_modules.1." in head and any(name.encode() in head for name in NEEDED)


def load(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, ...] | None = None,
    schedule: str | None = None,
    key: str | None = None,
    strip: str | None = None,
) -> Denoiser:
    """The network of a checkpoint as a denoiser.

    shape:      (C, H, W) of its pictures; it must be said
    schedule:   vp or linear, see above; left out for ve, which Fourier features tell
    key, strip: where the weights stand, and the prefix of their names; see `find_weights`

    Raises FileError for a file that is damaged or holds another network, InputError for options that do not fit or are
    missing.
    """
    if shape is None:
        raise InputError(f"shape: {path} does not say how large its pictures are; give it, such as --shape 3,32,32")
    if schedule not in (None, *SCHEDULES):
        raise InputError(f"schedule: got {schedule!r}, expected vp (continuous time) or linear (DDPM's discrete steps)")
    head = names_in(user_path(path))
    weights, notes = find_weights(path, [n for n in NEEDED if n.encode() in head], key=key, strip=strip)
    averaged = read_beside(path, "ema").get("shadow_params") if key is None else None
    if averaged is not None:
        weights, notes = _averaged(path, weights, averaged), (*notes, AVERAGED)
    try:
        return _denoiser(weights, shape, schedule, notes)
    except FileError as e:
        raise FileError(f"{path}: {e}") from e


def _averaged(path: str | os.PathLike[str], weights: Mapping[str, Tensor], averaged: object) -> dict[str, Tensor]:
    """The averaged values by the names of the others: all that are trained, in the order of the file."""
    trained = [name for name in weights if name.startswith("all_modules.") and name != "all_modules.0.W"]
    if not isinstance(averaged, list) or len(averaged) != len(trained):
        raise FileError(f"{path}: its averaged weights are not as many as the others; the file was altered")
    for name, tensor in zip(trained, averaged, strict=True):
        if not isinstance(tensor, Tensor) or tensor.shape != weights[name].shape:
            raise FileError(f"{path}: the averaged weight for {name} has another shape; the file was altered")
    return {**weights, **dict(zip(trained, averaged, strict=True))}


def _denoiser(
    weights: Mapping[str, Tensor], shape: tuple[int, ...], schedule: str | None, notes: tuple[str, ...]
) -> Denoiser:
    modules = modules_of(weights)
    config = config_of(modules, shape[1] if len(shape) == 3 else 0)
    exploding = config.embedding == "fourier"
    if exploding and schedule is not None:
        raise InputError("schedule: Fourier features tell that this is VE, whose levels the file holds; leave it out")
    if not exploding and schedule is None:
        raise InputError(
            "schedule: the file does not say how its network was trained, and asked otherwise it answers wrongly: give "
            "--schedule vp (a vp config with continuous time) or --schedule linear (one without); sub-VP, and VE on "
            "discrete steps, are not read"
        )
    table = NoiseTable.linear() if schedule == "linear" else None
    low, high = VP_RANGE if table is None else (float(level) for level in table.sigmas()[[0, -1]])
    if exploding:
        low, high = _levels(weights)
    heun = {"solver": "heun", "steps": STEPS, "sigma_min": low, "sigma_max": high}
    plan = heun if table is None else table.plan()
    info = ModelInfo(
        shape=shape, sigma_min=low, sigma_max=high, sigma_data=0.5, offset=127.5, scale=127.5, default_plan=plan
    )
    with without_memory(len(weights)):
        outline = Song(shape, config)
    brought = bring_weights(outline, "song", shape[1], edm_weights(modules, config, shape[1]))
    with torch.random.fork_rng(devices=[]):
        network = Song(shape, config)
    network.load_state_dict(brought)
    denoiser: Denoiser
    if exploding:
        denoiser = VESDE(network, info)
    elif table is not None:
        denoiser = VP(network, info, predicts="eps", table=table)
    else:
        denoiser = VPSDE(network, info, beta_d=BETA_D, beta_min=BETA_MIN, steps=1000)
    named = "the filter (1, 3, 3, 1)" if config.pyramid else "plain averages"
    denoiser.notes = (*notes, AS_PUBLISHED.format(filter=named))
    return denoiser.eval()


def _levels(weights: Mapping[str, Tensor]) -> tuple[float, float]:
    """Least and largest noise level, in the units of -1 to 1."""
    sigmas = weights.get("sigmas")
    if sigmas is None or sigmas.ndim != 1 or len(sigmas) < 2 or not 0 < float(sigmas[-1]) < float(sigmas[0]) < 1e6:
        raise FileError("lacks its noise levels, sigmas, from the largest to the least")
    return 2 * float(sigmas[-1]), 2 * float(sigmas[0])
