// What the library tells about itself through a plain C interface, for
// `python -m tf_dwgrad info`.

#include "cc/kernels/cpu/choose_kernels.h"

extern "C" __attribute__((visibility("default"))) const char*
tf_dwgrad_cpu_isa() {
  return tf_dwgrad::ChosenKernels().kernels->isa;
}
