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
        src_(src),
        filter_(filter),
        dst_(dst),
        packed_filter_(static_cast<A*>(scratch)) {}

  template <int kMaxTaps, int kTileRows>
  void Run(int64_t begin, int64_t end) {
    const int64_t depth = problem_.in_depth;
    A panel[kMaxPositions * (kMaxKeptChannels + kLanes)];
    Operands<T> operands = OperandsOf<N, T>(problem_, depth);
    operands.prefetch_rows = rows_.src_size;
    const TapRun col_run = FirstRun(cols_, 0);
    TileSums<T> sums = SumsOfLines(problem_, dst_, panel);

    // Blocks take turns: all are packed when so many have begun.
    int64_t packed_blocks = 0;
    int64_t block = -1;
    Unit next = FindUnit(begin);
    for (int64_t index = begin; index < end; ++index) {
      const Unit unit = next;
      const ChannelRange& channels = unit.channels;
      if (unit.block != block && packed_blocks < problem_.num_blocks) {
        PackFilterBlock<N>(
            filter_ + channels.first, taps_, depth, channels.count,
            packed_filter_ + channels.first * taps_, NextTapRow(problem_));
        ++packed_blocks;
      }
      block = unit.block;
      operands.src = unit.src;
      operands.filter = packed_filter_ + channels.first * taps_;
      operands.next_strip = nullptr;
      if (index + 1 < end) {
        next = FindUnit(index + 1);
        operands.next_strip = next.src + (col_run.first_src + next.cols.begin +
                                          col_run.num_taps - 1) *
                                             depth;
      }
      sums.dst = unit.dst;
      SumStrip<Isa, N, kMaxTaps, kTileRows>(problem_, {0, rows_.dst_size},
                                            unit.cols, operands, channels.count,
                                            sums, [](int64_t) {});
    }
    if (sums.stream) FinishStreaming();
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);
  static constexpr int kLanes = kParts<T> * N;

  struct Unit {
    int64_t block;
    ChannelRange channels;
    TapRange cols;  // of dst
    const T* src;   // the first pixel of the image
    T* dst;
  };

  Unit FindUnit(int64_t index) const {
    Unit unit;
    const int64_t strips = DownwardStrips(problem_);
    unit.cols = DownwardStrip(problem_, index % strips);
    unit.block = index / strips % problem_.num_blocks;
    const int64_t image = index / strips / problem_.num_blocks;
    const int64_t depth = problem_.in_depth;
    unit.channels = ChannelsOfBlock(problem_, depth, unit.block);
    const int64_t channel = unit.channels.first;
    unit.src = src_ + image * rows_.src_size * cols_.src_size * depth + channel;
    unit.dst = dst_ + image * rows_.dst_size * cols_.dst_size * depth + channel;
    return unit;
  }

  const GatherProblem& problem_;
  const GatherPlan& rows_;
  const GatherPlan& cols_;
  const int64_t taps_;
  const T* const src_;
  const T* const filter_;
  T* const dst_;
  A* const packed_filter_;
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_DOWNWARD_H_
