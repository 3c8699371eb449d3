// Forward op and input gradient for NCHW with small square filters, "SAME"
// padding, no stride and rows longer than a vector: vectors run along the rows
// of a plane, which is read and written where it lies.
//
// A unit of work is one dst plane. A tile is a few rows, a row dilation apart,
// by a vector or two of columns. Each shifted piece of a source row that they
// see is loaded once.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_ALONG_ROWS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_ALONG_ROWS_H_

#include "cc/kernels/cpu/gather_planes.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tile_sums.h"

namespace tf_dwgrad {
namespace {

// A plane, and what a channel's taps and the borders make of it.
template <int N, int kTaps, bool kDilated, typename T>
struct PlaneRows {
  typedef typename AccumulatorOf<T>::type A;
  typedef Vector<A, N> V;
  const T* src;
  T* dst;
  int64_t rows;
  int64_t cols;
  int64_t row_dilation;
  int64_t col_dilation;
  A weights[kTaps * kTaps];  // in the order of the source
  // For the vectors at both ends of a row and each tap, all bits of the lanes
  // whose source exists.
  V borders[2][kTaps];
};

enum RowEnd { kLeftEnd, kRightEnd, kNoEnd };

// What lies beyond a border may be anything; the weights are finite, and zero
// times them is zero.
template <int N, typename A>
inline __attribute__((always_inline)) Vector<A, N> KeepLanes(
    const Vector<A, N>& pixels, const Vector<A, N>& lanes) {
  typedef Vector<unsigned char, sizeof(pixels)> Bits;
  return BitCast<Vector<A, N>>(BitCast<Bits>(pixels) & BitCast<Bits>(lanes));
}

// A tile: the first source pixel of its first vector and tap, and where that
// vector goes.
template <typename T>
struct RowTile {
  const T* src;
  T* dst;
  int64_t row_step;
  int64_t second;  // columns from the first vector to the second
  TapRange rows;   // source rows that exist
};

// The sums of kRows rows by kVectors vectors, of which the first and the last
// may be at an end of the row. All source rows exist if kInside.
template <bool kInside, RowEnd kFirst, RowEnd kLast, bool kStream, int kRows,
          int kVectors, int N, int kTaps, bool kDilated, typename T>
__attribute__((noinline)) void SumAlongRows(
    const RowTile<T>& tile, const PlaneRows<N, kTaps, kDilated, T>& plane) {
  typedef typename AccumulatorOf<T>::type A;
  typedef Vector<A, N> V;
  V weights[kTaps][kTaps];
#pragma GCC unroll 8
  for (int row = 0; row < kTaps; ++row) {
#pragma GCC unroll 8
    for (int tap = 0; tap < kTaps; ++tap) {
      weights[row][tap] = Broadcast<A, N>(plane.weights[row * kTaps + tap]);
    }
  }
  V sum[kRows][kVectors] = {};
  const T* src = tile.src;
  // Pieces a pixel apart are faster to find if the compiler knows it.
  const int64_t dilation = kDilated ? plane.col_dilation : 1;
#pragma GCC unroll 16
  for (int i = 0; i < kRows + kTaps - 1; ++i, src += tile.row_step) {
    if (!kInside && (i < tile.rows.begin || i >= tile.rows.end)) continue;
#pragma GCC unroll 8
    for (int tap = 0; tap < kTaps; ++tap) {
      V pixels[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        pixels[v] = Access<T, N>::Load(src + (v == 0 ? 0 : tile.second) +
                                       tap * dilation);
        if (v == 0 && kFirst != kNoEnd) {
          pixels[v] = KeepLanes<N, A>(pixels[v], plane.borders[kFirst][tap]);
        }
        if (v == kVectors - 1 && kLast != kNoEnd) {
          pixels[v] = KeepLanes<N, A>(pixels[v], plane.borders[kLast][tap]);
        }
        HoldInRegister(&pixels[v]);
      }
#pragma GCC unroll 8
      for (int dst_row = 0; dst_row < kRows; ++dst_row) {
        const int tap_row = i - dst_row;
        if (tap_row < 0 || tap_row >= kTaps) continue;
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          sum[dst_row][v] += pixels[v] * weights[tap_row][tap];
        }
      }
    }
  }
  T* dst = tile.dst;
#pragma GCC unroll 8
  for (int dst_row = 0; dst_row < kRows; ++dst_row, dst += tile.row_step) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      StoreVector<kStream, N>(sum[dst_row][v],
                              dst + (v == 0 ? 0 : tile.second));
    }
  }
}

// All columns, more than N, of kRows rows of a row phase, of which rows [begin,
// end), counted from the first of these, exist. The last vector begins early
// enough to be whole, and is the last to be written: the one before it may have
// seen what is beyond the border.
template <bool kInside, bool kStream, int kRows, int N, int kTaps,
          bool kDilated, typename T>
void SumRowsOfPlane(const PlaneRows<N, kTaps, kDilated, T>& plane, int64_t row,
                    const TapRange& rows) {
  constexpr int kPad = kTaps / 2;
  const int64_t cols = plane.cols;
  RowTile<T> tile;
  tile.row_step = plane.row_dilation * cols;
  const T* const src =
      plane.src + row * cols - kPad * (tile.row_step + plane.col_dilation);
  T* const dst = plane.dst + row * cols;
  tile.rows = {rows.begin + kPad, rows.end + kPad};
  const auto sum = [&](auto first, auto last, auto vectors, int64_t col,
                       int64_t second) {
    constexpr RowEnd kFirst = static_cast<RowEnd>(decltype(first)::kValue);
    constexpr RowEnd kLast = static_cast<RowEnd>(decltype(last)::kValue);
    tile.src = src + col;
    tile.dst = dst + col;
    tile.second = second - col;
    SumAlongRows<kInside, kFirst, kLast, kStream, kRows,
                 decltype(vectors)::kValue>(tile, plane);
  };
  constexpr Int<kLeftEnd> kLeft;
  constexpr Int<kRightEnd> kRight;
  constexpr Int<kNoEnd> kNone;
  const int64_t last = cols - N;
  if (cols <= 2 * N) {
    sum(kLeft, kRight, Int<2>(), 0, last);
    return;
  }
  sum(kLeft, kNone, Int<2>(), 0, N);
  int64_t col = 2 * N;
  for (; col + N < last; col += 2 * N) {
    sum(kNone, kNone, Int<2>(), col, col + N);
  }
  if (col < last) {
    sum(kNone, kRight, Int<2>(), col, last);
  } else {
    sum(kNone, kRight, Int<1>(), last, last);
  }
}

template <bool kStream, int N, int kTaps, bool kDilated, typename T>
void SumPlane(const PlaneRows<N, kTaps, kDilated, T>& plane) {
  constexpr int64_t kRows = 4;
  constexpr int64_t kPad = kTaps / 2;
  const int64_t dilation = plane.row_dilation;
  for (int64_t phase = 0; phase < dilation && phase < plane.rows; ++phase) {
    const int64_t size = (plane.rows - phase + dilation - 1) / dilation;
    for (int64_t next = 0; next < size;) {
      if (size < kRows) {
        SumRowsOfPlane<false, kStream, 1>(plane, phase + next * dilation,
                                          {-next, size - next});
        ++next;
        continue;
      }
      // The last tile may do rows again.
      const int64_t first = next + kRows <= size ? next : size - kRows;
      const int64_t row = phase + first * dilation;
      const TapRange rows = {-first, size - first};
      if (first >= kPad && first + kRows + kPad <= size) {
        SumRowsOfPlane<true, kStream, kRows>(plane, row, rows);
      } else {
        SumRowsOfPlane<false, kStream, kRows>(plane, row, rows);
      }
      next = first + kRows;
    }
  }
}

// The taps of a channel. False if one of them is not finite: what lies beyond a
// border would not be zero times it.
template <int N, int kTaps, bool kDilated, typename T>
bool FindWeights(const GatherProblem& problem, const T* filter,
                 PlaneRows<N, kTaps, kDilated, T>* plane) {
  constexpr int kCount = kTaps * kTaps;
  bool finite = true;
  for (int tap = 0; tap < kCount; ++tap) {
    const auto weight = Widen(
        filter[(problem.backward ? kCount - 1 - tap : tap) * problem.in_depth]);
    plane->weights[tap] = weight;
    finite = finite && weight - weight == 0;
  }
  return finite;
}

template <int N, int kTaps, bool kDilated, typename T>
void FindBorders(PlaneRows<N, kTaps, kDilated, T>* plane) {
  const int64_t last = plane->cols - N;
  for (int end = 0; end < 2; ++end) {
    for (int tap = 0; tap < kTaps; ++tap) {
      const int64_t first = (end == kLeftEnd ? 0 : last) +
                            (tap - kTaps / 2) * plane->col_dilation;
      unsigned char bytes[sizeof(plane->borders[end][tap])];
      constexpr int kLaneBytes = sizeof(bytes) / N;
      for (int lane = 0; lane < N; ++lane) {
        const bool exists = first + lane >= 0 && first + lane < plane->cols;
        for (int i = 0; i < kLaneBytes; ++i) {
          bytes[lane * kLaneBytes + i] = exists ? 0xff : 0;
        }
      }
      __builtin_memcpy(&plane->borders[end][tap], bytes, sizeof(bytes));
    }
  }
}

template <typename Isa, int kTaps, bool kDilated, typename T>
void GatherPlanesAlongRows(const GatherProblem& problem, const T* src,
                           const T* filter, T* dst, T* copy, int64_t begin,
                           int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  const int64_t planes = problem.batch * problem.in_depth;
  PlaneRows<N, kTaps, kDilated, T> plane;
  plane.rows = problem.rows.dst_size;
  plane.cols = problem.cols.dst_size;
  plane.row_dilation = problem.rows.dilation;
  plane.col_dilation = problem.cols.dilation;
  FindBorders(&plane);
  const int64_t elements = plane.rows * plane.cols;
  const int64_t before = kTaps / 2 * plane.col_dilation;
  const bool stream = StreamsRows<N>(problem, dst);
  for (int64_t unit = begin; unit < end; ++unit) {
    plane.src = src + unit * elements;
    plane.dst = dst + unit * elements;
    // Vectors see elements of the planes beside theirs.
    const bool alone =
        unit * elements < before || (planes - 1 - unit) * elements < before + N;
    if (alone && copy != nullptr) {
      __builtin_memcpy(copy + before, plane.src,
                       elements * static_cast<int64_t>(sizeof(T)));
      plane.src = copy + before;
    }
    if ((alone && copy == nullptr) ||
        !FindWeights(problem, filter + unit % problem.in_depth, &plane)) {
      GatherPlanes<Isa, T>(problem, src, filter, dst, nullptr,
                           unit * plane.rows, (unit + 1) * plane.rows);
    } else if (stream) {
      SumPlane<N * sizeof(T) == kLineBytes>(plane);
    } else {
      SumPlane<false>(plane);
    }
  }
  if (stream) FinishStreaming();
}

template <typename Isa, typename T>
void GatherAlongRows(const GatherProblem& problem, const void* src,
                     const void* filter, void* dst, void* scratch,
                     int64_t begin, int64_t end) {
  const T* const typed_src = static_cast<const T*>(src);
  const T* const typed_filter = static_cast<const T*>(filter);
  T* const typed_dst = static_cast<T*>(dst);
  T* const copy = static_cast<T*>(scratch);
  const auto run = [&](auto taps, auto dilated) {
    GatherPlanesAlongRows<Isa, decltype(taps)::kValue,
                          decltype(dilated)::kValue>(
        problem, typed_src, typed_filter, typed_dst, copy, begin, end);
  };
  if (problem.cols.filter_size == 5) {
    run(Int<5>(), Int<false>());
  } else if (problem.cols.dilation == 1) {
    run(Int<3>(), Int<false>());
  } else {
    run(Int<3>(), Int<true>());
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_ALONG_ROWS_H_
