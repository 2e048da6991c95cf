"""Encoders and decoders: graphs of a bundle that run once a sample, before and after the denoiser.

An encoder makes conditions of what a host has: an observation, the tokens of a prompt. A decoder makes of a sample `x`,
in model units, what a host wants: an action, a picture. Each is an ONNX graph whose inputs and outputs are
[samples, *shape] with a dynamic number of samples. One that was exported with its model names it under `PART_OF`.
"""

import os
from dataclasses import dataclass, field
from typing import Literal

from ncdeploy.errors import FileError, InputError
from ncdeploy.formats.onnxfile import OnnxFile, read_onnx
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import MAX_CONDITIONS, Port, Value
from ncdeploy.records import about
from ncdeploy.records.kinds import list_of, object_of, one_of

PART_OF = "ncdeploy.part_of"  # ONNX metadata: the weights' digest of the model
SAMPLES = "samples"  # the dynamic axis
Role = Literal["encoder", "decoder"]
ROLES: tuple[Role, Role] = ("encoder", "decoder")
_VALUES = list_of(object_of(Value, "a value"), "a list of values", 1, MAX_CONDITIONS)


@dataclass(frozen=True, kw_only=True)
class Part:
    """An encoder or a decoder of a bundle."""

    file: str = field(metadata=about(one_of("encoder.onnx", "decoder.onnx"), "the graph"))
    inputs: tuple[Value, ...] = field(metadata=about(_VALUES, "what it takes, [samples, *shape] each"))
    outputs: tuple[Value, ...] = field(metadata=about(_VALUES, "what it gives, [samples, *shape] each"))


def read_part(path: str | os.PathLike[str], role: Role, info: ModelInfo, name: str | None = None) -> Part:
    """What an ONNX graph takes and gives as the encoder or decoder of a model; `name` is for messages.

    Raises FileError for a graph that is none, or does not fit the model, InputError for one of another model.
    """
    file, name = read_onnx(path), str(path) if name is None else name
    part = Part(
        file=f"{role}.onnx",
        inputs=tuple(_value(name, port) for port in file.inputs),
        outputs=tuple(_value(name, port) for port in file.outputs),
    )
    _check(name, part, role, info)
    owner = file.metadata.get(PART_OF)
    if None not in (owner, info.weights_digest) and owner != info.weights_digest:
        raise InputError(f"{name}: belongs to a model with other weights; import or export both from the same model")
    return part


def _check(path: str, part: Part, role: Role, info: ModelInfo) -> None:
    """Raise FileError unless an encoder's outputs are conditions of the model, or a decoder takes its samples."""
    if role == "encoder":
        fitting = {condition.name: (condition.dtype, condition.shape) for condition in info.conditions}
        for value in part.outputs:
            if fitting.get(value.name) != (value.dtype, value.shape):
                takes = ", ".join(condition.describe() for condition in info.conditions) or "none"
                raise FileError(f"{path}: gives {value.describe()}; the model's conditions are {takes}")
        return
    wanted = Value(name="x", dtype="float32", shape=info.shape)
    if part.inputs != (wanted,) or len(part.outputs) != 1:
        found = ", ".join(value.describe() for value in part.inputs)
        raise FileError(
            f"{path}: takes {found} and has {len(part.outputs)} outputs; a decoder takes {wanted.describe()} alone and "
            "has one output"
        )


def refuse_part(path: str | os.PathLike[str], file: OnnxFile) -> None:
    """Raise FileError for an encoder or a decoder where a model is expected."""
    if PART_OF in file.metadata:
        raise FileError(f"{path}: is an encoder or a decoder, not a model; ncdeploy bundle takes it beside its model")


def _value(path: str, port: Port) -> Value:
    first, *sizes = port.shape or (0,)
    fixed = tuple(size for size in sizes if isinstance(size, int))
    if not isinstance(first, str) or len(fixed) < len(sizes):
        shape = ", ".join(str(axis or "?") for axis in port.shape)
        raise FileError(f"{path}: {port.name} is ({shape}); expected a dynamic first axis, {SAMPLES}, and fixed others")
    try:
        return Value(name=port.name, dtype=port.dtype, shape=fixed)
    except InputError as e:
        raise FileError(f"{path}: {e}") from e
