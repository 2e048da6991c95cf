# Finds TensorRT (10.12 to 11 are supported) with the CUDA runtime it needs, and defines TensorRT::TensorRT.
#
# Looks under TENSORRT_ROOT and CUDA_ROOT (CMake variables or environment). TensorRT_INCLUDE_DIR, TensorRT_LIBRARY,
# TensorRT_CUDA_INCLUDE_DIR and TensorRT_CUDA_LIBRARY override what is found.
set(_hints ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT})
set(_cuda ${CUDA_ROOT} $ENV{CUDA_ROOT} /usr/local/cuda)
file(GLOB _cuda_versions /usr/local/cuda-*)
list(APPEND _cuda ${_cuda_versions})
find_path(TensorRT_INCLUDE_DIR NvInfer.h HINTS ${_hints} PATH_SUFFIXES include)
find_library(TensorRT_LIBRARY nvinfer HINTS ${_hints} PATH_SUFFIXES lib lib64)
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${_cuda} PATH_SUFFIXES include targets/x86_64-linux/include)
find_library(TensorRT_CUDA_LIBRARY cudart HINTS ${_cuda} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)

# The version stands as plain numbers or under another name that stands for them.
if(TensorRT_INCLUDE_DIR)
  file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h _lines
    REGEX "#define (NV_TENSORRT|TRT)_(MAJOR|MINOR)(_ENTERPRISE)? +[0-9]")
  foreach(_part MAJOR MINOR)
    if("${_lines}" MATCHES "_${_part}(_ENTERPRISE)? +([0-9]+)")
      list(APPEND _version ${CMAKE_MATCH_2})
    endif()
  endforeach()
  list(JOIN _version "." TensorRT_VERSION)
  unset(_version)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_CUDA_LIBRARY TensorRT_CUDA_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION HANDLE_VERSION_RANGE)
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY TensorRT_CUDA_INCLUDE_DIR TensorRT_CUDA_LIBRARY)

if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES
    IMPORTED_LOCATION ${TensorRT_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR};${TensorRT_CUDA_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES ${TensorRT_CUDA_LIBRARY})
endif()
