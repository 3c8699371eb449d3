// The filter gradient of what suits no other kernel: a single plane, or rows or
// filters so large that nothing can be packed. Vectors run along a row of a
// plane.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_PLANES_H_
#define TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_PLANES_H_

#include "cc/kernels/cpu/filter_gradient_rows.h"
#include "cc/kernels/cpu/image_steps.h"

namespace tf_dwgrad {
namespace {

// Taps of a filter row that share a pass over the rows.
constexpr int kTapsPerPass = 16;

// N pixels of a row, `step` elements apart, of which `lanes` exist.
template <typename T, int N>
inline Vector<typename AccumulatorOf<T>::type, N> LoadPixels(const T* from,
                                                             int64_t step,
                                                             int lanes) {
  if (step == 1) {
    return lanes == N ? Access<T, N>::Load(from) : LoadSome<T, N>(from, lanes);
  }
  return Collect<T, N>(from, lanes, [step](int lane) { return lane * step; });
}

// Adds the products of a row of dY and the input row that some neighbouring
// taps pair it with. Lane l holds the terms j = l (mod N). The columns that all
// taps reach go first, each vector of dY loaded once.
template <int N, typename T>
void AddRowDots(const FilterGradientAxis& cols, const T* input,
                int64_t input_step, const T* dy, int64_t dy_step,
                int64_t first_tap, int taps,
                Vector<typename AccumulatorOf<T>::type, N>* totals) {
  typedef Vector<typename AccumulatorOf<T>::type, N> V;
  TapRange inside[kTapsPerPass];
  TapRange all = {0, cols.out};
  for (int t = 0; t < taps; ++t) {
    inside[t] = PositionsInside(cols, first_tap + t);
    if (inside[t].begin > all.begin) all.begin = inside[t].begin;
    if (inside[t].end < all.end) all.end = inside[t].end;
  }
  const int64_t step = cols.stride * input_step;
  const auto pixel = [&](int t, int64_t j) {
    return input +
           (j * cols.stride + (first_tap + t) * cols.dilation - cols.pad) *
               input_step;
  };
  V sum[kTapsPerPass] = {};
  int64_t shared_end = all.begin;
  for (; shared_end + N <= all.end; shared_end += N) {
    const V dy_pixels = LoadPixels<T, N>(dy + shared_end * dy_step, dy_step, N);
    for (int t = 0; t < taps; ++t) {
      sum[t] += dy_pixels * LoadPixels<T, N>(pixel(t, shared_end), step, N);
    }
  }
  for (int t = 0; t < taps; ++t) {
    const auto add = [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; j += N) {
        const int lanes = end - j < N ? static_cast<int>(end - j) : N;
        sum[t] += LoadPixels<T, N>(dy + j * dy_step, dy_step, lanes) *
                  LoadPixels<T, N>(pixel(t, j), step, lanes);
      }
    };
    if (shared_end > all.begin) {
      add(inside[t].begin, all.begin);
      add(shared_end, inside[t].end);
    } else {
      add(inside[t].begin, inside[t].end);
    }
    totals[t] += sum[t];
  }
}

template <typename Isa, typename T>
void FilterGradientPlanes(const FilterGradientProblem& problem,
                          const void* input_data, const void* dy_data,
                          void* partial_sums, void*, int64_t begin,
                          int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  const FilterGradientAxis& rows = problem.rows;
  const FilterGradientAxis& cols = problem.cols;
  const int64_t multiplier = problem.depth_multiplier;
  const int64_t depth = FilterDepth(problem);
  const ImageSteps input_steps =
      StepsOf(problem.channels_last, problem.in_depth, rows.in, cols.in);
  const ImageSteps dy_steps =
      StepsOf(problem.channels_last, depth, rows.out, cols.out);
  for (int64_t index = begin; index < end; ++index) {
    const FilterGradientUnit unit = FindUnit(problem, index);
    const int64_t k = unit.block;
    const T* input = static_cast<const T*>(input_data) +
                     k / multiplier * input_steps.channel;
    const T* dy = static_cast<const T*>(dy_data) + k * dy_steps.channel;
    A* to = static_cast<A*>(partial_sums) +
            unit.chunk * rows.filter * cols.filter * depth + k;
    for (int64_t r = unit.first_tap_row; r < unit.end_tap_row; ++r) {
      const TapRange inside = PositionsInside(rows, r);
      for (int64_t first_tap = 0; first_tap < cols.filter;
           first_tap += kTapsPerPass) {
        const int64_t left = cols.filter - first_tap;
        const int taps =
            left < kTapsPerPass ? static_cast<int>(left) : kTapsPerPass;
        Vector<A, N> totals[kTapsPerPass] = {};
        ForEachPiece(problem, problem.batch, unit.chunk, rows.out,
                     [&](int64_t image, int64_t first_row, int64_t end_row) {
                       if (first_row < inside.begin) first_row = inside.begin;
                       if (end_row > inside.end) end_row = inside.end;
                       for (int64_t i = first_row; i < end_row; ++i) {
                         const int64_t in_row =
                             i * rows.stride + r * rows.dilation - rows.pad;
                         AddRowDots<N>(
                             cols,
                             input + image * input_steps.image +
                                 in_row * input_steps.row,
                             input_steps.col,
                             dy + image * dy_steps.image + i * dy_steps.row,
                             dy_steps.col, first_tap, taps, totals);
                       }
                     });
        for (int t = 0; t < taps; ++t) {
          A sum = 0;
          for (int lane = 0; lane < N; ++lane) sum += totals[t][lane];
          to[(r * cols.filter + first_tap + t) * depth] = sum;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_PLANES_H_
