// Forward op and input gradient for NHWC where tiles follow each other down the
// image rather than along its rows, a few lines of each pixel at a time. A
// tile's window is then still in the first cache when the next one shares most
// of it: while results are written past the caches, the second cache is slow to
// answer.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_DOWNWARD_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_DOWNWARD_H_

#include "cc/kernels/cpu/gather_tile.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/packed_filter.h"

namespace tf_dwgrad {
namespace {

// A unit of work is a strip, a few columns of an image, for one block of
// channels. There is a single phase.
template <typename Isa, typename T>
class DownwardGather {
 public:
  DownwardGather(const GatherProblem& problem, const T* src, const T* filter,
                 T* dst, void* scratch)
      : problem_(problem),
        rows_(problem.rows),
        cols_(problem.cols),
        taps_(rows_.filter_size * cols_.filter_size),
        row_run_(FirstRun(rows_, 0)),
        col_run_(FirstRun(cols_, 0)),
        src_(src),
        filter_(filter),
        dst_(dst),
        packed_filter_(static_cast<A*>(scratch)) {}

  template <int kMaxTaps, int kTileRows>
  void Run(int64_t begin, int64_t end) {
    const int64_t depth = problem_.in_depth;
    A panel[kMaxPositions * (kMaxKeptChannels + kLanes)];
    Operands<T> operands;
    operands.src_row_step = cols_.src_size * depth;
    operands.src_col_step = depth;
    operands.filter_tap_step = N;
    operands.filter_vector_step = taps_ * N;
    operands.prefetch_rows = problem_.prefetch ? rows_.src_size : 0;
    TileSums<T> sums;
    sums.panel = panel;
    sums.row_step = cols_.dst_size * depth;
    sums.col_step = depth;
    sums.joins_lines = problem_.joins_lines;
    sums.stream = problem_.beyond_cache && kCanStream<T> &&
                  reinterpret_cast<uintptr_t>(dst_) % kLineBytes == 0;
    sums.prefetch_dst = false;

    uint64_t packed_blocks = 0;
    static_assert(kMostDownwardBlocks <= 64, "a bit for each");
    Unit next = FindUnit(begin);
    for (int64_t index = begin; index < end; ++index) {
      const Unit unit = next;
      const uint64_t bit = uint64_t{1} << unit.block;
      if ((packed_blocks & bit) == 0) {
        PackFilterBlock<N>(filter_ + unit.channel, taps_, depth, unit.channels,
                           packed_filter_ + unit.channel * taps_,
                           NextTapRow(problem_));
        packed_blocks |= bit;
      }
      operands.src = unit.src;
      operands.filter = packed_filter_ + unit.channel * taps_;
      operands.next_strip = nullptr;
      if (index + 1 < end) {
        next = FindUnit(index + 1);
        operands.next_strip =
            next.src +
            (col_run_.first_src + next.begin + col_run_.num_taps - 1) * depth;
      }
      SumStrip<kMaxTaps, kTileRows>(unit, operands, sums);
    }
    if (sums.stream) FinishStreaming();
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);
  static constexpr int kLanes = kParts<T> * N;

  struct Unit {
    int64_t block;
    int64_t channel;  // the first
    int64_t channels;
    int64_t begin;  // columns of dst
    int64_t end;
    const T* src;  // the first pixel of the image
    T* dst;
  };

  Unit FindUnit(int64_t index) const {
    Unit unit;
    const int64_t strips = DownwardStrips(problem_);
    unit.begin = index % strips * kDownwardCols;
    unit.end = unit.begin + kDownwardCols;
    if (unit.end > cols_.dst_size) unit.end = cols_.dst_size;
    unit.block = index / strips % problem_.num_blocks;
    const int64_t image = index / strips / problem_.num_blocks;
    unit.channel = unit.block * problem_.channel_block;
    unit.channels = unit.block + 1 < problem_.num_blocks
                        ? problem_.channel_block
                        : problem_.in_depth - unit.channel;
    const int64_t depth = problem_.in_depth;
    unit.src =
        src_ + image * rows_.src_size * cols_.src_size * depth + unit.channel;
    unit.dst =
        dst_ + image * rows_.dst_size * cols_.dst_size * depth + unit.channel;
    return unit;
  }

  // How many tiles from row `row` on are whole, see all rows of their windows
  // and find what they prefetch in this image.
  int64_t AlikeTiles(int64_t row) const {
    const int64_t tile_rows = problem_.tile_rows;
    const int64_t src_row = row_run_.first_src + row;
    const int64_t window = row_run_.num_taps + tile_rows - 1;
    if (src_row < 0) return 1;
    const int64_t by_src = (rows_.src_size - src_row - window) / tile_rows;
    const int64_t by_dst = (rows_.dst_size - row) / tile_rows;
    const int64_t tiles = by_src < by_dst ? by_src : by_dst;
    return tiles > 1 ? tiles : 1;
  }

  template <int kMaxTaps, int kTileRows>
  void SumStrip(const Unit& unit, const Operands<T>& operands,
                TileSums<T> sums) const {
    TilePlace tile;
    tile.row_run = row_run_;
    tile.col_run = col_run_;
    tile.down = true;
    const int64_t tile_rows = problem_.tile_rows;
    for (int64_t row = 0; row < rows_.dst_size; row += tile.tiles * tile_rows) {
      const int64_t rows_left = rows_.dst_size - row;
      tile.row = row;
      tile.tiles = AlikeTiles(row);
      sums.dst = unit.dst + row * sums.row_step;
      SumTileRow<Isa, N, kMaxTaps, kTileRows>(
          problem_, tile, rows_left < tile_rows ? 1 : kTileRows, unit.begin,
          unit.end, operands, unit.channels, sums,
          [](int64_t, int64_t, int64_t) {});
    }
  }

  const GatherProblem& problem_;
  const GatherPlan& rows_;
  const GatherPlan& cols_;
  const int64_t taps_;
  const TapRun row_run_;
  const TapRun col_run_;
  const T* const src_;
  const T* const filter_;
  T* const dst_;
  A* const packed_filter_;
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_DOWNWARD_H_
