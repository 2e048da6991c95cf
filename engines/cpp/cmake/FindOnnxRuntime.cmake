# Finds the headers of ONNX Runtime: OnnxRuntime_INCLUDE_DIR, and OnnxRuntime_LIBRARY if its library is beside them.
# ncdeploy loads the library when it runs, so that only programs which call ONNX Runtime themselves link it.
#
# Looks under ONNXRUNTIME_ROOT (CMake or environment variable), which may be a release archive, an install prefix, or
# what engines/cpp/fetch_onnxruntime.sh makes. OnnxRuntime_INCLUDE_DIR and OnnxRuntime_LIBRARY override what is found.
include(${CMAKE_CURRENT_LIST_DIR}/SdkRoot.cmake)
sdk_root(ONNXRUNTIME_ROOT "ONNX Runtime" OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)
find_path(OnnxRuntime_INCLUDE_DIR onnxruntime_cxx_api.h
  ${sdk_hints} PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
find_library(OnnxRuntime_LIBRARY NAMES onnxruntime ${sdk_hints} PATH_SUFFIXES lib lib64)
sdk_require(ONNXRUNTIME_ROOT OnnxRuntime_INCLUDE_DIR include/onnxruntime_cxx_api.h)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS OnnxRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "say where it is with -DONNXRUNTIME_ROOT=...")
mark_as_advanced(OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)

