#include "cc/kernels/cpu_kernel_entry.h"

#include "cc/kernels/call_counters.h"

size_t tf_dwgrad_cpu_workspace_bytes(tf_dwgrad::ConvOp op,
                                     tf_dwgrad::ElementType type,
                                     const tf_dwgrad::ConvGeometry& geometry) {
  return tf_dwgrad::CpuWorkspaceBytes(op, type, geometry);
}

bool tf_dwgrad_compute_on_cpu(tf_dwgrad::ConvOp op, tf_dwgrad::ElementType type,
                              const tf_dwgrad::ConvGeometry& geometry,
                              const void* first, const void* second,
                              void* result, void* workspace,
                              size_t workspace_bytes,
                              const tf_dwgrad::ParallelFor& parallel_for) {
  // Only compiled programs come this way.
  tf_dwgrad::CountCall(op, type, tf_dwgrad::Route::kJit);
  return tf_dwgrad::RunCpuKernel(op, type, geometry, first, second, result,
                                 workspace, workspace_bytes, parallel_for);
}
