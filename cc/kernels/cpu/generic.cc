// The kernels for any CPU: 128-bit vectors, which every 64-bit x86 and ARM has.

#include "cc/kernels/cpu/make_kernel_table.h"

namespace tf_dwgrad {
namespace {

struct Generic {
  static constexpr int kVectorBytes = 16;
  static constexpr int kWideCols = 7;
  static constexpr int kNarrowCols = 4;
  static constexpr int kMaxTaps = 5;
  static constexpr int kPairMaxTaps = 0;
  static constexpr bool kPairBlocks = false;
  static constexpr int kPairCols = 4;
  static constexpr int kPairNarrowCols = 4;
  static constexpr bool kRolls = false;
  static constexpr bool kLoadsLanes = false;
  static constexpr bool kTakesApart = true;
  static constexpr bool kPairsRows = false;
  static constexpr int kMaxSums = 10;
  static constexpr int kGradientCols = 4;
};

}  // namespace

extern const KernelTable kGenericKernels;
constexpr KernelTable kGenericKernels = MakeKernelTable<Generic>("generic");

}  // namespace tf_dwgrad
