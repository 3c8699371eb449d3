// Forward op and input gradient for NHWC with few taps and without a depth
// multiplier: they stream from the source to the result, vectors over channels.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_DIRECT_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_DIRECT_H_

#include "cc/kernels/cpu/gather_copied.h"
#include "cc/kernels/cpu/gather_tile.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/packed_filter.h"

namespace tf_dwgrad {
namespace {

// A unit of work is a tile row (one or two rows of a row phase) of one image
// for one block of channels.
template <typename Isa, int kMaxTaps, int kTileRows, typename T>
void GatherDirectUnits(const GatherProblem& problem, const T* src,
                       const T* filter, T* dst, void* scratch, int64_t begin,
                       int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  static_assert(2 * Isa::kPairCols <= kMaxPositions, "the panel is too small");
  static_assert(Isa::kWideCols <= kMaxPositions, "the panel is too small");
  static_assert(4 * Isa::kPairNarrowCols <= kMaxPositions &&
                    2 * Isa::kNarrowCols <= kMaxPositions,
                "the panel is too small");
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t depth = problem.in_depth;
  const int64_t col_phases = PhaseCount(cols);
  const int64_t tile_rows = problem.tile_rows;
  constexpr int kLanes = kParts<T> * N;
  A panel[kMaxPositions * (kMaxKeptChannels + kLanes)];

  const int64_t taps = rows.filter_size * cols.filter_size;
  A* packed_filter = static_cast<A*>(scratch);
  int64_t packed_block = -1;

  Operands<T> operands;
  operands.src_row_step = cols.src_size * depth;
  operands.src_col_step = depth;
  operands.filter = packed_filter;
  operands.filter_tap_step = N;
  operands.filter_vector_step = taps * N;

  TileSums<T> sums;
  sums.panel = panel;
  sums.row_step = rows.num_phases * cols.dst_size * depth;
  sums.col_step =
      problem.scattered || problem.spread ? depth : cols.num_phases * depth;
  // If every vector of every pixel is aligned, tiles go straight past the
  // caches, otherwise by way of a tile in cache. If vectors begin in the middle
  // of a line, so do tiles that would be too large for the first cache, where
  // only every other pixel leaves lines open (see LeavesLinesOpen); not those
  // of two phases, of which pieces of a line come too far apart. Pixels
  // share lines then, which must be written together: where the phases of a
  // stride take turns, tiles go through the caches, unless there are two phases
  // only, which can share a tile; that pays where no line would still be there.
  const bool stream = problem.beyond_cache && kCanStream<T>;
  const bool together = !problem.backward || cols.stride == 1 || problem.spread;
  const bool phases_together = problem.far_beyond && cols.pitch == 1 &&
                               col_phases == 2 && !problem.spread;
  constexpr int kVectorBytes = kLanes * sizeof(T);
  const bool alternate = sums.col_step * sizeof(T) % kLineBytes != 0;
  const int aligned_bytes = kVectorBytes == 64 && depth >= kMaxTileChannels &&
                                    together && alternate && !problem.spread
                                ? kVectorBytes / 2
                                : kVectorBytes;
  sums.stream = stream && depth * sizeof(T) % aligned_bytes == 0 &&
                reinterpret_cast<uintptr_t>(dst) % aligned_bytes == 0;
  // Tiles of 16-bit types are too short for the second step.
  sums.dst_is_tile = stream && !sums.stream && (together || phases_together) &&
                     sizeof(T) == sizeof(A) && depth >= 2 * N && taps <= 9;
  sums.prefetch_dst = problem.beyond_cache && !sums.stream && !sums.dst_is_tile;
  const int64_t dst_row_step = sums.row_step;
  // From a pixel of a tile to the next, where tiles are moved on.
  const int64_t pixel_step = phases_together ? depth : sums.col_step;
  T* const tile_dst =
      reinterpret_cast<T*>(packed_filter + problem.block_vectors * taps * N);

  const Phases phases_down(rows);
  const Phases phases_across(cols);
  const int64_t row_phases = PhaseCount(rows);
  const int64_t groups = TilesDown(problem);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t index = unit % (row_phases * groups);
    const int64_t block = unit / (row_phases * groups) % problem.num_blocks;
    const int64_t image = unit / (row_phases * groups) / problem.num_blocks;
    // The phases of a stride read the same source rows, those of a dilation
    // different ones.
    const int64_t row_phase =
        rows.pitch == 1 ? index % row_phases : index / groups;
    TilePlace tile;
    tile.row =
        (rows.pitch == 1 ? index / row_phases : index % groups) * tile_rows;
    const Phase down = phases_down[row_phase];
    const int64_t rows_left = down.size - tile.row;
    if (rows_left <= 0) continue;
    tile.row_run = down.run;

    const int64_t channel = block * problem.channel_block;
    const int64_t channels = block + 1 < problem.num_blocks
                                 ? problem.channel_block
                                 : depth - channel;
    operands.src =
        src + image * rows.src_size * operands.src_row_step + channel;
    if (block != packed_block) {
      PackFilterBlock<N>(filter + channel, taps, depth, channels, packed_filter,
                         NextTapRow(problem));
      packed_block = block;
    }
    // Below the last row of an image the next one begins.
    operands.prefetch_rows =
        problem.prefetch ? rows.src_size * (problem.batch - image) : 0;
    T* dst_row =
        dst +
        ((image * rows.dst_size + row_phase + tile.row * rows.num_phases) *
         cols.dst_size) *
            depth +
        channel;
    const int rows_here =
        rows_left < tile_rows ? 1 : static_cast<int>(tile_rows);
    if (sums.dst_is_tile) {
      sums.col_step = channels;
      sums.row_step = kMaxPositions / tile_rows * channels;
    }
    // Moves on a tile of which position 0 is at `to`.
    const auto move_on = [&](T* to) {
      return [=](int64_t position, int64_t positions, int64_t) {
        if constexpr (sizeof(T) != sizeof(A)) return;
        if (!sums.dst_is_tile) return;
        for (int row = 0; row < rows_here; ++row) {
          const T* from = tile_dst + row * sums.row_step;
          T* to_row = to + row * dst_row_step + position * pixel_step;
          if (pixel_step == channels) {
            StreamRun<N>(from, positions * channels, to_row);
            continue;
          }
          for (int64_t i = 0; i < positions; ++i) {
            StreamRun<N>(from + i * channels, channels,
                         to_row + i * pixel_step);
          }
        }
      };
    };
    if (problem.scattered) {
      sums.dst = sums.dst_is_tile ? tile_dst : dst_row;
      SumScatteredRow<Isa, N>(problem, tile.row_run, tile.row, 0, cols.dst_size,
                              operands, channels, sums, move_on(dst_row));
      continue;
    }
    if (problem.strided) {
      sums.dst = sums.dst_is_tile ? tile_dst : dst_row;
      SumStridedRow<Isa, N, 3>(problem, tile.row, 0, cols.dst_size, operands,
                               channels, sums, move_on(dst_row));
      continue;
    }
    if (problem.spread) {
      sums.dst = sums.dst_is_tile ? tile_dst : dst_row;
      const auto sum_row = [&](auto filter_cols) {
        SumSpreadRow<Isa, N, decltype(filter_cols)::kValue>(
            problem, tile.row_run, tile.row, operands, channels, sums,
            move_on(dst_row));
      };
      if (cols.filter_size == 3) {
        sum_row(Int<3>());
      } else {
        sum_row(Int<5>());
      }
      continue;
    }
    if (sums.dst_is_tile && phases_together) {
      const int64_t step =
          rows_here == 2 ? Isa::kPairNarrowCols : Isa::kNarrowCols;
      sums.col_step = 2 * channels;
      for (int64_t begin = 0; begin < phases_across[0].size; begin += step) {
        for (int64_t phase = 0; phase < 2; ++phase) {
          const Phase across = phases_across[phase];
          tile.col_run = across.run;
          sums.dst = tile_dst + phase * channels;
          SumTileRow<Isa, N, kMaxTaps, kTileRows>(
              problem, tile, rows_here, begin,
              begin + step < across.size ? begin + step : across.size, operands,
              channels, sums, [](int64_t, int64_t, int64_t) {});
        }
        const int64_t left = cols.dst_size - 2 * begin;
        move_on(dst_row)(2 * begin, left < 2 * step ? left : 2 * step, 0);
      }
      continue;
    }
    for (int64_t phase = 0; phase < col_phases; ++phase) {
      const Phase across = phases_across[phase];
      tile.col_run = across.run;
      T* to = dst_row + phase * depth;
      sums.dst = sums.dst_is_tile ? tile_dst : to;
      SumTileRow<Isa, N, kMaxTaps, kTileRows>(problem, tile, rows_here, 0,
                                              across.size, operands, channels,
                                              sums, move_on(to));
    }
  }
  if (stream) FinishStreaming();
}

template <typename Isa, typename T>
void GatherDirect(const GatherProblem& problem, const void* src,
                  const void* filter, void* dst, void* scratch, int64_t begin,
                  int64_t end) {
  typedef typename TakenApart<T>::type Apart;
  if constexpr (Isa::kTakesApart && kParts<Apart> != kParts<T>) {
    if constexpr (Isa::kPairsRows) {
      if (problem.takes_apart && problem.pairs_rows) {
        GatherDirect<Isa, typename TakenApart<T>::paired_type>(
            problem, src, filter, dst, scratch, begin, end);
        return;
      }
    }
    if (problem.takes_apart) {
      GatherDirect<Isa, Apart>(problem, src, filter, dst, scratch, begin, end);
      return;
    }
  }
  if constexpr (kParts<T> == 1 && kParts<Apart> == 1 &&
                TakesLines(Isa::kVectorBytes, sizeof(T),
                           sizeof(typename AccumulatorOf<T>::type))) {
    if (problem.takes_lines) {
      GatherDirect<Isa, LineOf<T>>(problem, src, filter, dst, scratch, begin,
                                   end);
      return;
    }
  }
  WithTileShape<Isa>(problem, [&](auto max_taps, auto tile_rows) {
    constexpr int kMaxTaps = decltype(max_taps)::kValue;
    constexpr int kTileRows = decltype(tile_rows)::kValue;
    const T* const typed_src = static_cast<const T*>(src);
    const T* const typed_filter = static_cast<const T*>(filter);
    T* const typed_dst = static_cast<T*>(dst);
    if (problem.copied) {
      CopiedGather<Isa, T>(problem, typed_src, typed_filter, typed_dst, scratch)
          .template Run<kMaxTaps, kTileRows>(begin, end);
      return;
    }
    GatherDirectUnits<Isa, kMaxTaps, kTileRows>(
        problem, typed_src, typed_filter, typed_dst, scratch, begin, end);
  });
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_DIRECT_H_
