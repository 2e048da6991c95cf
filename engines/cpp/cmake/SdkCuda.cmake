# The CUDA runtime that TensorRT and TensorRT for RTX need: TensorRT_CUDA_INCLUDE_DIR and TensorRT_CUDA_LIBRARY.
include(${CMAKE_CURRENT_LIST_DIR}/SdkRoot.cmake)
sdk_root(CUDA_ROOT "the CUDA toolkit" TensorRT_CUDA_INCLUDE_DIR TensorRT_CUDA_LIBRARY)
if(NOT sdk_given)
  file(GLOB sdk_hints /usr/local/cuda /usr/local/cuda-*)
  list(PREPEND sdk_hints HINTS)
endif()
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
  ${sdk_hints} PATH_SUFFIXES include targets/x86_64-linux/include)
find_library(TensorRT_CUDA_LIBRARY cudart ${sdk_hints} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
sdk_require(CUDA_ROOT TensorRT_CUDA_INCLUDE_DIR include/cuda_runtime_api.h)
if(NOT NCDEPLOY_TENSORRT_COMPILE_ONLY)
  sdk_require(CUDA_ROOT TensorRT_CUDA_LIBRARY lib64/libcudart)
endif()
