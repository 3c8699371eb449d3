// Copies from global to shared memory that go on while the thread does. Older
// architectures copy at once. A copy can be read after WaitForCopies and a
// barrier.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_COPY_ASYNC_H_
#define TF_DWGRAD_CC_KERNELS_GPU_COPY_ASYNC_H_

#include "cc/kernels/gpu/device.h"

namespace tf_dwgrad {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

// Both addresses are aligned to as many bytes. Two are copied at once.
template <int kBytes>
__device__ __forceinline__ void CopyAsync(void* shared, const void* global) {
  static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16, "");
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to),
                 "l"(global)
                 : "memory");
  } else if constexpr (kBytes > 2) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to),
                 "l"(global), "n"(kBytes)
                 : "memory");
  } else {
    *static_cast<uint16_t*>(shared) = *static_cast<const uint16_t*>(global);
  }
}

// 4, 8 or 16 bytes, both addresses aligned to as many, by way of the first
// cache; as many zeros if `copy` is zero.
template <int kBytes>
__device__ __forceinline__ void CopyAsyncOrZeros(void* shared,
                                                 const void* global,
                                                 unsigned copy) {
  asm volatile(
      "{\n"
      ".reg .pred zeros;\n"
      "setp.eq.u32 zeros, %3, 0;\n"
      "cp.async.ca.shared.global [%0], [%1], %2, zeros;\n"
      "}\n" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
      "l"(global), "n"(kBytes), "r"(copy)
      : "memory");
}

// The copies since the last call form a group.
__device__ __forceinline__ void FinishCopyGroup() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's groups but the newest `kPending`.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else

template <int kBytes>
__device__ __forceinline__ void CopyAsync(void* shared, const void* global) {
  using Bytes = Vector<uint16_t, kBytes / 2>;
  *static_cast<Bytes*>(shared) = *static_cast<const Bytes*>(global);
}
template <int kBytes>
__device__ __forceinline__ void CopyAsyncOrZeros(void* shared,
                                                 const void* global,
                                                 unsigned copy) {
  using Words = Vector<uint32_t, kBytes / 4>;
  *static_cast<Words*>(shared) =
      copy != 0 ? *static_cast<const Words*>(global) : Words();
}
__device__ __forceinline__ void FinishCopyGroup() {}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {}

#endif

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_COPY_ASYNC_H_
