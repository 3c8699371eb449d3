// One of the three ops for one problem, cut into units of work that can run on
// any number of threads in any order. The result does not depend on how the
// units are spread. The filter gradient has a second phase, which starts when
// all units of the first are done: it adds up partial sums, which the units
// left in a workspace.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_CPU_KERNEL_H_
#define TF_DWGRAD_CC_KERNELS_CPU_CPU_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/cpu/kernel_problem.h"

namespace tf_dwgrad {

class CpuKernel {
 public:
  CpuKernel(ConvOp op, ElementType type, const ConvGeometry& geometry);

  // False if the result is empty or all zeros, because some dimension is zero;
  // then there are no units and the caller writes the zeros.
  bool has_work() const { return num_units_ > 0; }
  int64_t num_units() const { return num_units_; }
  // About how long a unit takes with its operands in cache. Underestimates what
  // streams from memory, which is large enough to be spread anyway.
  double unit_cycles() const { return unit_cycles_; }

  // Zero without a second phase. Otherwise at most the larger of 16 MiB and the
  // result in accumulators.
  size_t workspace_bytes() const { return workspace_bytes_; }

  // Does the units [begin, end) of the first phase. The operands are those of
  // the op without the sizes: (input, filter) -> output,
  // (filter, out_backprop) -> dX, (input, out_backprop) -> dW.
  void Run(const void* first, const void* second, void* result, void* workspace,
           int64_t begin, int64_t end) const;

  // And those of the second.
  int64_t num_final_units() const { return num_final_units_; }
  double final_unit_cycles() const;
  void Finish(const void* workspace, void* result, int64_t begin,
              int64_t end) const;

  // Does all units of both phases. parallel_for(units, unit_cycles, do_units)
  // calls do_units(begin, end) for ranges that cover [0, units), on any
  // threads, and returns when all calls have. `workspace` is aligned to 64
  // bytes.
  template <typename ParallelFor>
  void RunAll(const void* first, const void* second, void* result,
              void* workspace, const ParallelFor& parallel_for) const {
    parallel_for(num_units(), unit_cycles(), [=](int64_t begin, int64_t end) {
      Run(first, second, result, workspace, begin, end);
    });
    if (num_final_units() == 0) return;
    parallel_for(num_final_units(), final_unit_cycles(),
                 [=](int64_t begin, int64_t end) {
                   Finish(workspace, result, begin, end);
                 });
  }

 private:
  void PlanGather(const ConvGeometry& geometry, ElementType type);
  bool PlanCopiedGather(ElementType type);
  bool PlanMultipliedGather(int64_t lanes, int64_t accumulator);
  bool PlanPackedGather(ElementType type, int64_t lanes, int64_t accumulator);
  void PlanFilterGradient(const ConvGeometry& geometry, ElementType type);
  bool PlanCopiedRows(int64_t element_bytes);
  bool PlanPackedFilterGradient(int64_t lanes, int64_t vector_bytes);

  ConvOp op_;
  int64_t num_units_ = 0;
  double unit_cycles_ = 0;
  size_t scratch_bytes_ = 0;  // of a thread
  size_t workspace_bytes_ = 0;
  int64_t num_final_units_ = 0;
  GatherProblem gather_;
  FilterGradientProblem filter_gradient_;
  GatherKernel gather_kernel_ = nullptr;
  FilterGradientKernel filter_gradient_kernel_ = nullptr;
  FilterGradientReduction filter_gradient_reduction_ = nullptr;
};

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_CPU_KERNEL_H_
