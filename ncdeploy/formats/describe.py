"""What an ONNX model says of itself, what its user says where it is silent, and whether the graph agrees."""

import os
from collections.abc import Sequence

from ncdeploy.errors import FileError, InputError
from ncdeploy.formats.filetype import Kind, detect, is_bundle
from ncdeploy.formats.graphrecord import record_of
from ncdeploy.formats.onnxfile import OnnxFile, read_onnx
from ncdeploy.formats.parts import refuse_part
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo
from ncdeploy.ports import Port

FLAGS = "--sigma-min, --sigma-max and --sigma-data (and --num-classes if it takes labels)"


def describes_itself(path: str | os.PathLike[str]) -> bool:
    """Whether a model file carries its record: every one but a foreign ONNX file. Raises FileError as `detect` does."""
    return is_bundle(path) or detect(path) is not Kind.ONNX or METADATA_KEY in read_onnx(path).metadata


def describe(path: str | os.PathLike[str], file: OnnxFile, given: ModelInfo | None = None) -> ModelInfo:
    """The model's own record, or `given` for a file without one.

    Raises FileError naming the options that are needed if there is neither, InputError if there are both.
    """
    refuse_part(path, file)
    record = file.metadata.get(METADATA_KEY)
    if record is None:
        if given is None:
            raise FileError(f"{path}: does not say what it is (no ncdeploy metadata); describe it with {FLAGS}")
        return given
    if given is not None:
        raise InputError(f"{path} describes itself; leave out the options that describe the model")
    try:
        return ModelInfo.from_json(record)
    except FileError as e:
        raise FileError(f"{path}: {e}") from e


def info_from_flags(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    sigma_data: float | None = None,
    num_classes: int | None = None,
) -> ModelInfo | None:
    """What the user's options say of an ONNX file without metadata; None if no option was given.

    Args:
        shape: sizes without the batch axis, or text such as "3,64,64"; read off the graph unless given

    Raises:
        InputError: naming the options that are still missing, or if the file describes itself
    """
    if all(value is None for value in (shape, sigma_min, sigma_max, sigma_data, num_classes)):
        return None
    if sigma_min is None or sigma_max is None or sigma_data is None:
        needed = {"--sigma-min": sigma_min, "--sigma-max": sigma_max, "--sigma-data": sigma_data}
        missing = [flag for flag, value in needed.items() if value is None]
        raise InputError(f"{path}: to describe this model, {', '.join(missing)} is missing as well")
    if describes_itself(path):
        raise InputError(f"{path} describes itself; leave out the options that describe the model")
    file = read_onnx(path)
    if num_classes is None and any(port.name == "labels" for port in file.inputs):
        raise InputError(f"{path}: its graph takes labels; say how many with --num-classes")
    return ModelInfo(
        shape=_shape(path, file, shape),
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        sigma_data=sigma_data,
        num_classes=num_classes or 0,
        guidance=any(port.name == "guidance" for port in file.inputs),
    )


def check_graph(path: str | os.PathLike[str], file: OnnxFile, info: ModelInfo) -> None:
    """Raise FileError unless the graph takes the model's inputs and returns its output, both with dynamic batches."""
    graph = record_of(path, file.metadata)
    if graph is not None:
        raise FileError(f"{path}: is a {graph.kind} graph, expected a denoiser; to run it: ncdeploy sample --engine")
    _check_ports(path, "inputs", file.inputs, info.inputs)
    _check_ports(path, "outputs", file.outputs, info.outputs)


def _check_ports(path: str | os.PathLike[str], kind: str, ports: Sequence[Port], wanted: Sequence[Port]) -> None:
    if sorted(port.name for port in ports) != sorted(port.name for port in wanted):
        found, names = ", ".join(port.name for port in ports), ", ".join(port.name for port in wanted)
        raise FileError(f"{path}: the graph's {kind} are {found or 'none'}; expected {names}")
    by_name = {port.name: port for port in ports}
    for want in wanted:
        port = by_name[want.name]
        axes = zip(port.shape, want.shape, strict=False)
        fits = len(port.shape) == len(want.shape) and all(isinstance(a, str) or a == b for a, b in axes)
        if port.dtype != want.dtype or not fits:
            expected = ", ".join(map(str, want.shape))
            raise FileError(
                f"{path}: {port.name} is {port.dtype} ({', '.join(map(str, port.shape))}); "
                f"expected {want.dtype} ({expected}) with a dynamic {want.shape[0]}"
            )


def _shape(path: str | os.PathLike[str], file: OnnxFile, given: Sequence[int] | str | None) -> tuple[int, ...]:
    if isinstance(given, str):
        try:
            return tuple(int(size) for size in given.split(","))
        except ValueError as e:
            raise InputError(f'shape: got "{given}", expected sizes such as "3,64,64"') from e
    if given is not None:
        return tuple(given)
    shapes = [port.shape[1:] for port in file.inputs if port.name == "x"]
    if not shapes or not shapes[0] or not all(isinstance(n, int) and n > 0 for n in shapes[0]):
        raise InputError(f"{path}: the graph does not fix the shape of a sample; give --shape, e.g. --shape 3,64,64")
    return tuple(n for n in shapes[0] if isinstance(n, int))
