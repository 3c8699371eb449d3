// All kernels of one instruction set. A translation unit per instruction set,
// or several that each make a part of them, includes this, describes its
// registers in a struct and is compiled with the matching flags. Nothing in it
// may have external weak linkage: the linker would keep one copy of it for
// every CPU.
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
//   kRolls           whether rolling gathers fit them; see kRollingCols
//   kLoadsLanes      whether some lanes of a vector can be loaded at once, for
//                    folded rows
//   kTakesApart      whether bfloat16 is read as EvenOddBFloat16
//   kPairsRows       whether it can be read as PairedBFloat16
//   kMaxSums         taps whose sums the filter gradient keeps in registers
//   kGradientCols    pixels of dY that go with them; together with a pixel of
//                    the input they should fit

#ifndef TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_
#define TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_

#include "cc/kernels/cpu/filter_gradient_direct.h"
#include "cc/kernels/cpu/filter_gradient_packed.h"
#include "cc/kernels/cpu/filter_gradient_planes.h"
#include "cc/kernels/cpu/gather_along_rows.h"
#include "cc/kernels/cpu/gather_direct.h"
#include "cc/kernels/cpu/gather_folded_rows.h"
#include "cc/kernels/cpu/gather_multiplied.h"
#include "cc/kernels/cpu/gather_packed.h"
#include "cc/kernels/cpu/gather_planes.h"
#include "cc/kernels/cpu/gather_rolling.h"
#include "cc/kernels/cpu/gather_tap_columns.h"
#include "cc/kernels/cpu/kernel_problem.h"

namespace tf_dwgrad {
namespace {

template <typename Isa, typename T>
constexpr void AddGathers(ElementType type, KernelTable* table) {
  const int slot = static_cast<int>(type);
  table->gather_direct[slot] = GatherDirect<Isa, T>;
  if constexpr (Isa::kRolls && kRollingPays<T>) {
    table->gather_rolling[slot] = GatherRolling<Isa, T>;
  }
  if constexpr (Isa::kLoadsLanes && kFoldedRowsPay<T>) {
    table->gather_folded_rows[slot] = GatherFoldedRows<Isa, T>;
  }
  table->gather_multiplied[slot] = GatherMultiplied<Isa, T>;
  table->gather_packed[slot] = GatherPacked<Isa, T>;
  table->gather_along_rows[slot] = GatherAlongRows<Isa, T>;
  table->gather_tap_columns[slot] = GatherTapColumns<Isa, T>;
  table->gather_planes[slot] = GatherPlanes<Isa, T>;
}

template <typename Isa, typename T>
constexpr void AddFilterGradients(ElementType type, KernelTable* table) {
  const int slot = static_cast<int>(type);
  table->filter_gradient_direct[slot] = FilterGradientDirect<Isa, T>;
  table->filter_gradient_packed[slot] = FilterGradientPacked<Isa, T>;
  table->filter_gradient_planes[slot] = FilterGradientPlanes<Isa, T>;
  table->filter_gradient_reduction[slot] = FilterGradientReduce<Isa, T>;
}

template <typename Isa>
constexpr KernelTable MakeEmptyKernelTable(const char* name) {
  return {name,
          Isa::kVectorBytes,
          Isa::kMaxTaps,
          Isa::kPairMaxTaps,
          Isa::kPairBlocks,
          Isa::kTakesApart,
          Isa::kPairsRows,
          /*joins_lines=*/false,
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {}};
}

// The forward op and the input gradient, of one type.
template <typename Isa, typename T>
constexpr KernelTable MakeGatherTable(const char* name, ElementType type) {
  KernelTable table = MakeEmptyKernelTable<Isa>(name);
  AddGathers<Isa, T>(type, &table);
  return table;
}

template <typename Isa>
constexpr KernelTable MakeGatherTable(const char* name) {
  KernelTable table = MakeEmptyKernelTable<Isa>(name);
  AddGathers<Isa, Half>(ElementType::kHalf, &table);
  AddGathers<Isa, BFloat16>(ElementType::kBFloat16, &table);
  AddGathers<Isa, float>(ElementType::kFloat32, &table);
  AddGathers<Isa, double>(ElementType::kFloat64, &table);
  return table;
}

template <typename Isa>
constexpr void AddFilterGradients(KernelTable* table) {
  AddFilterGradients<Isa, Half>(ElementType::kHalf, table);
  AddFilterGradients<Isa, BFloat16>(ElementType::kBFloat16, table);
  AddFilterGradients<Isa, float>(ElementType::kFloat32, table);
  AddFilterGradients<Isa, double>(ElementType::kFloat64, table);
}

template <typename Isa>
constexpr KernelTable MakeFilterGradientTable(const char* name) {
  KernelTable table = MakeEmptyKernelTable<Isa>(name);
  AddFilterGradients<Isa>(&table);
  return table;
}

template <typename Isa>
constexpr KernelTable MakeKernelTable(const char* name) {
  KernelTable table = MakeGatherTable<Isa>(name);
  AddFilterGradients<Isa>(&table);
  return table;
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_MAKE_KERNEL_TABLE_H_
