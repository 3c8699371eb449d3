// All kernels of one instruction set. A translation unit per instruction set
// includes this, describes its registers in a struct and is compiled with the
// matching flags. Nothing in it may have external weak linkage: the linker
// would keep one copy of it for every CPU.
//
// The description of an instruction set:
//   kVectorBytes  size of a register
//   kWideCols     positions of a tile; with kMaxTaps weights and a pixel they
//   kNarrowCols   must fit the registers
//   kMaxTaps      neighbouring taps that are done at a time

#ifndef TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_
#define TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_

#include "cc/kernels/cpu/filter_gradient.h"
#include "cc/kernels/cpu/gather_channels_last.h"
#include "cc/kernels/cpu/gather_planes.h"
#include "cc/kernels/cpu/kernel_problem.h"

namespace tf_dwgrad {
namespace {

template <typename Isa>
constexpr KernelTable MakeKernelTable(const char* name) {
  return {
      name,
      Isa::kVectorBytes,
      {GatherChannelsLast<Isa, Half>, GatherChannelsLast<Isa, BFloat16>,
       GatherChannelsLast<Isa, float>, GatherChannelsLast<Isa, double>},
      {GatherPlanes<Isa, Half>, GatherPlanes<Isa, BFloat16>,
       GatherPlanes<Isa, float>, GatherPlanes<Isa, double>},
      {FilterGradientChannelsLast<Isa, Half>,
       FilterGradientChannelsLast<Isa, BFloat16>,
       FilterGradientChannelsLast<Isa, float>,
       FilterGradientChannelsLast<Isa, double>},
      {FilterGradientPlanes<Isa, Half>, FilterGradientPlanes<Isa, BFloat16>,
       FilterGradientPlanes<Isa, float>, FilterGradientPlanes<Isa, double>},
  };
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_
