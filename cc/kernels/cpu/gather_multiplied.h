// Forward op for NHWC with a depth multiplier: every source channel is spread
// over the filter channels that it meets while it is read, so that what the
// tiles come back to are the few source channels and not their many copies.
//
// A unit of work copies the source rows that some rows of dst need, widened and
// with room to read a whole vector from any channel, and sums up tiles of a
// row.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_MULTIPLIED_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_MULTIPLIED_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/packed_filter.h"
#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/streamed_rows.h"
#include "cc/kernels/cpu/tap_block.h"
#include "cc/kernels/cpu/transpose.h"

namespace tf_dwgrad {
namespace {

// The source as all lanes of a vector of filter channels meet it: one channel,
// a few neighbours, or up to N of them.
enum Spread { kOneSource, kFewSources, kManySources };

template <Spread kSpread, int N, typename A>
inline __attribute__((always_inline)) Vector<A, N> LoadSpread(
    const A* from, const LaneChoice<A, N>& choice) {
  if constexpr (kSpread == kOneSource) {
    return Broadcast<A, N>(*from);
  } else if constexpr (kSpread == kFewSources) {
    return Choose<A, N>(LoadFour<N>(from), choice);
  } else {
    return Choose<A, N>(Access<A, N>::Load(from), choice);
  }
}

// Taps that meet a source pixel, `src` or a number of steps behind it.
template <typename A>
struct MetTaps {
  const A* src;
  int64_t src_row_step;  // from one tap to the next
  int64_t src_col_step;
  const A* filter;
  int64_t filter_row_step;
  int64_t rows;
  int64_t cols;
};

// The sums of kCols positions, all of which meet the same taps.
template <int N, int kCols, Spread kSpread, typename A>
__attribute__((noinline)) void SumPositions(const MetTaps<A>& taps,
                                            const LaneChoice<A, N>& lanes,
                                            int64_t position_step, A* to,
                                            int64_t to_step) {
  const LaneChoice<A, N> choice = lanes;
  Vector<A, N> sum[kCols];
#pragma GCC unroll 16
  for (int col = 0; col < kCols; ++col) sum[col] = Vector<A, N>{};
  const A* src_row = taps.src;
  const A* weights = taps.filter;
  for (int64_t row = 0; row < taps.rows; ++row) {
    const A* src = src_row;
    for (int64_t tap = 0; tap < taps.cols; ++tap) {
      const Vector<A, N> weight = Access<A, N>::Load(weights + tap * N);
      const Columns<kCols, const A> columns(src, position_step);
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) {
        sum[col] += LoadSpread<kSpread, N>(columns[col], choice) * weight;
      }
      src += taps.src_col_step;
    }
    src_row += taps.src_row_step;
    weights += taps.filter_row_step;
  }
#pragma GCC unroll 16
  for (int col = 0; col < kCols; ++col) {
    Access<A, N>::Store(sum[col], to + col * to_step);
  }
}

// The same of one position, with several sums for the CPU to work on.
template <int N, Spread kSpread, typename A>
__attribute__((noinline)) void SumPosition(const MetTaps<A>& taps,
                                           const LaneChoice<A, N>& lanes,
                                           A* to) {
  constexpr int kSums = 4;
  const LaneChoice<A, N> choice = lanes;
  Vector<A, N> sum[kSums] = {};
  const A* src_row = taps.src;
  const A* weights = taps.filter;
  for (int64_t row = 0; row < taps.rows; ++row) {
    const A* src = src_row;
    const A* weight = weights;
    int64_t left = taps.cols;
    const auto add = [&](int i) __attribute__((always_inline)) {
      sum[i] +=
          LoadSpread<kSpread, N>(src, choice) * Access<A, N>::Load(weight);
      src += taps.src_col_step;
      weight += N;
    };
    for (; left >= kSums; left -= kSums) {
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) add(i);
    }
    if (left > 0) add(0);
    if (left > 1) add(1);
    if (left > 2) add(2);
    src_row += taps.src_row_step;
    weights += taps.filter_row_step;
  }
  Access<A, N>::Store((sum[0] + sum[1]) + (sum[2] + sum[3]), to);
}

// The source channels that the lanes of a vector of filter channels meet.
template <typename A, int N>
struct SpreadLanes {
  int64_t first;  // source channel
  Spread spread;
  LaneChoice<A, N> choice;
};

template <typename Isa, typename T>
class MultipliedGather {
 public:
  MultipliedGather(const GatherProblem& problem, const T* src, const T* filter,
                   T* dst, void* scratch)
      : problem_(problem),
        rows_(problem.rows),
        cols_(problem.cols),
        taps_(rows_.filter_size * cols_.filter_size),
        src_(src),
        filter_(filter),
        dst_(dst),
        packed_filter_(static_cast<A*>(scratch)),
        copy_(packed_filter_ + problem.block_vectors * taps_ * N) {
    stream_ = problem.beyond_cache && kCanStream<T>;
  }

  void Run(int64_t begin, int64_t end) {
    const int64_t panels = problem_.row_panels.num_panels;
    const int64_t positions = problem_.row_panels.positions;
    int64_t packed_block = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / panels % problem_.batch;
      const int64_t block = unit / panels / problem_.batch;
      if (block != packed_block) {
        StartBlock(block);
        packed_block = block;
      }
      const int64_t first_row = unit % panels * positions;
      const int64_t end_row = first_row + positions < rows_.dst_size
                                  ? first_row + positions
                                  : rows_.dst_size;
      CopyRows(image, first_row, end_row);
      for (int64_t row = first_row; row < end_row; ++row) SumRow(image, row);
    }
    if (stream_) FinishStreaming();
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);
  static constexpr int64_t kMostChannels = kMaxKeptChannels + N;

  void StartBlock(int64_t block) {
    const int64_t multiplier = problem_.depth_multiplier;
    const int64_t depth = FilterDepth(problem_);
    const ChannelRange channels = ChannelsOfBlock(problem_, depth, block);
    first_channel_ = channels.first;
    channels_ = channels.count;
    PackFilterBlock<N>(filter_ + first_channel_, taps_, depth, channels_,
                       packed_filter_);
    for (int64_t vector = 0; vector * N < channels_; ++vector) {
      const int64_t channel = first_channel_ + FirstLane<N>(vector, channels_);
      SpreadLanes<A, N>& lanes = lanes_[vector];
      lanes.first = channel / multiplier;
      for (int lane = 0; lane < N; ++lane) {
        lanes.choice.from[lane] = (channel + lane) / multiplier - lanes.first;
      }
      const int64_t others = (channel + N - 1) / multiplier - lanes.first;
      lanes.spread = others == 0  ? kOneSource
                     : others < 4 ? kFewSources
                                  : kManySources;
    }
  }

  void CopyRows(int64_t image, int64_t first_row, int64_t end_row) {
    const int64_t first = first_row * rows_.stride - rows_.pad;
    int64_t end = (end_row - 1) * rows_.stride - rows_.pad +
                  (rows_.filter_size - 1) * rows_.dilation + 1;
    if (end > rows_.src_size) end = rows_.src_size;
    first_copied_ = first < 0 ? 0 : first;
    const int64_t row_step = cols_.src_size * problem_.in_depth;
    const T* from = src_ + (image * rows_.src_size + first_copied_) * row_step;
    const int64_t count = (end - first_copied_) * row_step;
    int64_t i = 0;
    for (; i + N <= count; i += N) {
      Access<A, N>::Store(Access<T, N>::Load(from + i), copy_ + i);
    }
    if (i >= count) return;
    Access<A, N>::Store(LoadSome<T, N>(from + i, static_cast<int>(count - i)),
                        copy_ + i);
  }

  void SumRow(int64_t image, int64_t row) {
    const int64_t depth = DstDepth(problem_);
    T* const dst = dst_ +
                   (image * rows_.dst_size + row) * cols_.dst_size * depth +
                   first_channel_;
    const int64_t src_row = row * rows_.stride - rows_.pad;
    const TapRange taps =
        StepsInside(src_row, rows_.dilation, rows_.src_size, rows_.filter_size);
    // Positions [begin, end) meet all tap columns.
    const TapRange inner =
        StepsInside(-cols_.pad, cols_.stride,
                    cols_.src_size - (cols_.filter_size - 1) * cols_.dilation,
                    cols_.dst_size);
    constexpr int64_t kNarrow = Isa::kNarrowCols;
    constexpr int64_t kWide = Isa::kWideCols;
    for (int64_t col = 0; col < cols_.dst_size;) {
      const int64_t left = inner.end - col;
      if (col < inner.begin || left < kNarrow) {
        SumColumns<1>(src_row, taps, col, dst + col * depth);
        ++col;
      } else if (left < kWide || left == 2 * kNarrow) {
        SumColumns<kNarrow>(src_row, taps, col, dst + col * depth);
        col += kNarrow;
      } else {
        SumColumns<kWide>(src_row, taps, col, dst + col * depth);
        col += kWide;
      }
    }
  }

  // Of all vectors of the block, kCols positions from `col` on that meet the
  // same taps.
  template <int kCols>
  void SumColumns(int64_t src_row, const TapRange& row_taps, int64_t col,
                  T* dst) {
    const int64_t depth = problem_.in_depth;
    const int64_t first = col * cols_.stride - cols_.pad;
    const TapRange col_taps =
        StepsInside(first, cols_.dilation, cols_.src_size, cols_.filter_size);
    MetTaps<A> taps;
    taps.src_col_step = cols_.dilation * depth;
    taps.src_row_step = rows_.dilation * cols_.src_size * depth;
    taps.filter_row_step = cols_.filter_size * N;
    taps.rows = row_taps.end - row_taps.begin;
    taps.cols = col_taps.end - col_taps.begin;
    const A* src = copy_ +
                   (src_row + row_taps.begin * rows_.dilation - first_copied_) *
                       cols_.src_size * depth +
                   (first + col_taps.begin * cols_.dilation) * depth;
    const A* filter = packed_filter_ + row_taps.begin * taps.filter_row_step +
                      col_taps.begin * N;
    A tile[kCols * kMostChannels];
    A* to = tile;
    int64_t to_step = channels_;
    if constexpr (sizeof(T) == sizeof(A)) {
      if (!stream_) {
        to = reinterpret_cast<A*>(dst);
        to_step = DstDepth(problem_);
      }
    }
    for (int64_t vector = 0; vector * N < channels_; ++vector) {
      const SpreadLanes<A, N>& lanes = lanes_[vector];
      taps.src = src + lanes.first;
      taps.filter = filter + vector * taps_ * N;
      const int64_t channel = FirstLane<N>(vector, channels_);
      const auto sum = [&](auto spread) {
        constexpr Spread kSpread =
            static_cast<Spread>(decltype(spread)::kValue);
        if constexpr (kCols == 1) {
          SumPosition<N, kSpread>(taps, lanes.choice, to + channel);
        } else {
          SumPositions<N, kCols, kSpread>(
              taps, lanes.choice, cols_.stride * depth, to + channel, to_step);
        }
      };
      if (lanes.spread == kOneSource) {
        sum(Int<kOneSource>());
      } else if (lanes.spread == kFewSources) {
        sum(Int<kFewSources>());
      } else {
        sum(Int<kManySources>());
      }
    }
    if (to == tile) MoveTile(tile, kCols, dst);
  }

  // Converts the sums of neighbouring positions, or takes them past the caches.
  void MoveTile(const A* tile, int64_t positions, T* dst) const {
    const int64_t depth = DstDepth(problem_);
    if constexpr (sizeof(T) == sizeof(A)) {
      if (channels_ == depth) {
        StreamRun<Isa::kVectorBytes>(tile, positions * depth, dst);
        return;
      }
    }
    for (int64_t i = 0; i < positions; ++i) {
      const A* from = tile + i * channels_;
      T* to = dst + i * depth;
      if constexpr (sizeof(T) == sizeof(A)) {
        StreamRun<Isa::kVectorBytes>(from, channels_, to);
      } else {
        for (int64_t vector = 0; vector * N < channels_; ++vector) {
          const int64_t channel = FirstLane<N>(vector, channels_);
          Access<T, N>::Store(Access<A, N>::Load(from + channel), to + channel);
        }
      }
    }
  }

  const GatherProblem& problem_;
  const GatherPlan& rows_;
  const GatherPlan& cols_;
  const int64_t taps_;
  const T* const src_;
  const T* const filter_;
  T* const dst_;
  A* const packed_filter_;
  A* const copy_;
  bool stream_;
  // Of the block at hand.
  int64_t first_channel_ = 0;
  int64_t channels_ = 0;
  SpreadLanes<A, N> lanes_[kMostChannels / N];
  int64_t first_copied_ = 0;  // source row
};

template <typename Isa, typename T>
void GatherMultiplied(const GatherProblem& problem, const void* src,
                      const void* filter, void* dst, void* scratch,
                      int64_t begin, int64_t end) {
  MultipliedGather<Isa, T>(problem, static_cast<const T*>(src),
                           static_cast<const T*>(filter), static_cast<T*>(dst),
                           scratch)
      .Run(begin, end);
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_MULTIPLIED_H_
