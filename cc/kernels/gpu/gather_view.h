// The forward op and the input gradient as the one gather that both are: dst
// is output and src input, or dst is dX and src dY. GatherPlan says what that
// means along each dimension.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_VIEW_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_VIEW_H_

#include <utility>

#include "cc/kernels/gather_plan.h"
#include "cc/kernels/gpu/gpu_problem.h"

namespace tf_dwgrad {

// Distances in elements.
struct ImageStrides {
  int64_t image;
  int64_t row;
  int64_t col;
  int64_t channel;
};

inline ImageStrides StridesOf(int64_t rows, int64_t cols, int64_t depth,
                              bool channels_last) {
  if (channels_last) return {rows * cols * depth, cols * depth, depth, 1};
  return {rows * cols * depth, cols, 1, rows * cols};
}

struct GatherView {
  GatherPlan rows;
  GatherPlan cols;
  int64_t batch;
  int64_t dst_depth;
  // Channel k of dst sums over the source and filter channels k * passes + i
  // for i < passes, whose source channel is divided by `shared_by`, the number
  // of filter channels that read the same one.
  int64_t passes;
  int64_t shared_by;
  int64_t filter_depth;
  int64_t filter_row;  // elements from a tap to the next
  int64_t filter_col;
  ImageStrides src;
  ImageStrides dst;
  bool channels_last;
  bool backward;
};

inline GatherView MakeGatherView(const GpuConvProblem& problem, bool backward) {
  const bool channels_last = problem.channels_last != 0;
  const auto plan = [backward](const GpuConvAxis& axis) {
    return backward
               ? MakeInputGradientPlan(axis.in, axis.out, axis.filter,
                                       axis.stride, axis.dilation,
                                       axis.pad_before)
               : MakeForwardPlan(axis.in, axis.out, axis.filter, axis.stride,
                                 axis.dilation, axis.pad_before);
  };
  GatherView view;
  view.rows = plan(problem.rows);
  view.cols = plan(problem.cols);
  view.batch = problem.batch;
  view.filter_depth = problem.in_depth * problem.depth_multiplier;
  view.filter_row = problem.cols.filter * view.filter_depth;
  view.filter_col = view.filter_depth;
  view.dst_depth = backward ? problem.in_depth : view.filter_depth;
  view.passes = backward ? problem.depth_multiplier : 1;
  view.shared_by = backward ? 1 : problem.depth_multiplier;
  const ImageStrides input = StridesOf(problem.rows.in, problem.cols.in,
                                       problem.in_depth, channels_last);
  const ImageStrides output = StridesOf(problem.rows.out, problem.cols.out,
                                        view.filter_depth, channels_last);
  view.src = backward ? output : input;
  view.dst = backward ? input : output;
  view.channels_last = channels_last;
  view.backward = backward;
  return view;
}

// The same with rows for columns.
inline GatherView Transposed(const GatherView& view) {
  GatherView transposed = view;
  std::swap(transposed.rows, transposed.cols);
  std::swap(transposed.filter_row, transposed.filter_col);
  std::swap(transposed.src.row, transposed.src.col);
  std::swap(transposed.dst.row, transposed.dst.col);
  return transposed;
}

// Whether 32 bits are enough for every offset within an image, its borders and
// what tiles reach beyond included.
inline bool ImagesFit32Bits(const GatherView& view) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const auto fits = [](const GatherPlan& plan, int64_t src, int64_t dst) {
    constexpr int64_t kTile = 128;  // at most what a tile reaches beyond
    const int64_t size = plan.src_size + plan.dst_size + plan.pad;
    const int64_t taps = plan.filter_size + kTile;
    if (size >= kLimit || plan.stride >= kLimit || plan.dilation >= kLimit ||
        taps >= kLimit) {
      return false;
    }
    // Of a phase, pitch and distance of positions are at most stride times
    // dilation.
    const int64_t step = plan.stride * plan.dilation;
    return step < kLimit && taps * step < kLimit &&
           size + taps * step < kLimit / (src > dst ? src : dst);
  };
  return fits(view.rows, view.src.row, view.dst.row) &&
         fits(view.cols, view.src.col, view.dst.col) &&
         view.src.image < kLimit && view.dst.image < kLimit &&
         view.filter_depth < kLimit;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_VIEW_H_
