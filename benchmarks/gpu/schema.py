"""The form of results.json, as the package's docstring describes it."""

from typing import Any

FORMAT = 1
STATUSES = ("ok", "failed", "skipped", "not reached")
_TALLY = {"copies": float, "bytes": float, "largest": int, "bytes_to_device": float}
_WAY = {
    "asked": (int, str), "window": (int, None), "seconds": float, "gain": float, "gain_range": [float],
    "sweeps": float, "depth": float, "nfe": float, "residual": float, "rms": float, "choice": (str, None),
}  # fmt: skip
RESULTS: dict[str, dict[str, Any]] = {
    "network": {
        "shape": [int], "parameters": int, "data": str, "steps": int, "loss": float, "seconds": float, "digest": str
    },
    "sampling": {"sequential_s": float, "depth": int, "parallel": [_WAY], "best": int},
    "latency": {"rows": [int], "seconds": [float], "rms_to_torch": float, "torch_peak_bytes": (int, None)},
    "overhead": {
        "window": int, "calls": int, "rows": int, "seconds": float, "overhead": float, "overhead_range": [float]
    },
    "copies": {
        "window": (int, None), "sweeps": int, "state_bytes": int, "residual_bytes": int, "python": _TALLY,
        "device": (_TALLY, None), "device_reason": str, "kernels": (float, None), "state_stays": bool,
    },
}  # fmt: skip
_CELL = {
    "id": str, "kind": str, "network": str,
    "engine": ({"runtime": str, "mode": str, "precision": str}, None), "plan": (str, None), "samples": (int, None),
    "status": str, "reason": str, "seconds": (float, None), "result": object,
}  # fmt: skip
_DOCUMENT = {
    "format": int, "ncdeploy": str, "started": str, "seconds": float,
    "settings": {"device": str, "quick": bool, "minutes": float},
    "machine": {
        "python": str, "platform": str, "cpu": str, "cores": int, "torch": str, "cuda": (str, None),
        "cudnn": (int, None), "gpu": (str, None), "gpu_bytes": (int, None), "compute_capability": (str, None),
        "onnxruntime": (str, None), "providers": [str], "tensorrt": (str, None), "onnx": (str, None), "smi": object,
    },
    "cells": [_CELL],
}  # fmt: skip


def problems(document: Any) -> list[str]:
    """Where a document is not of the form, in words; none if it is."""
    found = list(_match(document, _DOCUMENT, "document"))
    if found:
        return found
    if document["format"] != FORMAT:
        return [f"format: got {document['format']}, expected {FORMAT}"]
    for cell in document["cells"]:
        where = cell["id"]
        if cell["kind"] not in RESULTS or cell["status"] not in STATUSES:
            found.append(f"{where}: kind {cell['kind']!r}, status {cell['status']!r}")
        elif cell["status"] == "ok":
            found += _match(cell["result"], RESULTS[cell["kind"]], where)
        elif cell["result"] is not None or not cell["reason"]:
            found.append(f"{where}: a cell that is {cell['status']} has a reason and no result")
    return found


def _match(value: Any, form: Any, where: str) -> list[str]:
    """form: a type, {name: form}, [form of every item], or (alternatives ...)."""
    if isinstance(form, tuple):
        return [] if any(not _match(value, one, where) for one in form) else [f"{where}: got {value!r}"]
    if isinstance(form, dict):
        if not isinstance(value, dict) or set(value) != set(form):
            names = sorted(value) if isinstance(value, dict) else type(value).__name__
            return [f"{where}: got {names}, expected {sorted(form)}"]
        return [text for name, one in form.items() for text in _match(value[name], one, f"{where}.{name}")]
    if isinstance(form, list):
        if not isinstance(value, list):
            return [f"{where}: got {type(value).__name__}, expected a list"]
        return [text for i, item in enumerate(value) for text in _match(item, form[0], f"{where}[{i}]")]
    if form is None:
        return [] if value is None else [f"{where}: got {value!r}, expected null"]
    fits = isinstance(value, int | float) and not isinstance(value, bool) if form is float else type(value) is form
    return [] if fits or form is object else [f"{where}: got {value!r}, expected {form.__name__}"]
