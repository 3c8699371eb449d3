// The kernels for x86 with AVX-512 (F, BW, DQ, VL).

#include "cc/kernels/cpu/x86_avx512.h"

namespace tf_dwgrad {

extern const KernelTable kAvx512Kernels;
constexpr KernelTable kAvx512Kernels = MakeKernelTable<Avx512>("avx512");

}  // namespace tf_dwgrad
