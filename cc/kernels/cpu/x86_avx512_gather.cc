// The forward op and the input gradient for x86 with AVX-512 (F, BW, DQ, VL).

#include "cc/kernels/cpu/x86_avx512.h"

namespace tf_dwgrad {

extern const KernelTable kAvx512GatherKernels;
constexpr KernelTable kAvx512GatherKernels = MakeGatherTable<Avx512>("avx512");

}  // namespace tf_dwgrad
