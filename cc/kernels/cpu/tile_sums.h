// The sums of a tile: how they are kept and how they are written, into the
// caches or past them.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_TILE_SUMS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_TILE_SUMS_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// Where the sums of a tile are kept between blocks and where they go in the
// end. `panel` holds, for each vector of channels, one vector per position. The
// vectors cover [0, N), [N, 2N), ...; if the channels are no multiple of N, the
// last vector covers the last N of them, and the few that it shares with its
// neighbour are computed twice. Of types that come in parts, kParts vectors
// cover kParts * N channels together.
template <typename S>
struct TileSums {
  typename AccumulatorOf<S>::type* panel;
  S* dst;            // null: they stay in the panel
  int64_t row_step;  // from a position to the next
  int64_t col_step;
  int64_t cols;              // positions of a tile row that exist
  bool stream;               // to dst past the caches
  bool joins_lines = false;  // see KernelTable
  bool prefetch_dst;  // of the next tile down, where the block prefetches
};

// Vectors of 16-bit elements are half as long in memory, if they do not come in
// parts or lines; pieces of a line do not stream well.
template <typename T>
constexpr bool kCanStream =
    kIsLine<T> ||
    kParts<T> * sizeof(T) == sizeof(typename AccumulatorOf<T>::type);

// Whether vectors along the rows of planes go past the caches: each is a line.
template <int N, typename T>
inline bool StreamsRows(const GatherProblem& problem, const T* dst) {
  return problem.beyond_cache && N * sizeof(T) == kLineBytes &&
         problem.cols.dst_size % N == 0 &&
         reinterpret_cast<uintptr_t>(dst) % kLineBytes == 0;
}

// The first channel of vector `index` among those that cover `channels`.
template <int N>
inline __attribute__((always_inline)) int64_t FirstLane(int64_t index,
                                                        int64_t channels) {
  return index * N + N <= channels ? index * N : channels - N;
}

// Pointers `step` elements apart. They are members rather than an array, which
// the compiler would keep in memory.
template <int kPointers, typename S>
struct PointerRow {
  S* first;
  PointerRow<kPointers - 1, S> rest;

  inline __attribute__((always_inline)) PointerRow(S* start, int64_t step)
      : first(Hide(start)), rest(first + step, step) {}
  inline __attribute__((always_inline)) S* at(int index) const {
    return index == 0 ? first : rest.at(index - 1);
  }
  // Hides where the pointer comes from.
  static inline __attribute__((always_inline)) S* Hide(S* pointer) {
    asm("" : "+r"(pointer));
    return pointer;
  }
};
template <typename S>
struct PointerRow<0, S> {
  inline __attribute__((always_inline)) PointerRow(S*, int64_t) {}
  inline __attribute__((always_inline)) S* at(int) const { return nullptr; }
};

// Neighbouring columns of one row, `step` elements apart. A pointer for every
// third column is enough for the addressing modes of the CPU; left to itself,
// the compiler keeps one for each and runs out of registers.
template <int kColumns, typename S>
struct Columns {
  static constexpr int kGroup = 3;
  PointerRow<(kColumns + kGroup - 1) / kGroup, S> groups;
  int64_t step;

  inline __attribute__((always_inline)) Columns(S* first, int64_t col_step)
      : groups(first, kGroup * col_step), step(col_step) {}
  inline __attribute__((always_inline)) S* operator[](int column) const {
    return groups.at(column / kGroup) + column % kGroup * step;
  }
};

// The sums of a position as they go to dst where those are as large as S. If S
// comes in parts, `sum` is the last and the others lie at `others`.
template <int N, typename S, typename V, typename A>
inline __attribute__((always_inline)) auto JoinSums(const V& sum,
                                                    const A* others) {
  if constexpr (kParts<S> > 1) {
    return JoinParts<S, N>(LoadBits<V>(others), sum);
  } else {
    return sum;
  }
}

// Writes a vector to `to`, past the caches if kStream.
template <bool kStream, int N, typename T, typename V>
inline __attribute__((always_inline)) void StoreVector(const V& value, T* to) {
  if constexpr (!kStream) {
    Access<T, N>::Store(value, to);
  } else if constexpr (sizeof(T) * N == sizeof(V)) {
    Stream(value, to);
  } else {
    T narrow[N];
    Access<T, N>::Store(value, narrow);
    Stream(LoadBits<Vector<unsigned char, sizeof(narrow)>>(narrow), to);
  }
}

// Writes sums to dst as JoinSums has them.
template <bool kStream, int N, typename S, typename V, typename A>
inline __attribute__((always_inline)) void StoreSums(const V& sum,
                                                     const A* others, S* to) {
  if constexpr (kIsLine<S>) {
    StoreVector<kStream, N>(LoadBits<V>(others), &to->value);
    StoreVector<kStream, N>(sum, &to->value + N);
  } else if constexpr (kStream) {
    Stream(JoinSums<N, S>(sum, others), to);
  } else if constexpr (kParts<S> > 1) {
    const auto joined = JoinSums<N, S>(sum, others);
    __builtin_memcpy(to, &joined, sizeof(joined));
  } else {
    Access<S, N>::Store(sum, to);
  }
}

template <bool kAllCols, bool kStream, int N, int kCols, typename S, typename V,
          typename A>
inline __attribute__((always_inline)) void StoreTileRow(const V (&sum)[kCols],
                                                        const A* others, S* dst,
                                                        int64_t step,
                                                        int64_t cols) {
  const Columns<kCols, S> columns(dst, step);
#pragma GCC unroll 16
  for (int col = 0; col < kCols; ++col) {
    if (!kAllCols && col >= cols) continue;
    StoreSums<kStream, N>(sum[col], others + col * N, columns[col]);
  }
}

// How many vectors make a line of memory.
template <int N, typename S>
constexpr int kVectorsOfLine =
    kCanStream<S> ? kLineBytes / (kParts<S> * N * static_cast<int>(sizeof(S)))
                  : 1;

// Which vector of a line begins at `to`.
template <int N, typename S>
inline __attribute__((always_inline)) int64_t PieceOfLine(const S* to) {
  constexpr int kBytes = kParts<S> * N * static_cast<int>(sizeof(S));
  return reinterpret_cast<uintptr_t>(to) / kBytes % kVectorsOfLine<N, S>;
}

// Vectors shorter than a line do not go past the caches one by one: a CPU can
// only hold a few lines that are incomplete, and is many times slower with
// more. They wait in `lines`, one for each position, until theirs ends. This
// writes vector `piece` of a line and those before it, of which there are
// `kept`.
template <int N, typename S, typename V, typename A>
inline __attribute__((always_inline)) void StreamLine(const V& sum,
                                                      const A* others,
                                                      const S* line,
                                                      int64_t piece,
                                                      int64_t kept, S* to) {
  constexpr int kLanes = kParts<S> * N;
#pragma GCC unroll 4
  for (int i = 1; i < kVectorsOfLine<N, S>; ++i) {
    if (i > kept) break;
    Stream(LoadBits<V>(line + (piece - i) * kLanes), to - i * kLanes);
  }
  StoreSums<true, N>(sum, others, to);
}

// Writes a whole line of each position, every other one together with the one
// before it, which waits in `lines`.
template <bool kAllCols, int N, int kCols, typename S, typename V, typename A>
inline __attribute__((always_inline)) void StreamJoinedLines(
    const V (&sum)[kCols], const A* others, S* lines, int64_t index, bool last,
    S* dst, int64_t step, int64_t cols) {
  constexpr int64_t kLine = kLineBytes / sizeof(S);
  typedef Vector<unsigned char, kLineBytes> Line;
  if (index % 2 != 0) {
    const Columns<kCols, S> columns(dst, step);
#pragma GCC unroll 16
    for (int col = 0; col < kCols; ++col) {
      if (!kAllCols && col >= cols) continue;
      Stream(LoadBits<Line>(lines + col * kLine), columns[col] - kLine);
      StoreSums<true, N>(sum[col], others + col * N, columns[col]);
    }
  } else if (!last) {
    StoreTileRow<kAllCols, false, N>(sum, others, lines, kLine, cols);
  } else {
    StoreTileRow<kAllCols, true, N>(sum, others, dst, step, cols);
  }
}

// `index` is the vector's within its position, of which it may be the last. All
// positions begin in the same place of a line.
template <bool kAllCols, bool kMayJoin, int N, int kCols, typename S,
          typename V, typename A>
inline __attribute__((always_inline)) void StreamTileRow(
    const V (&sum)[kCols], const A* others, S* lines, int64_t index, bool last,
    S* dst, int64_t step, int64_t cols, bool joins_lines) {
  constexpr int kPieces = kVectorsOfLine<N, S>;
  if constexpr (kIsLine<S> || kPieces == 1) {
    if (kMayJoin && joins_lines) {
      StreamJoinedLines<kAllCols, N>(sum, others, lines, index, last, dst, step,
                                     cols);
    } else {
      StoreTileRow<kAllCols, true, N>(sum, others, dst, step, cols);
    }
  } else {
    constexpr int64_t kLine = kLineBytes / sizeof(S);
    const int64_t piece = PieceOfLine<N>(dst);
    if (piece < kPieces - 1 && !last) {
      StoreTileRow<kAllCols, false, N>(
          sum, others, lines + piece * kParts<S> * N, kLine, cols);
      return;
    }
    const int64_t kept = piece < index ? piece : index;
    const Columns<kCols, S> columns(dst, step);
#pragma GCC unroll 16
    for (int col = 0; col < kCols; ++col) {
      if (!kAllCols && col >= cols) continue;
      StreamLine<N>(sum[col], others + col * N, lines + col * kLine, piece,
                    kept, columns[col]);
    }
  }
}

// The same if positions begin in different places of a line. The sums are in
// the panel, too: this is no part of the loops that need all registers.
template <int N, typename S, typename A>
__attribute__((noinline)) void StreamUnlikeTileRow(const A* sums,
                                                   const A* others, S* lines,
                                                   int64_t index, bool last,
                                                   S* dst, int64_t step,
                                                   int64_t cols) {
  typedef Vector<A, N> V;
  constexpr int64_t kLine = kLineBytes / sizeof(S);
  for (int64_t col = 0; col < cols; ++col) {
    S* const to = dst + col * step;
    S* const line = lines + col * kLine;
    const V sum = LoadBits<V>(sums + col * N);
    const int64_t piece = PieceOfLine<N>(to);
    if (piece < kVectorsOfLine<N, S> - 1 && !last) {
      StoreSums<false, N>(sum, others + col * N, line + piece * kParts<S> * N);
    } else {
      StreamLine<N>(sum, others + col * N, line, piece,
                    piece < index ? piece : index, to);
    }
  }
}

// The same of vectors as long as a line, of positions of which every other one
// begins in the middle of a line. A half waits for the other: that of the next
// vector or, at the end of a position, that at the beginning of the next. Only
// the ends of a tile go through the caches. `left` channels begin with this
// vector.
template <int N, typename S, typename A>
__attribute__((noinline)) void StreamHalvesOfTileRow(const A* sums, S* lines,
                                                     int64_t index,
                                                     int64_t left, S* dst,
                                                     int64_t step,
                                                     int64_t cols) {
  typedef Vector<A, N> V;
  // Whether positions follow each other without a gap.
  const bool neighbours = index * N + left == step;
  constexpr int64_t kHalf = N / 2;
  constexpr int64_t kHalfBytes = kHalf * sizeof(S);
  for (int64_t col = 0; col < cols; ++col) {
    S* const to = dst + col * step;
    // Of each position, its first vector and the one before this.
    S* const first = lines + col * 2 * N;
    S* const before = first + N;
    const V sum = LoadBits<V>(sums + col * N);
    if (reinterpret_cast<uintptr_t>(to) % kLineBytes == 0) {
      Stream(sum, to);
      continue;
    }
    const A* const upper = sums + col * N + kHalf;
    // The last vector, if it shares half of its channels with the one before.
    if (left < N) {
      if (neighbours && col + 1 < cols) {
        Stream(UpperThenLower(sum, LoadBits<V>(first + 2 * N)), to + kHalf);
      } else {
        __builtin_memcpy(to + kHalf, upper, kHalfBytes);
      }
      continue;
    }
    if (index > 0) {
      Stream(UpperThenLower(LoadBits<V>(before), sum), to - kHalf);
    } else if (neighbours && col > 0) {
      __builtin_memcpy(first, &sum, sizeof(sum));
    } else {
      __builtin_memcpy(to, &sum, kHalfBytes);
    }
    if (left == N) {
      __builtin_memcpy(to + kHalf, upper, kHalfBytes);
    } else {
      __builtin_memcpy(before, &sum, sizeof(sum));
    }
  }
}

// To the panel.
template <int N, int kCols, typename V, typename A>
inline __attribute__((always_inline)) void KeepTileRow(const V (&sum)[kCols],
                                                       A* panel) {
#pragma GCC unroll 16
  for (int col = 0; col < kCols; ++col) {
    Access<A, N>::Store(sum[col], panel + col * N);
  }
}

template <int N, int kRows, int kCols, typename V, typename A>
inline __attribute__((always_inline)) void KeepTile(
    const V (&sum)[kRows][kCols], A* panel) {
#pragma GCC unroll 2
  for (int row = 0; row < kRows; ++row) {
    KeepTileRow<N>(sum[row], panel + row * kCols * N);
  }
}

// Whether vectors are as long as a line, and may lie in halves of two.
template <int N, typename S>
constexpr bool kMayHalveLines =
    kCanStream<S> && kParts<S> == 1 && N * sizeof(S) == kLineBytes;

// Elements of the lines that the positions of a row may have open.
template <int N, int kCols, typename S>
constexpr int kOpenLines = (kMayHalveLines<N, S> ? 2
                            : kCanStream<S>      ? 1
                                                 : 0) *
                           kCols * kLineBytes / static_cast<int>(sizeof(S));

// To dst, as the sums are to go there. `left` channels begin with this vector.
// If S comes in parts, `sum` is the last, and the others lie at `others`. There
// is room for it at `last_part`. Lines are joined only if kMayJoin.
template <bool kAllCols, bool kMayJoin, int N, int kCols, typename S,
          typename V, typename A>
inline __attribute__((always_inline)) void WriteTileRow(
    const V (&sum)[kCols], const A* others, A* last_part, S* lines,
    int64_t index, int64_t left, S* dst, const TileSums<S>& sums) {
  if constexpr (kCanStream<S>) {
    if (sums.stream) {
      constexpr int64_t kLine = kLineBytes / sizeof(S);
      const int64_t cols = kAllCols ? kCols : sums.cols;
      const bool last = left <= kParts<S> * N;
      // Vectors as long as a line, at whole lines only.
      constexpr bool kWholeLines =
          kVectorsOfLine<N, S> == 1 && !kMayHalveLines<N, S>;
      if (kWholeLines || sums.col_step % kLine == 0) {
        StreamTileRow<kAllCols, kMayJoin, N>(sum, others, lines, index, last,
                                             dst, sums.col_step, cols,
                                             sums.joins_lines);
      } else if constexpr (kMayHalveLines<N, S>) {
        KeepTileRow<N>(sum, last_part);
        StreamHalvesOfTileRow<N>(last_part, lines, index, left, dst,
                                 sums.col_step, cols);
      } else if constexpr (kVectorsOfLine<N, S> > 1) {
        KeepTileRow<N>(sum, last_part);
        StreamUnlikeTileRow<N>(last_part, others, lines, index, last, dst,
                               sums.col_step, cols);
      }
      return;
    }
  }
  StoreTileRow<kAllCols, false, N>(sum, others, dst, sums.col_step, sums.cols);
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_TILE_SUMS_H_
