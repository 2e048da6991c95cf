"""Conan recipe: `conan create engines/cpp`.

With `-c user.ncdeploy:onnxruntime_root=FOLDER`, which is ONNXRUNTIME_ROOT of CMake, the package has
ncdeploy::onnxruntime and ncdeploy::c too; without, the core. `find_package(ncdeploy)` is that of an installation.
"""

import os
import re

from conan import ConanFile
from conan.tools.cmake import CMake, CMakeToolchain
from conan.tools.files import copy, load


class Ncdeploy(ConanFile):
    name = "ncdeploy"
    license = "Apache-2.0"
    description = "Samples of diffusion models, in parallel to a known tolerance, from bundles that Python made"
    settings = "os", "compiler", "build_type", "arch"
    package_type = "static-library"

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, "CMakeLists.txt"))
        self.version = re.search(r"project\(ncdeploy VERSION ([\d.]+)", text).group(1)

    def export_sources(self):
        copy(self, "LICENSE", os.path.join(self.recipe_folder, "..", ".."), self.export_sources_folder)
        for pattern in ("CMakeLists.txt", "cmake/*", "include/*", "src/*"):
            copy(self, pattern, self.recipe_folder, self.export_sources_folder)

    def package_id(self):
        self.info.conf.define("user.ncdeploy:onnxruntime_root", self.conf.get("user.ncdeploy:onnxruntime_root", ""))

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["NCDEPLOY_EXAMPLES"] = False
        toolchain.cache_variables["ONNXRUNTIME_ROOT"] = self.conf.get("user.ncdeploy:onnxruntime_root", "")
        if not toolchain.cache_variables["ONNXRUNTIME_ROOT"]:
            toolchain.cache_variables["CMAKE_DISABLE_FIND_PACKAGE_OnnxRuntime"] = True
        for package in ("TensorRT", "TensorRTRTX"):
            toolchain.cache_variables[f"CMAKE_DISABLE_FIND_PACKAGE_{package}"] = True
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "ncdeploy")]
        self.cpp_info.libs = ["ncdeploy"]
