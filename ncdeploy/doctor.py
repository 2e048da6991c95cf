"""What is installed on this machine, what of it really works, and one remedy per problem."""

import importlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from ncdeploy.tensorrt.preflight import NEWEST, OLDEST, parse_version

Status = Literal["ok", "absent", "problem"]

REMEDIES = {
    "torch": "to train, export and run model.pt: pip install 'ncdeploy[torch]'",
    "onnx": "to export: pip install 'ncdeploy[torch]'",
    "onnxscript": "to export: pip install 'ncdeploy[torch]'",
    "onnxruntime": "to run model.onnx: pip install 'ncdeploy[cpu]'",
}
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-lean-cu13", "tensorrt-lean-cu12")
# The wheel that brings a shared library of a certain version.
WHEELS = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublas.so.13": "nvidia-cublas",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.13": "nvidia-cublas",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcufft.so.12": "nvidia-cufft",
    "libnvinfer.so.10": "'tensorrt-cu12>=10.12,<11'",
    "libnvinfer.so.11": "'tensorrt-cu13>=11,<12'",
}
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


class Probe(Protocol):
    """What a diagnosis asks of a machine. Tests answer in its place."""

    def version(self, distribution: str) -> str | None:
        """Version of an installed distribution, None if there is none of that name."""
        ...

    def failure(self, module: str) -> str | None:
        """Why a module cannot be imported, None if it can."""
        ...

    def providers(self) -> list[str]:
        """ONNX Runtime execution providers compiled in."""
        ...

    def provider_failure(self, provider: str) -> str | None:
        """Why a provider does not compute 1 + 1, None if it does."""
        ...

    def gpus(self) -> list[str]:
        """GPUs that the NVIDIA driver reports."""
        ...

    def torch_gpus(self) -> list[str]:
        """GPUs that PyTorch can use."""
        ...

    def cuda(self) -> tuple[str, str]:
        """CUDA version of the driver, and why the CUDA runtime cannot use a device, "" if it can."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis; remedy is empty where nothing needs to be done."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings. usable: at least one runtime can run a model, on whatever device."""

    findings: tuple[Finding, ...]
    usable: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def diagnose(probe: Probe | None = None) -> Diagnosis:
    """Look at this machine, or at the one that `probe` describes. Nothing is changed; imports torch if it is there."""
    probe = Machine() if probe is None else probe
    findings = [Finding(name="python", status="ok", detail=f"{platform.python_version()} on {platform.platform()}")]
    torch = _package(probe, "torch")
    findings += [torch, _package(probe, "onnx"), _package(probe, "onnxscript")]
    runtime, clash = _runtime(probe)
    findings += [runtime, *clash]
    works = _providers(probe) if runtime.status == "ok" else []
    tensorrt = _tensorrt(probe)
    findings += [*works, tensorrt, *_cuda(probe), _gpus(probe, torch, works, tensorrt)]
    usable = torch.status == "ok" or any(finding.status == "ok" for finding in works)
    return Diagnosis(findings=tuple(findings), usable=usable)


def _package(probe: Probe, name: str) -> Finding:
    version = probe.version(name)
    if version is None:
        return Finding(name=name, status="absent", detail="not installed", remedy=REMEDIES[name])
    failure = probe.failure(name)
    if failure is not None:
        remedy = f"install it again: pip install --force-reinstall {name}=={version}"
        return Finding(name=name, status="problem", detail=f"{version} cannot be imported: {failure}", remedy=remedy)
    return Finding(name=name, status="ok", detail=version)


def _runtime(probe: Probe) -> tuple[Finding, list[Finding]]:
    """ONNX Runtime comes as two distributions that install the same files; both at once break each other."""
    found = {name: probe.version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    installed = [f"{name} {version}" for name, version in found.items() if version is not None]
    if not installed:
        return Finding(
            name="onnxruntime", status="absent", detail="not installed", remedy=REMEDIES["onnxruntime"]
        ), []  # fmt: skip
    clash = []
    if len(installed) == 2:
        remedy = (
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them: ncdeploy[cpu] or ncdeploy[gpu]"
        )
        detail = f"{' and '.join(installed)} overwrite each other's files"
        clash = [Finding(name="onnxruntime clash", status="problem", detail=detail, remedy=remedy)]
    failure = probe.failure("onnxruntime")
    if failure is not None:
        remedy = "install it again: pip install --force-reinstall " + installed[0].split()[0]
        detail = f"{installed[0]} cannot be imported: {failure}"
        return Finding(name="onnxruntime", status="problem", detail=detail, remedy=remedy), clash
    return Finding(name="onnxruntime", status="ok", detail=", ".join(installed)), clash


def _providers(probe: Probe) -> list[Finding]:
    findings = []
    for provider in probe.providers():
        name = f"provider {provider.removesuffix('ExecutionProvider')}"
        failure = probe.provider_failure(provider)
        if failure is None:
            findings.append(Finding(name=name, status="ok", detail="works"))
        elif provider == "CPUExecutionProvider":
            remedy = "install ONNX Runtime again: pip install --force-reinstall onnxruntime"
            findings.append(Finding(name=name, status="problem", detail=failure, remedy=remedy))
        elif provider == "CUDAExecutionProvider":
            remedy = "install the driver, and the CUDA and cuDNN libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            findings.append(Finding(name=name, status="problem", detail=failure, remedy=cure(failure, remedy)))
        else:
            findings.append(Finding(name=name, status="absent", detail=f"not usable here: {failure}"))
    return findings


def _tensorrt(probe: Probe) -> Finding:
    installed = {name: version for name in TENSORRT if (version := probe.version(name)) is not None}
    if not installed:
        remedy = "to build and run .plan files: pip install tensorrt-cu13 (tensorrt-cu12 for a driver older than 580)"
        return Finding(name="tensorrt", status="absent", detail="not installed", remedy=remedy)
    name, found = next(iter(installed.items()))
    failure = probe.failure("tensorrt_lean" if all("lean" in each for each in installed) else "tensorrt")
    if failure is not None:
        remedy = cure(failure, f"install it again: pip install --force-reinstall {name}=={found}")
        detail = f"{found} cannot be imported: {failure}"
        return Finding(name="tensorrt", status="problem", detail=detail, remedy=remedy)
    if not OLDEST <= parse_version(found)[:2] < NEWEST:
        remedy = f"pip install '{name}>=10.12,<12'"
        return Finding(name="tensorrt", status="problem", detail=f"{found} is not 10.12 to 11", remedy=remedy)
    return Finding(name="tensorrt", status="ok", detail=found)


def _cuda(probe: Probe) -> list[Finding]:
    """The CUDA runtime, which .plan files need beside TensorRT; of no interest without an NVIDIA GPU."""
    if not probe.gpus():
        return []
    driver, failure = probe.cuda()
    if failure:
        remedy = cure(failure, "install a driver that fits: see nvidia-smi")
        return [Finding(name="cuda", status="problem", detail=failure, remedy=remedy)]
    return [Finding(name="cuda", status="ok", detail=f"the driver supports CUDA {driver}")]


def cure(failure: str, otherwise: str) -> str:
    """The pip line that brings the library which a failure names, or `otherwise`."""
    name = re.search(r"lib\w+\.so\.\d+", failure)
    wheel = WHEELS.get(name.group()) if name else None
    return otherwise if name is None or wheel is None else f"{name.group()} is missing: pip install {wheel}"


def _gpus(probe: Probe, torch: Finding, providers: list[Finding], tensorrt: Finding) -> Finding:
    gpus = probe.gpus()
    seen = probe.torch_gpus() if torch.status == "ok" else []
    if not gpus and not seen:
        return Finding(name="gpu", status="absent", detail="no NVIDIA GPU found; everything runs on the CPU")
    users = ["torch"] if seen else []
    users += ["onnxruntime"] if any(f.name == "provider CUDA" and f.status == "ok" for f in providers) else []
    users += ["tensorrt"] if tensorrt.status == "ok" and not probe.cuda()[1] else []
    detail = ", ".join(gpus or seen)
    if not users:
        remedy = "install builds with CUDA: torch from pytorch.org, and onnxruntime-gpu instead of onnxruntime"
        return Finding(name="gpu", status="problem", detail=f"{detail}; nothing here can use it", remedy=remedy)
    return Finding(name="gpu", status="ok", detail=f"{detail}; used by {' and '.join(users)}")


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

        from ncdeploy.backends.onnxruntime import load_libraries

        if provider == "CUDAExecutionProvider":
            load_libraries(ort)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = ort.InferenceSession(TINY_MODEL, options, providers=[provider])
            if provider not in session.get_providers():
                return "it does not start; ONNX Runtime falls back to the CPU"
            (two,) = session.run(["y"], {"x": np.ones(1, np.float32)})
        except Exception as e:  # ONNX Runtime raises a dozen unrelated types
            if "fallback to CPU EP has been explicitly disabled" in str(e):
                return "it leaves even 1 + 1 to the CPU"
            return _first_line(e)
        return None if float(two[0]) == 2.0 else f"computes 1 + 1 = {float(two[0])}"

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

    def cuda(self) -> tuple[str, str]:
        from ncdeploy.tensorrt import cudart

        gpu = cudart.probe()
        return gpu.driver, gpu.failure


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.removeprefix("[ONNXRuntimeError] : ")
