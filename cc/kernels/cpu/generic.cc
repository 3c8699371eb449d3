// The kernels for any CPU: 128-bit vectors, which every 64-bit x86 and ARM has.

#include "cc/kernels/cpu/filter_gradient.h"
#include "cc/kernels/cpu/gather_channels_last.h"
#include "cc/kernels/cpu/gather_planes.h"
#include "cc/kernels/cpu/kernel_problem.h"

namespace tf_dwgrad {
namespace {

struct Generic {
  // 16 registers hold a tile of 7 accumulators, 5 weights and the temporaries.
  static constexpr int kWideCols = 7;
  static constexpr int kNarrowCols = 4;
  static constexpr int kMaxTaps = 5;
  template <typename A>
  static constexpr int Lanes() {
    return 16 / sizeof(A);
  }
};

}  // namespace

extern const KernelTable kGenericKernels;
const KernelTable kGenericKernels = {
    "generic",
    {GatherChannelsLast<Generic, Half>, GatherChannelsLast<Generic, BFloat16>,
     GatherChannelsLast<Generic, float>, GatherChannelsLast<Generic, double>},
    {GatherPlanes<Generic, Half>, GatherPlanes<Generic, BFloat16>,
     GatherPlanes<Generic, float>, GatherPlanes<Generic, double>},
    {FilterGradientChannelsLast<Generic, Half>,
     FilterGradientChannelsLast<Generic, BFloat16>,
     FilterGradientChannelsLast<Generic, float>,
     FilterGradientChannelsLast<Generic, double>},
    {FilterGradientPlanes<Generic, Half>,
     FilterGradientPlanes<Generic, BFloat16>,
     FilterGradientPlanes<Generic, float>,
     FilterGradientPlanes<Generic, double>},
};

}  // namespace tf_dwgrad
