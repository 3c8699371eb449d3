#include "cc/kernels/cpu/run_cpu_kernel.h"

#include <cstring>

#include "cc/kernels/cpu/cpu_kernel.h"

namespace tf_dwgrad {

void RunCpuKernel(ConvOp op, ElementType type, const ConvGeometry& geometry,
                  const void* first, const void* second, void* result,
                  const ParallelFor& parallel_for) {
  const CpuKernel kernel(op, type, geometry);
  if (kernel.has_work()) {
    parallel_for(kernel.num_units(), kernel.unit_cycles(),
                 [&](int64_t begin, int64_t end) {
                   kernel.Run(first, second, result, begin, end);
                 });
    return;
  }
  const int64_t bytes = ResultElements(op, geometry) * SizeOf(type);
  // An empty result may have no address.
  if (bytes > 0) std::memset(result, 0, static_cast<size_t>(bytes));
}

}  // namespace tf_dwgrad
