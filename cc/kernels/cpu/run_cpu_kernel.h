// One op on one problem from beginning to end, on whatever threads the caller
// has.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_RUN_CPU_KERNEL_H_
#define TF_DWGRAD_CC_KERNELS_CPU_RUN_CPU_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/number_formats.h"

namespace tf_dwgrad {

// Does the units [begin, end).
using Work = std::function<void(int64_t begin, int64_t end)>;

// Calls `work` for pieces that make up [0, count), on any threads, and returns
// when all is done. A unit takes about `unit_cycles`.
using ParallelFor =
    std::function<void(int64_t count, double unit_cycles, const Work& work)>;

// How much memory RunCpuKernel wants for itself, with room to align it.
size_t CpuWorkspaceBytes(ConvOp op, ElementType type,
                         const ConvGeometry& geometry);

// Operands as for CpuKernel::Run. Writes all of the result and returns true, or
// returns false because the workspace is too small.
bool RunCpuKernel(ConvOp op, ElementType type, const ConvGeometry& geometry,
                  const void* first, const void* second, void* result,
                  void* workspace, size_t workspace_bytes,
                  const ParallelFor& parallel_for);

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_RUN_CPU_KERNEL_H_
