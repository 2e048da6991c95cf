"""model.pt: one dictionary of plain values and tensors, which `torch.load(path, weights_only=True)` opens.

format          1
config          dict: `build(config)` makes the architecture
weights         dict of name -> tensor (after training: the exponential moving average)
info            str: ModelInfo as JSON, with the digest of the weights
record          dict: the training record, JSON-able
training_state  optional dict of plain values and tensors: what resuming needs
digest          str: SHA-256 of all of the above but the weights, as `content_digest` takes it; earlier files have none

A name that ends in .safetensors writes the twin (`safetensors_file`); readers tell the two apart by their content.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.factory import NETWORKS, build, count_values
from ncdeploy.denoisers.safetensors_file import KEY, is_safetensors, read_file, read_tensors, write_file
from ncdeploy.denoisers.torchfile import pickle_head, read_torch
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import atomic_write, regular_file, user_path
from ncdeploy.formats.archive import is_archive
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Condition
from ncdeploy.records import read

FORMAT = 1
FIELDS = {"config": dict, "weights": dict, "info": str, "record": dict}
MARKS = [b"X" + len(name).to_bytes(4, "little") + name.encode() for name in ("format", *FIELDS)]  # names in a pickle


class Checkpoint(NamedTuple):
    """What one model file holds.

    model:          on the CPU and in eval mode
    record:         the training record
    training_state: what resuming needs; None in a finished model
    """

    model: Denoiser
    record: dict[str, Any]
    training_state: dict[str, Any] | None


def save_model(
    path: str | os.PathLike[str],
    denoiser: Denoiser,
    *,
    record: Mapping[str, Any] | None = None,
    training_state: Mapping[str, Any] | None = None,
) -> None:
    """Write the denoiser, its info and its training record; a reader never sees half a file.

    Args:
        path: model.safetensors writes that format, any other name model.pt
        record: JSON-able
        training_state: None, bool, numbers, text, tensors, and lists, tuples and dicts of them

    Raises:
        FileError: if the file cannot be written
        InputError: for values that could not be read back, and for a training_state in model.safetensors, which cannot
            hold one
    """
    _check_rebuildable(denoiser)
    twin = wants_safetensors(path)
    if twin and training_state is not None:
        raise InputError(f"{path}: .safetensors cannot hold what resuming needs; train to a .pt and convert that")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
    versions = {**denoiser.info.versions, **package_versions()}
    info = replace(denoiser.info, weights_digest=weights_digest(weights), versions=versions)
    try:
        plain = json.loads(json.dumps(dict(record or {})))
    except (TypeError, ValueError) as e:
        raise InputError(f"record: cannot be written as JSON: {e}") from e
    payload: dict[str, Any] = {"format": FORMAT, "config": denoiser.config, "info": info.to_json(), "record": plain}
    if training_state is not None:
        _require_plain(training_state, "training_state")
        payload["training_state"] = dict(training_state)
    payload["digest"] = content_digest(payload)
    if twin:
        write_file(path, weights, payload)
        return
    payload["weights"] = weights
    with atomic_write(path) as temporary, temporary.open("wb") as f:
        try:
            torch.save(payload, f)
        except RuntimeError as e:  # PyTorch's writer reports a full disk this way, without the reason
            f.write(bytes(1 << 16))  # which this has
            f.flush()
            raise FileError(f"{path}: cannot be written: {str(e).splitlines()[0]}") from e


def load_model(path: str | os.PathLike[str], *, allow_module: bool = False) -> Denoiser:
    """The denoiser, on the CPU and in eval mode, with its weights checked against their digest.

    Args:
        path: model.pt or model.safetensors, whatever its name
        allow_module: whether the file may name a Python function that makes its network (a model imported from
            "package.module:function"); the function is then imported and run

    Raises:
        FileError: for a file that is missing, truncated, altered, foreign, of another format, holds code, or names code
            that is not allowed
        DependencyError: where its network needs a package that is not installed
    """
    return load_checkpoint(path, allow_module=allow_module).model


def load_checkpoint(path: str | os.PathLike[str], *, allow_module: bool = False) -> Checkpoint:
    """All that a model file holds, of one reading: a run that saves meanwhile replaces the file, and mixes nothing.

    Raises as `load_model` does.
    """
    payload = _read(path)
    try:
        info = ModelInfo.from_json(payload["info"])
        held = sum(tensor.numel() for tensor in payload["weights"].values())
        wanted = count_values(payload["config"], tensors=len(payload["weights"]))
        if wanted > 2 * held:  # no memory for a network that the file cannot fill; smaller faults are named below
            raise FileError(f"config and weights do not belong together: {wanted} numbers wanted, {held} in the file")
        with torch.random.fork_rng(devices=[]):  # initial weights, replaced below, must not disturb the caller
            denoiser = build(payload["config"], allow_module=allow_module)
    except (FileError, InputError) as e:
        raise FileError(f"{path}: {e}") from e
    weights = payload["weights"]
    _check_weights(path, denoiser.state_dict(), weights)
    if info.weights_digest != weights_digest(weights):
        raise FileError(f"{path}: the weights differ from their recorded digest; the file was altered, copy it again")
    differing = _differing(info, payload["config"])
    if differing:
        raise FileError(f"{path}: info and config disagree on {', '.join(differing)}; the file was altered")
    denoiser.load_state_dict(weights, assign=True)
    denoiser.info = info
    return Checkpoint(denoiser.eval(), payload["record"], payload.get("training_state"))


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Whether this is a model.pt or its twin, sound or not; anything else, also a missing file, is not."""
    file = user_path(path)
    try:
        if not file.is_file():
            return False
        if is_safetensors(file):
            return KEY in read_tensors(file)[1]
    except (FileError, OSError):
        return False
    head = pickle_head(file)
    return all(mark in head for mark in MARKS)


def wants_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a model written to this name is a safetensors file."""
    return Path(path).suffix.lower() == ".safetensors"


def load_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The training record of a model file. Raises FileError as `load_model` does."""
    record: dict[str, Any] = _read(path)["record"]
    return record


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over names (sorted), dtypes, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def content_digest(payload: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the fields of a model file but its weights, which have a digest of their own."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(weights_digest({"": value}).encode())
        elif isinstance(value, Mapping):
            digest.update(b"{")
            for key in sorted(value, key=str):
                add(key)
                add(value[key])
            digest.update(b"}")
        elif isinstance(value, (list, tuple)):
            digest.update(b"[")
            for item in value:
                add(item)
            digest.update(b"]")
        else:
            digest.update(f"{value!r} ".encode())

    add({name: value for name, value in payload.items() if name not in ("weights", "digest")})
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that make a model file; ncdeploy itself only where it is installed."""
    versions = {"torch": str(torch.__version__)}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["ncdeploy"] = importlib.metadata.version("ncdeploy")
    return versions


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    make = f"make one with: ncdeploy train -o {Path(path).name}"
    file = regular_file(path, make)
    try:
        if is_safetensors(file):
            return _checked(path, read_file(path))
        if not is_archive(file):
            raise FileError(f"{path}: not a model file; expected one that `ncdeploy train` wrote")
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
    return _checked(path, read_torch(path))


def _checked(path: str | os.PathLike[str], payload: Any) -> dict[str, Any]:
    """The payload, if it has the fields of a model file."""
    if not isinstance(payload, dict) or type(payload.get("format")) is not int:
        raise FileError(f"{path}: a PyTorch file of foreign layout; expected one that `ncdeploy train` wrote")
    if payload["format"] != FORMAT:
        raise FileError(f"{path}: has format {payload['format']}, this version reads {FORMAT}; update ncdeploy")
    for name, kind in FIELDS.items():
        if not isinstance(payload.get(name), kind):
            raise FileError(f"{path}: the field {name!r} is missing or damaged; copy or train the file again")
    if not isinstance(payload.get("training_state", {}), dict):
        raise FileError(f"{path}: the training state is damaged; the file was altered")
    if not all(isinstance(tensor, Tensor) for tensor in payload["weights"].values()):
        raise FileError(f"{path}: the weights are not all tensors; the file was altered")
    try:
        json.dumps([payload["config"], payload["record"]])
    except (TypeError, ValueError) as e:
        raise FileError(f"{path}: its config or record holds something that is no setting ({e})") from e
    if payload.get("digest") is not None and payload["digest"] != content_digest(payload):
        raise FileError(f"{path}: differs from its recorded digest; the file was altered, copy it again")
    return payload


def _check_weights(path: str | os.PathLike[str], wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in sorted(set(wanted) ^ set(found), key=str):
        problem = "lacks" if name in wanted else "has unknown"
        raise FileError(f"{path}: {problem} weight {name!r}; config and weights do not belong together")
    for name, tensor in wanted.items():
        if found[name].is_floating_point() != tensor.is_floating_point():
            raise FileError(f"{path}: weight {name!r} is {found[name].dtype}; the file was altered")
        if tensor.shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)}, the config wants {tuple(tensor.shape)}"
            raise FileError(f"{path}: weight {name!r} has shape {shapes}; config and weights do not belong together")


def _check_rebuildable(denoiser: Denoiser) -> None:
    network = denoiser.config.get("network")
    if network is not None and network["kind"] not in NETWORKS:
        kinds = ", ".join(NETWORKS)
        raise InputError(f"network: {network['kind']!r} could not be rebuilt from a file, expected one of {kinds}")
    if denoiser.info.guidance:
        raise InputError("guidance: is added when a model is exported or sampled; save the model without it")
    differing = _differing(denoiser.info, denoiser.config)
    if differing:
        raise InputError(f"info and config disagree on {', '.join(differing)}; these are fixed when a model is built")


def _differing(info: ModelInfo, config: Mapping[str, Any]) -> list[str]:
    fixed = {"shape": list(info.shape), "num_classes": info.num_classes, "sigma_data": info.sigma_data}
    differing = [name for name, value in fixed.items() if config[name] != value]
    if config.get("unconditional", True) != info.unconditional:  # configs of earlier files do not say
        differing.append("unconditional")
    if tuple(read(Condition, condition) for condition in config.get("conditions", ())) != info.conditions:
        differing.append("conditions")
    return differing


def _require_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
    elif type(value) not in (type(None), bool, int, float, str) and not isinstance(value, Tensor):
        raise InputError(f"{where}: got {type(value).__name__}, expected a number, text or a tensor")
