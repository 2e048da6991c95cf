"""What a project outside sees: the installed package, the C interface, and the TensorRT backend's headers."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bundle_files import INFO, PLANS
from cpp_build import alone, build, run
from ncdeploy import __version__, open_engine, sample
from ncdeploy.bundle import Bundle, make_bundle
from tiny_models import write_mixture

CONSUMER = Path(__file__).parent / "consumer"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("package")
    return make_bundle(write_mixture(folder / "m.onnx", INFO, np.eye(5)), folder / "b", plans=PLANS, window=16)


def test_a_project_elsewhere_builds_against_the_installed_package(release, onnxruntime_root, bundle, tmp_path) -> None:
    run("cmake", "--install", release, "--prefix", tmp_path / "prefix")
    shutil.copytree(CONSUMER, tmp_path / "consumer")
    build(
        tmp_path / "out", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", f"-DONNXRUNTIME_ROOT={onnxruntime_root}",
        source=tmp_path / "consumer",
    )  # fmt: skip
    done = sample(open_engine(bundle, threads=1), PLANS[0], seeds=[7], window=16)
    words = run(tmp_path / "out" / "app", bundle.path, 7).split()
    assert words[0] == __version__
    np.testing.assert_allclose([float(word) for word in words[1:]], done.samples[0], atol=1e-4)
    assert run(tmp_path / "out" / "core_only").split() == [__version__, "normal"]


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t), ("plan", ctypes.c_char_p), ("device", ctypes.c_char_p), ("threads", ctypes.c_int),
        ("window", ctypes.c_int64), ("tolerance", ctypes.c_double), ("max_rows", ctypes.c_size_t),
        ("guidance", ctypes.c_double),
    )  # fmt: skip


class _Report(ctypes.Structure):
    _fields_ = (
        ("depth", ctypes.c_size_t), ("nfe", ctypes.c_double), ("residual", ctypes.c_double),
        ("wall_s", ctypes.c_double), ("engine_s", ctypes.c_double),
    )  # fmt: skip


@pytest.fixture
def library(release: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(release / "libncdeploy_c.so"))
    lib.ncdeploy_version.restype = lib.ncdeploy_last_error.restype = ctypes.c_char_p
    lib.ncdeploy_default_options.restype = _Options
    lib.ncdeploy_shape.restype = ctypes.c_size_t
    for name in ("ncdeploy_close", "ncdeploy_shape", "ncdeploy_sample"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    return lib


def test_the_c_interface_samples(library: ctypes.CDLL, bundle: Bundle) -> None:
    assert library.ncdeploy_version().decode() == __version__
    options = library.ncdeploy_default_options()
    assert options.size == ctypes.sizeof(_Options)
    options.plan, options.threads, options.window = b"heun-6", 1, 8
    sampler = ctypes.c_void_p()
    assert library.ncdeploy_open(os.fsencode(bundle.path), ctypes.byref(options), ctypes.byref(sampler)) == 0
    sizes = (ctypes.c_int64 * 4)()
    assert (library.ncdeploy_shape(sampler, sizes, ctypes.c_size_t(4)), sizes[0]) == (1, 5)

    seeds, report = np.array([3, 2**64 - 1], np.uint64), _Report()
    samples = np.zeros((2, 5), np.float32)
    given = (seeds.ctypes.data_as(ctypes.c_void_p), None, ctypes.c_size_t(2), samples.ctypes.data_as(ctypes.c_void_p))
    assert library.ncdeploy_sample(sampler, *given, ctypes.c_size_t(10), ctypes.byref(report)) == 0
    assert library.ncdeploy_last_error() == b""
    done = sample(open_engine(bundle, threads=1), PLANS[1], seeds=seeds.tolist(), window=8)
    np.testing.assert_allclose(samples, done.samples, atol=1e-4)
    assert (report.depth, report.nfe) == (done.depth, done.nfe)

    assert library.ncdeploy_sample(sampler, *given, ctypes.c_size_t(9), None) == 1
    assert library.ncdeploy_last_error().decode() == "samples: got room for 9 values, expected 2 * 5"
    library.ncdeploy_close(sampler)
    library.ncdeploy_close(None)


def test_the_c_interface_tells_what_went_wrong(library: ctypes.CDLL, bundle: Bundle) -> None:
    sampler = ctypes.c_void_p(1)
    assert library.ncdeploy_open(b"/nonexistent", None, ctypes.byref(sampler)) == 2
    assert sampler.value is None
    assert b"/nonexistent: there is no such folder" in library.ncdeploy_last_error()
    for field, value, code in (("plan", b"none", 1), ("window", 99, 1), ("size", 3, 1), ("device", b"cuda", 3)):
        options = library.ncdeploy_default_options()
        setattr(options, field, value)
        assert library.ncdeploy_open(os.fsencode(bundle.path), ctypes.byref(options), ctypes.byref(sampler)) == code
        assert library.ncdeploy_last_error()


def tensorrt_roots() -> list[Path]:
    named = [Path(p) for p in os.environ.get("TENSORRT_ROOT", "").split(os.pathsep) if p]
    known = [Path("/usr"), Path("/usr/local/tensorrt"), Path("/usr/include/x86_64-linux-gnu")]
    return named or [p for p in known if (p / "NvInfer.h").is_file() or (p / "include" / "NvInfer.h").is_file()]


def test_the_tensorrt_backend_compiles(toolchain: None) -> None:
    roots = tensorrt_roots()
    if not roots:
        pytest.skip(
            "NOT TESTED: ncdeploy::tensorrt, no NvInfer.h; name folders that have include/NvInfer.h in TENSORRT_ROOT"
        )
    with alone("cpp-tensorrt") as folder:
        for root in roots:
            build(
                folder, f"-DTENSORRT_ROOT={root}", "-UTensorRT_*", "-DNCDEPLOY_TENSORRT_COMPILE_ONLY=ON",
                "-DNCDEPLOY_WERROR=ON", "-DNCDEPLOY_TESTS=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_OnnxRuntime=ON",
                target="ncdeploy_tensorrt_objects",
            )  # fmt: skip


def test_the_fetched_headers_come_with_the_library(tmp_path: Path) -> None:
    """Bad uses of fetch_onnxruntime.sh say what is missing; that it works is what the tests above stand on."""
    script = CONSUMER.parents[2] / "engines" / "cpp" / "fetch_onnxruntime.sh"
    done = subprocess.run([script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "fetch_onnxruntime: usage: fetch_onnxruntime.sh FOLDER\n")
