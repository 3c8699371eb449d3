// Checks that a program with the ops linked in knows them and their kernels.

#include <cstdio>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

int main() {
  for (const char* name :
       {"DwgradDepthwiseConv2d", "DwgradDepthwiseConv2dBackpropInput",
        "DwgradDepthwiseConv2dBackpropFilter"}) {
    if (tensorflow::OpRegistry::Global()->LookUp(name) == nullptr) {
      std::fprintf(stderr, "%s is not registered\n", name);
      return 1;
    }
    if (tensorflow::GetRegisteredKernelsForOp(name).kernel_size() == 0) {
      std::fprintf(stderr, "%s has no kernels\n", name);
      return 1;
    }
  }
  return 0;
}
