// The kernels for x86 with AVX2 and FMA: 16 registers of 256 bits.

#include "cc/kernels/cpu/make_kernel_table.h"

namespace tf_dwgrad {
namespace {

struct Avx2 {
  static constexpr int kVectorBytes = 32;
  static constexpr int kWideCols = 7;
  static constexpr int kNarrowCols = 4;
  static constexpr int kMaxTaps = 7;
  static constexpr int kPairMaxTaps = 3;
  // The sums and taps of two rows would need half again as many registers.
  static constexpr bool kPairBlocks = false;
  static constexpr int kPairCols = 4;
  static constexpr int kPairNarrowCols = 4;
  static constexpr bool kRolls = false;
  static constexpr bool kLoadsLanes = true;
  static constexpr bool kTakesApart = true;
  static constexpr bool kPairsRows = false;
  static constexpr int kMaxSums = 10;
  static constexpr int kGradientCols = 4;
};

}  // namespace

extern const KernelTable kAvx2Kernels;
constexpr KernelTable kAvx2Kernels = MakeKernelTable<Avx2>("avx2");

}  // namespace tf_dwgrad
