// The bfloat16 kernels for x86 with AVX-512 that can also round to bfloat16
// (AVX512_BF16). The other types gain nothing: those of AVX-512 serve them.

#include "cc/kernels/cpu/x86_avx512.h"

namespace tf_dwgrad {

extern const KernelTable kAvx512Bf16Kernels;
constexpr KernelTable kAvx512Bf16Kernels =
    MakePartialKernelTable<Avx512, BFloat16>("avx512_bf16",
                                             ElementType::kBFloat16);

}  // namespace tf_dwgrad
