// Where a pixel of a batch of images lies, in either layout.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_IMAGE_STEPS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_IMAGE_STEPS_H_

#include <stdint.h>

namespace tf_dwgrad {
namespace {

// Elements from an image, a channel, a row or a pixel to the next.
struct ImageSteps {
  int64_t image;
  int64_t channel;
  int64_t row;
  int64_t col;
};

inline ImageSteps StepsOf(bool channels_last, int64_t depth, int64_t rows,
                          int64_t cols) {
  if (channels_last) return {rows * cols * depth, 1, cols * depth, depth};
  return {depth * rows * cols, rows * cols, cols, 1};
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_IMAGE_STEPS_H_
