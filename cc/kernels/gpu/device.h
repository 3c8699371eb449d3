// What all GPU kernels need of CUDA: the element types, whole vectors of them,
// launching. The tests compile the same code for the CPU, with headers of their
// own in the place of CUDA's.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_DEVICE_H_
#define TF_DWGRAD_CC_KERNELS_GPU_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "cc/kernels/number_formats.h"

namespace tf_dwgrad {

template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

__device__ inline float Widen(Half value) {
  return __half2float(__ushort_as_half(value.bits));
}
__device__ inline float Widen(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
__device__ inline float Widen(float value) { return value; }
__device__ inline double Widen(double value) { return value; }

__device__ inline void Narrow(float value, Half* to) {
  to->bits = __half_as_ushort(__float2half_rn(value));
}
__device__ inline void Narrow(float value, BFloat16* to) {
  to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ inline void Narrow(float value, float* to) { *to = value; }
__device__ inline void Narrow(double value, double* to) { *to = value; }

// Neighbouring elements that are loaded and stored by one instruction.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T elements[kCount];
};

inline bool IsAligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

__host__ __device__ inline int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// As many blocks as a grid may have; kernels loop over what is more.
inline dim3 GridOf(int64_t blocks) {
  constexpr int64_t kMaxBlocks = 0x7fffffff;
  return dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
}

// How much dynamic shared memory a block may have on the current GPU.
inline cudaError_t MaxSharedBytes(int64_t* bytes) {
  int device = 0, value = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(
        &value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  *bytes = value;
  return error;
}

// To be called before a launch; more than 48 KB must be asked for.
template <typename Kernel>
cudaError_t AllowSharedBytes(Kernel* kernel, int64_t bytes) {
  if (bytes <= 48 << 10) return cudaSuccess;
  return cudaFuncSetAttribute(kernel,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads,
                   int64_t shared_bytes, cudaStream_t stream,
                   Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_DEVICE_H_
