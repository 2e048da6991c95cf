"""TensorRT's real Python bindings without TensorRT: wheels of 1 MB from PyPI, over empty libraries.

The extension module needs libnvinfer, libnvinfer_plugin and libnvonnxparser of its major version, and of them nine C
symbols. With three libraries that export these, it imports anywhere, and every class, method and enumeration of that
version is there. Nothing computes: factories return nothing, as they do where there is no driver.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Different versions of one module: each is unpacked into a folder of its own, and imported in its own process.
WHEELS = {
    "10.12": "tensorrt_cu12_bindings==10.12.0.36",
    "10.16": "tensorrt_cu12_bindings==10.16.0.72",
    "11.4": "tensorrt_cu13_bindings==11.4.0.106",
}
LEAN = {"10.12": "tensorrt_lean_cu12_bindings==10.12.0.36", "11.4": "tensorrt_lean_cu13_bindings==11.4.0.106"}
CUDART = "nvidia-cuda-runtime==13.0.96"  # the real library; without a driver its functions return an error
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "initLibNvInferPlugins", "getNvOnnxParserVersion",
)  # fmt: skip


def unpacked(requirement: str) -> Path:
    """The folder of a wheel's files, downloaded once into the user's cache. Skips the test, loudly, offline."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncdeploy-tests"
    folder = base / f"{requirement.replace('==', '-')}-py{sys.version_info.major}{sys.version_info.minor}"
    if folder.is_dir():
        return folder
    work = folder.with_name(f"{folder.name}.{os.getpid()}")
    work.mkdir(parents=True, exist_ok=True)
    try:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(work)]
        done = subprocess.run([*pip, requirement], capture_output=True, text=True, timeout=120, check=False)
        wheels = list(work.glob("*.whl"))
        if done.returncode or not wheels:
            pytest.skip(f"NOT TESTED: {requirement} cannot be downloaded: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(work)
        wheels[0].unlink()
        if not folder.is_dir():
            work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def run_with(version: str, code: str, tmp_path: Path, *, lean: bool = False) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter in which `import tensorrt` gives the bindings of this version.

    lean: those of the lean runtime, and as `tensorrt_lean`; there is no `tensorrt` then
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: no C compiler for the empty libraries")
    wheel = unpacked((LEAN if lean else WHEELS)[version])
    source = tmp_path / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for library in ("nvinfer_lean",) if lean else LIBRARIES:
        name = f"lib{library}.so.{version.split('.')[0]}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", str(source), "-o", str(tmp_path / name), f"-Wl,-soname,{name}"], check=True
        )
    name = "tensorrt_lean" if lean else "tensorrt"
    alias = f"import sys, {name}_bindings\nsys.modules[{name!r}] = {name}_bindings\n"
    root = Path(__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(wheel), str(root), str(root / "cli")]),
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", alias + code], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
