"""A bundle for NVIDIA Triton Inference Server: a model repository with the denoiser and the further graphs.

    model_repository/
      denoiser/config.pbtxt  denoiser/1/model.onnx      requests of any number of rows are batched by the server
      sampler/config.pbtxt   sampler/1/model.onnx       for every further graph: a request is a batch of its own

In a request for the denoiser, x is [rows, *shape], and sigma, labels and guidance are [rows, 1]: Triton's requests have
no tensor of the batch axis alone, so the configuration reshapes them for the graph (reshape { shape: [] }).

config.pbtxt is a ModelConfig of Triton's protocol in protobuf's text format:
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ncdeploy.bundle import Bundle, open_bundle
from ncdeploy.bundle.folder import atomic_folder, check_folder
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import user_path
from ncdeploy.formats.onnxfile import external_data, read_onnx
from ncdeploy.formats.sidecar import read_sidecar
from ncdeploy.ports import Port

MAX_BATCH, MAX_DELAY = 64, 1000
CONFIG = "config.pbtxt"
TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "bool": "TYPE_BOOL",
}
PLATFORMS = {"model.onnx": "onnxruntime_onnx", "model.plan": "tensorrt_plan"}
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def write_repository(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    prefix: str = "",
    max_batch: int | None = None,
    max_delay: int = MAX_DELAY,
    force: bool = False,
) -> list[Path]:
    """Write the models of a bundle into a model repository, new or existing; returns their folders.

    prefix:    of the models' names, where a repository serves several bundles
    max_batch: most rows that the server puts into one call; None = 64, or what a TensorRT engine takes if that is less
    max_delay: microseconds that a request waits for others
    force:     replace models of the same name

    Raises FileError for a bundle that is not whole and an output that cannot be written, InputError for values out of
    range and graphs that Triton has no type for.
    """
    if max_delay < 0:
        raise InputError(f"max_delay: got {max_delay}, expected 0 or more microseconds")
    if prefix and not _NAME.fullmatch(prefix):
        raise InputError(f"prefix: got {prefix!a}, expected letters, digits, _ . and -")
    opened = open_bundle(bundle)
    files = {f"{prefix}denoiser": opened.engine}
    configs = {f"{prefix}denoiser": denoiser_config(f"{prefix}denoiser", opened, max_batch, max_delay)}
    for graph in opened.graphs.values():
        name = f"{prefix}{graph.stem}"
        if name in files:
            raise InputError(f"{graph}: a model of this name is there already; rename the graph in the bundle")
        files[name] = graph
        configs[name] = graph_config(name, graph)
    repository = user_path(output)
    try:
        repository.mkdir(exist_ok=True)
    except OSError as e:
        raise FileError(f"{output}: cannot be made a folder: {e.strerror or e}; choose another output") from e
    for name in files:
        check_folder(repository / name, mark=CONFIG, force=force)
    for name, file in files.items():
        with atomic_folder(repository / name, mark=CONFIG, force=force) as folder:
            (folder / "1").mkdir()
            shutil.copyfile(file, folder / "1" / ("model.plan" if file.suffix == ".plan" else "model.onnx"))
            for weights in external_data(file) if file.suffix == ".onnx" else ():
                shutil.copyfile(file.parent / weights, folder / "1" / weights)
            (folder / CONFIG).write_text(configs[name], encoding="utf-8")
    return [repository / name for name in files]


def denoiser_config(name: str, bundle: Bundle, max_batch: int | None, max_delay: int) -> str:
    """config.pbtxt of the engine: dynamic batching over rows, each with its own sigma. Of the profiles of a TensorRT
    engine, the server chooses by the rows of each call."""
    if bundle.info.conditions:  # their first axis is not that of the rows, which alone Triton can batch
        return graph_config(name, bundle.engine)
    profiles = read_sidecar(bundle.engine).profiles if bundle.engine.suffix == ".plan" else ()
    most = min(MAX_BATCH, profiles[-1].most) if profiles else MAX_BATCH
    if max_batch is not None and not 1 <= max_batch <= (profiles[-1].most if profiles else max_batch):
        expected = f"1 to {profiles[-1].most} rows, which the engine was built for" if profiles else "at least 1 row"
        raise InputError(f"max_batch: got {max_batch}, expected {expected}")
    names = ", ".join(f'"{index}"' for index in range(len(profiles)))
    return "\n".join(
        [
            f'name: "{name}"',
            f'platform: "{PLATFORMS[bundle.engine.name]}"',
            f"max_batch_size: {max_batch or most}",
            *(_port("input", port, port.shape[1:]) for port in bundle.info.inputs),
            *(_port("output", port, port.shape[1:]) for port in bundle.info.outputs),
            f"dynamic_batching {{ max_queue_delay_microseconds: {max_delay} }}",
            *([f"instance_group [ {{ kind: KIND_GPU profile: [ {names} ] }} ]"] if profiles else []),
            "",
        ]
    )


def graph_config(name: str, graph: Path) -> str:
    """config.pbtxt of another ONNX graph, as its inputs and outputs say. max_batch_size 0: none of the batch axes of a
    request is the server's."""
    file = read_onnx(graph)
    for port in (*file.inputs, *file.outputs):
        if port.dtype not in TYPES:
            raise InputError(f"{graph}: {port.name} is {port.dtype}, which Triton has no type for; leave the graph out")
    return "\n".join(
        [
            f'name: "{name}"',
            f'platform: "{PLATFORMS["model.onnx"]}"',
            "max_batch_size: 0",
            *(_port("input", port, port.shape) for port in file.inputs),
            *(_port("output", port, port.shape) for port in file.outputs),
            "",
        ]
    )


def _port(kind: str, port: Port, shape: Sequence[int | str]) -> str:
    """One tensor. Triton knows none without axes: it is one value to the client, reshaped to a scalar for the graph."""
    sizes = ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in shape)
    dims = f"dims: [ {sizes} ]" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
    return f'{kind} [ {{ name: "{port.name}" data_type: {TYPES[port.dtype]} {dims} }} ]'
