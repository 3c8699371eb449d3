// Copies of a block of channels of neighbouring pixels, for kernels that come
// back to pixels which lie so far apart, by a large power of two, that they
// compete for few places in the first cache.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_COPY_PIXELS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_COPY_PIXELS_H_

#include <stdint.h>

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// `src` is the first of `channels`, whole lines of memory, of the first pixel.
template <typename T>
inline void CopyPixels(const T* src, int64_t pixels, int64_t depth,
                       int64_t channels, T* to, int64_t to_step) {
  constexpr int64_t kLine = kLineBytes / sizeof(T);
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < channels; c += kLine) {
      __builtin_memcpy(to + c, src + c, kLineBytes);
    }
    src += depth;
    to += to_step;
  }
}

// Pixels that are about to be copied, of which a few are prefetched at a time.
template <typename T>
struct ComingPixels {
  const T* src;
  int64_t pixels;
  int64_t depth;
  int64_t channels;

  // The next of `shares` equal shares of them, of which this is the first.
  inline void Prefetch(int64_t shares) {
    constexpr int64_t kLine = kLineBytes / sizeof(T);
    const int64_t count = shares > 1 ? pixels / shares : pixels;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < channels; c += kLine) {
        PrefetchToRead(src + c);
      }
      src += depth;
    }
    pixels -= count;
  }
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_COPY_PIXELS_H_
