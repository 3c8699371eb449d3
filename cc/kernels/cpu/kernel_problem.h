// What the CPU kernels are told: plain data, no code, so that every
// instruction-set translation unit and the dispatcher agree on it.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_KERNEL_PROBLEM_H_
#define TF_DWGRAD_CC_KERNELS_CPU_KERNEL_PROBLEM_H_

#include <stdint.h>

#include "cc/kernels/cpu/number_formats.h"
#include "cc/kernels/gather_plan.h"

namespace tf_dwgrad {

// The forward op (dst is output, src is input) or the input gradient (dst is
// dX, src is dY). Filter channels are those of the output, in_depth *
// depth_multiplier of them.
struct GatherProblem {
  GatherPlan rows;
  GatherPlan cols;
  int64_t batch;
  int64_t in_depth;
  int64_t depth_multiplier;
  bool backward;
  int64_t channel_block;  // dst channels in a unit of work
  int64_t num_blocks;
  bool stream_dst;  // dst is too large to be read from cache afterwards
};

static inline int64_t FilterDepth(const GatherProblem& problem) {
  return problem.in_depth * problem.depth_multiplier;
}
static inline int64_t SrcDepth(const GatherProblem& problem) {
  return problem.backward ? FilterDepth(problem) : problem.in_depth;
}
static inline int64_t DstDepth(const GatherProblem& problem) {
  return problem.backward ? problem.in_depth : FilterDepth(problem);
}

// One spatial dimension of the filter gradient.
struct FilterGradientAxis {
  int64_t in;
  int64_t out;
  int64_t filter;
  int64_t stride;
  int64_t dilation;
  int64_t pad;
};

struct FilterGradientProblem {
  FilterGradientAxis rows;
  FilterGradientAxis cols;
  int64_t batch;
  int64_t in_depth;
  int64_t depth_multiplier;
};

// Each kernel does the units [begin, end) of its problem. Units write disjoint
// parts of the result, and what one writes does not depend on the others.
typedef void (*GatherKernel)(const GatherProblem& problem, const void* src,
                             const void* filter, void* dst, int64_t begin,
                             int64_t end);
typedef void (*FilterGradientKernel)(const FilterGradientProblem& problem,
                                     const void* input,
                                     const void* out_backprop,
                                     void* filter_backprop, int64_t begin,
                                     int64_t end);

// The kernels of one instruction set, by ElementType.
struct KernelTable {
  const char* isa;
  int vector_bytes;
  GatherKernel gather_channels_last[kNumElementTypes];
  GatherKernel gather_planes[kNumElementTypes];
  FilterGradientKernel filter_gradient_channels_last[kNumElementTypes];
  FilterGradientKernel filter_gradient_planes[kNumElementTypes];
};

// The largest channel_block of a gather over NHWC.
inline constexpr int64_t kMaxChannelBlock = 256;

// Filter channels in a unit of the channels-last filter gradient.
inline constexpr int64_t kFilterGradientBlock = 16;

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_KERNEL_PROBLEM_H_
