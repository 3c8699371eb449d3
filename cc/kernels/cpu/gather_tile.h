// The sums of one tile over all taps: finds the blocks of taps that reach it.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_TILE_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_TILE_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/tap_block.h"

namespace tf_dwgrad {
namespace {

// The source pixels and the filter, in the tensors themselves or packed. With a
// depth multiplier the input gradient makes several passes over the same tile,
// one for each filter channel of an input channel.
template <typename S>
struct Operands {
  const S* src;  // the first channel of pixel (first_row, first_col)
  int64_t first_row;
  int64_t first_col;
  int64_t row_pitch;  // src holds every row_pitch-th row of the image
  int64_t src_row_step;
  int64_t src_col_step;
  int64_t src_pass_step;
  // Packed; see TapBlock.
  const typename AccumulatorOf<S>::type* filter;
  int64_t filter_tap_step;
  int64_t filter_vector_step;
  int64_t filter_pass_step;
  int64_t passes;
  int64_t prefetch_rows;  // image rows below this one may be prefetched
};

// Where a tile lies.
struct TilePlace {
  TapRun row_run;
  TapRun col_run;
  int64_t row;    // its first position within the row phase
  int64_t col;    // its first position within the column phase
  int64_t tiles;  // neighbours that are alike
};

template <typename Isa, int N, int kRows, int kCols, int kMaxTaps, typename S>
void SumTile(const GatherProblem& problem, const TilePlace& tile,
             const Operands<S>& operands, int64_t channels,
             const TileSums<S>& sums) {
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;

  TapBlock<S> block;
  block.src_row_step = rows.pitch / operands.row_pitch * operands.src_row_step;
  block.src_col_step = cols.pitch * operands.src_col_step;
  block.filter_row_step =
      rows.tap_step * cols.filter_size * operands.filter_tap_step;
  block.filter_col_step = cols.tap_step * operands.filter_tap_step;
  block.filter_vector_step = operands.filter_vector_step;
  block.first = true;

  // A block is added when the next one is known, so that the last one can go
  // straight to dst.
  TapBlock<S> pending = block;
  pending.src = operands.src;
  pending.filter = operands.filter;
  pending.num_rows = 0;
  pending.begin_row = 0;
  pending.end_row = 0;
  pending.window = {0, 0};
  pending.prefetch = nullptr;
  int pending_taps = 1;
  bool have_pending = false;

  for (int64_t pass = 0; pass < operands.passes; ++pass) {
    const S* src = operands.src + pass * operands.src_pass_step;
    const auto* filter = operands.filter + pass * operands.filter_pass_step;
    TapRun row_run = tile.row_run;
    for (int64_t row_index = 0;;) {
      const int64_t row_base = row_run.first_src + tile.row * rows.pitch;
      TapRange src_rows = {0, 0};
      if (row_run.num_taps > 0) {
        src_rows = ClipToSource(rows, row_base, row_run.num_taps + kRows - 1);
      }
      block.num_rows = row_run.num_taps;
      block.begin_row = src_rows.begin;
      block.end_row = src_rows.end;
      int64_t src_row =
          row_base + src_rows.begin * rows.pitch - operands.first_row;
      if (operands.row_pitch != 1) src_row /= operands.row_pitch;
      const int64_t next_row =
          row_base + (row_run.num_taps + kRows - 1) * rows.pitch;
      const bool prefetch =
          next_row + (kRows - 1) * rows.pitch < operands.prefetch_rows;

      TapRun col_run = tile.col_run;
      for (int64_t col_index = 0; src_rows.begin < src_rows.end;) {
        for (int64_t first = 0; first < col_run.num_taps; first += kMaxTaps) {
          const int64_t rest = col_run.num_taps - first;
          const int taps = rest < kMaxTaps ? static_cast<int>(rest) : kMaxTaps;
          const int64_t src_col =
              col_run.first_src + (tile.col + first) * cols.pitch;
          block.window = ClipToSource(cols, src_col, kCols + taps - 1);
          if (block.window.begin >= block.window.end) continue;
          if (have_pending) {
            AddTaps<N, kRows, kCols, kMaxTaps>(pending_taps, pending, 1,
                                               channels, sums, /*last=*/false);
            block.first = false;
          }
          block.src = src + src_row * operands.src_row_step +
                      (src_col - operands.first_col) * operands.src_col_step;
          block.filter = filter + (row_run.first_tap * cols.filter_size +
                                   col_run.first_tap + first * cols.tap_step) *
                                      operands.filter_tap_step;
          block.prefetch =
              prefetch && first == 0
                  ? block.src +
                        (row_run.num_taps + kRows - 1 - src_rows.begin) *
                            block.src_row_step +
                        (taps - 1) * block.src_col_step
                  : nullptr;
          pending = block;
          pending_taps = taps;
          have_pending = true;
        }
        if (++col_index >= cols.num_runs) break;
        NextRun(cols, col_index, &col_run);
      }
      if (++row_index >= rows.num_runs) break;
      NextRun(rows, row_index, &row_run);
    }
  }
  // Without a single tap this writes the zeros.
  AddTaps<N, kRows, kCols, kMaxTaps>(pending_taps, pending, tile.tiles,
                                     channels, sums, /*last=*/true);
}

// How many neighbouring tiles from position `col` on, with `left` positions
// left, are whole and see a whole window of a single block of taps.
template <int kCols, int kMaxTaps>
inline int64_t AlikeTiles(const GatherProblem& problem, const TapRun& col_run,
                          int64_t passes, int64_t col, int64_t left) {
  const GatherPlan& cols = problem.cols;
  if (left < 2 * kCols || col_run.num_taps > kMaxTaps || passes > 1 ||
      cols.num_runs > 1 || problem.rows.num_runs > 1) {
    return 1;
  }
  int64_t whole = left / kCols;
  if (col_run.num_taps > 0) {
    const int64_t src_col = col_run.first_src + col * cols.pitch;
    if (src_col < 0) return 1;
    // Window columns from src_col on that exist.
    const int64_t window = src_col < cols.src_size
                               ? (cols.src_size - 1 - src_col) / cols.pitch + 1
                               : 0;
    const int64_t seen = (window - (col_run.num_taps - 1)) / kCols;
    if (seen < whole) whole = seen;
  }
  return whole < 1 ? 1 : whole;
}

// The positions [begin, end) of one column phase in one or two rows. `sums` are
// those of position 0; `sums.dst` is null if `done` is to take each tile's sums
// from the panel: done(first position, positions, vectors between two rows).
template <typename Isa, int N, int kMaxTaps, typename S, typename Done>
void SumTileRow(const GatherProblem& problem, TilePlace tile, int tile_rows,
                int64_t begin, int64_t end, const Operands<S>& operands,
                int64_t channels, TileSums<S> sums, Done done) {
  S* const dst = sums.dst;
  for (int64_t position = begin; position < end;) {
    const int64_t left = end - position;
    tile.col = position;
    if (dst != nullptr) sums.dst = dst + position * sums.col_step;
    const auto run = [&](auto rows, auto cols) {
      constexpr int kRows = decltype(rows)::kValue;
      constexpr int kCols = decltype(cols)::kValue;
      sums.cols = left < kCols ? left : kCols;
      tile.tiles = dst == nullptr ? 1
                                  : AlikeTiles<kCols, kMaxTaps>(
                                        problem, tile.col_run, operands.passes,
                                        position, left);
      SumTile<Isa, N, kRows, kCols, kMaxTaps>(problem, tile, operands, channels,
                                              sums);
      done(position, sums.cols, kCols);
      position += tile.tiles * kCols;
    };
    // The narrow tile wastes less on the last few positions.
    if constexpr (kMaxTaps <= Isa::kPairMaxTaps) {
      if (tile_rows == 2) {
        constexpr int kNarrow = Isa::kPairNarrowCols;
        if (left <= kNarrow || left == 2 * kNarrow) {
          run(Int<2>(), Int<kNarrow>());
        } else {
          run(Int<2>(), Int<Isa::kPairCols>());
        }
        continue;
      }
    }
    constexpr int kNarrow = Isa::kNarrowCols;
    if (left <= kNarrow || left == 2 * kNarrow) {
      run(Int<1>(), Int<kNarrow>());
    } else {
      run(Int<1>(), Int<Isa::kWideCols>());
    }
  }
}

// Calls run with the number of neighbouring taps to do at a time.
template <typename Isa, typename Run>
inline void WithMaxTaps(const GatherProblem& problem, Run run) {
  if constexpr (Isa::kPairMaxTaps > 0 && Isa::kPairMaxTaps < Isa::kMaxTaps) {
    if (problem.tile_rows == 2) {
      run(Int<Isa::kPairMaxTaps>());
      return;
    }
  }
  run(Int<Isa::kMaxTaps>());
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_TILE_H_
