"""What need not be done twice: engines by content, and TensorRT's timings of kernels."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ncdeploy.backends.tensorrt.preflight import Machine
from ncdeploy.files import cache_folder
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import BuildOptions


def engine_key(
    onnx_sha256: str, profiles: Sequence[Profile], precision: str, options: BuildOptions, machine: Machine,
    targets: Sequence[tuple[int, int]] = (),
) -> str:  # fmt: skip
    """A digest of all that makes an engine another: graph, profiles, precision, options, TensorRT, GPU, system; for
    TensorRT for RTX the targets in the GPU's place."""
    there = machine.runtime == "tensorrt"
    record = {
        "onnx": onnx_sha256,
        "profiles": [asdict(profile) for profile in profiles],
        "precision": precision,
        "options": asdict(options),
        "tensorrt": machine.tensorrt,
        "compute_capability": machine.compute_capability if there else None,
        "device": machine.device if there else machine.runtime,
        "targets": list(targets),
        "platform": machine.platform,
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def engine_file(key: str) -> Path:
    """Where the engine of a key is kept."""
    return cache_folder() / "engines" / f"{key}.plan"


def timing_file(machine: Machine) -> Path:
    """Where the kernel timings are kept; TensorRT refuses those of another version or GPU."""
    major, minor = machine.compute_capability or (0, 0)
    return cache_folder() / f"timing-{machine.tensorrt}-sm{major}{minor}.cache"
