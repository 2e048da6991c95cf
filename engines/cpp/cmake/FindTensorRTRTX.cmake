# Finds TensorRT for RTX (1.x) with the CUDA runtime it needs, and defines TensorRT::RTX.
#
# Looks under TENSORRT_RTX_ROOT and CUDA_ROOT (CMake or environment variables). TensorRTRTX_INCLUDE_DIR and
# TensorRTRTX_LIBRARY override what is found, and those of CUDA are as in FindTensorRT. With
# NCDEPLOY_TENSORRT_COMPILE_ONLY the headers do. They have the names of TensorRT's, so that nothing is taken from where
# the system looks: the folder must be given.
include(${CMAKE_CURRENT_LIST_DIR}/SdkRoot.cmake)
sdk_root(TENSORRT_RTX_ROOT "TensorRT for RTX" TensorRTRTX_INCLUDE_DIR TensorRTRTX_LIBRARY)
if(sdk_given)
  find_path(TensorRTRTX_INCLUDE_DIR NvInfer.h ${sdk_hints} PATH_SUFFIXES include)
  find_library(TensorRTRTX_LIBRARY NAMES tensorrt_rtx libtensorrt_rtx.so.1 ${sdk_hints} PATH_SUFFIXES lib lib64)
  sdk_require(TENSORRT_RTX_ROOT TensorRTRTX_INCLUDE_DIR include/NvInfer.h)
  if(NOT NCDEPLOY_TENSORRT_COMPILE_ONLY)
    sdk_require(TENSORRT_RTX_ROOT TensorRTRTX_LIBRARY lib/libtensorrt_rtx)
  endif()
endif()
include(${CMAKE_CURRENT_LIST_DIR}/SdkCuda.cmake)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRTRTX
  REQUIRED_VARS TensorRTRTX_LIBRARY TensorRTRTX_INCLUDE_DIR TensorRT_CUDA_LIBRARY TensorRT_CUDA_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "say where they are with -DTENSORRT_RTX_ROOT=... and -DCUDA_ROOT=...")
mark_as_advanced(TensorRTRTX_INCLUDE_DIR TensorRTRTX_LIBRARY)

if(TensorRTRTX_FOUND AND NOT TARGET TensorRT::RTX)
  add_library(TensorRT::RTX UNKNOWN IMPORTED)
  set_target_properties(TensorRT::RTX PROPERTIES
    IMPORTED_LOCATION ${TensorRTRTX_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRTRTX_INCLUDE_DIR};${TensorRT_CUDA_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES ${TensorRT_CUDA_LIBRARY})
endif()
