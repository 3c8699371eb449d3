// What the library tells about itself through a plain C interface, for
// `python -m tf_dwgrad info` and the tests.

#include <cstdint>

#include "cc/kernels/call_counters.h"
#include "cc/kernels/cpu/choose_kernels.h"

#define TF_DWGRAD_EXPORT extern "C" __attribute__((visibility("default")))

// The instruction set whose kernels run in this process, e.g. "avx2".
TF_DWGRAD_EXPORT const char* tf_dwgrad_cpu_isa() {
  return tf_dwgrad::ChosenKernels().kernels->isa;
}

// Why it was chosen, as a sentence.
TF_DWGRAD_EXPORT const char* tf_dwgrad_cpu_isa_reason() {
  return tf_dwgrad::ChosenKernels().reason.c_str();
}

// Those that TF_DWGRAD_MAX_ISA may name here, the best first: "avx2,generic".
TF_DWGRAD_EXPORT const char* tf_dwgrad_usable_cpu_isas() {
  return tf_dwgrad::ChosenKernels().usable.c_str();
}

// How many calls were served since the start or the last reset; `op`, `type`
// and `route` are values of ConvOp, ElementType and Route.
TF_DWGRAD_EXPORT int64_t tf_dwgrad_calls(int op, int type, int route) {
  return tf_dwgrad::Calls(static_cast<tf_dwgrad::ConvOp>(op),
                          static_cast<tf_dwgrad::ElementType>(type),
                          static_cast<tf_dwgrad::Route>(route));
}

TF_DWGRAD_EXPORT void tf_dwgrad_reset_calls() { tf_dwgrad::ResetCalls(); }

// The CUDA release that the GPU kernels were compiled with, e.g. "13.0.88", or
// an empty string if there are none.
TF_DWGRAD_EXPORT const char* tf_dwgrad_cuda_version() {
#ifdef TF_DWGRAD_CUDA_VERSION
  return TF_DWGRAD_CUDA_VERSION;
#else
  return "";
#endif
}

// The GPUs they were compiled for: "75-real 80-real 90-virtual", where real is
// machine code and virtual is PTX.
TF_DWGRAD_EXPORT const char* tf_dwgrad_cuda_architectures() {
#ifdef TF_DWGRAD_CUDA_ARCHITECTURES
  return TF_DWGRAD_CUDA_ARCHITECTURES;
#else
  return "";
#endif
}
