// The kernels for ARM64: 32 registers of 128 bits.

#include "cc/kernels/cpu/make_kernel_table.h"

namespace tf_dwgrad {
namespace {

struct Neon {
  static constexpr int kVectorBytes = 16;
  static constexpr int kWideCols = 14;
  static constexpr int kNarrowCols = 7;
  static constexpr int kMaxTaps = 8;
  static constexpr int kPairMaxTaps = 8;
  static constexpr bool kPairBlocks = true;
  static constexpr int kPairCols = 7;
  static constexpr int kPairNarrowCols = 4;
  static constexpr bool kRolls = false;
  static constexpr bool kLoadsLanes = false;
  static constexpr bool kTakesApart = false;
  static constexpr bool kPairsRows = false;
  static constexpr int kMaxSums = 24;
  static constexpr int kGradientCols = 7;
};

}  // namespace

extern const KernelTable kNeonKernels;
constexpr KernelTable kNeonKernels = MakeKernelTable<Neon>("neon");

}  // namespace tf_dwgrad
