// What the GPU's multiply-add units can do: nothing but multiplications and
// additions in registers, for the benchmark to hold the kernels against.

#include <cuda_runtime.h>
#include <stdint.h>

namespace {

constexpr int kThreads = 256;
constexpr int kChains = 16;  // hide the latency

template <typename T>
__global__ void MultiplyAdd(int rounds, T* result) {
  T sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = T(threadIdx.x + i);
  const T factor = T(0.999), term = T(blockIdx.x);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + term;
  }
  T sum = 0;
  for (int i = 0; i < kChains; ++i) sum += sums[i];
  result[blockIdx.x * kThreads + threadIdx.x] = sum;
}

}  // namespace

// `result` holds 256 numbers per block. Returns the floating-point operations.
extern "C" __attribute__((visibility("default"))) int64_t
TfDwgradMultiplyAdd(int is_double, int blocks, int rounds, void* result) {
  if (is_double) {
    MultiplyAdd<<<blocks, kThreads>>>(rounds, static_cast<double*>(result));
  } else {
    MultiplyAdd<<<blocks, kThreads>>>(rounds, static_cast<float*>(result));
  }
  return int64_t{2} * kChains * rounds * kThreads * blocks;
}
