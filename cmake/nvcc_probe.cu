// Compiles where nvcc, its host compiler and the headers of the 16-bit types
// work together.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__global__ void Add(const __half* a, const __nv_bfloat16* b, float* sum) {
  *sum = __half2float(*a) + __bfloat162float(*b);
}
