// The way into the CPU kernels for the libraries beside this one, which would
// otherwise need a copy of them.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_KERNEL_ENTRY_H_
#define TF_DWGRAD_CC_KERNELS_CPU_KERNEL_ENTRY_H_

#include "cc/kernels/cpu/run_cpu_kernel.h"

// RunCpuKernel as a symbol of the op library. A change of its parameters wants
// a new name, so that libraries of different builds refuse each other.
extern "C" __attribute__((visibility("default"))) void tf_dwgrad_run_cpu_kernel(
    tf_dwgrad::ConvOp op, tf_dwgrad::ElementType type,
    const tf_dwgrad::ConvGeometry& geometry, const void* first,
    const void* second, void* result,
    const tf_dwgrad::ParallelFor& parallel_for);

#endif  // TF_DWGRAD_CC_KERNELS_CPU_KERNEL_ENTRY_H_
