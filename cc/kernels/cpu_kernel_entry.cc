#include "cc/kernels/cpu_kernel_entry.h"

#include "cc/kernels/call_counters.h"

void tf_dwgrad_run_cpu_kernel(tf_dwgrad::ConvOp op, tf_dwgrad::ElementType type,
                              const tf_dwgrad::ConvGeometry& geometry,
                              const void* first, const void* second,
                              void* result,
                              const tf_dwgrad::ParallelFor& parallel_for) {
  // Only compiled programs come this way.
  tf_dwgrad::CountCall(op, type, tf_dwgrad::Route::kJit);
  tf_dwgrad::RunCpuKernel(op, type, geometry, first, second, result,
                          parallel_for);
}
