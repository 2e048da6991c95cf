"""model.safetensors: the twin of model.pt in a format that cannot hold code (huggingface/safetensors).

tensors           the weights, name -> tensor
metadata          "ncdeploy": JSON of format, config, info, record and digest, as in model.pt

There is no training_state: it holds more than tensors.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ncdeploy.denoisers.torchfile import check_payload
from ncdeploy.errors import DependencyError, FileError, install
from ncdeploy.files import atomic_write, user_path

KEY = "ncdeploy"
LARGEST_HEADER = 100_000_000  # bytes; what the format's own readers accept


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as this format does: the header's length in 8 bytes, then JSON."""
    with user_path(path).open("rb") as f:
        head = f.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_HEADER


def write_file(path: str | os.PathLike[str], weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights and a JSON-able description; a reader never sees half a file.

    Raises FileError if the file cannot be written, DependencyError without safetensors.
    """
    torch_files = _library()
    # Tensors may not share memory in this format; a copy of each costs little beside writing them.
    separate = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    metadata = {"format": "pt", KEY: json.dumps(description, sort_keys=True)}
    content = torch_files.save(separate, metadata=metadata)  # its save_file makes a file that only its owner may read
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of model.pt from its twin. Raises FileError for anything that is damaged or foreign."""
    weights, metadata = read_tensors(path)
    if KEY not in metadata:
        raise FileError(f"{path}: holds weights without a model; import it: ncdeploy import SRC --weights {path}")
    try:
        description = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as e:
        raise FileError(f"{path}: its description is not JSON ({e}); the file was altered") from e
    if not isinstance(description, dict):
        raise FileError(f"{path}: its description is damaged; copy the file again")
    payload = {**description, "weights": weights}
    try:
        check_payload(payload, user_path(path).stat().st_size)
    except FileError as e:
        raise FileError(f"{path}: {e}") from e
    return payload


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of any .safetensors file, and its metadata. Raises FileError, DependencyError as above."""
    _library()
    from safetensors import safe_open

    try:
        with safe_open(str(user_path(path)), framework="pt", device="cpu") as f:
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
            return tensors, dict(f.metadata() or {})
    except Exception as e:  # the reader's own error type, and whatever a hostile header leads to
        raise FileError(f"{path}: is truncated or damaged ({_reason(e)}); copy or make it again") from e


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError as e:
        raise DependencyError(f".safetensors files need safetensors: {install('torch')}") from e
    return safetensors.torch


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
