"""What a project outside sees: the installed package, the C interface, and the TensorRT backend's headers."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bundle_files import INFO, PLANS, reseal
from cpp_build import ROOT, SOURCE, alone, build, run
from ncdeploy import Condition, SampleOptions, __version__, make_plan, open_engine, sample
from ncdeploy.bundle import Bundle, make_bundle
from ncdeploy.export.compose import choose_record, export_graph
from tiny_models import IMAGES, write_mixture

CONSUMER = Path(__file__).parent / "consumer"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("package")
    return make_bundle(write_mixture(folder / "m.onnx", INFO, np.eye(5)), folder / "b", plans=PLANS, window=16)


@pytest.fixture(scope="module")
def prefix(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", release, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def runtime(onnxruntime_root: Path) -> Path:
    """The file of ONNX Runtime's library."""
    return onnxruntime_root / "lib" / "libonnxruntime.so.1"


@pytest.fixture(scope="module")
def wanted(bundle: Bundle) -> np.ndarray:
    """Values of the sample of seed 7."""
    return sample(open_engine(bundle, threads=1), PLANS[0], seeds=[7], window=16).samples[0]


def compiled(output: Path, source: str, *options: str) -> Path:
    run(
        "cc",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-missing-field-initializers",
        CONSUMER / source,
        "-o",
        output,
        *options,
    )
    return output


def test_a_project_elsewhere_builds_against_the_installed_package(prefix, runtime, bundle, wanted, tmp_path) -> None:
    """It needs nothing of ONNX Runtime to compile and link."""
    build(tmp_path / "out", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_BUILD_RPATH={runtime.parent}", source=CONSUMER)
    words = run(tmp_path / "out" / "app", bundle.path, 7).split()
    assert words[0] == __version__
    np.testing.assert_allclose([float(word) for word in words[1:]], wanted, atol=1e-4)
    assert run(tmp_path / "out" / "core_only").split() == [__version__, "normal"]
    encodes_and_decodes(tmp_path / "out" / "chain", conditional(tmp_path))


def conditional(folder: Path) -> Bundle:
    """Of the model of `follower`, with an encoder of two numbers to its goal, and a decoder to three."""
    text = {
        "m": "g (float[batch, 5] x, float[batch] sigma, float[samples, 5] goal, int64[batch] sample)"
        " => (float[batch, 5] denoised) <float one = {1}, float eighth = {0.125}, int64[1] axis = {1}>"
        " { own = Gather<axis = 0>(goal, sample)  part = Mul(x, eighth)  sum = Add(own, part)"
        "   noise = Add(sigma, one)  column = Unsqueeze(noise, axis)  denoised = Div(sum, column) }",
        "e": "g (float[samples, 2] raw) => (float[samples, 5] goal) <float[2, 5] w ="
        " {1, 2, 3, 4, 5, 0.1, 0.2, 0.3, 0.4, 0.5}> { goal = MatMul(raw, w) }",
        "d": "g (float[samples, 5] x) => (float[samples, 3] action) <int64[3] at = {4, 0, 2}, float two = {2}>"
        " { some = Gather<axis = 1>(x, at)  action = Mul(some, two) }",
    }
    opsets = [onnx.helper.make_opsetid("", 17)]
    for name, graph in text.items():
        model = onnx.helper.make_model(onnx.parser.parse_graph(graph), opset_imports=opsets, ir_version=9)
        if name == "e":  # a name as LeRobot's observations have it
            model.graph.input[0].name = model.graph.node[0].input[0] = "raw.state"
        onnx.save(model, folder / f"{name}.onnx")
    goal = Condition(name="goal", dtype="float32", shape=(5,))
    return make_bundle(
        folder / "m.onnx", folder / "conditional", plans=PLANS, window=8, info=replace(INFO, conditions=(goal,)),
        encoder=folder / "e.onnx", decoder=folder / "d.onnx", threads=1,
    )  # fmt: skip


def encodes_and_decodes(program: Path, bundle: Bundle) -> None:
    raw = np.array([[0.5, -1.0], [2.0, 3.0]], np.float32)
    with open_engine(bundle, threads=1) as engine:
        wanted = sample(engine, PLANS[0], seeds=[7, 8], conditions={"raw.state": raw}, window=8).decoded
    words = run(program, bundle.path, 7, *raw.ravel()).split()
    np.testing.assert_allclose([float(word) for word in words], wanted.ravel(), atol=1e-4)
    for given, said in (
        ([1, 2, 3, 4, 5, 6, 7], "raw.state: got 7 values, expected 2 for each of 3 samples"),
        ([1, "nan"], "raw.state: holds NaN or infinity"),
        ([1, 2], "goal: got 5 values, expected 5 for each of 2 samples"),
    ):
        done = subprocess.run([program, bundle.path, "7", *map(str, given)], capture_output=True, text=True)
        assert (done.returncode, done.stdout[: len(said)]) == (1, said)
    plain = make_bundle(bundle.path / "model.onnx", program.parent / "plain", plans=PLANS, info=bundle.info)
    done = subprocess.run([program, plain.path, "7", "1", "2"], capture_output=True, text=True)
    assert "its bundle has no encoder; give one to ncdeploy bundle --encoder" in done.stdout


def test_a_package_built_with_tensorrt_says_where_to_look_for_it(prefix, tmp_path) -> None:
    shutil.copytree(prefix, tmp_path / "prefix")
    config = next((tmp_path / "prefix").rglob("ncdeployConfig.cmake"))
    for backend, package, root in (
        ("tensorrt", "TensorRT", "TENSORRT_ROOT"), ("tensorrt_rtx", "TensorRTRTX", "TENSORRT_RTX_ROOT")
    ):  # fmt: skip
        whole = config.read_text()
        config.write_text(whole.replace('set(_backends "', f'set(_backends "ncdeploy_{backend};'))
        said = refused(CONSUMER, tmp_path / "out", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
        assert f"it was built with {package}, which is not found here; say where with -D{root}=... and" in said
        config.write_text(whole)


def test_a_c_program_finds_the_installed_library_by_pkg_config(prefix, runtime, bundle, wanted, tmp_path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("NOT TESTED: ncdeploy.pc, pkg-config is missing")
    folder = next(prefix.rglob("ncdeploy.pc")).parent
    done = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "ncdeploy"],
        env=os.environ | {"PKG_CONFIG_PATH": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    program = compiled(tmp_path / "hello", "hello.c", *done.stdout.split(), f"-Wl,-rpath,{folder.parent}")
    here = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    ran = subprocess.run(
        [program, bundle.path, runtime], env=here | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    words = ran.stdout.split()
    assert words[0] == __version__
    np.testing.assert_allclose([float(word) for word in words[1:]], wanted, atol=1e-4)
    assert not (tmp_path / ".cache").exists(), "ONNX Runtime's telemetry is off"


def test_a_program_of_an_older_header_runs(release, runtime, bundle, wanted, tmp_path) -> None:
    """The library touches no byte behind what the program's structs had."""
    program = compiled(
        tmp_path / "older", "older.c", f"-I{SOURCE / 'include'}",
        str(release / "libncdeploy_c.so"), f"-Wl,-rpath,{release}",
    )  # fmt: skip
    calls, _, value = run(program, bundle.path, runtime).split()
    assert int(calls) > 1
    assert abs(float(value) - wanted[0]) < 1e-4


def test_the_library_exports_what_its_header_declares_and_needs_no_runtime(release: Path) -> None:
    header = (SOURCE / "include" / "ncdeploy" / "ncdeploy.h").read_text()
    declared = set(re.findall(r"^NCDEPLOY_API [^(]*?(ncdeploy_\w+)\(", header, re.MULTILINE))
    library = release / "libncdeploy_c.so"
    exported = [line.split() for line in run("nm", "-D", "--defined-only", library).splitlines()]
    assert {name.split("@")[0] for _, kind, name in exported if kind != "A"} == declared
    assert len(declared) == 10
    assert "Ort" not in run("nm", "-D", "--undefined-only", library)
    assert "[libncdeploy_c.so.0]" in run("readelf", "-d", library)


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t), ("plan", ctypes.c_char_p), ("device", ctypes.c_char_p), ("window", ctypes.c_int64),
        ("tolerance", ctypes.c_double), ("max_rows", ctypes.c_size_t), ("guidance", ctypes.c_double),
        ("library", ctypes.c_char_p), ("provider", ctypes.c_char_p), ("provider_options", ctypes.c_void_p),
        ("provider_option_count", ctypes.c_size_t), ("threads", ctypes.c_int), ("spinning", ctypes.c_int),
        ("arena", ctypes.c_int), ("shared_threads", ctypes.c_int), ("acceptance", ctypes.c_int),
        ("theta", ctypes.c_double), ("deadline", ctypes.c_double),
    )  # fmt: skip


class _Condition(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("values", ctypes.c_void_p), ("count", ctypes.c_size_t),
    )  # fmt: skip


class _Sweep(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t), ("calls", ctypes.c_size_t), ("rows", ctypes.c_size_t), ("nodes", ctypes.c_size_t),
        ("n", ctypes.c_size_t), ("accepted", ctypes.POINTER(ctypes.c_size_t)),
        ("estimates", ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
    )  # fmt: skip


_ON_SWEEP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Sweep), ctypes.c_void_p)


class _Request(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t), ("n", ctypes.c_size_t), ("seeds", ctypes.c_void_p),
        ("conditions", ctypes.POINTER(_Condition)), ("condition_count", ctypes.c_size_t), ("on_sweep", _ON_SWEEP),
        ("context", ctypes.c_void_p),
    )  # fmt: skip


class _Report(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t), ("depth", ctypes.c_size_t), ("nfe", ctypes.c_double), ("residual", ctypes.c_double),
        ("wall_s", ctypes.c_double), ("engine_s", ctypes.c_double), ("rejections", ctypes.c_double),
        ("rejection_odds", ctypes.c_double), ("complete", ctypes.c_size_t),
    )  # fmt: skip


class Native:
    """The C interface by ctypes."""

    def __init__(self, file: Path) -> None:
        self.lib = lib = ctypes.CDLL(str(file))
        lib.ncdeploy_version.restype = lib.ncdeploy_last_error.restype = ctypes.c_char_p
        lib.ncdeploy_shape.restype = ctypes.c_size_t
        lib.ncdeploy_decoded_shape.restype = ctypes.c_size_t
        for name in ("ncdeploy_close", "ncdeploy_shape", "ncdeploy_decoded_shape"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]

    def options(self, **given: Any) -> _Options:
        options = _Options()
        assert self.lib.ncdeploy_default_options(ctypes.byref(options), ctypes.c_size_t(ctypes.sizeof(_Options))) == 0
        for name, value in given.items():
            setattr(options, name, value)
        return options

    def open(self, path: Path, options: Any) -> tuple[int, ctypes.c_void_p]:
        sampler = ctypes.c_void_p(1)
        return self.lib.ncdeploy_open(os.fsencode(path), ctypes.byref(options), ctypes.byref(sampler)), sampler

    def sample(self, sampler: Any, samples: np.ndarray, seeds: list[int], report: Any = None, **given: Any) -> int:
        numbers = np.array(seeds, np.uint64)
        request = _Request(size=ctypes.sizeof(_Request), n=len(seeds), seeds=numbers.ctypes.data, **given)
        room = samples.ctypes.data_as(ctypes.c_void_p)
        return self.lib.ncdeploy_sample(sampler, ctypes.byref(request), room, ctypes.c_size_t(samples.size), report)

    @property
    def error(self) -> str:
        return self.lib.ncdeploy_last_error().decode()


@pytest.fixture(scope="module")
def native(release: Path) -> Native:
    return Native(release / "libncdeploy_c.so")


def test_the_c_interface_samples(native: Native, bundle: Bundle) -> None:
    assert native.lib.ncdeploy_version().decode() == __version__
    options = native.options(plan=b"heun-6", threads=1, window=8)
    assert options.size == ctypes.sizeof(_Options)
    code, sampler = native.open(bundle.path, options)
    assert code == 0, native.error
    sizes = (ctypes.c_int64 * 4)()
    assert (native.lib.ncdeploy_shape(sampler, sizes, ctypes.c_size_t(4)), sizes[0]) == (1, 5)

    samples, report = np.zeros((2, 5), np.float32), _Report(size=ctypes.sizeof(_Report))
    seen, previews = [], []

    @_ON_SWEEP
    def watch(sweep: Any, context: int) -> int:
        previews.append([sweep[0].estimates[i][:5] for i in range(sweep[0].n)])
        seen.append((sweep[0].calls, sweep[0].n, sum(sweep[0].accepted[: sweep[0].n]), context))
        return 0

    seeds = [3, 2**64 - 1]
    assert native.sample(sampler, samples, seeds, ctypes.byref(report), on_sweep=watch, context=5) == 0, native.error
    assert native.error == ""
    done = sample(open_engine(bundle, threads=1), PLANS[1], seeds=seeds, window=8)
    np.testing.assert_allclose(samples, done.samples, atol=1e-4)
    np.testing.assert_allclose(previews[-1], samples, atol=0.05)
    assert np.abs(np.array(previews[0]) - samples).max() > 0.05
    assert (report.depth, report.nfe, report.size) == (done.depth, done.nfe, ctypes.sizeof(_Report))
    assert [calls for calls, *_ in seen] == list(range(1, done.depth + 1))
    assert seen[-1][1:] == (2, 2 * len(PLANS[1]), 5)

    assert native.sample(sampler, samples, seeds, on_sweep=_ON_SWEEP(lambda sweep, context: sweep[0].calls == 2)) == 6
    assert native.error == "on_sweep ended the run"
    assert native.sample(sampler, samples[:, :-1].copy(), seeds) == 1
    assert native.error == "samples: got room for 8 values, expected 2 * 5"
    native.lib.ncdeploy_close(sampler)
    native.lib.ncdeploy_close(None)


def test_the_c_interface_tells_what_went_wrong(native: Native, bundle: Bundle) -> None:
    code, sampler = native.open(Path("/nonexistent"), native.options())
    assert (code, sampler.value) == (2, None)
    assert native.error.startswith("/nonexistent: there is no such folder")
    wrong = {"plan": (b"none", 1), "window": (-2, 1), "size": (3, 1), "device": (b"cuda", 3), "threads": (-1, 1)}
    for field, (value, code) in (wrong | {"provider": (b"NoSuchThing", 3)}).items():
        assert native.open(bundle.path, native.options(**{field: value}))[0] == code, field
        assert native.error
    code, sampler = native.open(bundle.path, native.options())
    room, values = np.zeros(5, np.float32), np.zeros(1, np.int64)
    labels = _Condition(name=b"labels", dtype=2, values=values.ctypes.data, count=1)
    for conditions, said in (
        ((labels,), "labels: this model is unconditional and takes none"),
        ((labels, labels), "condition 'labels': is there twice"),
        ((_Condition(name=b"a", dtype=7),), "condition 'a': expected values, and a dtype of NCDEPLOY_FLOAT32 or "),
    ):
        array = (_Condition * len(conditions))(*conditions)
        assert native.sample(sampler, room, [1], conditions=array, condition_count=len(conditions)) == 1
        assert native.error.startswith(said)
    native.lib.ncdeploy_close(sampler)


def follower(bundle: Bundle, folder: Path) -> Path:
    """A bundle of D(x, sigma) = (goal + x / 8) / (1 + sigma), conditioned on a goal for every sample."""
    graph = onnx.parser.parse_graph(
        "g (float[batch, 5] x, float[batch] sigma, float[samples, 5] goal, int64[batch] sample)"
        " => (float[batch, 5] denoised) <float one = {1}, float eighth = {0.125}, int64[1] axis = {1}>"
        " { own = Gather<axis = 0>(goal, sample)  part = Mul(x, eighth)  sum = Add(own, part)"
        "   noise = Add(sigma, one)  column = Unsqueeze(noise, axis)  denoised = Div(sum, column) }"
    )
    shutil.copytree(bundle.path, folder)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
              folder / "model.onnx")  # fmt: skip
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"] |= {
        "conditions": [{"name": "goal", "dtype": "float32", "shape": [5], "null": 0}], "requires": ["conditions"]
    }  # fmt: skip
    path.write_text(json.dumps(manifest))
    reseal(folder, "model.onnx")
    return folder


class _File(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("bytes", ctypes.c_char_p), ("size", ctypes.c_size_t))


def test_a_bundle_in_memory_samples(native: Native, bundle: Bundle, wanted, tmp_path: Path) -> None:
    """Weights outside the graph are in memory too."""
    onnx.save(
        onnx.load(bundle.engine), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=64, convert_attribute=True,
    )  # fmt: skip
    made = make_bundle(tmp_path / "m.onnx", tmp_path / "b", plans=PLANS, window=16, verify=False)
    held = {str(p.relative_to(made.path)): p.read_bytes() for p in made.path.rglob("*") if p.is_file()}
    assert "weights.bin" in held
    shutil.rmtree(made.path)

    def opened(held: dict[str, bytes]) -> tuple[int, ctypes.c_void_p]:
        files = (_File * len(held))(*(_File(name.encode(), data, len(data)) for name, data in held.items()))
        sampler = ctypes.c_void_p(1)
        options = native.options(threads=1)
        return native.lib.ncdeploy_open_memory(
            files, ctypes.c_size_t(len(held)), ctypes.byref(options), ctypes.byref(sampler)
        ), sampler

    code, sampler = opened(held)
    assert code == 0, native.error
    samples = np.zeros((1, 5), np.float32)
    assert native.sample(sampler, samples, [7]) == 0, native.error
    np.testing.assert_allclose(samples[0], wanted, atol=1e-4)
    native.lib.ncdeploy_close(sampler)
    code, sampler = opened(held | {"weights.bin": held["weights.bin"][::-1]})
    assert (code, sampler.value) == (2, None)
    assert native.error.startswith("memory/weights.bin: has changed since the bundle was made")
    assert native.lib.ncdeploy_open_memory(None, ctypes.c_size_t(0), None, ctypes.byref(sampler)) == 1


def test_each_sample_follows_its_condition(native: Native, bundle: Bundle, tmp_path: Path) -> None:
    code, sampler = native.open(follower(bundle, tmp_path / "b"), native.options(plan=b"ddim-20", threads=1, window=0))
    assert code == 0, native.error
    goals, samples = np.arange(15, dtype=np.float32).reshape(3, 5), np.zeros((3, 5), np.float32)
    seeds, given = [4, 5, 6], (_Condition(name=b"goal", dtype=1, values=goals.ctypes.data, count=goals.size),)
    assert native.sample(sampler, samples, seeds, conditions=(_Condition * 1)(*given), condition_count=1) == 0
    for seed, goal, got in zip(seeds, goals, samples, strict=True):

        def denoise(x: np.ndarray, sigma: np.ndarray, goal: np.ndarray = goal) -> np.ndarray:
            return ((goal + x / 8) / (1 + sigma[:, None])).astype(np.float32)

        wanted = sample(denoise, PLANS[0], seeds=[seed], options=SampleOptions(shape=(5,))).samples[0]
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    goals[1, 2] = np.nan
    assert native.sample(sampler, samples, seeds, conditions=(_Condition * 1)(*given), condition_count=1) == 1
    assert native.error == "goal: holds NaN or infinity; expected finite values"
    assert native.sample(sampler, samples, seeds) == 1
    assert native.error == "goal: is missing; this model takes goal"
    native.lib.ncdeploy_close(sampler)


def test_c_hosts_encode_and_decode(native: Native, bundle: Bundle, tmp_path: Path) -> None:
    chain = conditional(tmp_path)
    raw, seeds = np.array([[0.5, -1.0], [2.0, 3.0]], np.float32), [7, 8]
    with open_engine(chain, threads=1) as engine:
        wanted = sample(engine, PLANS[0], seeds=seeds, conditions={"raw.state": raw}, window=8)
    code, sampler = native.open(chain.path, native.options(threads=1))
    assert code == 0, native.error
    assert native.lib.ncdeploy_decoded_shape(sampler, None, ctypes.c_size_t(0)) == 1
    samples, decoded = np.zeros((2, 5), np.float32), np.zeros((2, 3), np.float32)
    given = (_Condition * 1)(_Condition(name=b"raw.state", dtype=1, values=raw.ctypes.data, count=raw.size))
    assert native.sample(sampler, samples, seeds, conditions=given, condition_count=1) == 0, native.error
    np.testing.assert_allclose(samples, wanted.samples, atol=1e-4)

    def decode(of: Any, values: int) -> int:
        return native.lib.ncdeploy_decode(
            of, ctypes.c_void_p(samples.ctypes.data), ctypes.c_size_t(2), ctypes.c_void_p(decoded.ctypes.data),
            ctypes.c_size_t(values),
        )  # fmt: skip

    assert decode(sampler, 6) == 0, native.error
    np.testing.assert_allclose(decoded, wanted.decoded, atol=1e-4)
    assert (decode(sampler, 5), native.error) == (1, "action: got room for 5 values, expected 2 * 3")
    both = (_Condition * 2)(given[0], _Condition(name=b"goal", dtype=1, values=samples.ctypes.data, count=10))
    assert native.sample(sampler, samples, seeds, conditions=both, condition_count=2) == 1
    assert native.error.startswith("goal: is what the encoder makes of others")
    native.lib.ncdeploy_close(sampler)
    _, plain = native.open(bundle.path, native.options(threads=1))
    assert decode(plain, 6) == 1
    assert native.error.startswith("ncdeploy_decode: the bundle has no decoder")
    assert native.lib.ncdeploy_decoded_shape(plain, None, ctypes.c_size_t(0)) == 0
    native.lib.ncdeploy_close(plain)


@pytest.mark.parametrize("window", [16, 64])
def test_acceptance_in_law_is_that_of_python(native: Native, tmp_path: Path, window: int) -> None:
    """The same decisions, so the same samples, calls and rejections: 16 samples of DDPM-100, over 2,000 tests. Windows
    of 64 end at drafts that jump."""
    plan = make_plan("ddpm", 100)
    law = make_bundle(write_mixture(tmp_path / "m.onnx", INFO, np.eye(5)), tmp_path / "b", plans=[plan], window=window)
    code, sampler = native.open(law.path, native.options(threads=1, acceptance=1, theta=0.4))
    assert code == 0, native.error
    seeds, samples, report = list(range(16)), np.zeros((16, 5), np.float32), _Report(size=ctypes.sizeof(_Report))
    assert native.sample(sampler, samples, seeds, ctypes.byref(report)) == 0, native.error
    with open_engine(law, threads=1) as engine:
        options = SampleOptions(acceptance="law", theta=0.4)
        wanted = sample(engine, plan, seeds=seeds, window=window, options=options)
    same = np.abs(samples - wanted.samples).max(axis=1) < 1e-3
    assert same.mean() >= 15 / 16  # one decision may fall otherwise by the last digit
    assert abs(report.depth - wanted.depth) <= 1
    assert abs(report.rejections - wanted.rejections.mean()) < 0.2
    assert abs(report.rejection_odds - wanted.rejection_odds.mean()) < 0.2
    assert report.depth < 30
    assert report.complete == 16
    native.lib.ncdeploy_close(sampler)
    _, late = native.open(law.path, native.options(threads=1, deadline=1e-9))
    assert native.sample(late, samples, seeds, ctypes.byref(report)) == 0, native.error
    assert (report.depth, report.complete) == (1, 0)
    native.lib.ncdeploy_close(late)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan": b"ddim-20"}, "acceptance: ddim-20 has rows without noise"),
        ({"window": 0}, "acceptance: law is of parallel sampling"),
        ({"theta": 0.0}, "theta: got 0; expected a probability"),
        ({"acceptance": 2}, "acceptance: got 2, expected NCDEPLOY_PATHWISE or NCDEPLOY_LAW"),
    ],
)
def test_a_run_that_has_no_law_is_refused(native: Native, bundle: Bundle, tmp_path: Path, given, said) -> None:
    plans = [make_plan("ddpm", 20), *PLANS]
    both = make_bundle(bundle.engine, tmp_path / "b", plans=plans, window=8, verify=False)
    code, _ = native.open(both.path, native.options(**{"acceptance": 1, "threads": 1, **given}))
    assert (code, native.error[: len(said)]) == (1, said)


def test_a_program_of_a_newer_header_runs_if_it_uses_nothing_new(native: Native, bundle: Bundle) -> None:
    class Newer(ctypes.Structure):
        _fields_ = (("known", _Options), ("later", ctypes.c_int64))

    size = ctypes.sizeof(Newer)
    options = Newer(later=9)
    assert native.lib.ncdeploy_default_options(ctypes.byref(options), ctypes.c_size_t(size)) == 0
    assert (options.later, options.known.size) == (0, size)
    code, sampler = native.open(bundle.path, options)
    assert code == 0, native.error
    native.lib.ncdeploy_close(sampler)
    options.later = 1
    assert native.open(bundle.path, options)[0] == 1
    assert native.error.startswith(f"options: got size {size}, expected sizeof(ncdeploy_options), here ")


def test_a_runtime_that_cannot_be_used_is_named(release, runtime, bundle, tmp_path) -> None:
    """Each in a process of its own, because what was loaded stays."""
    old = compiled(tmp_path / "old.so", "fake_onnxruntime.c", "-shared", "-fPIC")
    other = compiled(tmp_path / "other.so", "hello.c", "-shared", "-fPIC", f"-I{SOURCE}/include")
    program = compiled(
        tmp_path / "hello", "hello.c", f"-I{SOURCE}/include",
        str(release / "libncdeploy_c.so"), f"-Wl,-rpath,{release}",
    )  # fmt: skip
    for library, said in (
        (
            tmp_path / "none.so",
            f"ONNX Runtime's library cannot be loaded ({tmp_path}/none.so: cannot open shared object",
        ),
        (old, f"{old}: is ONNX Runtime 1.20.1, which is too old; expected 1.21 or newer"),
        (other, f"{other}: is not ONNX Runtime's library, it has no OrtGetApiBase"),
    ):
        done = subprocess.run([program, bundle.path, library], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith(said)


def refused(source: Path, folder: Path, *options: str) -> str:
    """What cmake says as it fails, in one line."""
    done = subprocess.run(["cmake", "-S", source, "-B", folder, *options], capture_output=True, text=True)
    assert done.returncode != 0
    return " ".join(done.stderr.split())


def test_a_root_that_lacks_its_sdk_is_an_error(toolchain: None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with alone("cpp-roots") as folder:
        for name, header in (
            ("ONNXRUNTIME_ROOT", "include/onnxruntime_cxx_api.h"),
            ("TENSORRT_ROOT", "include/NvInfer.h"),
            ("TENSORRT_RTX_ROOT", "include/NvInfer.h"),
            ("CUDA_ROOT", "include/cuda_runtime_api.h"),
        ):
            for root, said in (
                (tmp_path / "none", f"{name}: there is no folder {tmp_path}/none; expected that of"),
                (tmp_path / "empty", f"{name}: {tmp_path}/empty has no {header} in it; name the folder that has"),
            ):
                assert said in refused(SOURCE, folder, f"-D{name}={root}")
            run("cmake", "-S", SOURCE, "-B", folder, f"-D{name}=")


def test_the_lines_of_the_readme_work_in_a_fresh_clone(toolchain: None, tmp_path: Path) -> None:
    """As they stand there, one after the other in a shell; then its C++ and C, and the C++ of the other README."""
    engines = ROOT / "engines" / "README.md"
    (lines,) = (block for _, block in code_of(engines, "sh") if "cmake" in block)
    clone = tmp_path / "clone"
    for name in subprocess.check_output(["git", "ls-files", "engines/cpp"], cwd=ROOT, text=True).split():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    info = replace(IMAGES, mean=None)
    model = write_mixture(clone / "m.onnx", info, np.eye(4, 64).reshape(4, 1, 8, 8))
    plan = make_plan("ddim", 8)
    bundle = make_bundle(model, clone / "bundle", plans=[plan], window=4, verify=False)
    record = choose_record(plan, bundle.info, kind="sampler", window=4)
    export_graph(model, clone / "sampler.onnx", record, verify=False)
    here = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    here.pop("PYTHON", None)
    fetch = lines.splitlines()[0].split("#")[0].split()
    if subprocess.run(fetch, cwd=clone, env=here, capture_output=True).returncode:
        pytest.skip("NOT TESTED: the lines of engines/README.md, fetch_onnxruntime.sh does not get its headers here")
    done = subprocess.run(["sh", "-e", "-c", lines], cwd=clone, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(clone.glob("sample-*.pgm"))) == 4
    here |= {"CMAKE_PREFIX_PATH": str(tmp_path / ".local"), "LD_LIBRARY_PATH": str(clone / "build/onnxruntime/lib")}
    program = clone / "program"
    program.mkdir()
    blocks = {*code_of(ROOT / "README.md", "cpp"), *code_of(engines, "cpp")}
    sources = [(*block, "") for block in blocks if "#include" in block[1]]  # others are parts of a program
    sources += [(*block, C_NAMES) for block in code_of(engines, "c")]
    (program / "CMakeLists.txt").write_text(PROJECT)
    for i, (language, code, names) in enumerate(sources):
        includes = "\n".join(re.findall(r"^#include.*", code, re.MULTILINE)) or "#include <ncdeploy/ncdeploy.h>"
        rest = re.sub(r"^#include.*", "", code, flags=re.MULTILINE)
        told = "result.samples" if language == "cpp" else "samples"
        (program / f"{i}.{language}").write_text(
            f"{includes}\nint main(void) {{\n{names}{rest}return {told}[0] < 9 && {told}[191] > -9 ? 0 : 1;\n}}\n"
        )
    options = f"-DLIST={';'.join(f'{i}.{language}' for i, (language, *_) in enumerate(sources))}"
    for command in (["cmake", "-S", "program", "-B", "program/build", options], ["cmake", "--build", "program/build"]):
        done = subprocess.run(command, cwd=clone, env=here, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for i in range(len(sources)):
        assert subprocess.run([f"program/build/{i}"], cwd=clone, env=here).returncode == 0


PROJECT = """
cmake_minimum_required(VERSION 3.21)
project(documents LANGUAGES C CXX)
find_package(ncdeploy REQUIRED)
foreach(source ${LIST})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  if(source MATCHES "cpp$")
    target_link_libraries(${name} PRIVATE ncdeploy::onnxruntime)
  else()
    target_link_libraries(${name} PRIVATE ncdeploy::c)
  endif()
endforeach()
"""
C_NAMES = "uint64_t seeds[3] = {0, 1, 2}; float samples[3 * 64] = {0}; ncdeploy_sampler *sampler = NULL;\n"


def code_of(document: Path, language: str) -> list[tuple[str, str]]:
    """(language, lines) of a document's blocks."""
    found = re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return [(language, block) for block in found]


def tensorrt_roots() -> list[Path]:
    named = [Path(p) for p in os.environ.get("TENSORRT_ROOTS", "").split(os.pathsep) if p]
    known = [Path("/usr"), Path("/usr/local/tensorrt"), Path("/usr/include/x86_64-linux-gnu")]
    return named or [p for p in known if (p / "NvInfer.h").is_file() or (p / "include" / "NvInfer.h").is_file()]


def test_the_tensorrt_backend_compiles(toolchain: None) -> None:
    roots = tensorrt_roots()
    if not roots:
        pytest.skip(
            "NOT TESTED: ncdeploy::tensorrt, no NvInfer.h; name folders that have include/NvInfer.h in TENSORRT_ROOTS"
        )
    with alone("cpp-tensorrt") as folder:
        for root in roots:
            for name, target in (("TENSORRT", "tensorrt"), ("TENSORRT_RTX", "tensorrt_rtx")):
                build(
                    folder, f"-D{name}_ROOT={root}", "-DNCDEPLOY_TENSORRT_COMPILE_ONLY=ON",
                    "-DNCDEPLOY_WERROR=ON", "-DCMAKE_DISABLE_FIND_PACKAGE_OnnxRuntime=ON",
                    target=f"ncdeploy_{target}_objects",
                )  # fmt: skip


def test_the_fetched_headers_come_with_the_library(tmp_path: Path) -> None:
    """Bad uses of fetch_onnxruntime.sh say what is missing; that it works is what the tests above stand on."""
    script = SOURCE / "fetch_onnxruntime.sh"
    done = subprocess.run([script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "fetch_onnxruntime: usage: fetch_onnxruntime.sh FOLDER\n")


def test_every_member_of_the_headers_is_documented(tmp_path: Path) -> None:
    if shutil.which("doxygen") is None:
        pytest.skip("NOT TESTED: the headers' documentation, doxygen is missing")
    settings = (
        SOURCE / "Doxyfile"
    ).read_text() + f"OUTPUT_DIRECTORY = {tmp_path}\nGENERATE_HTML = NO\nGENERATE_XML = YES\n"
    for text, code in ((settings, 0), (settings.replace("doxygen_filter.sed", "/dev/null"), 1)):
        done = subprocess.run(["doxygen", "-"], input=text, cwd=SOURCE, capture_output=True, text=True)
        assert done.returncode == code, done.stderr


@pytest.mark.slow
def test_the_conan_recipe_makes_a_package(onnxruntime_root: Path, tmp_path: Path) -> None:
    if shutil.which("conan") is None:
        pytest.skip("NOT TESTED: engines/cpp/conanfile.py, conan is missing")
    here = os.environ | {"CONAN_HOME": str(tmp_path)}
    subprocess.run(["conan", "profile", "detect"], env=here, check=True, capture_output=True)
    root = f"user.ncdeploy:onnxruntime_root={onnxruntime_root}"
    copied = tmp_path / "clone" / "engines" / "cpp"  # conan builds its test beside the recipe
    shutil.copytree(SOURCE, copied)
    shutil.copy2(ROOT / "LICENSE", tmp_path / "clone")
    command = ["conan", "create", copied, "-c", root, "-s", "compiler.cppstd=17", "-nr"]
    done = subprocess.run(command, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"ncdeploy {__version__}: " in done.stdout + done.stderr


@pytest.mark.slow
def test_the_archive_is_an_installation(onnxruntime_root: Path, runtime, bundle, wanted, tmp_path: Path) -> None:
    """As `make sdk` makes it: unpacked anywhere, a C program finds it."""
    build(tmp_path / "sdk", f"-DONNXRUNTIME_ROOT={onnxruntime_root}", "-DNCDEPLOY_EXAMPLES=OFF")
    run("cpack", "--config", tmp_path / "sdk" / "CPackConfig.cmake", "-B", tmp_path / "dist")
    (archive,) = (tmp_path / "dist").glob(f"ncdeploy-{__version__}-*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "out")
    (root,) = (tmp_path / "out").iterdir()
    library = next(root.rglob("libncdeploy_c.so"))
    program = compiled(
        tmp_path / "hello", "hello.c", f"-I{root / 'include'}", str(library), f"-Wl,-rpath,{library.parent}"
    )
    words = run(program, bundle.path, runtime).split()
    np.testing.assert_allclose([float(word) for word in words[1:]], wanted, atol=1e-4)
