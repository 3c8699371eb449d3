// The filter gradient as its kernels see it.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_VIEW_H_
#define TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_VIEW_H_

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"
#include "cc/kernels/gpu/gpu_problem.h"

namespace tf_dwgrad {

struct FilterGradientView {
  GpuConvAxis rows;
  GpuConvAxis cols;
  int64_t batch;
  int64_t multiplier;
  int64_t filter_depth;  // and that of output
  int64_t filter_size;   // in elements
  ImageStrides input;
  ImageStrides output;
  bool channels_last;
  // The output rows of all images, one after the other, are cut into chunks
  // that are summed independently.
  int64_t num_chunks;
  int64_t rows_per_chunk;
};

// Output rows, counted through all images.
struct OutputRows {
  int64_t begin;
  int64_t end;
};

__device__ inline OutputRows RowsOfChunk(const FilterGradientView& view,
                                         int64_t chunk) {
  const int64_t begin = chunk * view.rows_per_chunk;
  const int64_t all = view.batch * view.rows.out;
  const int64_t end = begin + view.rows_per_chunk;
  return {begin, end < all ? end : all};
}

inline FilterGradientView MakeFilterGradientView(
    const GpuConvProblem& problem) {
  FilterGradientView view;
  view.rows = problem.rows;
  view.cols = problem.cols;
  view.batch = problem.batch;
  view.multiplier = problem.depth_multiplier;
  view.filter_depth = problem.in_depth * problem.depth_multiplier;
  view.filter_size =
      problem.rows.filter * problem.cols.filter * view.filter_depth;
  view.channels_last = problem.channels_last != 0;
  view.input = StridesOf(problem.rows.in, problem.cols.in, problem.in_depth,
                         view.channels_last);
  view.output = StridesOf(problem.rows.out, problem.cols.out, view.filter_depth,
                          view.channels_last);
  view.num_chunks = 1;
  view.rows_per_chunk = view.batch * view.rows.out;
  return view;
}

// Cuts into about `chunks` chunks. Many partial sums would cost more than they
// spare.
inline void SplitIntoChunks(int64_t chunks, FilterGradientView* view) {
  constexpr int64_t kMaxChunks = 1024;
  const int64_t rows = view->batch * view->rows.out;
  if (chunks > kMaxChunks) chunks = kMaxChunks;
  if (chunks > rows) chunks = rows;
  view->rows_per_chunk = CeilDiv(rows, chunks);
  view->num_chunks = CeilDiv(rows, view->rows_per_chunk);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_VIEW_H_
