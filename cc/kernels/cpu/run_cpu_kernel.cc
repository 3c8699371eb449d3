#include "cc/kernels/cpu/run_cpu_kernel.h"

#include <cstring>
#include <memory>

#include "cc/kernels/cpu/cpu_kernel.h"

namespace tf_dwgrad {
namespace {

constexpr size_t kAlignment = 64;  // as CpuKernel wants it

}  // namespace

size_t CpuWorkspaceBytes(ConvOp op, ElementType type,
                         const ConvGeometry& geometry) {
  const size_t bytes = CpuKernel(op, type, geometry).workspace_bytes();
  return bytes == 0 ? 0 : bytes + kAlignment;
}

bool RunCpuKernel(ConvOp op, ElementType type, const ConvGeometry& geometry,
                  const void* first, const void* second, void* result,
                  void* workspace, size_t workspace_bytes,
                  const ParallelFor& parallel_for) {
  const CpuKernel kernel(op, type, geometry);
  const size_t needed = kernel.workspace_bytes();
  if (needed > 0 &&
      std::align(kAlignment, needed, workspace, workspace_bytes) == nullptr) {
    return false;
  }
  if (kernel.has_work()) {
    kernel.RunAll(first, second, result, workspace, parallel_for);
    return true;
  }
  const int64_t bytes = ResultElements(op, geometry) * SizeOf(type);
  // An empty result may have no address.
  if (bytes > 0) std::memset(result, 0, static_cast<size_t>(bytes));
  return true;
}

}  // namespace tf_dwgrad
