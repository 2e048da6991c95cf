"""Encoders and decoders as ONNX graphs: what runs once a sample, before and after the denoiser."""

import copy
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ncdeploy.backends.parts import PartEngine
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import weights_digest
from ncdeploy.errors import InputError, ParityError
from ncdeploy.export.graph import DEFAULT_OPSET, require_onnx, trace_module, write
from ncdeploy.formats.parts import PART_OF, SAMPLES, Part, Role, read_part
from ncdeploy.ports import Port, Value

TOLERANCE = 1e-4  # rms difference to PyTorch, over the rms of the output


def export_part(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    role: Role,
    of: Denoiser,
    inputs: Sequence[Value] | None = None,
    outputs: Sequence[str] | None = None,
    opset: int = DEFAULT_OPSET,
    threads: int | None = None,
) -> Part:
    """Write a module as the encoder or decoder of a model, and check it against PyTorch before it appears.

    Args:
        module: takes tensors [samples, *shape] in the order of `inputs`, returns one, or several as a tuple
        of: the model; an encoder's outputs are conditions of it, a decoder takes its samples
        inputs: what an encoder takes; a decoder takes `x` alone
        outputs: names, in the module's order; of an encoder the model's conditions unless given, of a decoder "decoded"

    Raises:
        InputError: for inputs that do not fit the role
        BackendError: for a module that cannot be exported
        ParityError: when the graph disagrees with it
        FileError: when the outputs do not fit the model or the file cannot be written
        DependencyError: without onnx or ONNX Runtime
    """
    require_onnx()
    from ncdeploy.export.values import graph_file

    info = of.info
    if (inputs is None) != (role == "decoder"):
        raise InputError(f"inputs: a decoder takes x alone, an encoder what you list; this is the {role}")
    takes = tuple(inputs or (Value(name="x", dtype="float32", shape=info.shape),))
    names = [c.name for c in info.conditions] if role == "encoder" else ["decoded"]
    names = names if outputs is None else list(outputs)
    model = copy.deepcopy(module).cpu().float().eval()
    example = _example(takes, 3)
    shapes: tuple[Any, ...] = tuple({0: SAMPLES} for _ in takes)
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(model.forward).parameters.values()):
        shapes = (shapes,)  # as torch.export describes *observations
    graph = trace_module(
        model, tuple(example), {}, shapes, inputs=[value.name for value in takes],
        outputs=names, opset=opset,
        ports=[Port(name=name, dtype="", shape=(SAMPLES,)) for name in [*(v.name for v in takes), *names]],
    )  # fmt: skip
    info = replace(info, weights_digest=weights_digest(of.state_dict()))
    with graph_file(path) as temporary:
        write(graph, {PART_OF: str(info.weights_digest)}, temporary)
        part = read_part(temporary, role, info, os.fspath(path))
        with PartEngine(temporary, part, info, threads=threads) as engine:
            _compare(model, engine, path)
    return part


def export_parts(
    denoiser: Denoiser, paths: Mapping[Role, str | os.PathLike[str]], *, threads: int | None = None
) -> None:
    """Write what an importer found before and after a denoiser, its `parts`. Raises as `export_part` does."""
    for part in denoiser.parts:
        export_part(
            part.module, paths[part.role], role=part.role, of=denoiser, inputs=part.inputs, outputs=part.outputs,
            threads=threads,
        )  # fmt: skip


def _example(takes: Sequence[Value], n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(n, *value.shape, generator=generator)
        if value.dtype == "float32"
        else torch.randint(2, (n, *value.shape), generator=generator)
        for value in takes
    ]


def _compare(model: nn.Module, engine: PartEngine, path: str | os.PathLike[str]) -> None:
    """In batches of other sizes than the one that was traced."""
    takes, gives = engine.part.inputs, engine.part.outputs
    for n in (1, 5):
        example = _example(takes, n)
        with torch.inference_mode():
            made = model(*example)
        found = engine({value.name: tensor.numpy() for value, tensor in zip(takes, example, strict=True)})
        for value, tensor in zip(gives, made if isinstance(made, tuple) else (made,), strict=True):
            wanted = tensor.double().numpy()
            rms = float(np.sqrt(np.mean((found[value.name] - wanted) ** 2)))
            if not rms <= TOLERANCE * max(1e-6, float(np.sqrt(np.mean(wanted**2)))):
                raise ParityError(
                    f"{path}: not written, {value.name} of {n} samples differs from PyTorch by {rms:.1e} (rms)"
                )
