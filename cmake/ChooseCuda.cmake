# Decides whether the GPU kernels are built, and for which GPUs, and enables the
# language CUDA if they are.
#
# Sets TF_DWGRAD_WITH_CUDA, and TF_DWGRAD_NVCC and TF_DWGRAD_BUILT_ARCHITECTURES
# ("75-real 80-real ...") or TF_DWGRAD_NO_CUDA_BECAUSE, a sentence.

set(TF_DWGRAD_WITH_CUDA FALSE)
set(TF_DWGRAD_NVCC)
set(TF_DWGRAD_BUILT_ARCHITECTURES)
unset(TF_DWGRAD_NO_CUDA_BECAUSE)

string(TOUPPER "${TF_DWGRAD_CUDA}" wanted)
if(wanted STREQUAL "AUTO")
  if(CMAKE_CROSSCOMPILING)
    set(TF_DWGRAD_NO_CUDA_BECAUSE "this build is for another machine")
  elseif(TF_DWGRAD_SANITIZE)
    set(TF_DWGRAD_NO_CUDA_BECAUSE "sanitizers check the CPU's code")
  endif()
elseif(NOT TF_DWGRAD_CUDA)
  set(TF_DWGRAD_NO_CUDA_BECAUSE "TF_DWGRAD_CUDA=${TF_DWGRAD_CUDA}")
endif()

if(NOT TF_DWGRAD_NO_CUDA_BECAUSE)
  find_package(Nvcc QUIET)
  if(Nvcc_FOUND)
    set(TF_DWGRAD_WITH_CUDA TRUE)
  elseif(wanted STREQUAL "AUTO")
    set(TF_DWGRAD_NO_CUDA_BECAUSE "${Nvcc_FAILURE}")
  else()
    message(
      FATAL_ERROR
        "TF_DWGRAD_CUDA=${TF_DWGRAD_CUDA} needs nvcc ${Nvcc_MINIMUM_VERSION} or newer, but ${Nvcc_FAILURE}: install one with 'pip install \"cuda-toolkit[nvcc,cccl]==13.*\"' (or NVIDIA's CUDA toolkit) and, if it is not found then, name it in the environment variable CUDACXX"
    )
  endif()
endif()

if(TF_DWGRAD_WITH_CUDA)
  set(TF_DWGRAD_NVCC "${Nvcc_EXECUTABLE}")
  set(CMAKE_CUDA_ARCHITECTURES "${TF_DWGRAD_CUDA_ARCHITECTURES}")
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    # The last one as PTX too, which the driver compiles for newer GPUs.
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real
                                 90-virtual)
    if(Nvcc_VERSION VERSION_LESS 13)
      list(PREPEND CMAKE_CUDA_ARCHITECTURES 60-real 70-real)
    endif()
  endif()
  string(REPLACE ";" " " TF_DWGRAD_BUILT_ARCHITECTURES
                 "${CMAKE_CUDA_ARCHITECTURES}")
  set(CMAKE_CUDA_COMPILER "${Nvcc_EXECUTABLE}")
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  if(NOT CMAKE_CUDA_HOST_COMPILER)
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
  endif()
  # nvcc looks for the runtime in lib64, which the wheels call lib.
  get_filename_component(folder "${Nvcc_CUDART_STATIC}" DIRECTORY)
  set(CMAKE_CUDA_FLAGS_INIT "-L${folder}")
  enable_language(CUDA)
  if(Nvcc_VERSION VERSION_GREATER_EQUAL 12.8)
    # A fifth of the size.
    string(APPEND CMAKE_CUDA_FLAGS " --compress-mode=size")
  endif()
  # Whoever links says where; see the op library.
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)
  message(
    STATUS
      "GPU kernels: yes, by CUDA ${Nvcc_VERSION} for ${TF_DWGRAD_BUILT_ARCHITECTURES}"
  )
else()
  message(STATUS "GPU kernels: no, because ${TF_DWGRAD_NO_CUDA_BECAUSE}")
endif()
