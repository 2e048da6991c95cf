"""What the tests of both graphs share: a denoiser file, and graphs around it that are made once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ncdeploy.backends import Backend, open_engine
from ncdeploy.backends.graphs.run import GraphEngine
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.export.passes.whole_windows import WholeWindows
from ncdeploy.sampling.plan import Plan
from oracle import digits
from tiny_models import IMAGES, write_mixture

# The float32 graph of the oracle in tests/oracle.py; its float64 twin is `oracle.digits()`.
MEANS = digits().means.reshape(-1, 1, 8, 8)


@dataclass
class Bench:
    """A denoiser in a folder, and the graphs made around it so far."""

    folder: Path
    host: Backend = field(init=False)
    files: dict[Any, Path] = field(default_factory=dict)
    engines: dict[Path, GraphEngine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.denoiser = write_mixture(self.folder / "denoiser.onnx", IMAGES, MEANS)
        self.host = open_engine(self.denoiser, threads=1)

    def file(self, plan: Plan, **options: Any) -> Path:
        """The graph that `choose_record` describes with these options, not verified.

        whole: in the form for TensorRT
        """
        key = (plan, *sorted(options.items()))
        if key not in self.files:
            self.files[key] = self.folder / f"{len(self.files)}.onnx"
            whole = options.pop("whole", False)
            export_graph(self.denoiser, self.files[key], choose_record(plan, IMAGES, **options), verify=False)
            if whole:
                whole_windows(self.files[key], self.files[key])
        return self.files[key]

    def graph(self, plan: Plan, **options: Any) -> GraphEngine:
        """The same, opened."""
        path = self.file(plan, **options)
        if path not in self.engines:
            self.engines[path] = GraphEngine(path, threads=1)
        return self.engines[path]


def whole_windows(source: Path, target: Path) -> None:
    """Write a graph in the form for TensorRT."""
    onnx.save(WholeWindows()(onnx.load(source))[0], target)


def rms(a: Any, b: Any) -> np.ndarray:
    """Per sample."""
    return np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)).reshape(len(a), -1) ** 2, axis=1))
