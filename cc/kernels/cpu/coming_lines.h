// Memory that is needed soon, of which some lines are prefetched at a time.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_COMING_LINES_H_
#define TF_DWGRAD_CC_KERNELS_CPU_COMING_LINES_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

class ComingLines {
 public:
  // None.
  ComingLines() : next_(nullptr), lines_(0), lines_per_call_(0) {}
  // Those of the elements, in `calls` calls.
  template <typename T>
  ComingLines(const T* first, int64_t elements, int64_t calls)
      : next_(reinterpret_cast<const char*>(first)),
        lines_(elements * static_cast<int64_t>(sizeof(T)) / kLineBytes),
        lines_per_call_((lines_ + calls - 1) / calls) {}

  template <bool kWrite>
  inline void Prefetch() {
    for (int64_t i = 0; i < lines_per_call_ && lines_ > 0; ++i, --lines_) {
      if (kWrite) {
        PrefetchToWrite(next_);
      } else {
        PrefetchToRead(next_);
      }
      next_ += kLineBytes;
    }
  }

 private:
  const char* next_;
  int64_t lines_;
  int64_t lines_per_call_;
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_COMING_LINES_H_
