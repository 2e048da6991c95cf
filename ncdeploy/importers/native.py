"""model.pt and model.safetensors themselves, so that one can be turned into the other."""

import os

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import is_model_file, load_model


def can_import(path: str | os.PathLike[str]) -> bool:
    """Whether this is a model file of ncdeploy."""
    return is_model_file(path)


def load(path: str | os.PathLike[str], *, allow_module: bool = False) -> Denoiser:
    """The model. allow_module: as for `ncdeploy.denoisers.load_model`, which says what is raised."""
    return load_model(path, allow_module=allow_module)
