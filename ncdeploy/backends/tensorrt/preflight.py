"""Before an engine is loaded: can this machine run it? One line if not, with the command that builds it again.

TensorRT itself answers with an unreadable error, or a crash.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from ncdeploy.errors import BackendError, DependencyError, FileError
from ncdeploy.formats.sidecar import EVERY_RTX, RTX_TARGETS, RUNTIMES, Sidecar

# From the first to before the second; minor versions of TensorRT for RTX differ in their binary interface.
VERSIONS = {"tensorrt": ((10, 12), (12, 0)), "rtx": ((1, 7), (1, 8))}
SUPPORTED = {"tensorrt": "10.12 to 11", "rtx": "1.7"}
INSTALL = {
    "tensorrt": "pip install tensorrt-cu13, or tensorrt-cu12 for a driver older than 580",
    "rtx": "pip install 'ncdeploy[rtx]'",
}
PIN = {"tensorrt": "pip install 'tensorrt>=10.12,<12'", "rtx": INSTALL["rtx"]}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What runs here. runtime: one of RUNTIMES; tensorrt: its version, None if it cannot be imported; gpu_failure: why
    no CUDA device can be used, or ""."""

    runtime: str = "tensorrt"
    tensorrt: str | None
    tensorrt_failure: str = ""
    compute_capability: tuple[int, int] | None = None
    device: str = ""
    driver: str = ""
    gpu_failure: str = ""
    platform: str = ""

    def runs(self, targets: Sequence[tuple[int, int]]) -> bool:
        """Whether the GPU here runs an engine of TensorRT for RTX for these targets."""
        return runs_rtx(self.compute_capability, targets)


def runs_rtx(have: tuple[int, int] | None, targets: Sequence[tuple[int, int]]) -> bool:
    """Whether a GPU of this compute capability runs an engine of TensorRT for RTX for these targets, () for all."""
    if have is None or targets:
        return have in targets
    return have in EVERY_RTX or have > EVERY_RTX[-1]


def is_rtx(have: tuple[int, int]) -> bool:
    """Whether a GPU of this compute capability runs any engine of TensorRT for RTX."""
    return runs_rtx(have, ()) or have in RTX_TARGETS


def check_machine(machine: Machine, instead: str) -> None:
    """Raise DependencyError without TensorRT, BackendError for a version that is not supported or without a GPU.

    instead: what works here, for the message
    """
    check_compiler(machine, instead)
    if machine.compute_capability is None:
        raise BackendError(
            f"no CUDA device can be used ({machine.gpu_failure}), see ncdeploy doctor; without one: {instead}"
        )


def check_compiler(machine: Machine, instead: str) -> None:
    """The same but for the GPU, which TensorRT for RTX does not need to build an engine."""
    name = RUNTIMES[machine.runtime]
    if machine.tensorrt is None:
        why = f" ({machine.tensorrt_failure})" if machine.tensorrt_failure else ""
        raise DependencyError(f"{name} is not installed{why}: {INSTALL[machine.runtime]}; without it: {instead}")
    oldest, newest = VERSIONS[machine.runtime]
    if not oldest <= parse_version(machine.tensorrt)[:2] < newest:
        raise BackendError(
            f"{name} {machine.tensorrt} is installed, expected {SUPPORTED[machine.runtime]}: {PIN[machine.runtime]}; "
            f"without it: {instead}"
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
    instead = f"ncdeploy sample --engine {sidecar.onnx}"
    check_machine(machine, instead)
    wrong = mismatch(sidecar, machine)
    if wrong and sidecar.runtime == "rtx" and not is_rtx(machine.compute_capability or (0, 0)):
        raise BackendError(f"{path}: {wrong}, where {RUNTIMES['rtx']} does not run; what runs there: {instead}")
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
        return f"was built with {sidecar.engine} and runs on no other, this is {machine.tensorrt}"
    have, want = machine.compute_capability, sidecar.compute_capability
    if sidecar.runtime == "rtx":
        fits = machine.runs(sidecar.targets)
    else:
        everywhere = sidecar.options.hardware_compatible == "ampere_plus"
        fits = have == want or (everywhere and have is not None and have[0] >= 8)
    if not fits:
        sm = "none" if have is None else f"{have[0]}.{have[1]}"
        return f"was built for {sidecar.cards}, this GPU has {sm}"
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


def this_machine(device: int = 0, runtime: str = "tensorrt") -> Machine:
    """Look at this machine; nothing is raised."""
    from ncdeploy.backends.tensorrt import adapter, cudart

    found, failure = adapter.installed(runtime)
    gpu = cudart.probe(device)
    return Machine(
        runtime=runtime, tensorrt=found, tensorrt_failure=failure, compute_capability=gpu.compute_capability,
        device=gpu.name, driver=gpu.driver, gpu_failure=gpu.failure, platform=platform_name(),
    )  # fmt: skip


def choose_runtime(device: int = 0) -> str:
    """What can build an engine here: TensorRT where it is installed and has a GPU, else TensorRT for RTX if that is
    installed; "tensorrt" where nothing can."""
    machine = this_machine(device)
    if machine.tensorrt is not None and machine.compute_capability is not None:
        return "tensorrt"
    return "rtx" if this_machine(device, "rtx").tensorrt is not None else "tensorrt"
