"""What an ONNX model says of itself, what its user says where it is silent, and whether the graph agrees."""

import os
from collections.abc import Sequence

from ncdeploy.errors import FileError, InputError
from ncdeploy.formats.filetype import Kind, detect, is_bundle
from ncdeploy.formats.graphrecord import record_of
from ncdeploy.formats.onnxfile import OnnxFile, Port, read_onnx
from ncdeploy.modelinfo import METADATA_KEY, ModelInfo

FLAGS = "--sigma-min, --sigma-max and --sigma-data (and --num-classes if it takes labels)"


def describes_itself(path: str | os.PathLike[str]) -> bool:
    """Whether a model file carries its record: every one but a foreign ONNX file. Raises FileError as `detect` does."""
    return is_bundle(path) or detect(path) is not Kind.ONNX or METADATA_KEY in read_onnx(path).metadata


def describe(path: str | os.PathLike[str], file: OnnxFile, given: ModelInfo | None = None) -> ModelInfo:
    """The model's own record, or `given` for a file without one.

    Raises FileError naming the options that are needed if there is neither, InputError if there are both.
    """
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

    shape: sizes without the batch axis, or text such as "3,64,64"; read off the graph unless given

    Raises InputError naming the options that are still missing, or if the file describes itself.
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
    """Raise FileError unless the graph is D(x, sigma[, labels[, guidance]]) -> denoised with a dynamic batch and
    info's shape."""
    graph = record_of(path, file.metadata)
    if graph is not None:
        raise FileError(f"{path}: is a {graph.kind} graph, expected a denoiser; to run it: ncdeploy sample --engine")
    wanted = [("x", "float32", info.shape), ("sigma", "float32", ())]
    if info.num_classes:
        wanted.append(("labels", "int64", ()))
    if info.guidance:
        wanted.append(("guidance", "float32", ()))
    _check_ports(path, "inputs", file.inputs, wanted)
    _check_ports(path, "outputs", file.outputs, [("denoised", "float32", info.shape)])


def _check_ports(
    path: str | os.PathLike[str],
    kind: str,
    ports: Sequence[Port],
    wanted: Sequence[tuple[str, str, tuple[int, ...]]],
) -> None:
    if sorted(port.name for port in ports) != sorted(name for name, _, _ in wanted):
        found, names = ", ".join(port.name for port in ports), ", ".join(name for name, _, _ in wanted)
        raise FileError(f"{path}: the graph's {kind} are {found or 'none'}; expected {names}")
    by_name = {port.name: port for port in ports}
    for name, dtype, shape in wanted:
        port = by_name[name]
        axes = zip(port.shape, ("batch", *shape), strict=False)
        fits = len(port.shape) == 1 + len(shape) and all(isinstance(have, str) or have == want for have, want in axes)
        if port.dtype != dtype or not fits:
            expected = ", ".join(["batch", *map(str, shape)])
            raise FileError(
                f"{path}: {name} is {port.dtype} ({', '.join(map(str, port.shape))}); "
                f"expected {dtype} ({expected}) with a dynamic batch"
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
