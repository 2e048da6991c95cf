"""Models that other projects trained, as denoisers that train on, export and sample like native ones. Needs PyTorch.

diffusers         a folder with a network, or a whole pipeline; see docs/zoo.md for what is known
lerobot           a folder with a diffusion policy of LeRobot, its encoder and its decoder
diffusion-policy  a checkpoint of real-stanford/diffusion_policy with a low-dimensional U-Net, likewise; nothing runs
edm               a network pickle of NVlabs/edm, read without executing any of it
guided-diffusion  a state dict of improved-diffusion or guided-diffusion
dit               a state dict of DiT or SiT
score-sde         a checkpoint of score_sde_pytorch: DDPM++ and NCSN++
cdl               networks of Wu et al. 2024, of Lightning files, and DDPM's U-Net in PyTorch
ncdeploy          model.pt and model.safetensors, to turn one into the other
module            any PyTorch module, made by a function that is named; from Python, see `wrap_module`

An importer is a module with `can_import(path) -> bool`, a cheap look that executes nothing, and
`load(path, **options) -> Denoiser`.
"""

import inspect
import os
import re
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.importers import cdl, diffusers, dit, edm_pickle, guided, module, native, score_sde
from ncdeploy.importers.foreign import name_of
from ncdeploy.importers.hub import local
from ncdeploy.importers.module import wrap_module
from ncdeploy.importers.policies import diffusion_policy, lerobot

__all__ = ["FORMATS", "detect_format", "import_model", "local", "wrap_module"]

IMPORTERS: tuple[tuple[str, ModuleType], ...] = (
    ("ncdeploy", native),
    ("diffusers", diffusers),
    ("lerobot", lerobot),
    ("diffusion-policy", diffusion_policy),
    ("edm", edm_pickle),
    ("guided-diffusion", guided),
    ("dit", dit),
    ("score-sde", score_sde),
    ("cdl", cdl),
    ("module", module),
)
FORMATS = tuple(name for name, _ in IMPORTERS)


def import_model(src: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> Denoiser:
    """The model in `src` as a denoiser, on the CPU and in eval mode.

    Args:
        src: a file, a folder, for the format module the name "package.module:function", or "hf://owner/name", see
            `ncdeploy.importers.hub`
        format: one of FORMATS; None finds it by looking at the content
        options: what the format's importer takes (its `load` documents them); None counts as not given

    Raises:
        FileError: for a source that is missing, foreign or unsafe
        InputError: for an option that the format does not take or that does not fit
        DependencyError: when a package is missing
    """
    text = local(os.fspath(src), variant=options.get("variant")).path
    name = detect_format(text) if format is None else _known_format(format)
    load = dict(IMPORTERS)[name].load
    given = {option: value for option, value in options.items() if value is not None}
    takes = [p.name for p in inspect.signature(load).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in given:
        if option not in takes:
            known = ", ".join(t.replace("_", "-") for t in takes) or "none"
            raise InputError(f"{option.replace('_', '-')}: the format {name} has no such option; it has: {known}")
    denoiser: Denoiser = load(text, **given)
    return denoiser.eval()


def detect_format(src: str | os.PathLike[str]) -> str:
    """The format of a source by its content. Raises FileError if it is none, or if it could be several."""
    text = os.fspath(src)
    found = [name for name, importer in IMPORTERS if importer.can_import(text)]
    if len(found) > 1:
        raise FileError(f"{text}: could be {' or '.join(found)}; say which with --format")
    if found:
        return found[0]
    if not user_path(text).exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            name = text.rpartition("/")[2]
            raise FileError(
                f"{text}: there is no such file or folder; if it is a name on the Hugging Face hub: "
                f"ncdeploy import hf://{text}, or: hf download {text} --local-dir {name} && ncdeploy import {name}"
            )
        raise FileError(f"{text}: there is no such file or folder; for a Python function write package.module:function")
    what = name_of(text)
    if what is not None:
        raise FileError(f"{text}: is {what}")
    raise FileError(f"{text}: none of the known formats ({', '.join(FORMATS)}); if it is one, say which with --format")


def _known_format(name: str) -> str:
    if name in FORMATS:
        return name
    near = get_close_matches(name, FORMATS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"format: got {name!r}; {hint}known: {', '.join(FORMATS)}")
