"""What is to be found out about this machine, for the doctor: tried, not guessed."""

import importlib
import importlib.metadata
import shutil
import subprocess

from ncdeploy.backends.providers import LOG_FATAL, load_libraries, missing_libraries, quiet
from ncdeploy.backends.tensorrt import cudart
from ncdeploy.backends.tensorrt.cudart import Gpu

# An ONNX model of one node, y = x + x over float32 [n]; ModelProto, field by field (see backends/onnxfile.py).
TINY_MODEL = bytes.fromhex(
    "080a"  # ir_version 10
    "3a34"  # graph of 52 bytes
    "0a0e 0a0178 0a0178 120179 2203416464"  # node: inputs x and x, output y, operator Add
    "1204 74696e79"  # name: tiny
    "5a0d 0a0178 1208 0a06 0801 1202 0a00"  # input x: tensor, element type 1 (float32), one axis of any size
    "620d 0a0179 1208 0a06 0801 1202 0a00"  # output y
    "4204 0a00 1014"  # standard operators, version 20
)


class Machine:
    """The probe of this machine."""

    def version(self, distribution: str) -> str | None:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def failure(self, module: str) -> str | None:
        try:
            importlib.import_module(module)
        except Exception as e:  # a broken native library raises anything
            return _first_line(e)
        return None

    def providers(self) -> list[str]:
        import onnxruntime as ort

        return list(ort.get_available_providers())

    def provider_failure(self, provider: str) -> str | None:
        import numpy as np
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = LOG_FATAL
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            load_libraries(ort, [provider])
            with quiet(ort):
                session = ort.InferenceSession(TINY_MODEL, options, providers=[provider], enable_fallback=0)
            if provider not in session.get_providers():
                return "it does not start; ONNX Runtime falls back to the CPU"
            (two,) = session.run(["y"], {"x": np.ones(1, np.float32)})
        except Exception as e:  # ONNX Runtime raises a dozen unrelated types
            if "fallback to CPU EP has been explicitly disabled" in str(e):
                return "it leaves even 1 + 1 to the CPU"
            return _first_line(e)
        return None if float(two[0]) == 2.0 else f"computes 1 + 1 = {float(two[0])}"

    def missing(self, provider: str) -> list[str]:
        import onnxruntime as ort

        return missing_libraries(ort, provider)

    def gpus(self) -> list[str]:
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return []
        query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        return [line.strip() for line in answer.stdout.splitlines() if line.strip()]

    def torch_gpus(self) -> list[str]:
        import torch

        if not torch.cuda.is_available():
            return []
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]

    def cuda(self) -> Gpu:
        return cudart.probe()


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.removeprefix("[ONNXRuntimeError] : ")
