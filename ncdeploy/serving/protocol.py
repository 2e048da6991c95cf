"""Requests and answers of the Open Inference Protocol v2, as KServe and Triton speak it over HTTP.

A request is a JSON object with `inputs`, `outputs` and `parameters`. A tensor is a list in `data`, or bytes behind the
JSON, as many as its `binary_data_size` says, little-endian, in the order of the tensors; the length of the JSON then
stands in the header Inference-Header-Content-Length.
https://github.com/kserve/open-inference-protocol, and Triton's extension for binary data
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncdeploy.errors import FileError, InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.ports import Value
from ncdeploy.records import parse
from ncdeploy.result import Result

LENGTH = "inference-header-content-length"
TYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint64": "UINT64", "bool": "BOOL"}
_DTYPES = {name: dtype for dtype, name in TYPES.items()} | {"INT32": "int32", "UINT32": "uint32"}
_MOST_TENSORS = 64
_NORMAL = 5  # the priority in the middle of 1 (first) to 9
PARAMETERS = {  # of a request -> what it has to be
    "plan": str, "window": (int, str), "tolerance": (int, float), "guidance": (int, float), "acceptance": str,
    "deadline": (int, float), "timeout": int, "priority": int, "binary_data_output": bool,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """seeds, conditions, options: arguments of `Server.sample`

    outputs: those wanted, and whether in binary
    """

    id: str | None
    seeds: list[int]
    conditions: dict[str, NDArray[Any]]
    options: dict[str, Any]
    outputs: dict[str, bool]


def read_request(body: bytes, length: str | None, takes: Mapping[str, Value], outputs: list[str]) -> Asked:
    """The request of a body, of which `length` bytes are JSON.

    takes: conditions by name, labels among them; outputs: names that there are

    Raises InputError, in one line, for anything that is not as the protocol says or does not fit the model.
    """
    request, binary = _parts(body, length)
    given = _list(request, "inputs")
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in given:
        name = _name(tensor, "inputs")
        if name != "seed" and name not in takes:
            raise InputError(f"inputs: got {name[:60]!a}; this model takes {', '.join(['seed', *takes])}")
        if name in arrays:
            raise InputError(f"inputs: {name} is given twice")
        arrays[name], binary = _tensor(tensor, name, binary)
    if binary:
        raise InputError(f"body: has {len(binary)} bytes behind the tensors that binary_data_size tells of")
    if "seed" not in arrays:
        raise InputError("inputs: seed is missing; give one integer per sample, UINT64 or INT64 [n]")
    seeds = arrays.pop("seed")
    if seeds.dtype.kind not in "iu" or seeds.ndim != 1:
        got = f"{seeds.dtype} {seeds.shape}"
        raise InputError(f"seed: got {got}; expected one integer per sample, UINT64 or INT64 [n]")
    parameters = _parameters(request)
    everywhere = bool(parameters.pop("binary_data_output", False))
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InputError("id: expected a text")
    return Asked(
        id=request_id, seeds=[int(seed) for seed in seeds], conditions=arrays, options=_options(parameters),
        outputs=_wanted(request, outputs, everywhere),
    )  # fmt: skip


def _parts(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    if length is not None and not (length.isdecimal() and len(length) < 12 and int(length) <= len(body)):
        raise InputError(f"{LENGTH}: got {length[:20]!a}; expected the bytes of JSON, at most {len(body)}")
    end = len(body) if length is None else int(length)
    try:
        request = parse(body[:end], "body")
    except FileError as e:
        raise InputError(str(e)) from e
    except RecursionError as e:
        raise InputError("body: is nested too deep") from e
    if not isinstance(request, dict):
        raise InputError("body: expected a JSON object with inputs")
    return request, body[end:]


def _list(request: Mapping[str, Any], name: str) -> list[Any]:
    found = request.get(name, [])
    if not isinstance(found, list) or len(found) > _MOST_TENSORS:
        raise InputError(f"{name}: expected a list of at most {_MOST_TENSORS} tensors")
    return found


def _name(tensor: Any, where: str) -> str:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise InputError(f"{where}: expected objects with a name")
    if not isinstance(tensor.get("parameters", {}), dict):
        raise InputError(f"{where}: the parameters of {tensor['name'][:60]!a} are no object")
    return str(tensor["name"])


def _tensor(tensor: Mapping[str, Any], name: str, binary: bytes) -> tuple[NDArray[Any], bytes]:
    """An input, and the bytes behind it."""
    kind, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise InputError(f"{name}: got datatype {str(kind)[:20]!a}; expected one of {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise InputError(f"{name}: expected a shape, a list of sizes")
    dtype, size = np.dtype(_DTYPES[kind]).newbyteorder("<"), tensor.get("parameters", {}).get("binary_data_size")
    if size is not None:
        wanted = prod(shape) * dtype.itemsize
        if type(size) is not int or size != wanted or len(binary) < wanted:
            raise InputError(
                f"{name}: has binary_data_size {str(size)[:20]} and {len(binary)} bytes are there; {kind} {shape} "
                f"has {wanted}"
            )
        return np.frombuffer(binary[:size], dtype).reshape(shape).astype(dtype.newbyteorder("=")), binary[size:]
    data = tensor.get("data")
    if not isinstance(data, list):
        raise InputError(f"{name}: has neither data, a list, nor binary_data_size")
    try:
        values = np.asarray(data)
        exact = values.astype(dtype.newbyteorder("="), casting="same_kind" if values.dtype.kind == "f" else "unsafe")
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"{name}: its data are no numbers of {kind}") from e
    if (
        values.dtype.kind not in "iufb"
        or values.size != prod(shape)
        or (not np.array_equal(exact, values, True) and (dtype.kind in "iu"))
    ):
        raise InputError(f"{name}: its data are not {prod(shape)} numbers of {kind}, as its shape {shape} says")
    return exact.reshape(shape), binary


def _parameters(request: Mapping[str, Any]) -> dict[str, Any]:
    parameters = request.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError("parameters: expected an object")
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise InputError(f"parameters: got {name[:60]!a}; expected {', '.join(PARAMETERS)}")
        kind: Any = PARAMETERS[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            words = {str: "a text", int: "an integer", bool: "true or false"}.get(kind, "a number")
            raise InputError(f"{name}: got {str(value)[:60]!a}; expected {words}")
    return dict(parameters)


def _options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Server.sample`. A window of "sequential" is none; timeout is in microseconds, as Triton's."""
    window = parameters.get("window", "auto")
    if isinstance(window, str):
        if window not in ("auto", "sequential"):
            raise InputError(f'window: got {window[:60]!a}; expected a number of nodes, "auto" or "sequential"')
        parameters["window"] = None if window == "sequential" else window
    timeout = parameters.pop("timeout", None)
    if timeout is not None:
        if "deadline" in parameters:
            raise InputError("timeout: is in microseconds what deadline is in seconds; give one of them")
        parameters["deadline"] = timeout / 1e6
    level = parameters.pop("priority", 0)
    if not 0 <= level < 2 * _NORMAL:
        raise InputError(f"priority: got {level}; expected 1 (first) to {2 * _NORMAL - 1}, or 0 for {_NORMAL}")
    return {**parameters, "priority": _NORMAL - level if level else 0}


def _wanted(request: Mapping[str, Any], known: list[str], everywhere: bool) -> dict[str, bool]:
    wanted: dict[str, bool] = {}
    for output in _list(request, "outputs"):
        name = _name(output, "outputs")
        if name not in known:
            raise InputError(f"outputs: got {name[:60]!a}; there are {', '.join(known)}")
        wanted[name] = output.get("parameters", {}).get("binary_data", everywhere) is True
    return wanted or dict.fromkeys(known, everywhere)


def write_answer(name: str, asked: Asked, result: Result, parameters: Mapping[str, Any]) -> tuple[bytes, int | None]:
    """The body of an answer, and how many bytes of it are JSON where tensors follow them."""
    there = answer_tensors(result)
    outputs, binary = [], []
    for output, as_bytes in asked.outputs.items():
        values = there[output]
        tensor: dict[str, Any] = {"name": output, "datatype": TYPES[values.dtype.name], "shape": list(values.shape)}
        if as_bytes:
            binary.append(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = [None if x == np.inf else x for x in values.ravel().tolist()]
        outputs.append(tensor)
    answer = {"model_name": name, "model_version": "1", "outputs": outputs, "parameters": dict(parameters)}
    if asked.id is not None:
        answer["id"] = asked.id
    head = json.dumps(answer).encode()
    return head + b"".join(binary), len(head) if binary else None


OUTPUTS = ["samples", "sweeps", "residual", "complete"]


def answer_tensors(result: Result) -> dict[str, NDArray[Any]]:
    """What there is of a result: samples in the units of the training data, or what the decoder made of them; sweeps;
    residual, infinite where nobody knows it; and which samples came to their end before the deadline."""
    complete = np.ones(len(result.sweeps), bool) if result.complete is None else result.complete
    tensors = (result.to_data(), result.sweeps, result.residual, complete)
    return dict(zip(OUTPUTS, tensors, strict=True))


def metadata(name: str, info: ModelInfo, takes: Mapping[str, Value], made: tuple[int, ...]) -> dict[str, Any]:
    """Of a model, as the protocol says; -1 is the number of samples. made: shape of what a sample is given out as."""
    shapes = {"samples": ("FP32", made), "sweeps": ("INT64", ()), "residual": ("FP64", ()), "complete": ("BOOL", ())}
    return {
        "name": name,
        "versions": ["1"],
        "platform": "ncdeploy",
        "inputs": [
            {"name": "seed", "datatype": "UINT64", "shape": [-1]},
            *({"name": n, "datatype": TYPES[v.dtype], "shape": [-1, *v.shape]} for n, v in takes.items()),
        ],
        "outputs": [{"name": n, "datatype": kind, "shape": [-1, *shape]} for n, (kind, shape) in shapes.items()],
    }
