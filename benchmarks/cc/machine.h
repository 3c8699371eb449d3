// What this machine can do at best, to compare the kernels with.

#ifndef TF_DWGRAD_BENCHMARKS_CC_MACHINE_H_
#define TF_DWGRAD_BENCHMARKS_CC_MACHINE_H_

#include <cstdint>

#include "cc/kernels/cpu/number_formats.h"

namespace tf_dwgrad {

// Copies bytes, a multiple of 64, between 64-byte aligned addresses by ordinary
// stores, which read each line first, or by stores past the caches where there
// are any.
void Copy(const void* from, void* to, int64_t bytes);
void CopyPastCaches(const void* from, void* to, int64_t bytes);

// Keeps the CPU's multiply-add units busy, in the type that accumulates `type`
// and with vectors of so many bytes. Returns how many operations that were; a
// multiply-add is two.
int64_t MultiplyAdd(ElementType type, int vector_bytes, int64_t rounds);

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_BENCHMARKS_CC_MACHINE_H_
