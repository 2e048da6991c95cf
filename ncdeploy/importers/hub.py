"""Models on the Hugging Face hub: hf://owner/name, or hf://owner/name@revision for a tag, branch or commit.

Without huggingface_hub, or without a network, the error says what to download and where to put it. Of a repository
only settings and the weights that an import reads are fetched, as .safetensors and nothing else; the revision is
pinned to the commit that it stands for, and that is what a model file records.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ncdeploy.errors import FileError, InputError, install
from ncdeploy.importers.diffusers_pipeline import DECODERS, NETWORKS

PREFIX = "hf://"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
# What is read of a pipeline, and of a bare model or a policy.
PIPELINE = (
    "model_index.json", "scheduler/*.json", "tokenizer/tokenizer_config.json", "text_encoder/config.json",
    *(f"{part}/*{end}" for part in (*NETWORKS, *DECODERS) for end in (".json", ".safetensors")),
)  # fmt: skip
BARE = ("*.json", "*.safetensors")  # beside each other, in no folder


@dataclass(frozen=True, kw_only=True)
class Local:
    """A source on this machine: its path, and its name with the commit where it came from the hub."""

    path: str
    name: str


def local(source: str, *, variant: str | None = None) -> Local:
    """The source itself, or of the hub a copy of it in the cache of huggingface_hub.

    variant: of the weights to fetch, "fp16" and the like; None = the plain ones, or whatever there is

    Raises InputError for a name that is none, FileError, with what to do instead, where nothing can be fetched.
    """
    if not source.startswith(PREFIX):
        return Local(path=source, name=source)
    match = _NAME.fullmatch(source)
    if match is None:
        raise InputError(f"{source:.100}: expected hf://owner/name, or hf://owner/name@revision")
    name, revision = match[1], match[2]
    try:
        import huggingface_hub
    except ImportError as e:
        raise FileError(f"{source}: needs huggingface_hub, {install('hub')}; {_by_hand(name, revision)}") from e
    try:
        info: Any = huggingface_hub.HfApi().model_info(name, revision=revision)
        files = wanted([file.rfilename for file in info.siblings], variant)
        folder = huggingface_hub.snapshot_download(name, revision=info.sha, allow_patterns=files or ["-"])
    except Exception as e:  # its errors, and those of whatever carries them
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:150]
        raise FileError(f"{source}: cannot be fetched ({reason}); {_by_hand(name, revision)}") from e
    if not files:
        raise FileError(f"{source}: has no .safetensors with settings beside them, and nothing else is fetched")
    return Local(path=str(Path(folder)), name=f"{PREFIX}{name}@{info.sha}")


def wanted(files: Iterable[str], variant: str | None) -> list[str]:
    """Of the files of a repository those that an import reads; none where there are no weights among them."""
    there = sorted(files)
    patterns = PIPELINE if "model_index.json" in there else BARE
    depth = None if patterns is PIPELINE else 0
    chosen = [f for f in there if any(fnmatch(f, p) for p in patterns) and depth in (None, f.count("/"))]
    weights = [file for file in chosen if _is_weights(file)]
    left: set[str] = set()
    for folder in {file.rpartition("/")[0] for file in weights}:
        inside = [file for file in weights if file.rpartition("/")[0] == folder]
        preferred = [file for file in inside if _variant(file) == (variant or "")]
        left |= set(inside) - set(preferred or inside)
    return [file for file in chosen if file not in left] if any(f.endswith(".safetensors") for f in weights) else []


def _is_weights(file: str) -> bool:
    return file.endswith(".safetensors") or ".safetensors.index." in file


def _variant(file: str) -> str:
    """ "fp16" of diffusion_pytorch_model.fp16-00001-of-00002.safetensors and of ...safetensors.index.fp16.json."""
    stem = file.rpartition("/")[2].replace(".safetensors", "").replace(".index", "").removesuffix(".json")
    return re.sub(r"-\d{5}-of-\d{5}", "", stem).partition(".")[2]


def _by_hand(name: str, revision: str | None) -> str:
    folder = name.rpartition("/")[2]
    pinned = "" if revision is None else f" --revision {revision}"
    return (
        f"on a machine with a network: hf download {name}{pinned} --include '*.json' '*.safetensors' --local-dir "
        f"{folder}, copy that folder here, then: ncdeploy import {folder}"
    )
