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
#include "cc/kernels/cpu/tile_sums.h"

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
  TapRange window;        // the window's columns that exist
  int64_t src_tile_step;  // from a tile to the next
  int64_t dst_tile_step;
  // Where the tile that is prefetched finds its first pixel that this one does
  // not need, or null.
  const S* prefetch;
  bool first;  // the sums start at zero
};

// From a position to the next the window moves by kStride pixels, or, in the
// input gradient of stride 2 where both phases share a tile, by half a pixel:
// at the first position, an even or an odd tap is the highest that reaches it.
constexpr int kHalfEven = -1;
constexpr int kHalfOdd = -2;

// That tap.
template <int kTaps, int kStride>
constexpr int kHighestTap =
    kStride == kHalfEven ? (kTaps - 1) / 2 * 2 : kTaps / 2 * 2 - 1;

// The window of a tile: pixels of a row that it reads.
template <int kCols, int kTaps, int kStride>
constexpr int kWindow =
    kStride > 0 ? (kCols - 1) * kStride + kTaps
                : (kCols - 1 + kHighestTap<kTaps, kStride>) / 2 + 1;

// How many pixels it moves from a tile to the next.
template <int kCols, int kStride>
constexpr int kWindowStep = kStride > 0 ? kCols * kStride : kCols / 2;

// The position of a tile that a tap leads to from pixel j of its window, or -1.
template <int kCols, int kTaps, int kStride>
inline __attribute__((always_inline)) constexpr int PositionOf(int j, int tap) {
  const int from_first =
      kStride > 0 ? j - tap : 2 * j + tap - kHighestTap<kTaps, kStride>;
  if (from_first < 0) return -1;
  if (kStride > 0 && from_first % kStride != 0) return -1;
  const int position = kStride > 0 ? from_first / kStride : from_first;
  return position < kCols ? position : -1;
}

// Which columns of a window do not exist. Of those at the edges of most images,
// half of the taps, the compiler may know; any others are looked at one by one.
enum Border { kNoBorder, kLeftBorder, kRightBorder, kBothBorders, kAnyBorder };

inline __attribute__((always_inline)) constexpr int MissingOnLeft(Border border,
                                                                  int taps) {
  return border == kLeftBorder || border == kBothBorders ? taps / 2 : 0;
}
inline __attribute__((always_inline)) constexpr int MissingOnRight(
    Border border, int taps) {
  return border == kRightBorder || border == kBothBorders ? taps / 2 : 0;
}

// Calls f with the border of a window of kPixels columns, if all the positions
// that see it exist. The compiler knows those other than kNoBorder if kKnown.
template <int kPixels, int kTaps, bool kKnown, typename F>
inline __attribute__((always_inline)) void WithBorder(const TapRange& window,
                                                      bool all_cols,
                                                      const F& f) {
  if (all_cols) {
    if (window.begin == 0 && window.end == kPixels) {
      f(Int<kNoBorder>());
      return;
    }
    if constexpr (kKnown) {
      const bool left = window.begin == kTaps / 2;
      const bool right = window.end == kPixels - kTaps / 2;
      if (left && right) {
        f(Int<kBothBorders>());
        return;
      }
      if (left && window.end == kPixels) {
        f(Int<kLeftBorder>());
        return;
      }
      if (right && window.begin == 0) {
        f(Int<kRightBorder>());
        return;
      }
    }
  }
  f(Int<kAnyBorder>());
}

// Tiles for which that is worth the code: those with the most columns to look
// at.
template <int kCols, int kTaps>
constexpr bool kKnowsBorders = (kTaps == 5 || kTaps == 7) && kCols == 7;

// The parts kFirstPart, kFirstPart + 1, ... of a pixel, or of a pair.
template <int kFirstPart, int N, bool kPaired, int kSets, typename S,
          typename V>
inline __attribute__((always_inline)) void LoadParts(const S* from,
                                                     const S* below,
                                                     V (&parts)[kSets]) {
  parts[0] = LoadPart<kFirstPart, N, kPaired>(from, below);
  if constexpr (kSets > 1) {
    parts[1] = LoadPart<kFirstPart + 1, N, kPaired>(from, below);
  }
}

// Adds what one source row gives to the tile rows that it reaches, or, if
// kPaired, that row and the next one. `first` and `second` are the taps of
// those. There is a set of sums, and of taps, for each part that is done here.
template <bool kReachesFirst, bool kReachesSecond, bool kPaired, int kPart,
          int N, int kSets, int kRows, int kCols, int kTaps, int kStride,
          Border kBorder, typename S, typename V>
inline __attribute__((always_inline)) void AddSourceRow(
    const TapBlock<S>& block, const S* src, const V (&first)[kSets][kTaps],
    const V (&second)[kSets][kTaps], V (&sum)[kSets][kRows][kCols]) {
  constexpr int kPixels = kWindow<kCols, kTaps, kStride>;
  const Columns<kPixels, const S> columns(src, block.src_col_step);
  const Columns<kPixels, const S> below(src + block.src_row_step,
                                        block.src_col_step);
#pragma GCC unroll 32
  for (int j = 0; j < kPixels; ++j) {
    if (kBorder == kAnyBorder
            ? j >= block.window.begin && j < block.window.end
            : j >= MissingOnLeft(kBorder, kTaps) &&
                  j < kPixels - MissingOnRight(kBorder, kTaps)) {
      V pixel[kSets];
      LoadParts<kPart, N, kPaired>(columns[j], below[j], pixel);
#pragma GCC unroll 2
      for (int set = 0; set < kSets; ++set) {
#pragma GCC unroll 16
        for (int tap = 0; tap < kTaps; ++tap) {
          const int col = PositionOf<kCols, kTaps, kStride>(j, tap);
          if (col < 0) continue;
          V& first_sum = sum[set][0][col];
          V& second_sum = sum[set][kRows - 1][col];
          if (kReachesFirst) {
            first_sum = AddProduct<S>(first_sum, pixel[set], first[set][tap]);
          }
          if (kReachesSecond) {
            second_sum =
                AddProduct<S>(second_sum, pixel[set], second[set][tap]);
          }
        }
      }
    }
  }
}

// If S is paired but kPaired is not set, of taps that meet a single row.
template <bool kPaired, int N, int kSets, int kTaps, typename S, typename A,
          typename V>
inline __attribute__((always_inline)) void LoadTaps(const TapBlock<S>& block,
                                                    const A* filter,
                                                    V (&taps)[kSets][kTaps]) {
#pragma GCC unroll 2
  for (int set = 0; set < kSets; ++set) {
#pragma GCC unroll 16
    for (int tap = 0; tap < kTaps; ++tap) {
      const V loaded =
          Access<A, N>::Load(filter + set * block.filter_vector_step +
                             tap * block.filter_col_step);
      taps[set][tap] = kPaired ? loaded : LowerOfPairs<S>(loaded);
    }
  }
}

// All source rows, of which any may be missing.
template <int kPart, int N, int kSets, int kRows, int kCols, int kTaps,
          int kStride, Border kBorder, typename S, typename A, typename V>
inline __attribute__((always_inline)) void AddSourceRows(
    const TapBlock<S>& block, const S* src, const A* filter,
    V (&sum)[kSets][kRows][kCols]) {
  filter += block.begin_row * block.filter_row_step;
  int64_t row = block.begin_row;
  // Row `row`, or if `paired` two rows, of which each reaches the same.
  const auto add = [&](auto reaches_first, auto reaches_second,
                       auto paired) __attribute__((always_inline)) {
    constexpr bool kReachesFirst = decltype(reaches_first)::kValue;
    constexpr bool kReachesSecond = decltype(reaches_second)::kValue;
    constexpr bool kPaired = decltype(paired)::kValue;
    V first[kSets][kTaps], second[kSets][kTaps];
    if (kReachesFirst) LoadTaps<kPaired, N>(block, filter, first);
    if (kReachesSecond) {
      LoadTaps<kPaired, N>(block, filter - block.filter_row_step, second);
    }
    AddSourceRow<kReachesFirst, kReachesSecond, kPaired, kPart, N, kSets, kRows,
                 kCols, kTaps, kStride, kBorder>(block, src, first, second,
                                                 sum);
    constexpr int kStep = kPaired ? 2 : 1;
    row += kStep;
    src += kStep * block.src_row_step;
    filter += kStep * block.filter_row_step;
  };
  constexpr Int<true> kYes;
  constexpr Int<false> kNo;
  constexpr Int<kRows == 2> kTwo;
  if (kRows == 2 && row == 0 && row < block.end_row) add(kYes, kNo, kNo);
  const int64_t shared_end =
      block.num_rows < block.end_row ? block.num_rows : block.end_row;
  if constexpr (kPairsRows<S>) {
    while (row + 1 < shared_end) add(kYes, kTwo, kYes);
    if (row < shared_end) add(kYes, kTwo, kNo);
  } else {
    while (row < shared_end) add(kYes, kTwo, kNo);
  }
  if (kRows == 2 && row < block.end_row) add(kNo, kYes, kNo);
}

// All source rows of a small filter; none is missing. Its taps stay in
// registers.
template <int kPart, int N, int kSets, int kRows, int kCols, int kTapRows,
          int kTaps, int kStride, Border kBorder, typename S, typename A,
          typename V>
inline __attribute__((always_inline)) void AddAllSourceRows(
    const TapBlock<S>& block, const S* src, const A* filter,
    V (&sum)[kSets][kRows][kCols]) {
  constexpr Int<true> kYes;
  constexpr Int<false> kNo;
  if constexpr (kPairsRows<S>) {
    // Source row `row`, which meets tap row `row` for the first tile row and
    // the one before for the second.
    const auto add = [&](auto source_row, auto reaches_first,
                         auto reaches_second,
                         auto paired) __attribute__((always_inline)) {
      constexpr int kRow = decltype(source_row)::kValue;
      constexpr bool kReachesFirst = decltype(reaches_first)::kValue;
      constexpr bool kReachesSecond = decltype(reaches_second)::kValue;
      constexpr bool kPaired = decltype(paired)::kValue;
      V first[kSets][kTaps], second[kSets][kTaps];
      const A* taps = filter + kRow * block.filter_row_step;
      if (kReachesFirst) LoadTaps<kPaired, N>(block, taps, first);
      if (kReachesSecond) {
        LoadTaps<kPaired, N>(block, taps - block.filter_row_step, second);
      }
      AddSourceRow<kReachesFirst, kReachesSecond, kPaired, kPart, N, kSets,
                   kRows, kCols, kTaps, kStride, kBorder>(
          block, src + kRow * block.src_row_step, first, second, sum);
    };
    static_assert(kTapRows <= 3, "rows are paired by hand");
    if constexpr (kRows == 1) {
      add(Int<0>(), kYes, kNo, Int<(kTapRows > 1)>());
      if constexpr (kTapRows == 3) add(Int<2>(), kYes, kNo, kNo);
    } else if constexpr (kTapRows == 2) {
      // The rows of a tile have pairs of their own.
      add(Int<0>(), kYes, kNo, kYes);
      add(Int<1>(), kNo, kYes, kYes);
    } else {
      add(Int<0>(), kYes, kNo, kNo);
      if constexpr (kTapRows == 3) add(Int<1>(), kYes, kYes, kYes);
      add(Int<kTapRows>(), kNo, kYes, kNo);
    }
    return;
  }
  V taps[kTapRows][kSets][kTaps];
#pragma GCC unroll 4
  for (int row = 0; row < kTapRows; ++row) {
    LoadTaps<false, N>(block, filter, taps[row]);
    filter += block.filter_row_step;
  }
  const auto add = [&](auto reaches_first, auto reaches_second,
                       int row) __attribute__((always_inline)) {
    constexpr bool kReachesFirst = decltype(reaches_first)::kValue;
    constexpr bool kReachesSecond = decltype(reaches_second)::kValue;
    AddSourceRow<kReachesFirst, kReachesSecond, false, kPart, N, kSets, kRows,
                 kCols, kTaps, kStride, kBorder>(
        block, src, taps[kReachesFirst ? row : 0],
        taps[kReachesSecond ? row - 1 : 0], sum);
    src += block.src_row_step;
  };
  if constexpr (kRows == 1) {
#pragma GCC unroll 4
    for (int row = 0; row < kTapRows; ++row) add(kYes, kNo, row);
  } else {
    add(kYes, kNo, 0);
#pragma GCC unroll 4
    for (int row = 1; row < kTapRows; ++row) add(kYes, kYes, row);
    add(kNo, kYes, kTapRows);
  }
}

// Of what a tile is the first of its row of tiles to meet, later tiles are
// prefetched: those of the same row, or those of the next row. The former is
// better if a row would not stay in the second cache so long.
inline bool StaysForNextRow(int64_t row_bytes) {
  return row_bytes <= 128 << 10;
}
// Where a stride passes pixels quickly it is so many of them on, also if they
// are short enough for the CPU to read ahead by itself.
inline bool PrefetchesAlongRow(int64_t pixel_bytes, int64_t row_bytes) {
  return pixel_bytes < 1024 || !StaysForNextRow(row_bytes);
}
inline int64_t PixelsAhead(int64_t pixel_bytes) {
  constexpr int64_t kBytes = 6 << 10;
  constexpr int64_t kPixels = 8;
  return kBytes > kPixels * pixel_bytes ? kBytes / pixel_bytes : kPixels;
}

// Prefetches the pixels of a tile, to write them if kWrite.
enum class Hint { kRead, kReadSoon, kWrite };
template <int kRows, int kCols, Hint kHint, typename S>
inline __attribute__((always_inline)) void PrefetchTile(const S* tile,
                                                        int64_t row_step,
                                                        int64_t col_step) {
#pragma GCC unroll 2
  for (int row = 0; row < kRows; ++row) {
    const Columns<kCols, const S> columns(tile + row * row_step, col_step);
#pragma GCC unroll 16
    for (int col = 0; col < kCols; ++col) {
      if (kHint == Hint::kWrite) {
        PrefetchToWrite(columns[col]);
      } else if (kHint == Hint::kRead) {
        PrefetchToRead(columns[col]);
      } else {
        PrefetchToReadSoon(columns[col]);
      }
    }
  }
}

// Adds a block of taps to the sums of `tiles` neighbouring tiles. If there are
// several, the block must be their only one. kTapRows is the number of tap rows
// if all their source rows exist and there is no other block, or 0 for any.
// Unless it is kAnyBorder, all positions exist.
template <int N, int kRows, int kCols, int kTapRows, int kTaps, int kStride,
          Border kBorder, typename S>
void AddTapBlock(const TapBlock<S>& block, int64_t tiles, int64_t channels,
                 const TileSums<S>& sums, bool last) {
  typedef typename AccumulatorOf<S>::type A;
  typedef Vector<A, N> V;
  constexpr int kSums = kRows * kCols * N;
  constexpr int kLanes = kParts<S> * N;
  constexpr int64_t kLine = kLineBytes / sizeof(S);
  const bool to_dst = last && sums.dst != nullptr;
  const bool keeps = !to_dst || !block.first;
  constexpr int kLines = kOpenLines<N, kCols, S>;
  alignas(kLineBytes) S lines[kLines > 0 ? kRows * kLines : 1];
  for (int64_t tile = 0; tile < tiles; ++tile) {
    A* panel = sums.panel;
    const A* filter = block.filter;
    constexpr int kStep = kWindowStep<kCols, kStride>;
    const int64_t src_offset = tile * block.src_tile_step;
    const int64_t dst_offset = tile * block.dst_tile_step;
    for (int64_t index = 0; index * kLanes < channels; ++index) {
      const int64_t c = FirstLane<kLanes>(index, channels);
      if (block.prefetch != nullptr && (kLanes >= kLine || c % kLine == 0)) {
        constexpr int kNewRows = kStride > 0 ? kRows * kStride : kRows;
        const S* const to_come = block.prefetch + src_offset;
        if (kStride < 2 && block.src_col_step == channels) {
          // All lines of each row are wanted: in the order of memory.
          const S* const line = to_come + index * kStep * kLanes;
          constexpr int64_t kStepOfLines = kLanes > kLine ? kLanes : kLine;
          if (sums.joins_lines) {
            PrefetchTile<kNewRows, kStep, Hint::kRead>(line, block.src_row_step,
                                                       kStepOfLines);
          } else {
            PrefetchTile<kNewRows, kStep, Hint::kReadSoon>(
                line, block.src_row_step, kStepOfLines);
          }
        } else {
          PrefetchTile<kNewRows, kStep, Hint::kRead>(
              to_come + c, block.src_row_step, block.src_col_step);
        }
        if (sums.prefetch_dst) {
          PrefetchTile<kRows, kCols, Hint::kWrite>(
              sums.dst + kRows * sums.row_step + dst_offset + c, sums.row_step,
              sums.col_step);
        }
      }
      // Sums of parts [kPart, kPart + kSets).
      const auto add_parts = [&](auto part,
                                 auto& sum) __attribute__((always_inline)) {
        constexpr int kPart = decltype(part)::kValue;
        constexpr int kSets = sizeof(sum) / sizeof(sum[0]);
#pragma GCC unroll 2
        for (int set = 0; set < kSets; ++set) {
#pragma GCC unroll 2
          for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
            for (int col = 0; col < kCols; ++col) {
              sum[set][row][col] = V{};
              if (kTapRows == 0 && !block.first) {
                sum[set][row][col] = Access<A, N>::Load(
                    panel + (kPart + set) * kSums + (row * kCols + col) * N);
              }
            }
          }
        }
        const S* src = block.src + src_offset + c;
        const A* taps = filter + kPart * block.filter_vector_step;
        if constexpr (kTapRows > 0) {
          AddAllSourceRows<kPart, N, kSets, kRows, kCols, kTapRows, kTaps,
                           kStride, kBorder>(block, src, taps, sum);
        } else {
          AddSourceRows<kPart, N, kSets, kRows, kCols, kTaps, kStride, kBorder>(
              block, src, taps, sum);
        }
      };
      // Parts are done together if their sums and taps fit the registers; those
      // of a line, whose pixels need no work, also where taps never fit.
      constexpr int kRegisters = sizeof(V) == 64 ? 32 : 16;
      constexpr int kInRegisters =
          kIsLine<S> && kRegisters == 16 ? kCols : kCols + kTaps;
      constexpr int kSets =
          kParts<S> * kRows * kInRegisters + 4 <= kRegisters ? kParts<S> : 1;
      V sums_of_parts[kSets][kRows][kCols];
      if constexpr (kParts<S> > kSets) {
        add_parts(Int<0>(), sums_of_parts);
        KeepTile<N>(sums_of_parts[0], panel);
        // The other part needs all registers.
        asm volatile("" ::: "memory");
      }
      add_parts(Int<kParts<S> - kSets>(), sums_of_parts);
      if constexpr (kSets > 1) KeepTile<N>(sums_of_parts[0], panel);
      V(&sum)[kRows][kCols] = sums_of_parts[kSets - 1];
      S* dst = sums.dst + dst_offset + c;
#pragma GCC unroll 2
      for (int row = 0; row < kRows; ++row) {
        S* dst_row = dst + row * sums.row_step;
        A* panel_row = panel + row * kCols * N;
        A* const last_part = panel_row + (kParts<S> - 1) * kSums;
        if (to_dst) {
          // Tiles of two rows need all registers.
          constexpr bool kMayJoin = kRows == 1;
          WriteTileRow<kBorder != kAnyBorder, kMayJoin, N>(
              sum[row], panel_row, last_part, lines + row * kLines, index,
              channels - index * kLanes, dst_row, sums);
        } else {
          KeepTileRow<N>(sum[row], last_part);
        }
      }
      if (keeps) panel += kParts<S> * kSums;
      filter += kParts<S> * block.filter_vector_step;
    }
  }
}

template <int N, int kRows, int kCols, int kTapRows, int kTaps, int kStride,
          typename S>
inline void AddTapRows(const TapBlock<S>& block, int64_t tiles,
                       int64_t channels, const TileSums<S>& sums, bool last) {
  constexpr int kPixels = kWindow<kCols, kTaps, kStride>;
  const TapRange& window = block.window;
  const auto add = [&](auto border) {
    constexpr Border kBorder = static_cast<Border>(decltype(border)::kValue);
    AddTapBlock<N, kRows, kCols, kTapRows, kTaps, kStride, kBorder>(
        block, tiles, channels, sums, last);
  };
  WithBorder<kPixels, kTaps, kKnowsBorders<kCols, kTaps>>(
      window, sums.cols == kCols, add);
}

// Whether the tiles of a type may see what stride 2 leaves of 3x3 filters:
// those of packed pixels may. Of others, its phases share tiles.
template <typename S>
constexpr bool kSeesPhases =
    kParts<S> == 1 && sizeof(S) == sizeof(typename AccumulatorOf<S>::type);

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
  // The filters of most layers: 3x3, and what stride 2 leaves of it.
  if constexpr (kTaps == 3 || (kTaps < 3 && kSeesPhases<S>)) {
    if (block.first && last && block.begin_row == 0 &&
        block.end_row == block.num_rows + kRows - 1) {
      if constexpr (kTaps == 3) {
        if (block.num_rows == 3) {
          AddTapRows<N, kRows, kCols, 3, kTaps, 1>(block, tiles, channels, sums,
                                                   last);
          return;
        }
      } else {
        if (block.num_rows == 1) {
          AddTapRows<N, kRows, kCols, 1, kTaps, 1>(block, tiles, channels, sums,
                                                   last);
          return;
        }
        if (block.num_rows == 2) {
          AddTapRows<N, kRows, kCols, 2, kTaps, 1>(block, tiles, channels, sums,
                                                   last);
          return;
        }
      }
    }
  }
  AddTapRows<N, kRows, kCols, 0, kTaps, 1>(block, tiles, channels, sums, last);
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_TAP_BLOCK_H_
