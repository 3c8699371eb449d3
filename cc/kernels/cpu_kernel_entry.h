// The way into the CPU kernels for the libraries beside this one, which would
// otherwise need a copy of them.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_KERNEL_ENTRY_H_
#define TF_DWGRAD_CC_KERNELS_CPU_KERNEL_ENTRY_H_

#include "cc/kernels/cpu/run_cpu_kernel.h"

// The functions of run_cpu_kernel.h as symbols of the op library. A change of
// their parameters wants new names, so that libraries of different builds
// refuse each other.
#define TF_DWGRAD_ENTRY extern "C" __attribute__((visibility("default")))

TF_DWGRAD_ENTRY size_t
tf_dwgrad_cpu_workspace_bytes(tf_dwgrad::ConvOp op, tf_dwgrad::ElementType type,
                              const tf_dwgrad::ConvGeometry& geometry);

TF_DWGRAD_ENTRY bool tf_dwgrad_compute_on_cpu(
    tf_dwgrad::ConvOp op, tf_dwgrad::ElementType type,
    const tf_dwgrad::ConvGeometry& geometry, const void* first,
    const void* second, void* result, void* workspace, size_t workspace_bytes,
    const tf_dwgrad::ParallelFor& parallel_for);

#undef TF_DWGRAD_ENTRY

#endif  // TF_DWGRAD_CC_KERNELS_CPU_KERNEL_ENTRY_H_
