"""ncdeploy: diffusion models from PyTorch to ONNX and engines, sampled in parallel to a known tolerance."""

import os
from typing import TYPE_CHECKING, Any

from ncdeploy.errors import (
    BackendError,
    BusyError,
    DependencyError,
    FileError,
    InputError,
    NcdeployError,
    NcdeployWarning,
    NumericalError,
    OutOfMemoryError,
    ParityError,
)
from ncdeploy.version import __version__

# ONNX Runtime 1.29 and later leave a device id and a queue of events under the user's cache, and send them. Whoever
# wants that sets it to 0; it is read when onnxruntime is imported, wherever in the process that is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from ncdeploy import training
    from ncdeploy.auto.latency import Latency, measure_latency
    from ncdeploy.backends import Backend, open_engine
    from ncdeploy.backends.graphs.run import GraphEngine
    from ncdeploy.build.engine import Built, build_engine
    from ncdeploy.bundle import Bundle, BundledPlan, make_bundle, open_bundle
    from ncdeploy.denoisers import Denoiser, load_model, save_model
    from ncdeploy.export import Export, export_onnx
    from ncdeploy.export.compose import export_graph
    from ncdeploy.export.part import export_part
    from ncdeploy.formats.describe import info_from_flags
    from ncdeploy.formats.profiles import Profile
    from ncdeploy.formats.sidecar import BuildOptions
    from ncdeploy.guidance import Guided
    from ncdeploy.health.check import Checkup, check_engine
    from ncdeploy.health.denoise import Denoised, denoise_samples
    from ncdeploy.importers import import_model, wrap_module
    from ncdeploy.inspection import Inspection, inspect_file
    from ncdeploy.modelinfo import ModelInfo
    from ncdeploy.parity import ParityReport, compare
    from ncdeploy.ports import Condition, Value
    from ncdeploy.result import Result
    from ncdeploy.run import SampleOptions, Sampling, iterate, sample
    from ncdeploy.sampling import schedules, solvers
    from ncdeploy.sampling.errorcurve import ErrorCurve
    from ncdeploy.sampling.plan import Plan, PlanBuilder
    from ncdeploy.sampling.recipe import make_plan
    from ncdeploy.sampling.result import Choice, Sweep, Trajectory
    from ncdeploy.sampling.solvers.base import Solver
    from ncdeploy.serving.job import Served
    from ncdeploy.serving.server import Server
    from ncdeploy.training import ContrastiveConfig, Dataset, TrainConfig, Training, load_data

# Looked up on first use, so that `import ncdeploy` costs nothing and the command line starts at once.
_HOME = {
    "Backend": "ncdeploy.backends",
    "BuildOptions": "ncdeploy.formats.sidecar",
    "Built": "ncdeploy.build.engine",
    "Bundle": "ncdeploy.bundle",
    "BundledPlan": "ncdeploy.bundle",
    "Checkup": "ncdeploy.health.check",
    "Choice": "ncdeploy.sampling.result",
    "Condition": "ncdeploy.ports",
    "ContrastiveConfig": "ncdeploy.training",
    "Dataset": "ncdeploy.training",
    "Denoised": "ncdeploy.health.denoise",
    "Denoiser": "ncdeploy.denoisers",
    "ErrorCurve": "ncdeploy.sampling.errorcurve",
    "Export": "ncdeploy.export",
    "GraphEngine": "ncdeploy.backends.graphs.run",
    "Guided": "ncdeploy.guidance",
    "Inspection": "ncdeploy.inspection",
    "Latency": "ncdeploy.auto.latency",
    "ModelInfo": "ncdeploy.modelinfo",
    "ParityReport": "ncdeploy.parity",
    "Plan": "ncdeploy.sampling.plan",
    "PlanBuilder": "ncdeploy.sampling.plan",
    "Profile": "ncdeploy.formats.profiles",
    "Result": "ncdeploy.result",
    "SampleOptions": "ncdeploy.run",
    "Sampling": "ncdeploy.run",
    "Served": "ncdeploy.serving.job",
    "Server": "ncdeploy.serving.server",
    "Solver": "ncdeploy.sampling.solvers.base",
    "Sweep": "ncdeploy.sampling.result",
    "TrainConfig": "ncdeploy.training",
    "Training": "ncdeploy.training",
    "Trajectory": "ncdeploy.sampling.result",
    "Value": "ncdeploy.ports",
    "build_engine": "ncdeploy.build.engine",
    "check_engine": "ncdeploy.health.check",
    "compare": "ncdeploy.parity",
    "denoise_samples": "ncdeploy.health.denoise",
    "export_graph": "ncdeploy.export.compose",
    "export_onnx": "ncdeploy.export",
    "export_part": "ncdeploy.export.part",
    "import_model": "ncdeploy.importers",
    "info_from_flags": "ncdeploy.formats.describe",
    "inspect_file": "ncdeploy.inspection",
    "iterate": "ncdeploy.run",
    "load_data": "ncdeploy.training",
    "load_model": "ncdeploy.denoisers",
    "make_bundle": "ncdeploy.bundle",
    "make_plan": "ncdeploy.sampling.recipe",
    "measure_latency": "ncdeploy.auto.latency",
    "open_bundle": "ncdeploy.bundle",
    "open_engine": "ncdeploy.backends",
    "sample": "ncdeploy.run",
    "save_model": "ncdeploy.denoisers",
    "schedules": "ncdeploy.sampling",
    "solvers": "ncdeploy.sampling",
    "training": "ncdeploy",
    "wrap_module": "ncdeploy.importers",
}

__all__ = [
    "Backend",
    "BackendError",
    "BuildOptions",
    "Built",
    "Bundle",
    "BundledPlan",
    "BusyError",
    "Checkup",
    "Choice",
    "Condition",
    "ContrastiveConfig",
    "Dataset",
    "Denoised",
    "Denoiser",
    "DependencyError",
    "ErrorCurve",
    "Export",
    "FileError",
    "GraphEngine",
    "Guided",
    "InputError",
    "Inspection",
    "Latency",
    "ModelInfo",
    "NcdeployError",
    "NcdeployWarning",
    "NumericalError",
    "OutOfMemoryError",
    "ParityError",
    "ParityReport",
    "Plan",
    "PlanBuilder",
    "Profile",
    "Result",
    "SampleOptions",
    "Sampling",
    "Served",
    "Server",
    "Solver",
    "Sweep",
    "TrainConfig",
    "Training",
    "Trajectory",
    "Value",
    "__version__",
    "build_engine",
    "check_engine",
    "compare",
    "denoise_samples",
    "export_graph",
    "export_onnx",
    "export_part",
    "import_model",
    "info_from_flags",
    "inspect_file",
    "iterate",
    "load_data",
    "load_model",
    "make_bundle",
    "make_plan",
    "measure_latency",
    "open_bundle",
    "open_engine",
    "sample",
    "save_model",
    "schedules",
    "solvers",
    "training",
    "wrap_module",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'ncdeploy' has no attribute {name!r}")
    if name in ("schedules", "solvers", "training"):
        return import_module(f"{_HOME[name]}.{name}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
