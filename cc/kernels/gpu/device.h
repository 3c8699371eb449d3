// What all GPU kernels need of CUDA: the element types, whole vectors of them,
// launching. The tests compile the same code for the CPU, with headers of their
// own in the place of CUDA's.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_DEVICE_H_
#define TF_DWGRAD_CC_KERNELS_GPU_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

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

// Whole vectors: two neighbours of 16 bits by fewer instructions than each.
template <typename T, int kCount>
__device__ __forceinline__ void WidenAll(const Vector<T, kCount>& from,
                                         Accumulator<T> (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = Widen(from.elements[i]);
}
template <int kCount>
__device__ __forceinline__ void WidenAll(const Vector<BFloat16, kCount>& from,
                                         float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i + 1 < kCount; i += 2) {
    uint32_t pair;
    memcpy(&pair, &from.elements[i], sizeof(pair));
    to[i] = __uint_as_float(pair << 16);
    to[i + 1] = __uint_as_float(pair & 0xffff0000u);
  }
  if (kCount % 2 == 1) to[kCount - 1] = Widen(from.elements[kCount - 1]);
}

template <typename T, int kCount>
__device__ __forceinline__ void NarrowAll(const Accumulator<T> (&from)[kCount],
                                          Vector<T, kCount>* to) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) Narrow(from[i], &to->elements[i]);
}
template <int kCount>
__device__ __forceinline__ void NarrowAll(const float (&from)[kCount],
                                          Vector<BFloat16, kCount>* to) {
#pragma unroll
  for (int i = 0; i + 1 < kCount; i += 2) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from[i], from[i + 1]);
    memcpy(&to->elements[i], &pair, sizeof(pair));
  }
  if (kCount % 2 == 1) Narrow(from[kCount - 1], &to->elements[kCount - 1]);
}
template <int kCount>
__device__ __forceinline__ void NarrowAll(const float (&from)[kCount],
                                          Vector<Half, kCount>* to) {
#pragma unroll
  for (int i = 0; i + 1 < kCount; i += 2) {
    const __half2 pair = __floats2half2_rn(from[i], from[i + 1]);
    memcpy(&to->elements[i], &pair, sizeof(pair));
  }
  if (kCount % 2 == 1) Narrow(from[kCount - 1], &to->elements[kCount - 1]);
}

// The bytes of a vector, as they are loaded.
template <int kBytes>
struct alignas(kBytes) Raw {
  using Word = std::conditional_t<kBytes % 4 == 0, uint32_t, uint16_t>;
  Word words[kBytes / sizeof(Word)];
};

// Loads what does not change while the kernel runs, if it is wanted. In
// assembly, because what C++ loads under a condition goes to other registers
// first, and so is waited for at once.
template <int kBytes>
__device__ __forceinline__ void LoadIf(bool wanted, const void* from,
                                       Raw<kBytes>* to) {
#ifdef __CUDA_ARCH__
  const unsigned flag = wanted;
  if constexpr (kBytes == 16) {
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %5, 0;\n\t"
        "@p ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4]; }"
        : "+r"(to->words[0]), "+r"(to->words[1]), "+r"(to->words[2]),
          "+r"(to->words[3])
        : "l"(from), "r"(flag));
  } else if constexpr (kBytes == 8) {
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %3, 0;\n\t"
        "@p ld.global.nc.v2.u32 {%0, %1}, [%2]; }"
        : "+r"(to->words[0]), "+r"(to->words[1])
        : "l"(from), "r"(flag));
  } else if constexpr (kBytes == 4) {
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %2, 0;\n\t"
        "@p ld.global.nc.u32 %0, [%1]; }"
        : "+r"(to->words[0])
        : "l"(from), "r"(flag));
  } else {
    static_assert(kBytes == 2, "");
    asm volatile(
        "{ .reg .pred p; setp.ne.u32 p, %2, 0;\n\t"
        "@p ld.global.nc.u16 %0, [%1]; }"
        : "+h"(to->words[0])
        : "l"(from), "r"(flag));
  }
#else
  if (wanted) *to = *static_cast<const Raw<kBytes>*>(from);
#endif
}

// Keeps the compiler from widening a value again at every use.
__device__ __forceinline__ void KeepWide([[maybe_unused]] float& value) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+f"(value));
#endif
}
__device__ __forceinline__ void KeepWide([[maybe_unused]] double& value) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+d"(value));
#endif
}
// Keeps the compiler from adding up the parts of a pointer again.
template <typename T>
__device__ __forceinline__ const T* KeepAdded(const T* pointer) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+l"(pointer));
#endif
  return pointer;
}

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
