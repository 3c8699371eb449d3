// Forward op and input gradient for NHWC with 3x3 filters and without stride,
// dilation and depth multiplier: vectors run along the rows, into which the
// channels are folded, and may begin and end amid pixels. Then their taps are
// those of a pixel's end and of the next one's beginning.
//
// A unit of work is a band of a few rows of one image. For a vector of each of
// them the sums stay in registers, and each shifted piece of a source row is
// loaded once for all of them. Memory is read and written in its order.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_FOLDED_ROWS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_FOLDED_ROWS_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// The types for which this is timed to be faster than others.
template <typename T>
constexpr bool kFoldedRowsPay = false;
template <>
constexpr bool kFoldedRowsPay<float> = true;
template <>
constexpr bool kFoldedRowsPay<double> = true;

// The source rows that those of a band see, whether they exist or not.
constexpr int kFoldedWindow = kFoldedRows + kFoldedTaps - 1;

// Vectors that are done in turn and written together: lines that are neighbours
// are best written at once.
constexpr int kFoldedVectors = 2;

// Where a band lies. Steps and lengths are in elements.
template <typename T>
struct FoldedBand {
  const T* src;  // the window's first row
  T* dst;
  int64_t depth;
  int64_t src_length;  // of a row, and from one to the next
  int64_t dst_length;
  int64_t shift;  // from an element of dst to the source of its first tap
  int64_t rows;
  TapRange window_rows;  // those that exist
  int64_t next_rows;     // below the window, to be prefetched
  bool joins_lines;      // see KernelTable
};

// What FoldFilter makes of a vector.
template <int N>
constexpr int64_t kFoldedFilterStep = kFoldedTaps * kFoldedTaps * N;

// The taps that the vectors of a row meet, until pixels and vectors begin
// together again, and then those of the last vector of a row, which may begin
// elsewhere: for each the three of the first source row, and so on.
template <int N, typename T>
void FoldFilter(const GatherProblem& problem, const T* filter, T* to) {
  const int64_t depth = problem.in_depth;
  const int64_t length = problem.cols.dst_size * depth;
  const int64_t period = FoldedPeriod(depth, N);
  const TapRun down = FirstRun(problem.rows, 0);
  const TapRun across = FirstRun(problem.cols, 0);
  for (int64_t vector = 0; vector <= period; ++vector) {
    const int64_t first = (vector < period ? vector * N : length - N) % depth;
    for (int row = 0; row < kFoldedTaps; ++row) {
      for (int col = 0; col < kFoldedTaps; ++col) {
        const int64_t tap =
            (down.first_tap + row * problem.rows.tap_step) * kFoldedTaps +
            across.first_tap + col * problem.cols.tap_step;
        // Pixels are no shorter than vectors.
        const T* const channels = filter + tap * depth;
        const int64_t left = depth - first < N ? depth - first : N;
        typedef Vector<unsigned char, N * sizeof(T)> Bits;
        const Bits all =
            BitCast<Bits>(LoadLanes<N>(channels + first, 0, left)) |
            BitCast<Bits>(LoadLanes<N>(channels - left, left, N));
        Access<T, N>::Store(BitCast<Vector<T, N>>(all), to);
        to += N;
      }
    }
  }
}

// Adds what the pieces of the window's rows that begin at `src` give, each to
// the rows that see it. Of the pieces and the taps only the lanes [begin, end)
// exist, unless kWhole.
template <bool kInside, bool kWhole, int N, typename T, typename V>
inline __attribute__((always_inline)) void AddPieces(const FoldedBand<T>& band,
                                                     const T* src,
                                                     const T* filter,
                                                     TapRange lanes,
                                                     V (&sums)[kFoldedRows]) {
  const auto load = [&](const T* from) __attribute__((always_inline)) {
    return kWhole ? Access<T, N>::Load(from)
                  : LoadLanes<N>(from, lanes.begin, lanes.end);
  };
  V taps[kFoldedTaps];
#pragma GCC unroll 4
  for (int tap = 0; tap < kFoldedTaps; ++tap) {
    taps[tap] = load(filter + tap * kFoldedTaps * N);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kFoldedWindow; ++i, src += band.src_length) {
    if (!kInside && (i < band.window_rows.begin || i >= band.window_rows.end)) {
      continue;
    }
    V piece = load(src);
    HoldInRegister(&piece);
#pragma GCC unroll 4
    for (int tap = 0; tap < kFoldedTaps; ++tap) {
      const int row = i - tap;
      if (row < 0 || row >= kFoldedRows) continue;
      sums[row] += piece * taps[tap];
    }
  }
}

// The sums of the vector of each row that begins at element `at`. All rows and
// all that they see exist if kInside.
template <bool kInside, int N, typename T, typename V>
inline __attribute__((always_inline)) void SumFoldedVector(
    const FoldedBand<T>& band, int64_t at, const T* filter,
    V (&sums)[kFoldedRows]) {
  int64_t first = at + band.shift;
  const T* src = band.src + first;
  if (first >= 0 &&
      first + (kFoldedTaps - 1) * band.depth + N <= band.src_length) {
#pragma GCC unroll 4
    for (int col = 0; col < kFoldedTaps; ++col) {
      AddPieces<kInside, /*kWhole=*/true, N>(band, src + col * band.depth,
                                             filter + col * N, {0, N}, sums);
    }
    return;
  }
  for (int col = 0; col < kFoldedTaps; ++col) {
    TapRange lanes = {first < 0 ? -first : 0, band.src_length - first};
    if (lanes.end > N) lanes.end = N;
    if (lanes.end - lanes.begin == N) {
      AddPieces<kInside, /*kWhole=*/true, N>(band, src, filter, lanes, sums);
    } else if (lanes.begin < lanes.end) {
      AddPieces<kInside, /*kWhole=*/false, N>(band, src, filter, lanes, sums);
    }
    first += band.depth;
    src += band.depth;
    filter += N;
  }
}

// As far as it lies below a vector.
template <typename T>
inline __attribute__((always_inline)) void PrefetchNextRows(
    const FoldedBand<T>& band, int64_t at) {
  if (at >= band.src_length) return;
  const T* next = band.src + kFoldedWindow * band.src_length + at;
  for (int64_t row = 0; row < band.next_rows; ++row) {
    if (band.joins_lines) {
      PrefetchToRead(next);
    } else {
      PrefetchToReadSoon(next);
    }
    next += band.src_length;
  }
}

// Past the caches if kStream.
template <bool kInside, bool kStream, int N, int kVectors, typename T,
          typename V>
inline __attribute__((always_inline)) void StoreFoldedVectors(
    const FoldedBand<T>& band, const V (&sums)[kVectors][kFoldedRows],
    int64_t at) {
  T* dst = band.dst + at;
#pragma GCC unroll 8
  for (int row = 0; row < kFoldedRows; ++row, dst += band.dst_length) {
    if (!kInside && row >= band.rows) continue;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if (kStream) {
        Stream(sums[v][row], dst + v * N);
      } else {
        Access<T, N>::Store(sums[v][row], dst + v * N);
      }
    }
  }
}

template <bool kInside, bool kStream, int N, typename T>
__attribute__((noinline)) void SumFoldedBand(const FoldedBand<T>& band,
                                             const T* filter, int64_t period) {
  typedef Vector<T, N> V;
  const int64_t length = band.dst_length;
  int64_t phase = 0;
  int64_t at = 0;
  // A template for the number of vectors.
  const auto sum = [&](auto vectors) __attribute__((always_inline)) {
    constexpr int kVectors = decltype(vectors)::kValue;
    V sums[kVectors][kFoldedRows] = {};
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      SumFoldedVector<kInside, N>(
          band, at + v * N, filter + phase * kFoldedFilterStep<N>, sums[v]);
      if (++phase == period) phase = 0;
      PrefetchNextRows(band, at + v * N);
    }
    StoreFoldedVectors<kInside, kStream, N>(band, sums, at);
    at += kVectors * N;
  };
  while (at + kFoldedVectors * N <= length) sum(Int<kFoldedVectors>());
  while (at + N <= length) sum(Int<1>());
  if (at == length) return;
  at = length - N;
  phase = period;
  sum(Int<1>());
}

template <typename Isa, typename T>
void GatherFoldedRows(const GatherProblem& problem, const void* src_data,
                      const void* filter_data, void* dst_data, void* scratch,
                      int64_t begin, int64_t end) {
  constexpr int N = Isa::kVectorBytes / sizeof(T);
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const T* const src = static_cast<const T*>(src_data);
  T* const dst = static_cast<T*>(dst_data);
  T* const filter = static_cast<T*>(scratch);
  FoldFilter<N>(problem, static_cast<const T*>(filter_data), filter);
  const int64_t period = FoldedPeriod(problem.in_depth, N);

  FoldedBand<T> band;
  band.depth = problem.in_depth;
  band.src_length = cols.src_size * band.depth;
  band.dst_length = cols.dst_size * band.depth;
  band.shift = FirstRun(cols, 0).first_src * band.depth;
  band.joins_lines = problem.joins_lines;
  const bool stream =
      problem.beyond_cache &&
      reinterpret_cast<uintptr_t>(dst) % Isa::kVectorBytes == 0 &&
      band.dst_length * sizeof(T) % Isa::kVectorBytes == 0;
  const int64_t first_src_row = FirstRun(rows, 0).first_src;
  const int64_t bands = FoldedBands(problem);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / bands;
    const int64_t row = unit % bands * kFoldedRows;
    const int64_t src_row = first_src_row + row;
    band.src = src + (image * rows.src_size + src_row) * band.src_length;
    band.dst = dst + (image * rows.dst_size + row) * band.dst_length;
    band.rows = rows.dst_size - row;
    if (band.rows > kFoldedRows) band.rows = kFoldedRows;
    band.window_rows = ClipToSource(rows, src_row, band.rows + kFoldedTaps - 1);
    // Below the last row of an image the next one begins.
    const int64_t rows_below =
        rows.src_size * (problem.batch - image) - (src_row + kFoldedWindow);
    band.next_rows = rows_below < kFoldedRows ? rows_below : kFoldedRows;
    if (!problem.prefetch) band.next_rows = 0;
    const auto sum = [&](auto all_exist) {
      constexpr bool kInside = decltype(all_exist)::kValue;
      if (stream) {
        SumFoldedBand<kInside, /*kStream=*/true, N>(band, filter, period);
      } else {
        SumFoldedBand<kInside, /*kStream=*/false, N>(band, filter, period);
      }
    };
    // A band of fewer rows sees fewer.
    if (band.window_rows.begin == 0 && band.window_rows.end == kFoldedWindow) {
      sum(Int<true>());
    } else {
      sum(Int<false>());
    }
  }
  if (stream) FinishStreaming();
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_FOLDED_ROWS_H_
