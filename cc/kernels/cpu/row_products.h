// The innermost loops of the filter gradient.
//
// A block is kRows by kTaps neighbouring filter taps. For one vector of
// channels its sums stay in registers while rows of dY pass by: kCols
// neighbouring pixels of dY are loaded at a time, and each pixel of the input
// is loaded once and used by every (dY pixel, tap column) pair that meets it.
// The sums over a few rows are then added to the totals in memory, which keeps
// the rounding errors of long sums small.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_ROW_PRODUCTS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_ROW_PRODUCTS_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tap_block.h"

namespace tf_dwgrad {
namespace {

// Some rows of dY and the input that a block of taps pairs with them. Steps are
// in elements. Input columns are counted on the lattice that dY columns and
// taps reach together: column j meets tap column s in input column
// j * kStride + s, or, where the two have no lattice worth sharing (kStride is
// 0), in j * stride + s * dilation.
template <typename S>
struct RowProducts {
  const S* input;  // column 0 of the first tap row's input row; may not exist
  const S* dy;
  int64_t input_tap_row_step;  // from one tap row's input row to the next's
  int64_t input_row_step;      // from one dY row's input row to the next's
  int64_t input_col_step;
  int64_t dy_row_step;
  int64_t dy_col_step;
  int64_t rows;
  int64_t cols;
  int64_t stride;
  int64_t dilation;
  TapRange window;  // the input columns that exist
  // Elements from here to what the next rows need: from a dY pixel, and from an
  // input pixel of the first tap row to the next_input_rows pixels that the
  // next dY row is the first to meet. No rows: nothing is prefetched.
  int64_t next_dy;
  int64_t next_input;
  int64_t next_input_rows;
  int64_t next_input_row_step;
};

// dY columns of a group at least, but for what is left in the end.
constexpr int kLeastCols = 4;

// Adds the products of kCols dY columns, the first of which meets the first tap
// in input[0]. kWhole tells that all input columns exist; otherwise those in
// `window` do.
template <int N, int kRows, int kTaps, int kStride, int kCols, bool kWhole,
          typename S, typename V>
inline __attribute__((always_inline)) void AddColumns(
    const RowProducts<S>& products, const S* input, const S* dy,
    TapRange window, V (&sum)[kRows][kTaps]) {
  V pixels[kCols];
  const Columns<kCols, const S> dy_columns(dy, products.dy_col_step);
#pragma GCC unroll 16
  for (int col = 0; col < kCols; ++col) {
    pixels[col] = Access<S, N>::Load(dy_columns[col]);
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    if constexpr (kStride > 0) {
      constexpr int kWindow = (kCols - 1) * kStride + kTaps;
      const Columns<kWindow, const S> columns(input, products.input_col_step);
#pragma GCC unroll 32
      for (int j = 0; j < kWindow; ++j) {
        if (kWhole || (j >= window.begin && j < window.end)) {
          const V pixel = Access<S, N>::Load(columns[j]);
#pragma GCC unroll 16
          for (int tap = 0; tap < kTaps; ++tap) {
            const int distance = j - tap;
            if (distance < 0 || distance % kStride != 0) continue;
            if (distance / kStride >= kCols) continue;
            sum[row][tap] += pixel * pixels[distance / kStride];
          }
        }
      }
    } else {
      const int64_t tap_step = products.dilation * products.input_col_step;
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) {
        const int64_t first = col * products.stride;
        const Columns<kTaps, const S> columns(
            input + first * products.input_col_step, tap_step);
#pragma GCC unroll 16
        for (int tap = 0; tap < kTaps; ++tap) {
          const int64_t j = first + tap * products.dilation;
          if (kWhole || (j >= window.begin && j < window.end)) {
            sum[row][tap] += Access<S, N>::Load(columns[tap]) * pixels[col];
          }
        }
      }
    }
    input += products.input_tap_row_step;
  }
}

template <int kColumns, typename S>
inline __attribute__((always_inline)) void PrefetchColumns(const S* first,
                                                           int64_t step) {
  const Columns<kColumns, const S> columns(first, step);
#pragma GCC unroll 32
  for (int col = 0; col < kColumns; ++col) PrefetchToRead(columns[col]);
}

// What the next rows need, as far as they lie behind a group of columns.
template <int kCols, int kStride, typename S>
inline __attribute__((always_inline)) void PrefetchNext(
    const RowProducts<S>& products, const S* input, const S* dy) {
  PrefetchColumns<kCols>(dy + products.next_dy, products.dy_col_step);
  const S* next = input + products.next_input;
  for (int64_t row = 0; row < products.next_input_rows; ++row) {
    if constexpr (kStride > 0) {
      PrefetchColumns<kCols * kStride>(next, products.input_col_step);
    } else {
      PrefetchColumns<kCols>(next, products.stride * products.input_col_step);
    }
    next += products.next_input_row_step;
  }
}

// Adds all products of a block of taps to its totals: those of a vector are N
// accumulators per tap, `tap_row_step` from one tap row to the next,
// `vector_step` from one vector to the next. The vectors cover the channels as
// those of a tile do.
template <int N, int kRows, int kTaps, int kStride, int kCols, typename S>
void AddRowProducts(const RowProducts<S>& products, int64_t channels,
                    typename AccumulatorOf<S>::type* totals,
                    int64_t tap_row_step, int64_t vector_step) {
  typedef typename AccumulatorOf<S>::type A;
  typedef Vector<A, N> V;
  constexpr int64_t kLine = kLineBytes / sizeof(S);
  // Few products wait for memory: it had best be at work meanwhile. Many are
  // late if their loads queue behind the prefetches.
  constexpr bool kPrefetchFirst = kRows * kTaps <= kFewTaps;
  const int64_t stride = kStride > 0 ? kStride : products.stride;
  const int64_t reach =
      kStride > 0 ? kTaps - 1 : (kTaps - 1) * products.dilation;
  for (int64_t index = 0; index * N < channels; ++index) {
    const int64_t c = FirstLane<N>(index, channels);
    const bool prefetch =
        products.next_input_rows > 0 && (N >= kLine || c % kLine == 0);
    V sum[kRows][kTaps] = {};
    const S* input_row = products.input + c;
    const S* dy_row = products.dy + c;
    for (int64_t row = 0; row < products.rows; ++row) {
      const S* input = input_row;
      const S* dy = dy_row;
      TapRange window = products.window;
      int64_t left = products.cols;
      const auto add = [&](auto group_cols, auto all_exist)
                           __attribute__((always_inline)) {
                             constexpr int cols = decltype(group_cols)::kValue;
                             constexpr bool whole = decltype(all_exist)::kValue;
                             if (kPrefetchFirst && prefetch)
                               PrefetchNext<cols, kStride>(products, input, dy);
                             AddColumns<N, kRows, kTaps, kStride, cols, whole>(
                                 products, input, dy, window, sum);
                             if (!kPrefetchFirst && prefetch)
                               PrefetchNext<cols, kStride>(products, input, dy);
                             input += cols * stride * products.input_col_step;
                             dy += cols * products.dy_col_step;
                             window.begin -= cols * stride;
                             window.end -= cols * stride;
                             left -= cols;
                           };
      const auto all_exist = [&](int cols) {
        return window.begin <= 0 && window.end > (cols - 1) * stride + reach;
      };
      while (left >= kCols) {
        if (all_exist(kCols)) {
          add(Int<kCols>(), Int<true>());
        } else {
          add(Int<kCols>(), Int<false>());
        }
      }
      while (kCols > kLeastCols && left >= kLeastCols) {
        if (all_exist(kLeastCols)) {
          add(Int<kLeastCols>(), Int<true>());
        } else {
          add(Int<kLeastCols>(), Int<false>());
        }
      }
      while (left >= 2) add(Int<2>(), Int<false>());
      if (left > 0) add(Int<1>(), Int<false>());
      input_row += products.input_row_step;
      dy_row += products.dy_row_step;
    }
    A* total = totals + index * vector_step;
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
      for (int tap = 0; tap < kTaps; ++tap) {
        A* to = total + row * tap_row_step + tap * N;
        Access<A, N>::Store(Access<A, N>::Load(to) + sum[row][tap], to);
      }
    }
  }
}

template <typename S>
using AddRowProductsFunction = void (*)(const RowProducts<S>& products,
                                        int64_t channels,
                                        typename AccumulatorOf<S>::type* totals,
                                        int64_t tap_row_step,
                                        int64_t vector_step);

// The most tap rows of a block with so many tap columns. Where columns share no
// input, only 3x3 filters are common enough for more than one.
template <typename Isa>
constexpr int BlockRows(int stride, int taps) {
  if (stride == 0 && taps != 3) return 1;
  return taps * 3 <= Isa::kMaxSums ? 3 : (taps * 2 <= Isa::kMaxSums ? 2 : 1);
}

// The instance for numbers that are only known at run time.
template <typename Isa, int N, int kStride, typename S, int kRows = 3,
          int kTaps = Isa::kMaxTaps>
AddRowProductsFunction<S> FindAddRowProducts(int rows, int taps) {
  if constexpr (kTaps > 1) {
    if (taps < kTaps) {
      return FindAddRowProducts<Isa, N, kStride, S, kRows, kTaps - 1>(rows,
                                                                      taps);
    }
  }
  if constexpr (kRows <= BlockRows<Isa>(kStride, kTaps)) {
    if (rows == kRows || kRows == 1) {
      // With stride 2, a single row is rare: as if columns shared no input.
      constexpr int kInstance = kRows == 1 && kStride == 2 ? 0 : kStride;
      constexpr int kCols = kInstance > 0 ? Isa::kGradientCols : kLeastCols;
      return AddRowProducts<N, kRows, kTaps, kInstance, kCols, S>;
    }
  }
  if constexpr (kRows > 1) {
    return FindAddRowProducts<Isa, N, kStride, S, kRows - 1, kTaps>(rows, taps);
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_ROW_PRODUCTS_H_
