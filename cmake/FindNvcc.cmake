# Finds an nvcc that compiles, and the static CUDA runtime beside it: a whole
# toolkit, or what 'pip install "cuda-toolkit[nvcc,cccl]"' puts into the packages
# of Python_EXECUTABLE. CMAKE_CUDA_COMPILER or the environment variable CUDACXX
# names a certain one.
#
# Sets Nvcc_EXECUTABLE, Nvcc_VERSION and Nvcc_CUDART_STATIC, or Nvcc_FAILURE, a
# sentence. CMake's FindCUDAToolkit does not know the folders of the wheels.

set(Nvcc_MINIMUM_VERSION 12.0)

# Every nvcc there may be, the preferred first.
function(_nvcc_candidates result)
  set(named "${CMAKE_CUDA_COMPILER}" "$ENV{CUDACXX}")
  foreach(nvcc IN LISTS named)
    if(nvcc)
      set(${result} "${nvcc}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  find_program(in_path nvcc NO_CACHE NO_CMAKE_PATH NO_CMAKE_SYSTEM_PATH)
  set(candidates ${in_path})
  foreach(folder "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}")
    if(folder)
      list(APPEND candidates "${folder}/bin/nvcc")
    endif()
  endforeach()
  if(Python_EXECUTABLE)
    execute_process(
      # Without what pip's build isolation puts in front of the user's packages.
      COMMAND
        "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH --unset=PYTHONNOUSERSITE
        "${Python_EXECUTABLE}" -c
        "import nvidia; print(*nvidia.__path__, sep='\\n')"
      OUTPUT_VARIABLE folders
      ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    string(REPLACE "\n" ";" folders "${folders}")
    foreach(folder IN LISTS folders)
      file(GLOB of_wheels "${folder}/cu[0-9]*/bin/nvcc")
      list(SORT of_wheels COMPARE NATURAL ORDER DESCENDING)
      list(APPEND candidates ${of_wheels})
    endforeach()
  endif()
  list(APPEND candidates /usr/local/cuda/bin/nvcc)
  set(existing)
  foreach(nvcc IN LISTS candidates)
    if(EXISTS "${nvcc}")
      list(APPEND existing "${nvcc}")
    endif()
  endforeach()
  set(${result} "${existing}" PARENT_SCOPE)
endfunction()

# Sets version and cudart, or failure.
function(_nvcc_try nvcc)
  set(probe "${CMAKE_SOURCE_DIR}/cmake/nvcc_probe.cu")
  set(failure FALSE)
  # What it would do, which begins with where it is.
  execute_process(
    COMMAND "${nvcc}" --dryrun -c "${probe}"
    OUTPUT_VARIABLE plan
    ERROR_VARIABLE plan
    RESULT_VARIABLE status)
  execute_process(COMMAND "${nvcc}" --version OUTPUT_VARIABLE version ERROR_QUIET)
  if(NOT status EQUAL 0 OR NOT plan MATCHES "TOP=([^\n]+)")
    set(failure "'${nvcc}' does not run")
  else()
    get_filename_component(top "${CMAKE_MATCH_1}" REALPATH)
    if(version MATCHES "V([0-9.]+)")
      set(version "${CMAKE_MATCH_1}")
    endif()
    find_library(
      cudart cudart_static NO_CACHE NO_DEFAULT_PATH
      PATHS "${top}/lib64" "${top}/lib"
            "${top}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib")
    execute_process(
      COMMAND "${nvcc}" -std=c++17 -ccbin "${CMAKE_CXX_COMPILER}" -c "${probe}" -o
              "${CMAKE_BINARY_DIR}/CMakeFiles/nvcc_probe.o"
      OUTPUT_VARIABLE output
      ERROR_VARIABLE output
      RESULT_VARIABLE status)
    if(version VERSION_LESS Nvcc_MINIMUM_VERSION)
      set(failure
          "'${nvcc}' is of CUDA ${version}, and ${Nvcc_MINIMUM_VERSION} or newer is needed"
      )
    elseif(NOT status EQUAL 0)
      string(REGEX MATCH "[^\n]*(error|fatal)[^\n]*" reason "${output}")
      set(failure
          "'${nvcc}' with the host compiler '${CMAKE_CXX_COMPILER}' fails: ${reason}"
      )
    elseif(NOT cudart)
      set(failure "there is no libcudart_static.a under '${top}'")
    endif()
  endif()
  set(version "${version}" PARENT_SCOPE)
  set(cudart "${cudart}" PARENT_SCOPE)
  set(failure "${failure}" PARENT_SCOPE)
endfunction()

set(Nvcc_FOUND FALSE)
set(Nvcc_FAILURE "there is no nvcc")
_nvcc_candidates(candidates)
foreach(nvcc IN LISTS candidates)
  _nvcc_try("${nvcc}")
  if(NOT failure)
    set(Nvcc_FOUND TRUE)
    set(Nvcc_EXECUTABLE "${nvcc}")
    set(Nvcc_VERSION "${version}")
    set(Nvcc_CUDART_STATIC "${cudart}")
    unset(Nvcc_FAILURE)
    break()
  endif()
  set(Nvcc_FAILURE "${failure}")
endforeach()
