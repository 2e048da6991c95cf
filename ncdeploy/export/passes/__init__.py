"""Passes over ONNX graphs, one a file. They need onnx, and no PyTorch.

lower.py          convolutions and matrix products in half precision
emulate.py        the numbers of half precision from float32 operators
whole_windows.py  the sampler graph as TensorRT's loops allow it
types.py          what those look at: the types inside a graph
"""

from abc import ABC, abstractmethod

from ncdeploy.errors import DependencyError

try:
    from onnx import ModelProto
except ImportError as e:
    raise DependencyError("to work on graphs: pip install onnx") from e


class Pass(ABC):
    """One change of a graph. `pass_(model)` checks the model, changes it, and checks what came out."""

    def __call__(self, model: ModelProto) -> tuple[ModelProto, bool]:
        """The changed model, and whether anything changed; the argument stays as it is.

        Raises what `requires` and `ensures` raise.
        """
        self.requires(model)
        result, modified = self.call(model)
        if modified:
            self.ensures(result)
        return result, modified

    def requires(self, model: ModelProto) -> None:  # noqa: B027 - a pass that takes any has none
        """Raise InputError or BackendError for a model that the pass does not take."""

    @abstractmethod
    def call(self, model: ModelProto) -> tuple[ModelProto, bool]:
        """As `__call__`, of a model that `requires` lets through."""

    @abstractmethod
    def ensures(self, model: ModelProto) -> None:
        """Raise BackendError for a result that is not what the pass is for."""
