// The second of the two stages of the filter gradient. The first gives a
// partial sum of every filter element for each chunk of the images; here they
// are added, always in the same order, and rounded once.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_ADD_PARTIAL_SUMS_H_
#define TF_DWGRAD_CC_KERNELS_GPU_ADD_PARTIAL_SUMS_H_

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/filter_gradient_view.h"

namespace tf_dwgrad {

// Where the GPU can, the second stage is launched while the first ends, which
// spares the pause between them. Each block of the first says when only its
// sums are left to do.
__device__ inline void LetSecondStageStart() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Returns when the first stage has ended and its results are there.
__device__ inline void WaitForFirstStage() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

inline constexpr int kSumColumns = 32;    // filter elements of a block
inline constexpr int kMostSumParts = 32;  // threads that share an element

template <typename T>
__global__ void __launch_bounds__(kSumColumns* kMostSumParts)
    AddPartialSums(int64_t filter_size, int32_t num_chunks,
                   const Accumulator<T>* __restrict__ partial,
                   T* __restrict__ filter_gradient) {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Accumulator<T>* shared = reinterpret_cast<Accumulator<T>*>(dynamic_shared);
  const int thread = static_cast<int>(threadIdx.x);
  const int part = thread / kSumColumns;
  const int parts = static_cast<int>(blockDim.x) / kSumColumns;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kSumColumns;
  WaitForFirstStage();
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kSumColumns;
       first < filter_size; first += stride) {
    const int64_t element = first + thread % kSumColumns;
    Accumulator<T> sum = 0;
    if (element < filter_size) {
      // Loads of several chunks are on their way at once.
      constexpr int kAtOnce = 8;
      const Accumulator<T>* at = partial + part * filter_size + element;
      for (int32_t chunk = part; chunk < num_chunks; chunk += kAtOnce * parts) {
        Accumulator<T> values[kAtOnce] = {};
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (chunk + i * parts < num_chunks) values[i] = *at;
          at += parts * filter_size;
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) sum += values[i];
      }
    }
    __syncthreads();  // The previous round's sums have been read.
    shared[thread] = sum;
    __syncthreads();
    if (part == 0 && element < filter_size) {
      for (int i = 1; i < parts; ++i) sum += shared[i * kSumColumns + thread];
      Narrow(sum, &filter_gradient[element]);
    }
  }
}

inline bool CanLaunchEarly() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                device) == cudaSuccess &&
         major >= 9;
}

template <typename T>
cudaError_t LaunchAddPartialSums(const FilterGradientView& view,
                                 const void* partial, void* filter_gradient,
                                 cudaStream_t stream) {
  const int64_t blocks = CeilDiv(view.filter_size, kSumColumns);
  // A few chunks for each.
  int parts = 1;
  while (parts < kMostSumParts && 4 * parts < view.num_chunks) parts *= 2;
  cudaLaunchConfig_t config = {};
  config.gridDim = GridOf(blocks);
  config.blockDim = dim3(kSumColumns * parts);
  config.dynamicSmemBytes = kSumColumns * parts * sizeof(Accumulator<T>);
  config.stream = stream;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  if (CanLaunchEarly()) {
    config.attrs = &early;
    config.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&config, AddPartialSums<T>, view.filter_size,
                            static_cast<int32_t>(view.num_chunks),
                            static_cast<const Accumulator<T>*>(partial),
                            static_cast<T*>(filter_gradient));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_ADD_PARTIAL_SUMS_H_
