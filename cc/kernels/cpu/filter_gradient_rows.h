// What the filter gradient's kernels share: which products there are, and the
// walk over rows of dY and blocks of taps.
//
//   dW[r, s, k] = sum over n, i, j of
//       input[n, i * stride - pad + r * dilation, j * ..., k / multiplier]
//       * dY[n, i, j, k]
//
// The (image, row) pairs of dY are cut into chunks, a fixed number for a
// problem. A unit of work is one chunk for a block of filter channels and of
// tap rows; its sums go to a place of their own in the workspace. When all
// units are done, the chunks are added up in order. So the result is the same
// for any number of threads.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_ROWS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_ROWS_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/row_products.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// The positions i in [0, axis.out) at which `tap` reads inside the input.
inline TapRange PositionsInside(const FilterGradientAxis& axis, int64_t tap) {
  const int64_t offset = tap * axis.dilation - axis.pad;
  TapRange range = {0, 0};
  const int64_t last = axis.in - 1 - offset;
  if (last < 0) return range;
  range.begin = offset < 0 ? (-offset - 1) / axis.stride + 1 : 0;
  const int64_t fit = last / axis.stride + 1;
  range.end = fit < axis.out ? fit : axis.out;
  if (range.begin > range.end) range.begin = range.end;
  return range;
}

// The taps in [begin, end) that read inside the input at dY position i.
inline TapRange TapsInside(const FilterGradientAxis& axis, int64_t i,
                           int64_t begin, int64_t end) {
  const TapRange taps =
      StepsInside(i * axis.stride - axis.pad + begin * axis.dilation,
                  axis.dilation, axis.in, end - begin);
  return {begin + taps.begin, begin + taps.end};
}

// The chunk, block of channels and block of tap rows of a unit.
struct FilterGradientUnit {
  int64_t chunk;
  int64_t block;
  int64_t first_tap_row;
  int64_t end_tap_row;
};

inline FilterGradientUnit FindUnit(const FilterGradientProblem& problem,
                                   int64_t index) {
  FilterGradientUnit unit;
  const int64_t tap_blocks = TapBlocks(problem);
  unit.first_tap_row = index % tap_blocks * problem.tap_rows;
  unit.end_tap_row = unit.first_tap_row + problem.tap_rows;
  if (unit.end_tap_row > problem.rows.filter) {
    unit.end_tap_row = problem.rows.filter;
  }
  unit.block = index / tap_blocks % problem.num_blocks;
  unit.chunk = index / tap_blocks / problem.num_blocks;
  return unit;
}

// Calls visit(image, begin, end) for the rows of a chunk, at most `most_rows`
// of an image at a time. If the problem is flat, an image is a vector of
// planes.
template <typename Visit>
inline void ForEachPiece(const FilterGradientProblem& problem, int64_t images,
                         int64_t chunk, int64_t most_rows, Visit visit) {
  const int64_t rows = images * problem.rows.out;
  // Whole images, if there are enough.
  const int64_t grain = images % problem.num_chunks == 0 ? problem.rows.out : 1;
  const int64_t grains = rows / grain;
  const auto bound = [&](int64_t index) {
    return (grains / problem.num_chunks * index +
            grains % problem.num_chunks * index / problem.num_chunks) *
           grain;
  };
  const int64_t end = bound(chunk + 1);
  for (int64_t row = bound(chunk); row < end;) {
    const int64_t image = row / problem.rows.out;
    const int64_t i = row % problem.rows.out;
    int64_t count = problem.rows.out - i;
    if (count > end - row) count = end - row;
    if (count > most_rows) count = most_rows;
    visit(image, i, i + count);
    row += count;
  }
}

// Pixels of one image, in a tensor or packed.
template <typename S>
struct Pixels {
  const S* first;  // the first channel of pixel (first_row, 0)
  int64_t first_row;
  int64_t row_step;
  int64_t col_step;
  int64_t prefetch_rows;  // up to this one, later rows are prefetched
};

// How the dY positions of a dimension and the taps meet in the input: those of
// a phase, every phases-th, on a lattice of their own.
struct Lattice {
  int64_t phases;
  int64_t pitch;   // input positions from a lattice point to the next
  int64_t stride;  // lattice points from a dY position of a phase to the next
};

inline Lattice LatticeOf(const FilterGradientAxis& axis) {
  const int64_t gcd = gather_plan_internal::Gcd(axis.stride, axis.dilation);
  return {axis.dilation / gcd, axis.dilation, axis.stride / gcd};
}

// The rows of dY are taken phase by phase: those that meet the same input rows
// follow each other.
struct PhaseRow {
  int64_t row;
  int64_t left;  // rows of its phase from here on
};

inline PhaseRow FindPhaseRow(int64_t rows, int64_t phases, int64_t index) {
  const int64_t size = rows / phases;
  const int64_t longer = rows % phases;  // phases, by a row
  if (index < longer * (size + 1)) {
    return {index / (size + 1) + index % (size + 1) * phases,
            size + 1 - index % (size + 1)};
  }
  index -= longer * (size + 1);
  return {longer + index / size + index % size * phases, size - index % size};
}

template <typename Isa, int N, typename S>
class RowSums {
  static constexpr int64_t kGroups = 4;
  static constexpr int64_t kShortPixelBytes = 192;

 public:
  typedef typename AccumulatorOf<S>::type A;

  RowSums(const FilterGradientProblem& problem, int64_t pixel_bytes)
      : problem_(problem) {
    const FilterGradientAxis& cols = problem.cols;
    cols_ = LatticeOf(cols);
    dilation_ = 1;
    shared_stride_ = static_cast<int>(cols_.stride);
    if (cols_.stride > 2 || cols.out < kLeastCols * cols_.phases) {
      // Not worth sharing.
      cols_ = {1, 1, cols.stride};
      dilation_ = cols.dilation;
      shared_stride_ = 0;
    }
    tile_cols_ = kTileCols;
    follows_pixels_ = problem.rows.filter * cols.filter <= kFewTaps;
    if (follows_pixels_) {
      // A group follows each of its pixels through its channels, as memory
      // does. The fewer pixels, the better is the CPU at reading ahead.
      // In the caches, and where pixels are so short that the CPU reads ahead
      // anyway, several groups share the work around their products, unless
      // their pixels compete for the same places in a cache.
      tile_cols_ = Isa::kGradientCols;
      if (problem.prefetch && pixel_bytes >= kShortPixelBytes) {
        if (shared_stride_ == 2) tile_cols_ = kLeastCols;
      } else if (pixel_bytes % 512 != 0) {
        tile_cols_ *= kGroups;
      }
    }
    constexpr int64_t kMaxTaps = Isa::kMaxTaps;
    const int64_t blocks = (cols.filter + kMaxTaps - 1) / kMaxTaps;
    most_taps_ = (cols.filter + blocks - 1) / blocks;
    for (int taps = 1; taps <= kMaxTaps; ++taps) {
      for (int rows = 1; rows <= 3; ++rows) {
        functions_[rows - 1][taps - 1] =
            shared_stride_ == 1
                ? FindAddRowProducts<Isa, N, 1, S>(rows, taps)
                : (shared_stride_ == 2
                       ? FindAddRowProducts<Isa, N, 2, S>(rows, taps)
                       : FindAddRowProducts<Isa, N, 0, S>(rows, taps));
      }
    }
  }

  // Adds what dY rows [begin, end), counted phase by phase of `lattice`, give
  // to the taps of rows [first_tap_row, end_tap_row). The totals are those of
  // one vector after those of another.
  void Add(const Lattice& lattice, const Pixels<S>& input, const Pixels<S>& dy,
           int64_t begin, int64_t end, int64_t first_tap_row,
           int64_t end_tap_row, int64_t channels, A* totals) const {
    const FilterGradientAxis& rows = problem_.rows;
    const FilterGradientAxis& cols = problem_.cols;
    const int64_t rows_per_sum = tile_cols_ / cols.out;
    const bool along_row =
        follows_pixels_ && PrefetchesAlongRow(input.col_step * sizeof(S),
                                              input.row_step * sizeof(S));
    RowProducts<S> products;
    products.input_tap_row_step = rows.dilation * input.row_step;
    products.input_row_step = lattice.phases * rows.stride * input.row_step;
    products.input_col_step = cols_.pitch * input.col_step;
    products.dy_row_step = lattice.phases * dy.row_step;
    products.dy_col_step = cols_.phases * dy.col_step;
    products.stride = cols_.stride;
    products.dilation = dilation_;
    products.next_input_row_step = lattice.pitch * input.row_step;
    const int64_t vector_step = (end_tap_row - first_tap_row) * cols.filter * N;
    for (int64_t phase = 0; phase < cols_.phases; ++phase) {
      const int64_t count =
          (cols.out - phase + cols_.phases - 1) / cols_.phases;
      for (int64_t index = begin; index < end; index += products.rows) {
        const PhaseRow first_row =
            FindPhaseRow(rows.out, lattice.phases, index);
        const int64_t i = first_row.row;
        const TapRange taps = TapsInside(rows, i, first_tap_row, end_tap_row);
        products.rows = 1;
        while (products.rows < rows_per_sum && products.rows < first_row.left &&
               index + products.rows < end) {
          const TapRange next =
              TapsInside(rows, i + products.rows * lattice.phases,
                         first_tap_row, end_tap_row);
          if (next.begin != taps.begin || next.end != taps.end) break;
          ++products.rows;
        }
        if (taps.begin >= taps.end) continue;
        const int64_t in_row =
            i * rows.stride - rows.pad + taps.begin * rows.dilation;
        const int64_t last_in_row =
            (i + (products.rows - 1) * lattice.phases) * rows.stride -
            rows.pad + (end_tap_row - 1) * rows.dilation;
        int64_t new_rows = lattice.stride < 4 ? lattice.stride : 4;
        int64_t first_new, last_new;
        if (along_row && lattice.phases == 1 && cols_.phases == 1 &&
            products.rows == 1) {
          // The same rows, some pixels on. Rows that this one is not the first
          // to meet are in the cache.
          if (new_rows > end_tap_row - first_tap_row) {
            new_rows = end_tap_row - first_tap_row;
          }
          const int64_t ahead =
              (PixelsAhead(channels * sizeof(S)) + cols.stride - 1) /
              cols.stride;
          last_new = last_in_row;
          first_new = last_new - (new_rows - 1) * lattice.pitch;
          products.next_dy = ahead * products.dy_col_step;
          products.next_input = (first_new - in_row) * input.row_step +
                                ahead * cols.stride * input.col_step;
        } else {
          // What the next rows are the first to meet. The rows behind the last
          // of an image are those of the next.
          first_new = last_in_row + lattice.pitch;
          last_new =
              last_in_row + products.rows * lattice.stride * lattice.pitch;
          products.next_dy = products.rows * products.dy_row_step;
          products.next_input = (first_new - in_row) * input.row_step;
        }
        if (first_new < 0 || last_new >= input.prefetch_rows) new_rows = 0;
        for (int64_t first = 0; first < count; first += tile_cols_) {
          products.cols =
              count - first < tile_cols_ ? count - first : tile_cols_;
          const int64_t dy_col = phase + first * cols_.phases;
          products.dy = dy.first + (i - dy.first_row) * dy.row_step +
                        dy_col * dy.col_step;
          products.next_input_rows = new_rows;
          AddTile(&products,
                  input.first + (in_row - input.first_row) * input.row_step,
                  dy_col * cols.stride - cols.pad, input.col_step,
                  taps.end - taps.begin, channels,
                  totals + (taps.begin - first_tap_row) * cols.filter * N,
                  vector_step);
        }
      }
    }
  }

 private:
  // All taps for some columns of dY, the first of which meets the first tap in
  // input column `in_col`.
  void AddTile(RowProducts<S>* products, const S* input_row, int64_t in_col,
               int64_t col_step, int64_t tap_rows, int64_t channels, A* totals,
               int64_t vector_step) const {
    const FilterGradientAxis& cols = problem_.cols;
    const int64_t tap_row_step = cols.filter * N;
    for (int64_t row = 0; row < tap_rows;) {
      const int64_t most_rows =
          BlockRows<Isa>(shared_stride_, static_cast<int>(most_taps_));
      const int64_t blocks = (tap_rows - row + most_rows - 1) / most_rows;
      const int64_t block_rows = (tap_rows - row + blocks - 1) / blocks;
      for (int64_t tap = 0; tap < cols.filter; tap += most_taps_) {
        const int64_t left = cols.filter - tap;
        const int64_t taps = left < most_taps_ ? left : most_taps_;
        const int64_t first_col = in_col + tap * cols.dilation;
        products->input = input_row + row * products->input_tap_row_step +
                          first_col * col_step;
        products->window = StepsInside(
            first_col, cols_.pitch, cols.in,
            (products->cols - 1) * cols_.stride + (taps - 1) * dilation_ + 1);
        if (products->window.begin < products->window.end) {
          functions_[block_rows - 1][taps - 1](
              *products, channels, totals + row * tap_row_step + tap * N,
              tap_row_step, vector_step);
          products->next_input_rows = 0;
        }
      }
      row += block_rows;
    }
  }

  const FilterGradientProblem& problem_;
  Lattice cols_;
  int64_t dilation_;   // lattice points from a tap to the next
  int shared_stride_;  // that of cols_, or 0 if columns share no input
  int64_t tile_cols_;
  bool follows_pixels_;  // through their channels, a group at a time
  int64_t most_taps_;
  AddRowProductsFunction<S> functions_[3][Isa::kMaxTaps];
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_ROWS_H_
