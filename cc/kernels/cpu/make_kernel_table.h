// All kernels of one instruction set. A translation unit per instruction set
// includes this, describes its registers in a struct and is compiled with the
// matching flags. Nothing in it may have external weak linkage: the linker
// would keep one copy of it for every CPU.
//
// The description of an instruction set:
//   kVectorBytes     size of a register
//   kMaxTaps         neighbouring taps that are done at a time
//   kWideCols        positions of a tile of one row; with kMaxTaps weights and
//   kNarrowCols      a pixel they must fit the registers
//   kPairMaxTaps     taps up to which tiles of two rows are used; 0 for never
//   kPairBlocks      whether they are used with more than kMaxTaps, too
//   kPairCols        positions in each row of such a tile; together with twice
//   kPairNarrowCols  as many weights they should fit

#ifndef TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_
#define TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_

#include "cc/kernels/cpu/filter_gradient.h"
#include "cc/kernels/cpu/gather_direct.h"
#include "cc/kernels/cpu/gather_packed.h"
#include "cc/kernels/cpu/gather_planes.h"
#include "cc/kernels/cpu/kernel_problem.h"

namespace tf_dwgrad {
namespace {

template <typename Isa>
constexpr KernelTable MakeKernelTable(const char* name) {
  return {
      name,
      Isa::kVectorBytes,
      Isa::kMaxTaps,
      Isa::kPairMaxTaps,
      Isa::kPairBlocks,
      {GatherDirect<Isa, Half>, GatherDirect<Isa, BFloat16>,
       GatherDirect<Isa, float>, GatherDirect<Isa, double>},
      {GatherPacked<Isa, Half>, GatherPacked<Isa, BFloat16>,
       GatherPacked<Isa, float>, GatherPacked<Isa, double>},
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
