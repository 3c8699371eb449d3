// Stands in for CUDA's headers so that a C++ compiler can build the GPU kernels
// for the CPU. A launch runs the blocks of its grid one after the other before
// it returns. The threads of a block run one after the other too, as fibers
// that take turns at barriers.

#ifndef TF_DWGRAD_TESTS_CC_GPU_ON_HOST_CUDA_RUNTIME_H_
#define TF_DWGRAD_TESTS_CC_GPU_ON_HOST_CUDA_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

#include <cstring>
#include <functional>

#define __global__
#define __host__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1)
      : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}

using cudaStream_t = struct CUstream_st*;

enum cudaLaunchAttributeID {
  cudaLaunchAttributeProgrammaticStreamSerialization
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  const cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

// Of the thread that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();

namespace tf_dwgrad {
// What `extern __shared__` arrays of the kernels name.
extern unsigned char dynamic_shared[];
}  // namespace tf_dwgrad

namespace gpu_on_host {
// Runs `thread` for every thread of the grid. What a GPU would not accept or
// leaves undefined ends the process: too large a grid, block or shared memory,
// writing behind shared memory, or a barrier that not all threads reach.
// Shared memory starts as NaNs in every block.
void RunGrid(const cudaLaunchConfig_t& config,
             const std::function<void()>& thread);

constexpr int kMaxSharedBytes = 96 << 10;
}  // namespace gpu_on_host

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which,
                                          int) {
  *value = which == cudaDevAttrComputeCapabilityMajor
               ? 9
               : gpu_on_host::kMaxSharedBytes;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return bytes <= gpu_on_host::kMaxSharedBytes ? cudaSuccess
                                               : cudaErrorInvalidValue;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config,
                               void (*kernel)(Parameters...),
                               Arguments... arguments) {
  gpu_on_host::RunGrid(*config, [&] { kernel(arguments...); });
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes,
                                   cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
// Byte i of the result is the one of the eight that nibble i of `selector`
// names.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned byte = selector >> (4 * i) & 7;
    result |= static_cast<unsigned>(bytes >> (8 * byte) & 0xff) << (8 * i);
  }
  return result;
}

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half value) { return value.bits; }
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
float __half2float(__half value);
__half __float2half_rn(float value);
__nv_bfloat16 __float2bfloat16_rn(float value);
struct __half2 {
  __half x, y;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

#endif  // TF_DWGRAD_TESTS_CC_GPU_ON_HOST_CUDA_RUNTIME_H_
