"""Before an engine is loaded: can this machine run it? One line if not, with the command that builds it again.

TensorRT itself answers with an unreadable error, or a crash.
"""

import platform
from dataclasses import dataclass

from ncdeploy.errors import BackendError, DependencyError, FileError
from ncdeploy.formats.sidecar import Sidecar

OLDEST, NEWEST = (10, 12), (12, 0)  # TensorRT from the first to before the second


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runs here. tensorrt: version, None if it cannot be imported; gpu: why no CUDA device can be used, or ""."""

    tensorrt: str | None
    tensorrt_failure: str = ""
    compute_capability: tuple[int, int] | None = None
    device: str = ""
    driver: str = ""
    gpu_failure: str = ""
    platform: str = ""


def check_machine(machine: Machine, instead: str) -> None:
    """Raise DependencyError without TensorRT, BackendError for a version that is not supported or without a GPU.

    instead: what works here, for the message
    """
    if machine.tensorrt is None:
        why = f" ({machine.tensorrt_failure})" if machine.tensorrt_failure else ""
        raise DependencyError(
            f"TensorRT is not installed{why}: pip install tensorrt-cu13, or tensorrt-cu12 for a driver older than 580; "
            f"without it: {instead}"
        )
    if not OLDEST <= parse_version(machine.tensorrt)[:2] < NEWEST:
        raise BackendError(
            f"TensorRT {machine.tensorrt} is installed, expected 10.12 to 11: pip install 'tensorrt>=10.12,<12'; "
            f"without it: {instead}"
        )
    if machine.compute_capability is None:
        raise BackendError(
            f"no CUDA device can be used ({machine.gpu_failure}), see ncdeploy doctor; without one: {instead}"
        )


def check_engine(path: str, sidecar: Sidecar, digest: str, machine: Machine) -> None:
    """Raise FileError if the plan is not the one described, else what `check_machine` raises, or BackendError if it
    was built for another TensorRT, GPU or system.

    Only a plan whose digest matched may bring host code of its own.
    """
    if digest != sidecar.plan_sha256:
        raise FileError(
            f"{path}: is not the file that {path}.json describes (SHA-256 {digest[:12]}..., expected "
            f"{sidecar.plan_sha256[:12]}...); copy both again, or build again: {sidecar.command}"
        )
    check_machine(machine, f"ncdeploy sample --engine {sidecar.onnx}")
    wrong = mismatch(sidecar, machine)
    if wrong:
        raise BackendError(f"{path}: {wrong}; build it on this machine: {sidecar.command}")


def mismatch(sidecar: Sidecar, machine: Machine) -> str:
    """What about the machine the engine does not fit, in words; "" if it fits."""
    if machine.platform != sidecar.platform:
        return f"was built for {sidecar.platform}, this is {machine.platform}"
    here, built = parse_version(machine.tensorrt or ""), parse_version(sidecar.tensorrt)
    if sidecar.options.version_compatible:
        if here[:1] != built[:1] or here < built:
            return f"needs TensorRT {built[0]} from {sidecar.tensorrt} on, this is {machine.tensorrt}"
    elif here != built:
        return f"was built with TensorRT {sidecar.tensorrt} and runs on no other, this is {machine.tensorrt}"
    have, want = machine.compute_capability, sidecar.compute_capability
    everywhere = sidecar.options.hardware_compatible == "ampere_plus"
    if have != want and not (everywhere and have is not None and have[0] >= 8):
        sm = "none" if have is None else f"{have[0]}.{have[1]}"
        return f"was built for compute capability {want[0]}.{want[1]} ({sidecar.device}), this GPU has {sm}"
    return ""


def parse_version(text: str) -> tuple[int, ...]:
    """ "11.4.0.106" -> (11, 4, 0, 106); a part that is no number ends it."""
    parts: list[int] = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        parts.append(int(part))
    return tuple(parts)


def platform_name() -> str:
    """ "linux-x86_64"."""
    return f"{platform.system().lower()}-{platform.machine().lower()}"


def this_machine(device: int = 0) -> Machine:
    """Look at this machine; nothing is raised."""
    from ncdeploy.backends.tensorrt import adapter, cudart

    found, failure = adapter.installed()
    gpu = cudart.probe(device)
    return Machine(
        tensorrt=found, tensorrt_failure=failure, compute_capability=gpu.compute_capability, device=gpu.name,
        driver=gpu.driver, gpu_failure=gpu.failure, platform=platform_name(),
    )  # fmt: skip
