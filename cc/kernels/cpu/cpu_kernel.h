// One of the three ops for one problem, cut into units of work that can run on
// any number of threads in any order. The result does not depend on how the
// units are spread.

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

  // Does the units [begin, end). The operands are those of the op without the
  // sizes: (input, filter) -> output, (filter, out_backprop) -> dX,
  // (input, out_backprop) -> dW.
  void Run(const void* first, const void* second, void* result, int64_t begin,
           int64_t end) const;

 private:
  void PlanGather(const ConvGeometry& geometry, ElementType type);
  bool PlanPackedGather(ElementType type, int64_t lanes, int64_t accumulator);
  void PlanFilterGradient(const ConvGeometry& geometry, ElementType type);

  ConvOp op_;
  int64_t num_units_ = 0;
  double unit_cycles_ = 0;
  size_t scratch_bytes_ = 0;  // of a thread
  GatherProblem gather_;
  FilterGradientProblem filter_gradient_;
  GatherKernel gather_kernel_ = nullptr;
  FilterGradientKernel filter_gradient_kernel_ = nullptr;
};

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_CPU_KERNEL_H_
