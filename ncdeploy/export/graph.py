"""torch -> ONNX graph: the exporter called so that nothing reaches the user but the graph or one clear error."""

import ast
import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import BackendError, DependencyError, InputError, install
from ncdeploy.ports import Port

if TYPE_CHECKING:
    import onnx

    from ncdeploy.export.values import Values

OPSETS = (18, 19, 20)  # 21 brings GroupNormalization and 23 Attention, which many deployed parsers lack
DEFAULT_OPSET = 20
IR_VERSION = 10
EXAMPLE_BATCH, EXAMPLE_SAMPLES = 3, 2  # 0 and 1 would be burnt into the graph as constants


def trace(denoiser: Denoiser, *, opset: int = DEFAULT_OPSET, values: "Values | None" = None) -> "onnx.ModelProto":
    """The graph of D with the inputs and the output of its info; batch, and samples of a model with conditions, are
    dynamic.

    denoiser: on the CPU, float32, in eval mode
    values:   into which larger weights go; None leaves all in the graph

    Raises InputError for an opset that is not supported, DependencyError without onnx and onnxscript, BackendError
    when the network cannot be exported.
    """
    example = _example(denoiser)
    names = [condition.name for condition in denoiser.info.conditions]
    axes = _in_groups({port.name: {0: port.shape[0]} for port in denoiser.info.inputs}, names)
    rest = _in_groups(example, names)
    first = tuple(rest.pop(name) for name in ("x", "sigma", "labels") if name in example)
    return trace_module(
        denoiser, first, rest, axes, inputs=list(example), outputs=["denoised"],
        ports=[*denoiser.info.inputs, *denoiser.info.outputs], opset=opset, values=values,
    )  # fmt: skip


def trace_module(
    module: torch.nn.Module, first: tuple[torch.Tensor, ...], rest: dict[str, Any], axes: Any, *,
    inputs: list[str], outputs: list[str], ports: list[Port], opset: int, values: "Values | None" = None,
) -> "onnx.ModelProto":  # fmt: skip
    """The graph of a module in float32 on the CPU.

    first, rest: example arguments, positional and by name; axes: their dynamic axes, as torch.onnx.export takes them
    ports:       whose first axes must be dynamic in the graph, those of the same name alike

    Raises as `trace` does.
    """
    check_opset(opset)
    with _silence():
        require_onnx()
        try:
            program = torch.onnx.export(
                module,
                first,
                kwargs=rest,
                dynamo=True,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=axes,
                verbose=False,
            )
        except Exception as e:  # the exporter wraps whatever a network's code raises, in many types
            raise BackendError(f"the network cannot be exported to ONNX: {_cause(e)}") from e
        if program is None:
            raise BackendError("the network cannot be exported to ONNX: the exporter returned nothing")
        model: onnx.ModelProto = program.model_proto if values is None else values.taken_from(program)
    model.ir_version = IR_VERSION
    _strip(model)
    _mend_squeezes(model)
    _check_axes(model, ports)
    return model


def write(
    model: "onnx.ModelProto", records: dict[str, str], path: Path, *, values: "Values | None" = None,
    beside: str | os.PathLike[str] = "", most: int | None = None,
) -> None:  # fmt: skip
    """Add the records, write the model and check it whole.

    values: that are apart from the graph; as one file with it up to `most` bytes (None = 2 GiB), beyond in one beside
            `beside`, which is where the graph will stand

    Raises BackendError.
    """
    import onnx

    onnx.helper.set_model_props(model, records)
    if values is not None:
        model = values.placed(model, beside or path, most)
    try:
        data = model.SerializeToString()
    except Exception as e:  # protobuf's implementations raise types of their own
        raise BackendError(f"the graph does not fit into one ONNX file of 2 GiB: {e}") from e
    del model
    path.write_bytes(data)
    del data
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as e:  # checker and shape inference raise unrelated types
        raise BackendError(f"the graph is not valid ONNX: {str(e).strip().splitlines()[0]}") from e


def check_opset(opset: int) -> None:
    """Raise InputError for an opset that this version does not write."""
    if opset not in OPSETS:
        raise InputError(f"opset: got {opset}, expected one of {', '.join(map(str, OPSETS))}")


def require_onnx() -> None:
    """Raise DependencyError unless onnx and torch's exporter can be imported."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise DependencyError(f"exporting needs onnx and onnxscript: {install('torch')}") from e


def _example(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    info = denoiser.info
    generator = torch.Generator().manual_seed(0)
    values = {
        "x": torch.randn(EXAMPLE_BATCH, *info.shape, generator=generator),
        "sigma": torch.linspace(info.sigma_min, info.sigma_max, EXAMPLE_BATCH),
        "labels": torch.arange(EXAMPLE_BATCH) % max(1, len(info.labels)),
        "guidance": torch.linspace(0.0, 2.0, EXAMPLE_BATCH),
        "sample": torch.arange(EXAMPLE_BATCH) % EXAMPLE_SAMPLES,
        **{c.name: torch.from_numpy(np.stack([c.none()] * EXAMPLE_SAMPLES)) for c in info.conditions},
    }
    return {port.name: values[port.name] for port in info.inputs}


def _in_groups(values: dict[str, Any], conditions: list[str]) -> dict[str, Any]:
    """By argument of `Denoiser.forward`, in its order: the conditions are one."""
    grouped: dict[str, Any] = {}
    for name, value in values.items():
        if name in conditions:
            grouped.setdefault("conditions", {})[name] = value
        else:
            grouped[name] = value
    return grouped


def _strip(model: "onnx.ModelProto") -> None:
    """Remove the exporter's notes, source paths and stack traces of the machine that exported, but for the module
    that each operator comes from, which goes into its name: "network.middle.conv1/conv2d_9"."""
    model.doc_string = ""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
            modules = ast.literal_eval(scopes[0])[:-1] if scopes else []  # the last is the operator itself
            node.name = "/".join([*filter(None, modules[-1:]), node.name.removeprefix("node_")])
            del node.metadata_props[:]
        for value in graph.value_info:
            del value.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]


def _mend_squeezes(model: "onnx.ModelProto") -> None:
    """PyTorch's squeeze of an axis that is not 1 does nothing; ONNX's, which the exporter makes of it, is an error."""
    from onnx import numpy_helper

    sizes = {value.name: value.type.tensor_type.shape.dim for value in [*model.graph.input, *model.graph.value_info]}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Squeeze" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = numpy_helper.to_array(constants[node.input[1]]).ravel()
        dims = sizes.get(node.input[0], ())
        if len(axes) == 1 and -len(dims) <= axes[0] < len(dims) and dims[int(axes[0])].dim_value > 1:
            node.op_type = "Identity"
            del node.input[1:]


def _check_axes(model: "onnx.ModelProto", wanted: list[Port]) -> None:
    """The first axis of every input and output must be a dynamic size, the same for all that share it."""
    ports = {port.name: port for port in [*model.graph.input, *model.graph.output]}
    for port in wanted:
        if port.name not in ports:
            raise BackendError(f"the exported graph has no {port.name}; the network must use all of its inputs")
        first, axis = ports[port.name].type.tensor_type.shape.dim[0], port.shape[0]
        if first.dim_param != axis:
            size = first.dim_param or first.dim_value
            raise BackendError(
                f"the exported graph has {axis} {size} in {port.name}, expected a dynamic one; "
                f"the network must not compute with the size of {axis} as a constant"
            )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter reports progress and its own internals through warnings, loggers and print."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cause(error: BaseException) -> str:
    """The innermost reason, in one line: the exporter's own text is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
