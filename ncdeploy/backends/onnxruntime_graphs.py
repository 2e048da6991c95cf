"""CUDA graphs of ONNX Runtime: one for every call size, with buffers of its own, replayed without host code of kernels.

A change of the number of rows makes ONNX Runtime set its convolutions up anew, for 50 to 900 ms (an H200), also for
sizes seen before. A graph that was captured for a size keeps what was set up.
"""

import sys
import threading
from typing import Any

import numpy as np

GRAPH_ID = "gpu_graph_id"  # of a run: the runtime captures a graph for an id at its first runs, and then replays it


class GraphRuns:
    """Runs of a session with `enable_cuda_graph`, whose shapes belong to call sizes.

    session: onnxruntime.InferenceSession; device, index: where its graphs live
    stream:  the torch stream that the session computes on, None where torch is not there
    """

    def __init__(self, ort: Any, session: Any, device: str, index: int, stream: Any = None) -> None:
        self._ort, self._session, self._device, self._index, self._stream = ort, session, device, index, stream
        self._held: dict[tuple[Any, ...], tuple[str, dict[str, Any], Any, Any]] = {}
        self._lock = threading.Lock()  # captures and replays of a session must not overlap

    def run(self, feeds: dict[str, Any]) -> Any:
        """D for NumPy arrays, or for torch tensors in order with torch's current stream; newly allocated.

        All inputs but conditions have the rows of one call size, and tensors are on the device.
        """
        with self._lock:
            graph, held, output, binding = self._of(feeds)
            options = self._ort.RunOptions()
            options.add_run_config_entry(GRAPH_ID, graph)
            if not _tensors(feeds):
                for name, value in feeds.items():
                    held[name].update_inplace(np.ascontiguousarray(value))
                self._session.run_with_iobinding(binding, options)
                return np.array(output.numpy())  # from the CPU it would be a view
            for name, value in feeds.items():
                held[name].copy_(value)
            if self._stream is None:
                self._session.run_with_iobinding(binding, options)
                return output.clone()
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            theirs = sys.modules["torch"].cuda.current_stream(self._stream.device)
            self._stream.wait_stream(theirs)
            self._session.run_with_iobinding(binding, options)
            theirs.wait_stream(self._stream)
            return output.clone()

    def _of(self, feeds: dict[str, Any]) -> tuple[str, dict[str, Any], Any, Any]:
        """The id of the graph of these shapes, and its buffers, made at its first call: a graph reads and writes where
        it was captured, so that tensors have other ones than NumPy arrays."""
        key = (_tensors(feeds), *(tuple(value.shape) for value in feeds.values()))
        if key not in self._held:
            binding = self._session.io_binding()
            if _tensors(feeds):
                held = {name: value.clone().contiguous() for name, value in feeds.items()}
                output = held["x"].new_empty(tuple(held["x"].shape))
                for bind, name, tensor in (
                    *((binding.bind_input, name, tensor) for name, tensor in held.items()),
                    (binding.bind_output, "denoised", output),
                ):
                    dtype = np.int64 if str(tensor.dtype) == "torch.int64" else np.float32
                    bind(name, self._device, self._index, dtype, tuple(tensor.shape), tensor.data_ptr())
            else:
                value_of = self._ort.OrtValue
                held = {
                    name: value_of.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, self._index)
                    for name, value in feeds.items()
                }
                output = value_of.ortvalue_from_shape_and_type(
                    feeds["x"].shape, np.float32, self._device, self._index
                )  # fmt: skip
                for name, value in held.items():
                    binding.bind_ortvalue_input(name, value)
                binding.bind_ortvalue_output("denoised", output)
            self._held[key] = str(len(self._held) + 1), held, output, binding
        return self._held[key]


def _tensors(feeds: dict[str, Any]) -> bool:
    return hasattr(feeds["x"], "data_ptr")
