"""What is installed on this machine, what of it really works, and one remedy per problem."""

import platform
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from ncdeploy.backends.tensorrt.cudart import Gpu
from ncdeploy.backends.tensorrt.preflight import INSTALL, PIN, SUPPORTED, VERSIONS, is_rtx, parse_version
from ncdeploy.doctor.machine import Machine
from ncdeploy.errors import install

Status = Literal["ok", "absent", "problem"]

REMEDIES = {
    "torch": f"to train, export and run model.pt: {install('torch')}",
    "onnx": f"to export: {install('torch')}",
    "onnxscript": f"to export: {install('torch')}",
    "onnxruntime": f"to run model.onnx: {install('cpu')}",
}
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-lean-cu13", "tensorrt-lean-cu12")
RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
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
    "libcurand.so.10": "nvidia-curand",
    "libnvrtc.so.12": "nvidia-cuda-nvrtc-cu12",
    "libnvrtc.so.13": "nvidia-cuda-nvrtc",
    "libcudnn.so.9": "nvidia-cudnn-cu13",
    "libnvinfer.so.10": "'tensorrt-cu13>=10.13,<11'",
    "libnvonnxparser.so.10": "'tensorrt-cu13>=10.13,<11'",
    "libnvinfer.so.11": "'tensorrt-cu13>=11,<12'",
    "libnvonnxparser.so.11": "'tensorrt-cu13>=11,<12'",
}
DRIVER = "libcuda.so.1"  # comes with the driver, in no wheel


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

    def missing(self, provider: str) -> list[str]:
        """Sonames of the libraries that a provider needs and this machine lacks."""
        ...

    def gpus(self) -> list[str]:
        """GPUs that the NVIDIA driver reports."""
        ...

    def torch_gpus(self) -> list[str]:
        """GPUs that PyTorch can use."""
        ...

    def cuda(self) -> Gpu:
        """What the CUDA runtime says of the first device, or why it cannot use one."""
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
    findings += [*works, tensorrt, _rtx(probe), *_cuda(probe), _gpus(probe, torch, works, tensorrt)]
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
        remedy = "pip uninstall -y onnxruntime onnxruntime-gpu, then one of them: pip install onnxruntime (or -gpu)"
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
            lost = probe.missing(provider)
            detail = f"{', '.join(lost)} missing" if lost else failure
            remedy = "install the driver, and the CUDA and cuDNN libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            findings.append(Finding(name=name, status="problem", detail=detail, remedy=cure(detail, remedy)))
        elif provider == "TensorrtExecutionProvider" and probe.missing(provider):
            detail = f"{', '.join(probe.missing(provider))} missing"
            remedy = "only for --device tensorrt: " + cure(detail, "see the TensorRT provider of ONNX Runtime")
            findings.append(Finding(name=name, status="absent", detail=detail, remedy=remedy))
        else:
            findings.append(Finding(name=name, status="absent", detail=f"not usable here: {failure}"))
    return findings


def _tensorrt(probe: Probe) -> Finding:
    installed = {name: version for name in TENSORRT if (version := probe.version(name)) is not None}
    if not installed:
        remedy = f"to build and run .plan files: {INSTALL['tensorrt']}"
        return Finding(name="tensorrt", status="absent", detail="not installed", remedy=remedy)
    module = "tensorrt_lean" if all("lean" in each for each in installed) else "tensorrt"
    return _engine_builder(probe, "tensorrt", *next(iter(installed.items())), module)


def _rtx(probe: Probe) -> Finding:
    installed = {name: version for name in RTX if (version := probe.version(name)) is not None}
    if not installed:
        remedy = f"to build .plan files for RTX cards on any machine: {INSTALL['rtx']}"
        return Finding(name="tensorrt for rtx", status="absent", detail="not installed", remedy=remedy)
    found = _engine_builder(probe, "rtx", *next(iter(installed.items())), "tensorrt_rtx_bindings")
    here = probe.cuda().compute_capability
    if found.status == "ok" and here is not None and not is_rtx(here):
        sm = ".".join(map(str, here))
        return replace(
            found, detail=f"{found.detail}; builds engines that this GPU of compute capability {sm} cannot run"
        )
    return found


def _engine_builder(probe: Probe, runtime: str, name: str, version: str, module: str) -> Finding:
    label = "tensorrt" if runtime == "tensorrt" else "tensorrt for rtx"
    failure = probe.failure(module)
    if failure is not None:
        remedy = cure(failure, f"install it again: pip install --force-reinstall {name}=={version}")
        return Finding(
            name=label, status="problem", detail=f"{version} cannot be imported: {failure}", remedy=remedy
        )  # fmt: skip
    oldest, newest = VERSIONS[runtime]
    if not oldest <= parse_version(version)[:2] < newest:
        remedy = PIN[runtime].replace("'tensorrt>", f"'{name}>")
        return Finding(
            name=label, status="problem", detail=f"{version} is not {SUPPORTED[runtime]}", remedy=remedy
        )  # fmt: skip
    builds = "" if probe.version("polygraphy") is not None else "; runs engines; to build them: pip install polygraphy"
    return Finding(name=label, status="ok", detail=version + builds)


def _cuda(probe: Probe) -> list[Finding]:
    """The CUDA runtime, which .plan files need beside TensorRT; of no interest without an NVIDIA GPU."""
    found = probe.cuda()
    if found.failure and not probe.gpus():
        return []
    versions = f"the driver supports CUDA {found.driver}, the runtime is {found.runtime}"
    if found.failure:
        detail = f"{found.failure}; {versions}" if found.runtime else found.failure
        remedy = cure(found.failure, "install a driver that fits: see nvidia-smi")
        return [Finding(name="cuda", status="problem", detail=detail, remedy=remedy)]
    return [Finding(name="cuda", status="ok", detail=versions)]


def cure(failure: str, otherwise: str) -> str:
    """The line that brings the libraries which a failure names, or `otherwise`."""
    names = re.findall(r"lib\w+\.so\.\d+", failure)
    wheels = list(dict.fromkeys(WHEELS[name] for name in names if name in WHEELS))
    steps = ["install the NVIDIA driver"] if DRIVER in names else []
    steps += [f"pip install {' '.join(wheels)}"] if wheels else []
    return "; ".join(steps) or otherwise


def _gpus(probe: Probe, torch: Finding, providers: list[Finding], tensorrt: Finding) -> Finding:
    gpus = probe.gpus()
    seen = probe.torch_gpus() if torch.status == "ok" else []
    if not gpus and not seen:
        return Finding(name="gpu", status="absent", detail="no NVIDIA GPU found; everything runs on the CPU")
    users = ["torch"] if seen else []
    users += ["onnxruntime"] if any(f.name == "provider CUDA" and f.status == "ok" for f in providers) else []
    users += ["tensorrt"] if tensorrt.status == "ok" and not probe.cuda().failure else []
    detail = ", ".join(gpus or seen)
    if not users:
        remedy = "install builds with CUDA: torch from pytorch.org, and onnxruntime-gpu instead of onnxruntime"
        return Finding(name="gpu", status="problem", detail=f"{detail}; nothing here can use it", remedy=remedy)
    return Finding(name="gpu", status="ok", detail=f"{detail}; used by {' and '.join(users)}")
