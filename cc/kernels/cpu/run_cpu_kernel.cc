#include "cc/kernels/cpu/run_cpu_kernel.h"

#include <cstddef>
#include <cstring>
#include <memory>

#include "cc/kernels/cpu/cpu_kernel.h"

namespace tf_dwgrad {

void RunCpuKernel(ConvOp op, ElementType type, const ConvGeometry& geometry,
                  const void* first, const void* second, void* result,
                  const ParallelFor& parallel_for) {
  const CpuKernel kernel(op, type, geometry);
  if (kernel.has_work()) {
    constexpr size_t kAlignment = 64;
    const std::unique_ptr<unsigned char[]> memory(
        new unsigned char[kernel.workspace_bytes() + kAlignment]);
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory.get());
    unsigned char* const workspace =
        memory.get() + (kAlignment - address % kAlignment) % kAlignment;
    kernel.RunAll(first, second, result, workspace, parallel_for);
    return;
  }
  const int64_t bytes = ResultElements(op, geometry) * SizeOf(type);
  // An empty result may have no address.
  if (bytes > 0) std::memset(result, 0, static_cast<size_t>(bytes));
}

}  // namespace tf_dwgrad
