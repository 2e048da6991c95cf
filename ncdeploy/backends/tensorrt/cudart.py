"""The CUDA runtime through ctypes: what an engine needs of it, so that running one needs no other package.

Every function raises BackendError with CUDA's own words; running out of device memory is OutOfMemoryError.
"""

import contextlib
import ctypes
import functools
import site
import sys
from collections.abc import Iterator
from ctypes import byref, c_char, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncdeploy.errors import BackendError, OutOfMemoryError

MAJORS = (13, 12)
NO_MEMORY = 2
COPY_ANY = 4  # cudaMemcpyDefault: the addresses tell the direction
NON_BLOCKING, NO_TIMING, THREAD_LOCAL = 1, 2, 1
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # cudaDevAttrComputeCapability...


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device, or why there is none. driver, runtime: the CUDA versions they support and are, "13.0"."""

    compute_capability: tuple[int, int] | None = None
    name: str = ""
    driver: str = ""
    runtime: str = ""
    failure: str = ""


def candidates() -> list[str]:
    """Names and places where the CUDA runtime may be: the loader's, then those of NVIDIA's wheels."""
    names = [f"libcudart.so.{major}" for major in MAJORS]
    for root in map(Path, [*site.getsitepackages(), *sys.path]):
        for major in MAJORS:
            for folder in (f"nvidia/cu{major}/lib", "nvidia/cuda_runtime/lib"):
                file = root / folder / f"libcudart.so.{major}"
                if file.is_file():
                    names.append(str(file))
    return names


@functools.cache
def library() -> Any:
    """The loaded library. Raises BackendError naming the missing file."""
    reasons = []
    for name in candidates():
        try:
            return ctypes.CDLL(name)
        except OSError as e:
            reasons.append(str(e))
    raise BackendError(f"no CUDA runtime: {reasons[0]}; pip install nvidia-cuda-runtime, or install the CUDA toolkit")


def call(function: str, *arguments: Any) -> None:
    """Call a function of the runtime and raise what it reports."""
    lib = library()
    code = getattr(lib, function)(*arguments)
    if code:
        lib.cudaGetErrorString.restype = ctypes.c_char_p
        said = lib.cudaGetErrorString(code).decode()
        kind = OutOfMemoryError if code == NO_MEMORY else BackendError
        raise kind(f"CUDA: {said} ({function})")


def set_device(index: int) -> None:
    """Make a device current in this thread."""
    call("cudaSetDevice", c_int(index))


@contextlib.contextmanager
def on_device(index: int) -> Iterator[None]:
    """A device is current in this thread for the block; the one before it afterwards."""
    before = c_int()
    call("cudaGetDevice", byref(before))
    if before.value == index:
        yield
        return
    set_device(index)
    try:
        yield
    finally:
        set_device(before.value)


def malloc(size: int) -> int:
    """The address of `size` new bytes on the device."""
    address = c_void_p()
    call("cudaMalloc", byref(address), c_size_t(size))
    return address.value or 0


def free(address: int) -> None:
    call("cudaFree", c_void_p(address))


def copy(target: int, source: int, size: int, stream: int) -> None:
    """Copy bytes between any two places, in order with the stream."""
    call("cudaMemcpyAsync", c_void_p(target), c_void_p(source), c_size_t(size), c_int(COPY_ANY), c_void_p(stream))


def new_stream() -> int:
    """A stream that does not wait for the default one."""
    stream = c_void_p()
    call("cudaStreamCreateWithFlags", byref(stream), c_int(NON_BLOCKING))
    return stream.value or 0


def synchronize(stream: int) -> None:
    call("cudaStreamSynchronize", c_void_p(stream))


def destroy_stream(stream: int) -> None:
    call("cudaStreamDestroy", c_void_p(stream))


def new_event() -> int:
    event = c_void_p()
    call("cudaEventCreateWithFlags", byref(event), c_int(NO_TIMING))
    return event.value or 0


def destroy_event(event: int) -> None:
    call("cudaEventDestroy", c_void_p(event))


def order(event: int, first: int, then: int) -> None:
    """What comes next on the stream `then` waits for what is now on `first`; the host waits for neither."""
    call("cudaEventRecord", c_void_p(event), c_void_p(first))
    call("cudaStreamWaitEvent", c_void_p(then), c_void_p(event), c_int(0))


def begin_capture(stream: int) -> None:
    """Record what this thread does on the stream instead of doing it."""
    call("cudaStreamBeginCapture", c_void_p(stream), c_int(THREAD_LOCAL))


def end_capture(stream: int) -> int:
    """The recorded work, ready for `launch`. Raises BackendError if something in it cannot be recorded."""
    graph, ready = c_void_p(), c_void_p()
    call("cudaStreamEndCapture", c_void_p(stream), byref(graph))
    try:
        call("cudaGraphInstantiateWithFlags", byref(ready), graph, ctypes.c_ulonglong(0))
    finally:
        call("cudaGraphDestroy", graph)
    return ready.value or 0


def launch(graph: int, stream: int) -> None:
    call("cudaGraphLaunch", c_void_p(graph), c_void_p(stream))


def destroy_graph(graph: int) -> None:
    call("cudaGraphExecDestroy", c_void_p(graph))


def probe(device: int = 0) -> Gpu:
    """Look at a device; nothing is raised."""
    driver = runtime = ""
    try:
        driver, runtime = _version("cudaDriverGetVersion"), _version("cudaRuntimeGetVersion")
        count, major, minor = c_int(), c_int(), c_int()
        call("cudaGetDeviceCount", byref(count))
        if device >= count.value:
            said = f"there are {count.value} CUDA devices, asked for number {device}"
            return Gpu(driver=driver, runtime=runtime, failure=said)
        call("cudaDeviceGetAttribute", byref(major), c_int(CAPABILITY_MAJOR), c_int(device))
        call("cudaDeviceGetAttribute", byref(minor), c_int(CAPABILITY_MINOR), c_int(device))
        capability = major.value, minor.value
        return Gpu(compute_capability=capability, name=_name(device), driver=driver, runtime=runtime)
    except (BackendError, AttributeError) as e:
        return Gpu(driver=driver, runtime=runtime, failure=str(e))


def _version(function: str) -> str:
    """ "13.0" of 13000; "none" where there is none."""
    number = c_int()
    call(function, byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else "none"


def _name(device: int) -> str:
    """The device's name: the first 256 bytes of cudaDeviceProp, which is larger than 1 KiB in every version."""
    properties = (c_char * 8192)()
    function = (
        "cudaGetDeviceProperties_v2" if hasattr(library(), "cudaGetDeviceProperties_v2") else "cudaGetDeviceProperties"
    )
    call(function, byref(properties), c_int(device))
    return properties.raw[:256].split(b"\0")[0].decode(errors="replace")
