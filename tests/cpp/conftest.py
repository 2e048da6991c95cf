"""What is built once for all tests of the C++ SDK.

Without a compiler, or without ONNX Runtime's headers, tests are skipped and say what is missing.
"""

import os
import shutil
from pathlib import Path

import pytest

from cpp_build import BUILD, alone, build


@pytest.fixture(scope="session")
def toolchain() -> None:
    missing = [tool for tool in ("cmake", "c++", "ctest") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"NOT TESTED: the C++ SDK, for want of {' and '.join(missing)}")


@pytest.fixture(scope="session")
def onnxruntime_root(toolchain: None) -> Path:
    """A folder with include/ and lib/ of ONNX Runtime."""
    root = Path(os.environ.get("ONNXRUNTIME_ROOT", BUILD / "onnxruntime"))
    if not next(root.rglob("onnxruntime_cxx_api.h"), None):
        pytest.skip(f"NOT TESTED: ncdeploy::onnxruntime, no headers in {root}; engines/cpp/fetch_onnxruntime.sh {root}")
    return root


@pytest.fixture(scope="session")
def release(onnxruntime_root: Path) -> Path:
    """Libraries and examples with ONNX Runtime, optimised."""
    with alone("cpp-release") as folder:
        build(folder, "-DNCDEPLOY_WERROR=ON", f"-DONNXRUNTIME_ROOT={onnxruntime_root}")
        return folder


@pytest.fixture(scope="session")
def sanitized(toolchain: None) -> Path:
    """The core and its tests, which stop at the first bad access or undefined operation."""
    with alone("cpp-sanitized") as folder:
        build(
            folder, "-DNCDEPLOY_WERROR=ON", "-DNCDEPLOY_TESTS=ON", "-DNCDEPLOY_SANITIZE=address,undefined",
            "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-g1",
            "-DCMAKE_DISABLE_FIND_PACKAGE_OnnxRuntime=ON", "-DCMAKE_DISABLE_FIND_PACKAGE_TensorRT=ON",
        )  # fmt: skip
        return folder
