"""The latency curve of an engine on this machine, measured once and kept in the user's cache folder."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from ncdeploy.auto.latency import Latency, measure_latency
from ncdeploy.backends.base import Backend
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import atomic_write, cache_folder, read_file, user_path
from ncdeploy.formats.onnxfile import is_onnx
from ncdeploy.formats.sidecar import graph_files

MOST_BYTES = 1 << 16  # of a kept curve
MAX_AGE = 30 * 86400.0  # seconds: by then drivers, libraries and what else runs have changed


def latency_file(engine: str | os.PathLike[str], backend: Backend, *, threads: int | None) -> Path:
    """Where the curve of an engine file, run by `backend` on this machine, is kept.

    Another file, runtime, device, number of threads or machine has another curve.
    """
    file = user_path(engine)
    parts = file.rglob("*") if file.is_dir() else graph_files(file) if is_onnx(file) else [file]
    size = sum(part.stat().st_size for part in parts if part.is_file())
    info = backend.info
    record = {
        "weights": info.weights_digest,
        "bytes": size,
        "file": "" if info.weights_digest else str(file.resolve()),
        "precision": info.precision,
        "guidance": info.guidance,
        "backend": backend.name,
        "threads": threads,
        "machine": [platform.node(), platform.machine(), os.cpu_count()],
    }
    key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "latency" / f"{key}.json"


def tune(
    engine: str | os.PathLike[str],
    backend: Backend,
    *,
    max_rows: int,
    threads: int | None = None,
    again: bool = False,
    budget: float | None = None,
    on_call: Callable[[float], None] | None = None,
) -> Latency:
    """The kept curve of an opened engine, or a new one, which is then kept.

    max_rows: largest batch that will be asked for; a kept curve that ends far below it, or is a month old, is
              measured anew
    again:    measure even if a curve is kept
    budget, on_call: as for `measure_latency`; a cache folder that cannot be written is no error
    """
    file = latency_file(engine, backend, threads=threads)
    if not again:
        with contextlib.suppress(FileError, InputError, UnicodeDecodeError, OSError):  # none, or not what was kept
            kept = Latency.from_json(read_file(file, MOST_BYTES, "expected a kept curve").decode())
            if kept.asked >= max_rows and 0 <= time.time() - file.stat().st_mtime <= MAX_AGE:
                return kept
    label = 0 if backend.info.num_classes else None
    latency = measure_latency(
        backend, shape=backend.info.shape, max_rows=max_rows, label=label, like=getattr(backend, "like", None),
        budget=budget, on_call=on_call,
    )  # fmt: skip
    with contextlib.suppress(OSError, FileError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(latency.to_json())
    return latency
