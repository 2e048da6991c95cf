"""torch -> ONNX graph: the exporter called so that nothing reaches the user but the graph or one clear error."""

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import BackendError, DependencyError, InputError, install

if TYPE_CHECKING:
    import onnx

OPSETS = (18, 19, 20)  # 21 brings GroupNormalization and 23 Attention, which many deployed parsers lack
DEFAULT_OPSET = 20
IR_VERSION = 10
MAX_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; the graph itself needs a little

EXAMPLE_BATCH = 3  # 0 and 1 would be burnt into the graph as constants


def trace(denoiser: Denoiser, *, opset: int = DEFAULT_OPSET) -> "onnx.ModelProto":
    """The graph of D with inputs x float32 [batch, *shape], sigma float32 [batch] and, for a model with classes,
    labels int64 [batch], and where info.guidance, guidance float32 [batch]; output denoised float32 [batch, *shape].
    The batch is dynamic.

    denoiser: on the CPU, float32, in eval mode

    Raises InputError for an opset that is not supported, DependencyError without onnx and onnxscript, BackendError
    when the network cannot be exported.
    """
    check_opset(opset)
    example = _example(denoiser)
    with _silence():
        require_onnx()
        try:
            program = torch.onnx.export(
                denoiser,
                tuple(example.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(example),
                output_names=["denoised"],
                dynamic_shapes={name: {0: "batch"} for name in example},
                verbose=False,
            )
        except Exception as e:  # the exporter wraps whatever a network's code raises, in many types
            raise BackendError(f"the network cannot be exported to ONNX: {_cause(e)}") from e
        if program is None:
            raise BackendError("the network cannot be exported to ONNX: the exporter returned nothing")
        model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    _strip(model)
    _check_batch(model, list(example))
    return model


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
    example = {
        "x": torch.randn(EXAMPLE_BATCH, *info.shape, generator=generator),
        "sigma": torch.linspace(info.sigma_min, info.sigma_max, EXAMPLE_BATCH),
    }
    if info.num_classes:
        example["labels"] = torch.arange(EXAMPLE_BATCH) % len(info.labels)
    if info.guidance:
        example["guidance"] = torch.linspace(0.0, 2.0, EXAMPLE_BATCH)
    return example


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


def _check_batch(model: "onnx.ModelProto", names: list[str]) -> None:
    """The batch axis must be the same dynamic size in every input and the output."""
    ports = {port.name: port for port in [*model.graph.input, *model.graph.output]}
    for name in [*names, "denoised"]:
        if name not in ports:
            raise BackendError(f"the exported graph has no {name}; the network must use x, sigma and its labels")
        first = ports[name].type.tensor_type.shape.dim[0]
        if first.dim_param != "batch":
            size = first.dim_param or first.dim_value
            raise BackendError(
                f"the exported graph has batch {size} in {name}, expected a dynamic one; "
                "the network must not compute with the batch size as a constant"
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
