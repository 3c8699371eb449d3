// The innermost loops of the forward op and of the input gradient.
//
// A tile is kRows (1 or 2) positions of a row phase by kCols positions of a
// column phase. For one vector of channels its sums stay in registers while the
// source rows pass by: of each row, a window of neighbouring pixels is loaded
// once, and each pixel is used by every (position, tap) pair that meets it. Two
// rows of a tile share all source rows but two.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_TAP_BLOCK_H_
#define TF_DWGRAD_CC_KERNELS_CPU_TAP_BLOCK_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// All rows of up to Isa::kMaxTaps neighbouring tap columns, as one tile sees
// them. Pointers are to the first channel; steps are in elements. The filter is
// packed: the taps of one vector of channels after those of another.
template <typename S>
struct TapBlock {
  typedef typename AccumulatorOf<S>::type A;
  const S* src;     // the window's first column in the first row that exists
  const A* filter;  // the first tap of tap row 0
  int64_t src_row_step;
  int64_t src_col_step;
  int64_t filter_row_step;
  int64_t filter_col_step;
  int64_t filter_vector_step;
  int64_t num_rows;   // tap rows; tile row r meets tap row m in source row
  int64_t begin_row;  // r + m. Source rows [begin_row, end_row) exist.
  int64_t end_row;
  TapRange window;  // the window's columns that exist
  // Where the next tile down finds its first pixel that this one does not need,
  // or null.
  const S* prefetch;
  bool first;  // the sums start at zero
};

// Where the sums of a tile are kept between blocks and where they go in the
// end. `panel` holds, for each vector of channels, one vector per position. The
// vectors cover [0, N), [N, 2N), ...; if the channels are no multiple of N, the
// last vector covers the last N of them, and the few that it shares with its
// neighbour are computed twice.
template <typename S>
struct TileSums {
  typename AccumulatorOf<S>::type* panel;
  S* dst;            // null: they stay in the panel
  int64_t row_step;  // from a position to the next
  int64_t col_step;
  int64_t cols;       // positions of a tile row that exist
  bool stream;        // to dst past the caches
  bool prefetch_dst;  // of the next tile down, where the block prefetches
};

// Vectors of 16-bit elements are half as long in memory; pieces of a line do
// not stream well.
template <typename T>
constexpr bool kCanStream =
    sizeof(T) == sizeof(typename AccumulatorOf<T>::type);

// The first channel of vector `index` among those that cover `channels`.
template <int N>
inline int64_t FirstLane(int64_t index, int64_t channels) {
  return index * N + N <= channels ? index * N : channels - N;
}

// Adds what one source row gives to the tile rows that it reaches.
template <bool kReachesFirst, bool kReachesSecond, int N, int kRows, int kCols,
          int kTaps, bool kWholeWindow, typename S, typename V>
inline __attribute__((always_inline)) void AddSourceRow(
    const TapBlock<S>& block, const S* src,
    const typename AccumulatorOf<S>::type* filter, V (&sum)[kRows][kCols]) {
  typedef typename AccumulatorOf<S>::type A;
  V first[kTaps], second[kTaps];
#pragma GCC unroll 16
  for (int tap = 0; tap < kTaps; ++tap) {
    const A* weight = filter + tap * block.filter_col_step;
    if (kReachesFirst) first[tap] = Access<A, N>::Load(weight);
    if (kReachesSecond) {
      second[tap] = Access<A, N>::Load(weight - block.filter_row_step);
    }
  }
#pragma GCC unroll 32
  for (int j = 0; j < kCols + kTaps - 1; ++j) {
    if (kWholeWindow || (j >= block.window.begin && j < block.window.end)) {
      const V pixel = Access<S, N>::Load(src + j * block.src_col_step);
#pragma GCC unroll 16
      for (int tap = 0; tap < kTaps; ++tap) {
        if (j < tap || j - tap >= kCols) continue;
        if (kReachesFirst) sum[0][j - tap] += pixel * first[tap];
        if (kReachesSecond) sum[kRows - 1][j - tap] += pixel * second[tap];
      }
    }
  }
}

// Prefetches the pixels of a tile, to write them if kWrite.
template <int kRows, int kCols, bool kWrite, typename S>
inline __attribute__((always_inline)) void PrefetchTile(const S* tile,
                                                        int64_t row_step,
                                                        int64_t col_step) {
#pragma GCC unroll 2
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (int col = 0; col < kCols; ++col) {
      __builtin_prefetch(tile + row * row_step + col * col_step, kWrite);
    }
  }
}

// Adds a block of taps to the sums of `tiles` neighbouring tiles. If there are
// several, the block must be their only one.
template <int N, int kRows, int kCols, int kTaps, bool kWholeWindow, typename S>
void AddTapBlock(const TapBlock<S>& block, int64_t tiles, int64_t channels,
                 const TileSums<S>& sums, bool last) {
  typedef typename AccumulatorOf<S>::type A;
  typedef Vector<A, N> V;
  constexpr int64_t kLine = 64 / sizeof(S);
  const int64_t filter_start = block.begin_row * block.filter_row_step;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    A* panel = sums.panel;
    const A* vector_filter = block.filter + filter_start;
    const int64_t src_offset = tile * kCols * block.src_col_step;
    const int64_t dst_offset = tile * kCols * sums.col_step;
    for (int64_t index = 0; index * N < channels; ++index) {
      const int64_t c = FirstLane<N>(index, channels);
      if (block.prefetch != nullptr && (N >= kLine || c % kLine == 0)) {
        PrefetchTile<kRows, kCols, false>(block.prefetch + src_offset + c,
                                          block.src_row_step,
                                          block.src_col_step);
        if (sums.prefetch_dst) {
          PrefetchTile<kRows, kCols, true>(
              sums.dst + kRows * sums.row_step + dst_offset + c, sums.row_step,
              sums.col_step);
        }
      }
      V sum[kRows][kCols];
#pragma GCC unroll 2
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
        for (int col = 0; col < kCols; ++col) {
          sum[row][col] = V{};
          if (!block.first) {
            sum[row][col] = Access<A, N>::Load(panel + (row * kCols + col) * N);
          }
        }
      }
      const S* src = block.src + src_offset + c;
      const A* filter = vector_filter;
      int64_t row = block.begin_row;
      const auto step = [&] {
        ++row;
        src += block.src_row_step;
        filter += block.filter_row_step;
      };
      if (kRows == 2 && row == 0 && row < block.end_row) {
        AddSourceRow<true, false, N, kRows, kCols, kTaps, kWholeWindow>(
            block, src, filter, sum);
        step();
      }
      const int64_t shared_end =
          block.num_rows < block.end_row ? block.num_rows : block.end_row;
      while (row < shared_end) {
        AddSourceRow<true, kRows == 2, N, kRows, kCols, kTaps, kWholeWindow>(
            block, src, filter, sum);
        step();
      }
      if (kRows == 2 && row < block.end_row) {
        AddSourceRow<false, true, N, kRows, kCols, kTaps, kWholeWindow>(
            block, src, filter, sum);
      }
#pragma GCC unroll 2
      for (int tile_row = 0; tile_row < kRows; ++tile_row) {
        const V(&result)[kCols] = sum[tile_row];
        if (!last || sums.dst == nullptr) {
#pragma GCC unroll 16
          for (int col = 0; col < kCols; ++col) {
            Access<A, N>::Store(result[col],
                                panel + (tile_row * kCols + col) * N);
          }
          continue;
        }
        S* dst = sums.dst + tile_row * sums.row_step + dst_offset + c;
        if (kCanStream<S> && sums.stream) {
#pragma GCC unroll 16
          for (int col = 0; col < kCols; ++col) {
            if (col < sums.cols) Stream(result[col], dst + col * sums.col_step);
          }
        } else {
#pragma GCC unroll 16
          for (int col = 0; col < kCols; ++col) {
            if (col < sums.cols) {
              Access<S, N>::Store(result[col], dst + col * sums.col_step);
            }
          }
        }
      }
      panel += kRows * kCols * N;
      vector_filter += block.filter_vector_step;
    }
  }
}

// Finds the instance for a number of taps that is only known at run time.
template <int N, int kRows, int kCols, int kTaps, typename S>
inline void AddTaps(int taps, const TapBlock<S>& block, int64_t tiles,
                    int64_t channels, const TileSums<S>& sums, bool last) {
  if constexpr (kTaps > 1) {
    if (taps < kTaps) {
      AddTaps<N, kRows, kCols, kTaps - 1>(taps, block, tiles, channels, sums,
                                          last);
      return;
    }
  }
  if (block.window.begin == 0 && block.window.end == kCols + kTaps - 1) {
    AddTapBlock<N, kRows, kCols, kTaps, true>(block, tiles, channels, sums,
                                              last);
  } else {
    AddTapBlock<N, kRows, kCols, kTaps, false>(block, tiles, channels, sums,
                                               last);
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_TAP_BLOCK_H_
