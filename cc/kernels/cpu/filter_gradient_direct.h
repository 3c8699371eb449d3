// The filter gradient straight from channels-last tensors with at least one
// vector of channels and no depth multiplier, and the sum over the chunks.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_DIRECT_H_
#define TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_DIRECT_H_

#include "cc/kernels/cpu/copy_pixels.h"
#include "cc/kernels/cpu/filter_gradient_rows.h"

namespace tf_dwgrad {
namespace {

// A block of channels of some rows of both operands, copied to where their
// pixels do not compete for the first cache.
template <typename Isa, int N, typename T>
class CopiedRows {
 public:
  typedef typename AccumulatorOf<T>::type A;

  CopiedRows(const FilterGradientProblem& problem,
             const RowSums<Isa, N, T>& sums, const T* input, const T* dy,
             void* scratch)
      : problem_(problem),
        sums_(sums),
        input_(input),
        dy_(dy),
        step_(CopyStep(problem.channel_block, sizeof(T))),
        input_copy_(static_cast<T*>(scratch)),
        dy_copy_(input_copy_ +
                 problem.panel_input_rows * problem.cols.in * step_) {}

  // Adds what rows [begin, end) of dY give to the unit's totals.
  void Add(const FilterGradientUnit& unit, int64_t channel, int64_t channels,
           int64_t image, int64_t begin, int64_t end, A* totals) const {
    const FilterGradientAxis& rows = problem_.rows;
    const FilterGradientAxis& cols = problem_.cols;
    const int64_t depth = problem_.in_depth;
    int64_t first_in =
        begin * rows.stride - rows.pad + unit.first_tap_row * rows.dilation;
    int64_t end_in = (end - 1) * rows.stride - rows.pad +
                     (unit.end_tap_row - 1) * rows.dilation + 1;
    if (first_in < 0) first_in = 0;
    if (end_in > rows.in) end_in = rows.in;
    if (first_in >= end_in) return;
    const T* const input =
        input_ + (image * rows.in + first_in) * cols.in * depth + channel;
    const T* const dy =
        dy_ + (image * rows.out + begin) * cols.out * depth + channel;
    const int64_t input_pixels = (end_in - first_in) * cols.in;
    const int64_t dy_pixels = (end - begin) * cols.out;
    CopyPixels(input, input_pixels, depth, channels, input_copy_, step_);
    CopyPixels(dy, dy_pixels, depth, channels, dy_copy_, step_);
    // What comes next lies behind it; the next image behind the last row.
    ComingPixels<T> coming_input = {input + input_pixels * depth, 0, depth,
                                    channels};
    ComingPixels<T> coming_dy = {dy + dy_pixels * depth, 0, depth, channels};
    const int64_t input_left =
        ((problem_.batch - image) * rows.in - end_in) * cols.in;
    const int64_t dy_left =
        ((problem_.batch - image) * rows.out - end) * cols.out;
    coming_input.pixels = input_left < input_pixels ? input_left : input_pixels;
    coming_dy.pixels = dy_left < dy_pixels ? dy_left : dy_pixels;
    const Pixels<T> input_rows = {input_copy_, first_in, cols.in * step_, step_,
                                  0};
    const Pixels<T> dy_rows = {dy_copy_, begin, cols.out * step_, step_, 0};
    // The copies are of neighbouring rows.
    const Lattice lattice = {1, 1, rows.stride};
    const int64_t rows_at_a_time = 1 + kTileCols / cols.out;
    for (int64_t row = begin; row < end; row += rows_at_a_time) {
      const int64_t shares = (end - row) / rows_at_a_time;
      coming_input.Prefetch(shares);
      coming_dy.Prefetch(shares);
      const int64_t row_end =
          row + rows_at_a_time < end ? row + rows_at_a_time : end;
      sums_.Add(lattice, input_rows, dy_rows, row, row_end, unit.first_tap_row,
                unit.end_tap_row, channels, totals);
    }
  }

 private:
  const FilterGradientProblem& problem_;
  const RowSums<Isa, N, T>& sums_;
  const T* const input_;
  const T* const dy_;
  const int64_t step_;
  T* const input_copy_;
  T* const dy_copy_;
};

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
  const CopiedRows<Isa, N, T> copied(
      problem, sums, input, dy,
      totals + problem.block_vectors * problem.tap_rows * cols.filter * N);
  const Lattice lattice = LatticeOf(rows);
  for (int64_t index = begin; index < end; ++index) {
    const FilterGradientUnit unit = FindUnit(problem, index);
    const ChannelRange block = ChannelsOfBlock(problem, depth, unit.block);
    const int64_t channel = block.first;
    const int64_t channels = block.count;
    const int64_t vectors = (channels + N - 1) / N;
    const int64_t taps = (unit.end_tap_row - unit.first_tap_row) * cols.filter;
    for (int64_t i = 0; i < vectors * taps * N; ++i) totals[i] = 0;
    ForEachPiece(
        problem, problem.batch, unit.chunk,
        problem.copied ? problem.panel_rows : rows.out,
        [&](int64_t image, int64_t first_row, int64_t end_row) {
          if (problem.copied) {
            copied.Add(unit, channel, channels, image, first_row, end_row,
                       totals);
            return;
          }
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
