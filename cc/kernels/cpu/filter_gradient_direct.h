// The filter gradient straight from channels-last tensors with at least one
// vector of channels and no depth multiplier, and the sum over the chunks.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_DIRECT_H_
#define TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_DIRECT_H_

#include "cc/kernels/cpu/filter_gradient_rows.h"

namespace tf_dwgrad {
namespace {

template <typename Isa, typename T>
void FilterGradientDirect(const FilterGradientProblem& problem,
                          const void* input_data, const void* dy_data,
                          void* partial_sums, void* scratch, int64_t begin,
                          int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  const FilterGradientAxis& rows = problem.rows;
  const FilterGradientAxis& cols = problem.cols;
  const int64_t depth = problem.in_depth;
  const T* input = static_cast<const T*>(input_data);
  const T* dy = static_cast<const T*>(dy_data);
  A* totals = static_cast<A*>(scratch);
  const RowSums<Isa, N, T> sums(problem, depth * sizeof(T));
  const Lattice lattice = LatticeOf(rows);
  for (int64_t index = begin; index < end; ++index) {
    const FilterGradientUnit unit = FindUnit(problem, index);
    const int64_t channel = unit.block * problem.channel_block;
    const int64_t channels = unit.block + 1 < problem.num_blocks
                                 ? problem.channel_block
                                 : depth - channel;
    const int64_t vectors = (channels + N - 1) / N;
    const int64_t taps = (unit.end_tap_row - unit.first_tap_row) * cols.filter;
    for (int64_t i = 0; i < vectors * taps * N; ++i) totals[i] = 0;
    ForEachPiece(
        problem, problem.batch, unit.chunk, rows.out,
        [&](int64_t image, int64_t first_row, int64_t end_row) {
          const Pixels<T> input_pixels = {
              input + image * rows.in * cols.in * depth + channel, 0,
              cols.in * depth, depth,
              problem.prefetch ? (problem.batch - image) * rows.in : 0};
          const Pixels<T> dy_pixels = {
              dy + image * rows.out * cols.out * depth + channel, 0,
              cols.out * depth, depth,
              problem.prefetch ? (problem.batch - image) * rows.out : 0};
          sums.Add(lattice, input_pixels, dy_pixels, first_row, end_row,
                   unit.first_tap_row, unit.end_tap_row, channels, totals);
        });
    A* to =
        static_cast<A*>(partial_sums) +
        (unit.chunk * rows.filter + unit.first_tap_row) * cols.filter * depth +
        channel;
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const int64_t c = FirstLane<N>(vector, channels);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const A* total = totals + (vector * taps + tap) * N;
        Access<A, N>::Store(Access<A, N>::Load(total), to + tap * depth + c);
      }
    }
  }
}

template <typename Isa, typename T>
void FilterGradientReduce(const FilterGradientProblem& problem,
                          const void* partial_sums, void* dw_data,
                          int64_t begin, int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  const int64_t size =
      problem.rows.filter * problem.cols.filter * FilterDepth(problem);
  const A* partial = static_cast<const A*>(partial_sums);
  T* dw = static_cast<T*>(dw_data);
  for (int64_t i = begin; i < end; i += N) {
    const int lanes = end - i < N ? static_cast<int>(end - i) : N;
    Vector<A, N> sum = {};
    for (int64_t chunk = 0; chunk < problem.num_chunks; ++chunk) {
      const A* from = partial + chunk * size + i;
      sum +=
          lanes == N ? Access<A, N>::Load(from) : LoadSome<A, N>(from, lanes);
    }
    if (lanes == N) {
      Access<T, N>::Store(sum, dw + i);
    } else {
      StoreSome<T, N>(sum, dw + i, lanes);
    }
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_DIRECT_H_
