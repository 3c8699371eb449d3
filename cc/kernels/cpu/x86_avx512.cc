// The kernels for x86 with AVX-512 (F, BW, DQ, VL): 32 registers of 512 bits.

#include "cc/kernels/cpu/make_kernel_table.h"

namespace tf_dwgrad {
namespace {

struct Avx512 {
  static constexpr int kVectorBytes = 64;
  static constexpr int kWideCols = 14;
  static constexpr int kNarrowCols = 7;
  static constexpr int kMaxTaps = 8;
  static constexpr int kPairMaxTaps = 8;
  static constexpr bool kPairBlocks = true;
  static constexpr int kPairCols = 7;
  static constexpr int kPairNarrowCols = 4;
};

}  // namespace

extern const KernelTable kAvx512Kernels;
constexpr KernelTable kAvx512Kernels = MakeKernelTable<Avx512>("avx512");

}  // namespace tf_dwgrad
