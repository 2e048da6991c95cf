"""`clip_sample` of diffusers' schedulers: D is cut by the model, or by its plan."""

from typing import Any

from ncdeploy.errors import InputError
from ncdeploy.importers.diffusers_flow import FlowTrained
from ncdeploy.importers.diffusers_scheduler import Trained

CLIPPED = (
    "clip_sample: D is cut to -{limit:g} .. {limit:g}, and ddim takes the noise it follows from that, as OpenAI's code "
    "does; DDIMPipeline takes it from the uncut D unless told use_clipped_model_output: import with --raw-noise for "
    "its samples (--no-clip never cuts)"
)
RAW_NOISE = (
    "clip_sample: the model does not cut D, its plan does, to -{limit:g} .. {limit:g}: ddim has the samples of "
    "DDIMPipeline, other solvers get the cut D. So do plans of info.plan and of the command line; ncdeploy.make_plan "
    "must be told clip={limit:g}"
)


def limit_of(trained: Trained | FlowTrained, clip: bool | None) -> float | None:
    """Where D is cut. Raises InputError where nothing is that can be."""
    if isinstance(trained, Trained):
        return trained.clip if clip is None else (trained.clip or 1.0) if clip else None
    if clip is not None:
        raise InputError("clip: is of models of pictures in [-1, 1]; leave it out")
    return None


def cutting(plan: dict[str, Any], limit: float | None) -> dict[str, Any]:
    """The plan with that in it, of noise that is not cut. Raises InputError where there is nothing to cut."""
    if limit is None:
        raise InputError("raw-noise: nothing is cut here, so that all noise is raw; leave it out, or give --clip")
    return {**plan, "clip": limit, "raw_noise": True}
