# Finds the TensorFlow of Python_EXECUTABLE and defines the imported target
# TensorFlow::framework, which carries its include directories, ABI flags,
# language standard and library, and TensorFlow::xla, which adds what code that
# speaks to XLA's compiler needs, or, where that is not there, sets
# TensorFlow_XLA_FAILURE.
#
# Sets TensorFlow_VERSION.

if(NOT TARGET TensorFlow::framework)
  execute_process(
    # Without what pip's build isolation puts in front of the user's packages.
    COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH
            --unset=PYTHONNOUSERSITE TF_CPP_MIN_LOG_LEVEL=3
            "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/tensorflow_probe.py"
    OUTPUT_VARIABLE probe_output
    ERROR_VARIABLE probe_error
    RESULT_VARIABLE probe_result
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(probe_result EQUAL 0)
    # A value may itself be a list.
    string(REPLACE ";" "," probe_output "${probe_output}")
    string(REPLACE "\n" ";" probe_lines "${probe_output}")
    list(GET probe_lines 0 TensorFlow_VERSION)
    list(GET probe_lines 1 TensorFlow_INCLUDE_DIR)
    list(GET probe_lines 2 TensorFlow_LIBRARY_DIR)
    list(GET probe_lines 3 tensorflow_compile_options)
    list(GET probe_lines 4 tensorflow_standard)
    list(GET probe_lines 5 tensorflow_link_options)
    string(REPLACE "," ";" tensorflow_compile_options
                   "${tensorflow_compile_options}")
    string(REPLACE "," ";" tensorflow_link_options "${tensorflow_link_options}")
  else()
    set(TensorFlow_FAILURE
        "'${Python_EXECUTABLE}' cannot import tensorflow; install it with '${Python_EXECUTABLE} -m pip install tensorflow'"
    )
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorFlow
  REQUIRED_VARS TensorFlow_INCLUDE_DIR TensorFlow_LIBRARY_DIR
  VERSION_VAR TensorFlow_VERSION
  REASON_FAILURE_MESSAGE "${TensorFlow_FAILURE}")

if(TensorFlow_FOUND AND NOT TARGET TensorFlow::framework)
  add_library(TensorFlow::framework INTERFACE IMPORTED)
  target_include_directories(TensorFlow::framework SYSTEM
                             INTERFACE "${TensorFlow_INCLUDE_DIR}")
  target_compile_options(TensorFlow::framework
                         INTERFACE ${tensorflow_compile_options})
  target_compile_features(TensorFlow::framework
                          INTERFACE "cxx_std_${tensorflow_standard}")
  target_link_directories(TensorFlow::framework
                          INTERFACE "${TensorFlow_LIBRARY_DIR}")
  target_link_libraries(TensorFlow::framework
                        INTERFACE ${tensorflow_link_options})
endif()

if(TensorFlow_FOUND AND NOT TARGET TensorFlow::xla)
  set(xla_includes
      "${TensorFlow_INCLUDE_DIR}/external/highwayhash"
      "${TensorFlow_INCLUDE_DIR}/external/farmhash_archive/src")
  unset(TensorFlow_XLA_FAILURE)
  foreach(
    file IN
    ITEMS "${TensorFlow_INCLUDE_DIR}/tensorflow/compiler/tf2xla/xla_op_kernel.h"
          "${TensorFlow_INCLUDE_DIR}/xla/ffi/api/ffi.h"
          "${TensorFlow_INCLUDE_DIR}/external/highwayhash/highwayhash"
          "${TensorFlow_INCLUDE_DIR}/external/farmhash_archive/src/farmhash.h"
          "${TensorFlow_LIBRARY_DIR}/libtensorflow_cc.so.2")
    if(NOT EXISTS "${file}")
      set(TensorFlow_XLA_FAILURE "this TensorFlow has no ${file}")
    endif()
  endforeach()
  if(NOT TensorFlow_XLA_FAILURE)
    add_library(TensorFlow::xla INTERFACE IMPORTED)
    target_include_directories(TensorFlow::xla SYSTEM INTERFACE ${xla_includes})
    target_link_libraries(TensorFlow::xla
                          INTERFACE TensorFlow::framework -l:libtensorflow_cc.so.2)
  endif()
endif()
