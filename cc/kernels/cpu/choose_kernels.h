// Which instruction set's kernels run in this process, and why.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_CHOOSE_KERNELS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_CHOOSE_KERNELS_H_

#include <string>
#include <vector>

#include "cc/kernels/cpu/kernel_problem.h"

namespace tf_dwgrad {

// The kernels of one instruction set and the CPU features that they need and
// this CPU lacks.
struct KernelOption {
  const KernelTable* kernels;
  std::vector<std::string> missing;
};

struct KernelChoice {
  const KernelTable* kernels;
  std::string reason;  // a sentence without a full stop
  std::string usable;  // all that this CPU can run, e.g. "avx2,generic"
};

// Chooses among options of which the best come first and the last lacks
// nothing. `limit`, the value of TF_DWGRAD_MAX_ISA, names the best that may be
// used; null, empty or an unknown name is no limit.
KernelChoice ChooseKernels(const std::vector<KernelOption>& options,
                           const char* limit);

// The choice for this CPU and environment, made on the first call.
const KernelChoice& ChosenKernels();

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_CHOOSE_KERNELS_H_
