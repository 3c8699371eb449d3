// The registers of x86 with AVX-512: 32 of 512 bits.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_X86_AVX512_H_
#define TF_DWGRAD_CC_KERNELS_CPU_X86_AVX512_H_

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
  static constexpr bool kRolls = true;
  static constexpr bool kLoadsLanes = true;
  static constexpr bool kTakesApart = true;
#if defined(__AVX512BF16__)
  static constexpr bool kPairsRows = true;
#else
  static constexpr bool kPairsRows = false;
#endif
  static constexpr int kMaxSums = 24;
  static constexpr int kGradientCols = 7;
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_X86_AVX512_H_
