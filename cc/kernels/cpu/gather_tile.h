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
  int64_t first_row = 0;
  int64_t first_col = 0;
  int64_t row_pitch = 1;  // src holds every row_pitch-th row of the image
  int64_t src_row_step;
  int64_t src_col_step;
  int64_t src_pass_step = 0;
  // Packed; see TapBlock.
  const typename AccumulatorOf<S>::type* filter;
  int64_t filter_tap_step;
  int64_t filter_vector_step;
  int64_t filter_pass_step = 0;
  int64_t passes = 1;
  int64_t prefetch_rows = 0;  // image rows below this one may be prefetched
  // Where tiles go down the image: what of the next strip is new in the first
  // row, or null.
  const S* next_strip = nullptr;
};

// Those of sources whose pixels are `pixel_step` elements apart, row after row,
// and of a filter that PackFilterBlock has packed.
template <int N, typename S>
Operands<S> OperandsOf(const GatherProblem& problem, int64_t pixel_step) {
  const int64_t taps = problem.rows.filter_size * problem.cols.filter_size;
  Operands<S> operands;
  operands.src_row_step = problem.cols.src_size * pixel_step;
  operands.src_col_step = pixel_step;
  operands.filter_tap_step = N;
  operands.filter_vector_step = taps * N;
  return operands;
}

// The sums of neighbouring positions in NHWC, pixels of whole lines.
template <typename S>
TileSums<S> SumsOfLines(const GatherProblem& problem, const S* dst,
                        typename AccumulatorOf<S>::type* panel) {
  TileSums<S> sums;
  sums.panel = panel;
  sums.row_step = problem.cols.dst_size * problem.in_depth;
  sums.col_step = problem.in_depth;
  sums.joins_lines = problem.joins_lines;
  sums.stream = problem.beyond_cache && kCanStream<S> &&
                reinterpret_cast<uintptr_t>(dst) % kLineBytes == 0;
  sums.prefetch_dst = false;
  return sums;
}

// The phases of a plan. Asking the plan takes divisions.
struct Phase {
  TapRun run;  // the first
  int64_t size;
};

class Phases {
 public:
  explicit Phases(const GatherPlan& plan) : plan_(plan) {
    const int64_t phases = PhaseCount(plan);
    for (int64_t phase = 0; phase < phases && phase < kKept; ++phase) {
      kept_[phase] = {FirstRun(plan, phase), PhaseSize(plan, phase)};
    }
  }
  Phase operator[](int64_t phase) const {
    if (phase < kKept) return kept_[phase];
    return {FirstRun(plan_, phase), PhaseSize(plan_, phase)};
  }

 private:
  static constexpr int64_t kKept = 64;
  const GatherPlan& plan_;
  Phase kept_[kKept];
};

// Where a tile lies.
struct TilePlace {
  TapRun row_run;
  TapRun col_run;
  int64_t row;        // its first position within the row phase
  int64_t col;        // its first position within the column phase
  int64_t tiles;      // neighbours that are alike: those to the right or,
  bool down = false;  // if this holds, those below
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
  block.src_tile_step =
      tile.down ? kRows * block.src_row_step : kCols * block.src_col_step;
  block.dst_tile_step =
      tile.down ? kRows * sums.row_step : kCols * sums.col_step;

  // The next tile to the right is prefetched, or, by the last one of a row, the
  // first one of the next. In a row of few tiles that is no gain.
  constexpr int64_t kManyCols = 64;
  const bool along_rows =
      !tile.down && operands.prefetch_rows > 0 && cols.pitch == 1 &&
      PhaseSize(cols, 0) >= kManyCols &&
      !StaysForNextRow(operands.src_row_step * int64_t{sizeof(S)});
  const bool along_row = along_rows && tile.col + kCols < PhaseSize(cols, 0);

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
      const int64_t window_rows = row_run.num_taps + kRows - 1;
      const int64_t next_row = row_base + window_rows * rows.pitch;
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
          block.prefetch = nullptr;
          if (first == 0 && along_row && src_rows.end == window_rows) {
            block.prefetch =
                block.src +
                (window_rows - kRows - src_rows.begin) * block.src_row_step +
                (taps - 1 + kCols) * block.src_col_step;
          } else if (first == 0 && prefetch) {
            block.prefetch =
                block.src +
                (window_rows - src_rows.begin) * block.src_row_step +
                (along_rows ? -tile.col : taps - 1) * block.src_col_step;
          } else if (first == 0 && operands.next_strip != nullptr) {
            // After the last rows come the first of the next strip.
            const int64_t row = next_row - rows.src_size;
            block.prefetch = operands.next_strip +
                             (row > 0 ? row : 0) * operands.src_row_step;
          }
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

// Positions of a strided tile if memory is what it waits for: the fewer pixels
// are followed through their channels, the better is the CPU at reading ahead.
constexpr int kStreamedCols = 4;

// Positions of a tile of both column phases of stride 2, an even number.
constexpr int kNarrowSpreadCols = 8;
template <typename Isa>
constexpr int kSpreadCols =
    Isa::kWideCols > kNarrowSpreadCols ? Isa::kWideCols / 2 * 2
                                       : kNarrowSpreadCols;

// All taps of neighbouring tiles of a row that see a strided window: what a
// stride cuts into runs of taps, or into phases, each with pixels of its own,
// is one block here.
template <int N, int kCols, int kTaps, int kStride, typename S>
int64_t SumStridedTiles(const GatherProblem& problem, TapBlock<S> block,
                        const S* src_row, int64_t col, int64_t left,
                        int64_t channels, const TileSums<S>& sums) {
  constexpr int kPixels = kWindow<kCols, kTaps, kStride>;
  const GatherPlan& cols = problem.cols;
  block.src_tile_step = kWindowStep<kCols, kStride> * block.src_col_step;
  block.dst_tile_step = kCols * sums.col_step;
  const int64_t src_col =
      kStride > 0 ? col * kStride - cols.pad
                  : (col + cols.pad - kHighestTap<kTaps, kStride>) / 2;
  block.window = {src_col < 0 ? -src_col : 0, cols.src_size - src_col};
  if (block.window.end > kPixels) block.window.end = kPixels;
  block.src = src_row + src_col * block.src_col_step;
  if (block.prefetch != nullptr) block.prefetch += src_col * block.src_col_step;
  int64_t tiles = 1;
  if (sums.dst != nullptr && src_col >= 0 && left >= kCols &&
      block.window.end == kPixels) {
    tiles =
        (cols.src_size - src_col - kPixels) / kWindowStep<kCols, kStride> + 1;
    if (tiles > left / kCols) tiles = left / kCols;
  }
  const auto add = [&](auto tap_rows) {
    AddTapRows<N, 1, kCols, decltype(tap_rows)::kValue, kTaps, kStride>(
        block, tiles, channels, sums, /*last=*/true);
    return tiles;
  };
  if constexpr (kTaps == 3) {
    if (block.begin_row == 0 && block.end_row == block.num_rows) {
      if constexpr (kStride > 0) {
        if (block.num_rows == 3) return add(Int<3>());
      } else {
        if (block.num_rows == 2) return add(Int<2>());
        if (block.num_rows == 1) return add(Int<1>());
      }
    }
  }
  return add(Int<0>());
}

// The same for the positions [begin, end) of a row. Columns of the block are
// still to be found; `src_row` is column 0 of the source, whether it exists or
// not. `sums` are those of position 0; see SumTileRow.
template <int N, int kCols, int kTaps, int kStride, typename S, typename Done>
void SumRowOfStridedTiles(const GatherProblem& problem,
                          const TapBlock<S>& block, const S* src_row,
                          int64_t begin, int64_t end, int64_t channels,
                          TileSums<S> sums, Done done) {
  S* const dst = sums.dst;
  for (int64_t col = begin; col < end;) {
    if (dst != nullptr) {
      sums.dst = dst + col * sums.col_step;
    }
    const int64_t left = end - col;
    sums.cols = left < kCols ? left : kCols;
    const int64_t tiles = SumStridedTiles<N, kCols, kTaps, kStride>(
        problem, block, src_row, col, left, channels, sums);
    done(col, sums.cols, kCols);
    col += tiles * kCols;
  }
}

// The positions [begin, end) of row `row` of the forward op. `sums` are those
// of column 0; see SumTileRow.
template <typename Isa, int N, int kTaps, typename S, typename Done>
void SumStridedRow(const GatherProblem& problem, int64_t row, int64_t begin,
                   int64_t end, const Operands<S>& operands, int64_t channels,
                   const TileSums<S>& sums, Done done) {
  const GatherPlan& rows = problem.rows;
  TapBlock<S> block;
  block.src_row_step =
      rows.dilation / operands.row_pitch * operands.src_row_step;
  block.src_col_step = operands.src_col_step;
  block.filter = operands.filter;
  block.filter_row_step = kTaps * operands.filter_tap_step;
  block.filter_col_step = operands.filter_tap_step;
  block.filter_vector_step = operands.filter_vector_step;
  block.first = true;
  block.num_rows = rows.filter_size;
  const int64_t first_row = row * rows.stride - rows.pad;
  const TapRange src_rows =
      StepsInside(first_row, rows.dilation, rows.src_size, rows.filter_size);
  block.begin_row = src_rows.begin;
  block.end_row = src_rows.end;
  const int64_t first_src_row =
      (first_row + block.begin_row * rows.dilation - operands.first_row) /
      operands.row_pitch;
  const S* src_row = operands.src + first_src_row * operands.src_row_step -
                     operands.first_col * operands.src_col_step;
  // Each row is the first to meet two.
  const int64_t pixel_bytes = operands.src_col_step * sizeof(S);
  const bool along_row =
      PrefetchesAlongRow(pixel_bytes, operands.src_row_step * sizeof(S));
  const int64_t first_new =
      first_row + (rows.filter_size - 1) * rows.dilation + (along_row ? -1 : 1);
  block.prefetch = nullptr;
  if (first_new >= 0 && first_new + 1 < operands.prefetch_rows) {
    block.prefetch = operands.src + first_new * operands.src_row_step;
    if (along_row) {
      block.prefetch += PixelsAhead(pixel_bytes) * operands.src_col_step;
    }
  }
  const auto sum_tiles = [&](auto tile_cols) {
    constexpr int kCols = decltype(tile_cols)::kValue;
    SumRowOfStridedTiles<N, kCols, kTaps, 2>(problem, block, src_row, begin,
                                             end, channels, sums, done);
  };
  if (problem.narrow) {
    sum_tiles(Int<kStreamedCols>());
  } else {
    sum_tiles(Int<Isa::kPairCols>());
  }
}

// A row of the input gradient of stride 2, both column phases together: it is
// position `row` of the phase of `row_run`. The tensors are those of the op
// themselves. `sums` are those of column 0; see SumTileRow.
template <typename Isa, int N, int kTaps, typename S>
void SumSpreadRow(const GatherProblem& problem, const TapRun& row_run,
                  int64_t row, int64_t begin, int64_t end,
                  const Operands<S>& operands, int64_t channels,
                  const TileSums<S>& sums) {
  const auto done = [](int64_t, int64_t, int64_t) {};
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  TapBlock<S> block;
  block.src_row_step = rows.pitch * operands.src_row_step;
  block.src_col_step = operands.src_col_step;
  block.filter =
      operands.filter + row_run.first_tap * kTaps * operands.filter_tap_step;
  block.filter_row_step = rows.tap_step * kTaps * operands.filter_tap_step;
  block.filter_col_step = operands.filter_tap_step;
  block.filter_vector_step = operands.filter_vector_step;
  block.first = true;
  block.num_rows = row_run.num_taps;
  const int64_t first_row = row_run.first_src + row * rows.pitch;
  TapRange src_rows = {0, 0};
  if (row_run.num_taps > 0) {
    src_rows = ClipToSource(rows, first_row, row_run.num_taps);
  }
  block.begin_row = src_rows.begin;
  block.end_row = src_rows.end;
  const S* src_row = operands.src + (first_row + src_rows.begin * rows.pitch) *
                                        operands.src_row_step;
  // What the next row of the phase finds new.
  const int64_t next = first_row + row_run.num_taps * rows.pitch;
  block.prefetch = next < operands.prefetch_rows
                       ? operands.src + next * operands.src_row_step
                       : nullptr;
  const auto sum_tiles = [&](auto tile_cols) {
    constexpr int kCols = decltype(tile_cols)::kValue;
    if (cols.pad % 2 == 0) {
      SumRowOfStridedTiles<N, kCols, kTaps, kHalfEven>(
          problem, block, src_row, begin, end, channels, sums, done);
    } else {
      SumRowOfStridedTiles<N, kCols, kTaps, kHalfOdd>(
          problem, block, src_row, begin, end, channels, sums, done);
    }
  };
  if (problem.narrow) {
    sum_tiles(Int<kNarrowSpreadCols>());
  } else {
    sum_tiles(Int<kSpreadCols<Isa>>());
  }
}

// The positions [begin, end) of one column phase in one or two rows. `sums` are
// those of position 0, unless all tiles share a place. `done` may move the sums
// of each tile on: done(first position, positions, positions between two rows
// of the panel).
template <typename Isa, int N, int kMaxTaps, int kTileRows, typename S,
          typename Done>
void SumTileRow(const GatherProblem& problem, TilePlace tile, int tile_rows,
                int64_t begin, int64_t end, const Operands<S>& operands,
                int64_t channels, TileSums<S> sums, Done done) {
  S* const dst = sums.dst;
  for (int64_t position = begin; position < end;) {
    const int64_t left = end - position;
    tile.col = position;
    if (dst != nullptr) {
      sums.dst = dst + position * sums.col_step;
    }
    const auto run = [&](auto rows, auto cols) {
      constexpr int kRows = decltype(rows)::kValue;
      constexpr int kCols = decltype(cols)::kValue;
      sums.cols = left < kCols ? left : kCols;
      if (!tile.down) {
        tile.tiles = dst == nullptr ? 1
                                    : AlikeTiles<kCols, kMaxTaps>(
                                          problem, tile.col_run,
                                          operands.passes, position, left);
      }
      SumTile<Isa, N, kRows, kCols, kMaxTaps>(problem, tile, operands, channels,
                                              sums);
      done(position, sums.cols, kCols);
      position += (tile.down ? 1 : tile.tiles) * kCols;
    };
    // The narrow tile wastes less on the last few positions.
    if constexpr (kTileRows == 2) {
      if (tile_rows == 2) {
        constexpr int kNarrow = Isa::kPairNarrowCols;
        if (problem.narrow || left <= kNarrow || left == 2 * kNarrow) {
          run(Int<2>(), Int<kNarrow>());
        } else {
          run(Int<2>(), Int<Isa::kPairCols>());
        }
        continue;
      }
    }
    constexpr int kNarrow = Isa::kNarrowCols;
    if (problem.narrow || left <= kNarrow || left == 2 * kNarrow) {
      run(Int<1>(), Int<kNarrow>());
    } else {
      run(Int<1>(), Int<Isa::kWideCols>());
    }
  }
}

// How many tiles from row `row` down to `end` are whole, see all rows of their
// windows and find what they prefetch in this image.
inline int64_t AlikeTilesBelow(const GatherProblem& problem,
                               const TapRun& row_run, int64_t row, int64_t end,
                               bool prefetch) {
  const int64_t tile_rows = problem.tile_rows;
  const int64_t src_row = row_run.first_src + row;
  if (src_row < 0) return 1;
  const int64_t window = row_run.num_taps + tile_rows - 1;
  const int64_t by_src =
      (problem.rows.src_size - src_row - window) / tile_rows +
      (prefetch ? 0 : 1);
  const int64_t by_dst = (end - row) / tile_rows;
  const int64_t tiles = by_src < by_dst ? by_src : by_dst;
  return tiles > 1 ? tiles : 1;
}

// A strip of an image: tiles follow each other down its rows. There is a single
// phase. `sums` are those of row 0 and column 0. Tells before(tiles) of those
// that are about to be summed up.
template <typename Isa, int N, int kMaxTaps, int kTileRows, typename S,
          typename Before>
void SumStrip(const GatherProblem& problem, const TapRange& rows,
              const TapRange& cols, const Operands<S>& operands,
              int64_t channels, TileSums<S> sums, Before before) {
  TilePlace tile;
  tile.row_run = FirstRun(problem.rows, 0);
  tile.col_run = FirstRun(problem.cols, 0);
  tile.down = true;
  const int64_t tile_rows = problem.tile_rows;
  S* const dst = sums.dst;
  for (int64_t row = rows.begin; row < rows.end;
       row += tile.tiles * tile_rows) {
    tile.row = row;
    tile.tiles = AlikeTilesBelow(problem, tile.row_run, row, rows.end,
                                 operands.prefetch_rows > 0);
    before(tile.tiles);
    sums.dst = dst + row * sums.row_step;
    SumTileRow<Isa, N, kMaxTaps, kTileRows>(
        problem, tile, rows.end - row < tile_rows ? 1 : kTileRows, cols.begin,
        cols.end, operands, channels, sums, [](int64_t, int64_t, int64_t) {});
  }
}

// A tap column of a scattered tile: the tile's columns [begin, end) find their
// source `src` elements behind the first pixel of the source row.
struct ScatteredTap {
  int64_t src;
  int64_t filter;
  int64_t begin;
  int64_t end;
};

// Where a dilation leaves few positions to a phase, tiles of a phase would be
// mostly empty. Instead a tile is kCols neighbours in the image, all of which
// the same taps reach, each tap in pixels of its own.
template <int N, int kCols, typename S>
void SumScatteredTile(const S* src, int64_t src_row_step, int64_t src_col_step,
                      const typename AccumulatorOf<S>::type* filter,
                      int64_t filter_row_step, int64_t filter_vector_step,
                      int64_t num_rows, const ScatteredTap* taps,
                      int64_t num_taps, int64_t channels,
                      const TileSums<S>& sums, const S* prefetch) {
  typedef typename AccumulatorOf<S>::type A;
  typedef Vector<A, N> V;
  constexpr int kLanes = kParts<S> * N;
  constexpr int64_t kLine = kLineBytes / sizeof(S);
  A* panel = sums.panel;
  constexpr int kLines = kOpenLines<N, kCols, S>;
  alignas(kLineBytes) S lines[kLines > 0 ? kLines : 1];
  for (int64_t index = 0; index * kLanes < channels; ++index) {
    const int64_t c = FirstLane<kLanes>(index, channels);
    if (prefetch != nullptr && (kLanes >= kLine || c % kLine == 0)) {
      PrefetchTile<1, kCols, Hint::kRead>(prefetch + c, 0, src_col_step);
    }
    const auto sum_part = [&](auto part,
                              V(&sum)[kCols]) __attribute__((always_inline)) {
      constexpr int kPart = decltype(part)::kValue;
      const S* src_row = src + c;
      const A* filter_row = filter + kPart * filter_vector_step;
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) sum[col] = V{};
      const auto add_row = [&](auto paired) __attribute__((always_inline)) {
        constexpr bool kPaired = decltype(paired)::kValue;
        for (int64_t t = 0; t < num_taps; ++t) {
          const ScatteredTap& tap = taps[t];
          const V loaded = Access<A, N>::Load(filter_row + tap.filter);
          const V weight = kPaired ? loaded : LowerOfPairs<S>(loaded);
          const S* const first = src_row + tap.src;
          const Columns<kCols, const S> columns(first, src_col_step);
          const Columns<kCols, const S> below(first + src_row_step,
                                              src_col_step);
          const auto add = [&](int col) __attribute__((always_inline)) {
            sum[col] = AddProduct<S>(
                sum[col], LoadPart<kPart, N, kPaired>(columns[col], below[col]),
                weight);
          };
          if (tap.begin == 0 && tap.end == kCols) {
#pragma GCC unroll 16
            for (int col = 0; col < kCols; ++col) add(col);
          } else {
#pragma GCC unroll 16
            for (int col = 0; col < kCols; ++col) {
              if (col < tap.begin || col >= tap.end) continue;
              add(col);
            }
          }
        }
        src_row += (kPaired ? 2 : 1) * src_row_step;
        filter_row += (kPaired ? 2 : 1) * filter_row_step;
      };
      int64_t row = 0;
      if constexpr (kPairsRows<S>) {
        for (; row + 1 < num_rows; row += 2) add_row(Int<true>());
      }
      for (; row < num_rows; ++row) add_row(Int<false>());
    };
    V sum[kCols];
    if constexpr (kParts<S> > 1) {
      sum_part(Int<0>(), sum);
      KeepTileRow<N>(sum, panel);
    }
    sum_part(Int<kParts<S> - 1>(), sum);
    A* const last_part = panel + (kParts<S> - 1) * kCols * N;
    if (sums.dst == nullptr) {
      KeepTileRow<N>(sum, last_part);
      panel += kParts<S> * kCols * N;
    } else {
      WriteTileRow<false, true, N>(sum, panel, last_part, lines, index,
                                   channels - index * kLanes, sums.dst + c,
                                   sums);
    }
    filter += kParts<S> * filter_vector_step;
  }
}

// The columns [begin, end) of a row, which is position `row` of the phase of
// `row_run`. `sums` are those of column 0; see SumTileRow.
template <typename Isa, int N, typename S, typename Done>
void SumScatteredRow(const GatherProblem& problem, const TapRun& row_run,
                     int64_t row, int64_t begin, int64_t end,
                     const Operands<S>& operands, int64_t channels,
                     TileSums<S> sums, Done done) {
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t row_base = row_run.first_src + row * rows.pitch;
  TapRange row_taps = {0, 0};
  if (row_run.num_taps > 0) {
    row_taps = ClipToSource(rows, row_base, row_run.num_taps);
  }
  int64_t src_row = row_base + row_taps.begin * rows.pitch - operands.first_row;
  if (operands.row_pitch != 1) src_row /= operands.row_pitch;
  const S* src = operands.src + src_row * operands.src_row_step;
  const auto* filter =
      operands.filter + (row_run.first_tap + row_taps.begin * rows.tap_step) *
                            cols.filter_size * operands.filter_tap_step;
  // What the next row of the phase finds new.
  const int64_t next = row_base + row_run.num_taps * rows.pitch;
  const bool prefetch = next < operands.prefetch_rows;
  const S* next_row = operands.src + next * operands.src_row_step;
  S* const dst = sums.dst;
  for (int64_t col = begin; col < end;) {
    const auto run = [&](auto tile_cols) {
      constexpr int kCols = decltype(tile_cols)::kValue;
      sums.cols = end - col < kCols ? end - col : kCols;
      if (dst != nullptr) {
        sums.dst = dst + col * sums.col_step;
      }
      ScatteredTap taps[kMaxScatteredTaps];
      int64_t num_taps = 0;
      for (int64_t tap = 0; tap < cols.filter_size; ++tap) {
        const int64_t first = col + cols.pad - tap * cols.dilation;
        ScatteredTap& entry = taps[num_taps];
        entry.src = (first - operands.first_col) * operands.src_col_step;
        entry.filter = tap * operands.filter_tap_step;
        entry.begin = first < 0 ? -first : 0;
        entry.end = cols.src_size - first < sums.cols ? cols.src_size - first
                                                      : sums.cols;
        if (entry.begin < entry.end) ++num_taps;
      }
      SumScatteredTile<N, kCols>(
          src, rows.pitch / operands.row_pitch * operands.src_row_step,
          operands.src_col_step, filter,
          rows.tap_step * cols.filter_size * operands.filter_tap_step,
          operands.filter_vector_step, row_taps.end - row_taps.begin, taps,
          num_taps, channels, sums,
          prefetch && col < cols.src_size
              ? next_row + col * operands.src_col_step
              : nullptr);
      done(col, sums.cols, kCols);
      col += kCols;
    };
    if (problem.narrow || end - col <= Isa::kNarrowCols) {
      run(Int<Isa::kNarrowCols>());
    } else {
      run(Int<Isa::kWideCols>());
    }
  }
}

// Positions of the tiles that take turns with narrower ones at the end of a
// row.
template <typename Isa>
inline int64_t TileCols(const GatherProblem& problem, int rows, bool narrow) {
  if (problem.strided) {
    return narrow ? kStreamedCols : Isa::kPairCols;
  }
  if (problem.spread) {
    return narrow ? kNarrowSpreadCols : kSpreadCols<Isa>;
  }
  if (problem.scattered || rows == 1) {
    return narrow ? Isa::kNarrowCols : Isa::kWideCols;
  }
  return narrow ? Isa::kPairNarrowCols : Isa::kPairCols;
}

// Calls run with the number of neighbouring taps to do at a time and whether
// tiles have two rows.
template <typename Isa, typename Run>
inline void WithTileShape(const GatherProblem& problem, Run run) {
  if constexpr (Isa::kPairMaxTaps > 0 && Isa::kPairMaxTaps < Isa::kMaxTaps) {
    if (problem.tile_rows == 2 && problem.most_taps <= Isa::kPairMaxTaps) {
      run(Int<Isa::kPairMaxTaps>(), Int<2>());
      return;
    }
  }
  if constexpr (Isa::kPairMaxTaps >= Isa::kMaxTaps || Isa::kPairBlocks) {
    if (problem.tile_rows == 2) {
      run(Int<Isa::kMaxTaps>(), Int<2>());
      return;
    }
  }
  // Scattered tiles have a single row, too, and are none of this.
  run(Int<Isa::kMaxTaps>(), Int<1>());
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_TILE_H_
