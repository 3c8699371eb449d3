#include "cc/kernels/cpu_kernel_entry.h"

void tf_dwgrad_run_cpu_kernel(tf_dwgrad::ConvOp op, tf_dwgrad::ElementType type,
                              const tf_dwgrad::ConvGeometry& geometry,
                              const void* first, const void* second,
                              void* result,
                              const tf_dwgrad::ParallelFor& parallel_for) {
  tf_dwgrad::RunCpuKernel(op, type, geometry, first, second, result,
                          parallel_for);
}
