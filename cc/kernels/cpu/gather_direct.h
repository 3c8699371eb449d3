// Forward op and input gradient for NHWC with few taps and without a depth
// multiplier: they stream from the source to the result, vectors over channels.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_DIRECT_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_DIRECT_H_

#include "cc/kernels/cpu/gather_copied.h"
#include "cc/kernels/cpu/gather_downward.h"
#include "cc/kernels/cpu/gather_tile.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/packed_filter.h"
#include "cc/kernels/cpu/streamed_rows.h"

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

  Operands<T> operands = OperandsOf<N, T>(problem, depth);
  operands.filter = packed_filter;

  TileSums<T> sums;
  sums.panel = panel;
  sums.row_step = rows.num_phases * cols.dst_size * depth;
  sums.col_step =
      problem.scattered || problem.spread ? depth : cols.num_phases * depth;
  // If every vector of every pixel is aligned, tiles go straight past the
  // caches; so do those that would be too large for the first cache, if every
  // other pixel begins amid a line. All others go by way of rows in cache.
  // Pixels share lines then, which must be written together: where the phases
  // of a stride take turns, tiles go through the caches, unless there are two
  // phases only, which can take turns by the piece; that pays where no line
  // would still be there.
  const bool together = !problem.backward || cols.stride == 1 || problem.spread;
  const bool phases_together =
      problem.far_beyond && cols.pitch == 1 && cols.num_phases == 2;
  constexpr int kVectorBytes = kLanes * sizeof(T);
  constexpr int64_t kHalfLine = kLineBytes / 2;
  const bool halves = kMayHalveLines<N, T> && depth >= kMaxTileChannels &&
                      together && !problem.spread &&
                      depth * sizeof(T) % kLineBytes == kHalfLine &&
                      sums.col_step * sizeof(T) % kLineBytes == kHalfLine;
  const int64_t aligned_bytes = halves ? kHalfLine : kVectorBytes;
  sums.joins_lines = problem.joins_lines;
  sums.stream = problem.beyond_cache && kCanStream<T> &&
                depth * sizeof(T) % aligned_bytes == 0 &&
                reinterpret_cast<uintptr_t>(dst) % aligned_bytes == 0;
  // Moving pieces on pays where there are few products. In 16 bits it takes
  // longer than it saves, unless every other pixel would be written, or pixels
  // are long, but not too long for the first cache, which larger filters take
  // more of.
  constexpr int64_t kMostMovedTaps = 49;
  constexpr int64_t kFewTaps = 9;
  constexpr int64_t kManyChannels = 128;
  const int64_t too_many = (taps <= kFewTaps ? 2 : 1) * kMaxTileChannels;
  const bool pays =
      taps <= kMostMovedTaps &&
      (sizeof(T) == sizeof(A) || problem.spread ||
       (kParts<T> > 1 && depth >= kManyChannels && depth < too_many));
  const bool by_way_of_rows = problem.beyond_cache && !sums.stream &&
                              (together || phases_together) && pays;
  sums.prefetch_dst = problem.beyond_cache && !sums.stream && !by_way_of_rows;
  const int64_t dst_row_step = sums.row_step;
  const bool own_phases =
      !problem.scattered && !problem.strided && !problem.spread;
  const int64_t phases_of_row = own_phases ? col_phases : 1;
  // Two phases take turns by the piece, so that their pixels are neighbours.
  const int64_t phases_of_piece =
      by_way_of_rows && phases_of_row == 2 && cols.num_phases == 2 ? 2 : 1;
  const int64_t pixel_step = sums.col_step / phases_of_piece;
  StreamedRows<Isa, T> streamed(
      packed_filter + problem.block_vectors * taps * N,
      problem.block_vectors * N);

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

    const ChannelRange of_block = ChannelsOfBlock(problem, depth, block);
    const int64_t channel = of_block.first;
    const int64_t channels = of_block.count;
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
    // Positions [begin, end) of a phase, of which position 0 is at `first`.
    const auto sum_positions = [&](int64_t phase, int64_t begin_position,
                                   int64_t end_position, T* first) {
      sums.dst = first;
      const auto done = [](int64_t, int64_t, int64_t) {};
      if (problem.scattered) {
        SumScatteredRow<Isa, N>(problem, tile.row_run, tile.row, begin_position,
                                end_position, operands, channels, sums, done);
      } else if (problem.strided) {
        SumStridedRow<Isa, N, 3>(problem, tile.row, begin_position,
                                 end_position, operands, channels, sums, done);
      } else if (problem.spread && cols.filter_size == 3) {
        SumSpreadRow<Isa, N, 3>(problem, tile.row_run, tile.row, begin_position,
                                end_position, operands, channels, sums);
      } else if (problem.spread) {
        SumSpreadRow<Isa, N, 5>(problem, tile.row_run, tile.row, begin_position,
                                end_position, operands, channels, sums);
      } else {
        tile.col_run = phases_across[phase].run;
        SumTileRow<Isa, N, kMaxTaps, kTileRows>(problem, tile, rows_here,
                                                begin_position, end_position,
                                                operands, channels, sums, done);
      }
    };
    const auto size_of = [&](int64_t phase) {
      return own_phases ? phases_across[phase].size : cols.dst_size;
    };
    if (!by_way_of_rows) {
      for (int64_t phase = 0; phase < phases_of_row; ++phase) {
        sum_positions(phase, 0, size_of(phase), dst_row + phase * depth);
      }
      continue;
    }
    // A piece has so many positions of a phase.
    const int64_t piece = streamed.MostPositions(
        TileCols<Isa>(problem, rows_here,
                      problem.narrow || phases_of_piece == 2),
        phases_of_piece, rows_here * channels);
    sums.col_step = phases_of_piece * channels;
    for (int64_t phase = 0; phase < phases_of_row; phase += phases_of_piece) {
      streamed.Begin(dst_row + phase * depth, dst_row_step, rows_here, channels,
                     pixel_step);
      const int64_t size = size_of(phase);
      for (int64_t first = 0; first < size; first += piece) {
        const bool last = first + piece >= size;
        sums.row_step = streamed.row_step();
        int64_t pixels = 0;
        for (int64_t i = 0; i < phases_of_piece; ++i) {
          const int64_t end_position =
              last ? size_of(phase + i) : first + piece;
          sum_positions(
              phase + i, first, end_position,
              streamed.place() + i * channels - first * sums.col_step);
          pixels += end_position - first;
        }
        streamed.Write(pixels, last);
      }
    }
  }
  if (problem.beyond_cache) FinishStreaming();
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
    if (problem.downward) {
      DownwardGather<Isa, T>(problem, typed_src, typed_filter, typed_dst,
                             scratch)
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
