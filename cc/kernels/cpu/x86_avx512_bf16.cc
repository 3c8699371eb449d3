// The kernels for x86 with AVX-512 that write bfloat16 and gain where the CPU
// can round to it (AVX512_BF16). Other types, and the filter gradient, whose
// results are few, gain nothing: those of AVX-512 serve them.

#include "cc/kernels/cpu/x86_avx512.h"

namespace tf_dwgrad {

extern const KernelTable kAvx512Bf16Kernels;
constexpr KernelTable kAvx512Bf16Kernels =
    MakeGatherTable<Avx512, BFloat16>("avx512_bf16", ElementType::kBFloat16);

}  // namespace tf_dwgrad
