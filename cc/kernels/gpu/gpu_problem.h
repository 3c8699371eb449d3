// What the GPU kernels are told: plain data of 64-bit integers only, so that a
// foreign-function interface can fill it in.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GPU_PROBLEM_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GPU_PROBLEM_H_

#include <stdint.h>

namespace tf_dwgrad {

// One spatial dimension, as in AxisGeometry: `in` is the size of input (and
// dX), `out` that of output (and dY).
struct GpuConvAxis {
  int64_t in;
  int64_t out;
  int64_t filter;
  int64_t stride;
  int64_t dilation;
  int64_t pad_before;
};

struct GpuConvProblem {
  int64_t batch;
  int64_t in_depth;
  int64_t depth_multiplier;
  GpuConvAxis rows;
  GpuConvAxis cols;
  int64_t channels_last;  // 1: NHWC, 0: NCHW
};

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GPU_PROBLEM_H_
