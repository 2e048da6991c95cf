"""ncdeploy: diffusion models from PyTorch to ONNX and engines, sampled in parallel to a known tolerance."""

import os
from typing import TYPE_CHECKING, Any

from ncdeploy.errors import (
    BackendError,
    DependencyError,
    FileError,
    InputError,
    NcdeployError,
    NumericalError,
    ParityError,
)
from ncdeploy.version import __version__

if TYPE_CHECKING:
    from ncdeploy.backends import open_engine
    from ncdeploy.bundle import Bundle, open_bundle
    from ncdeploy.modelinfo import ModelInfo
    from ncdeploy.run import SampleOptions, Sampling, iterate, sample
    from ncdeploy.sampling import schedules, solvers
    from ncdeploy.sampling.errorcurve import ErrorCurve
    from ncdeploy.sampling.plan import Plan, PlanBuilder
    from ncdeploy.sampling.recipe import make_plan
    from ncdeploy.sampling.result import Result, Sweep

# ONNX Runtime 1.29 and later leave a device id and a queue of events under the user's cache, and send them. Whoever
# wants that sets it to 0; it is read when onnxruntime is imported, wherever in the process that is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Looked up on first use, so that `import ncdeploy` costs nothing and the command line starts at once.
_HOME = {
    "Bundle": "ncdeploy.bundle",
    "ErrorCurve": "ncdeploy.sampling.errorcurve",
    "ModelInfo": "ncdeploy.modelinfo",
    "Plan": "ncdeploy.sampling.plan",
    "PlanBuilder": "ncdeploy.sampling.plan",
    "Result": "ncdeploy.sampling.result",
    "SampleOptions": "ncdeploy.run",
    "Sampling": "ncdeploy.run",
    "Sweep": "ncdeploy.sampling.result",
    "iterate": "ncdeploy.run",
    "make_plan": "ncdeploy.sampling.recipe",
    "open_bundle": "ncdeploy.bundle",
    "open_engine": "ncdeploy.backends",
    "sample": "ncdeploy.run",
    "schedules": "ncdeploy.sampling",
    "solvers": "ncdeploy.sampling",
}

__all__ = [
    "BackendError",
    "Bundle",
    "DependencyError",
    "ErrorCurve",
    "FileError",
    "InputError",
    "ModelInfo",
    "NcdeployError",
    "NumericalError",
    "ParityError",
    "Plan",
    "PlanBuilder",
    "Result",
    "SampleOptions",
    "Sampling",
    "Sweep",
    "__version__",
    "iterate",
    "make_plan",
    "open_bundle",
    "open_engine",
    "sample",
    "schedules",
    "solvers",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'ncdeploy' has no attribute {name!r}")
    home = import_module(_HOME[name])
    if name in ("schedules", "solvers"):
        return import_module(f"{_HOME[name]}.{name}")
    return getattr(home, name)
