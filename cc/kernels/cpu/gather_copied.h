// Forward op and input gradient for NHWC where the pixels of a tile compete for
// the first cache (see copy_pixels.h). A unit of work copies a block of
// channels of the source rows that it needs and sums up tiles of the copy, row
// by row or, as DownwardGather does, strip by strip.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_COPIED_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_COPIED_H_

#include "cc/kernels/cpu/copy_pixels.h"
#include "cc/kernels/cpu/gather_tile.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/packed_filter.h"

namespace tf_dwgrad {
namespace {

template <typename Isa, typename T>
class CopiedGather {
 public:
  CopiedGather(const GatherProblem& problem, const T* src, const T* filter,
               T* dst, void* scratch)
      : problem_(problem),
        rows_(problem.rows),
        cols_(problem.cols),
        taps_(rows_.filter_size * cols_.filter_size),
        copy_step_(CopyStep(problem.channel_block, sizeof(T))),
        src_(src),
        filter_(filter),
        dst_(dst),
        packed_filter_(static_cast<A*>(scratch)),
        copy_(reinterpret_cast<T*>(packed_filter_ +
                                   problem.block_vectors * taps_ * N)) {}

  template <int kMaxTaps, int kTileRows>
  void Run(int64_t begin, int64_t end) {
    const int64_t depth = problem_.in_depth;
    A panel[kMaxPositions * (kMaxKeptChannels + kLanes)];
    Operands<T> operands = OperandsOf<N, T>(problem_, copy_step_);
    operands.src = copy_;
    operands.filter = packed_filter_;
    TileSums<T> sums = SumsOfLines(problem_, dst_, panel);

    int64_t packed_block = -1;
    Unit next = FindUnit(begin);
    for (int64_t index = begin; index < end; ++index) {
      const Unit unit = next;
      if (unit.block != packed_block) {
        PackFilterBlock<N>(filter_ + unit.channels.first, taps_, depth,
                           unit.channels.count, packed_filter_,
                           NextTapRow(problem_));
        packed_block = unit.block;
      }
      CopyPixels(unit.src, unit.pixels, depth, unit.channels.count, copy_,
                 copy_step_);
      operands.first_row = unit.first_src_row;
      // While tiles are summed up, what the next unit copies comes closer.
      ComingPixels<T> coming = {nullptr, 0, depth, 0};
      if (index + 1 < end) {
        next = FindUnit(index + 1);
        coming = {next.src, next.pixels, depth, next.channels.count};
      }
      sums.dst = dst_ + unit.image * rows_.dst_size * sums.row_step +
                 unit.channels.first;
      if (problem_.downward) {
        SumStrips<kMaxTaps, kTileRows>(unit, operands, sums, &coming);
      } else {
        SumRows<kMaxTaps, kTileRows>(unit, operands, sums, &coming);
      }
    }
    if (sums.stream) FinishStreaming();
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);
  static constexpr int kLanes = kParts<T> * N;

  // Some rows of an image, for a block of channels.
  struct Unit {
    int64_t block;
    ChannelRange channels;
    int64_t image;
    int64_t begin;  // rows of dst
    int64_t end;
    int64_t first_src_row;  // that they need, and its first pixel
    const T* src;
    int64_t pixels;  // neighbours from there on
  };

  // Images take turns with a block of the filter, rather than the other way
  // round.
  Unit FindUnit(int64_t index) const {
    Unit unit;
    const int64_t panels = problem_.row_panels.num_panels;
    const int64_t positions = problem_.row_panels.positions;
    unit.begin = index % panels * positions;
    unit.end = unit.begin + positions;
    if (unit.end > rows_.dst_size) unit.end = rows_.dst_size;
    unit.image = index / panels % problem_.batch;
    unit.block = index / panels / problem_.batch;
    unit.channels = ChannelsOfBlock(problem_, problem_.in_depth, unit.block);
    const SourceRange sources =
        SourcesOf(rows_, 0, 1, unit.begin, unit.end, /*skip=*/false);
    unit.first_src_row = sources.first;
    unit.src = src_ +
               (unit.image * rows_.src_size + sources.first) * cols_.src_size *
                   problem_.in_depth +
               unit.channels.first;
    unit.pixels = sources.count * cols_.src_size;
    return unit;
  }

  // `sums` are those of the first position of the image.
  template <int kMaxTaps, int kTileRows>
  void SumRows(const Unit& unit, const Operands<T>& operands, TileSums<T> sums,
               ComingPixels<T>* coming) const {
    TilePlace tile;
    tile.row_run = FirstRun(rows_, 0);
    tile.col_run = FirstRun(cols_, 0);
    const int64_t tile_rows = problem_.tile_rows;
    T* const dst = sums.dst;
    for (int64_t row = unit.begin; row < unit.end; row += tile_rows) {
      const int64_t rows_left = unit.end - row;
      coming->Prefetch(rows_left / tile_rows);
      tile.row = row;
      sums.dst = dst + row * sums.row_step;
      SumTileRow<Isa, N, kMaxTaps, kTileRows>(
          problem_, tile, rows_left < tile_rows ? 1 : kTileRows, 0,
          cols_.dst_size, operands, unit.channels.count, sums,
          [](int64_t, int64_t, int64_t) {});
    }
  }

  template <int kMaxTaps, int kTileRows>
  void SumStrips(const Unit& unit, const Operands<T>& operands,
                 const TileSums<T>& sums, ComingPixels<T>* coming) const {
    const int64_t strips = DownwardStrips(problem_);
    const int64_t tile_rows = problem_.tile_rows;
    int64_t tiles_left =
        strips * ((unit.end - unit.begin + tile_rows - 1) / tile_rows);
    for (int64_t strip = 0; strip < strips; ++strip) {
      SumStrip<Isa, N, kMaxTaps, kTileRows>(
          problem_, {unit.begin, unit.end}, DownwardStrip(problem_, strip),
          operands, unit.channels.count, sums, [&](int64_t tiles) {
            coming->Prefetch(tiles_left / tiles);
            tiles_left -= tiles;
          });
    }
  }

  const GatherProblem& problem_;
  const GatherPlan& rows_;
  const GatherPlan& cols_;
  const int64_t taps_;
  const int64_t copy_step_;
  const T* const src_;
  const T* const filter_;
  T* const dst_;
  A* const packed_filter_;
  T* const copy_;
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_COPIED_H_
