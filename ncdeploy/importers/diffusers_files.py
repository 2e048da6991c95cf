"""Files that diffusers writes: settings as JSON, and the weights of a model as save_pretrained leaves them.

diffusion_pytorch_model.safetensors                                   plain
diffusion_pytorch_model.fp16.safetensors                              a variant
diffusion_pytorch_model.safetensors.index.json, ...-00001-of-00002    shards: weight_map says which has which
diffusion_pytorch_model.safetensors.index.fp16.json                   a variant in shards
... .bin                                                              the same as PyTorch files
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ncdeploy.denoisers.foreign.diffusers_unet import first_line
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import read_file
from ncdeploy.importers.weights import read_weights

NAME = "diffusion_pytorch_model"
_FILE = re.compile(
    rf"{NAME}(?:\.(?P<before>\w+))?\.(?P<kind>safetensors|bin)(?P<index>\.index(?:\.(?P<after>\w+))?\.json)?"
)
# The attention of models written before diffusers 0.18: what it was called, and is called now.
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)$")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
MOST_SHARDS = 1000
MOST_BYTES = 1 << 24  # of a file of settings


def read_json(file: Path, wrote: str = "diffusers") -> dict[str, Any]:
    """An object of one of the files that diffusers, or whoever `wrote` it, keeps settings in. Raises FileError for
    anything else."""
    data = read_file(file, MOST_BYTES, f"expected settings that {wrote} wrote")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise FileError(f"{file}: is not JSON ({first_line(e)[:200]}); copy it again") from e
    if not isinstance(record, dict):
        raise FileError(f"{file}: holds {type(record).__name__}, expected settings by name")
    return record


def read_model_weights(folder: Path, variant: str | None = None) -> tuple[dict[str, Tensor], Path, tuple[str, ...]]:
    """Name -> tensor, the file that they (or the list of their shards) stand in, and what is to be said of the choice.

    variant: "fp16" and the like; None = the plain file, or the only variant there is

    Raises FileError for weights that are missing or damaged, InputError for a choice that must be made.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda file: (".bin" in file.name, ".index." in file.name)):
        if match := _FILE.fullmatch(file.name):
            found.setdefault(match["before"] or match["after"] or "", file)
    names = ", ".join(sorted(name or "plain" for name in found))
    if variant is not None and variant not in found:
        raise InputError(f"variant: {folder} has no variant {variant!r}; it has: {names or 'no weights'}")
    if not found:
        raise FileError(f"{folder}: has no {NAME}.safetensors or {NAME}.bin, whole or in shards with their index")
    if variant is None and "" not in found and len(found) > 1:
        raise InputError(f"variant: {folder} has several variants of its weights; choose with --variant: {names}")
    chosen = variant if variant is not None else "" if "" in found else next(iter(found))
    notes = (f"the weights are those of the variant {chosen}",) if chosen else ()
    file = found[chosen]
    return (_read_shards(file) if file.suffix == ".json" else read_weights(file)), file, notes


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by the names of today."""

    def new(match: re.Match[str]) -> str:
        return f"{match[1]}.{_NEW_NAMES[match[2]]}.{match[3]}"

    return {_OLD_ATTENTION.sub(new, name): tensor for name, tensor in weights.items()}


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FileError(f"{index}: has no weight_map, which says what shard each weight is in; copy it again")
    shards = {str(name) for name in places.values()}
    if len(shards) > MOST_SHARDS or any(Path(name).name != name for name in shards):
        raise FileError(f"{index}: its weight_map names other things than files beside it; the file was altered")
    weights: dict[str, Tensor] = {}
    for shard in sorted(shards):
        held = read_weights(index.parent / shard)
        for name in (name for name, place in places.items() if place == shard):
            if name not in held:
                raise FileError(f"{index}: {shard} lacks {name[:80]!r}, which should be there; copy both again")
            weights[name] = held[name]
    return weights
