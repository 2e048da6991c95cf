# sdk_root(NAME what [variables of find_path and find_library...])
#
# The cache variable NAME, or else the environment variable, is the folder of an SDK. -DNAME=folder is taken from where
# cmake was called, as in a shell. Sets sdk_hints for find_path and find_library: of a folder that is given, that alone,
# so that nothing is taken from elsewhere unnoticed. When NAME changes, the variables are searched for anew.
macro(sdk_root name what)
  set(${name} "" CACHE PATH "Folder of ${what}")
  set(sdk_given "${${name}}")
  if(NOT sdk_given AND NOT "$ENV{${name}}" STREQUAL "")
    get_filename_component(sdk_given "$ENV{${name}}" ABSOLUTE BASE_DIR "$ENV{PWD}")
  endif()
  if(DEFINED ${name}_SEARCHED AND NOT "${${name}_SEARCHED}" STREQUAL "${sdk_given}")
    foreach(sdk_variable ${ARGN})
      unset(${sdk_variable} CACHE)
    endforeach()
  endif()
  set(${name}_SEARCHED "${sdk_given}" CACHE INTERNAL "")
  set(sdk_hints "")
  if(sdk_given)
    if(NOT IS_DIRECTORY "${sdk_given}")
      message(FATAL_ERROR "${name}: there is no folder ${sdk_given}; expected that of ${what}")
    endif()
    set(sdk_hints HINTS "${sdk_given}" NO_DEFAULT_PATH)
  endif()
endmacro()

# sdk_require(NAME variable file): what a folder that was given lacks is an error, not a backend less.
macro(sdk_require name variable file)
  if(sdk_given AND NOT ${variable})
    message(FATAL_ERROR "${name}: ${sdk_given} has no ${file} in it; name the folder that has, or leave ${name} out")
  endif()
endmacro()
