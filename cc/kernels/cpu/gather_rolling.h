// Forward op and input gradient for NHWC with 3x3 filters and without stride
// and depth multiplier, on CPUs whose registers hold the sums of three dst
// rows: these roll down the image, and each source pixel that comes by is read
// once for all nine taps.
//
// A unit of work is a strip, a few columns of a band of rows of one image for
// one block of channels. It is done vector by vector of channels. Meanwhile the
// source of the next strip is prefetched, in the order of memory, which the CPU
// cannot see by itself.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_ROLLING_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_ROLLING_H_

#include "cc/kernels/cpu/gather_tile.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tile_sums.h"

namespace tf_dwgrad {
namespace {

// The types for which this is timed to be faster than a direct gather.
template <typename T>
constexpr bool kRollingPays = false;
template <>
constexpr bool kRollingPays<float> = true;
template <>
constexpr bool kRollingPays<double> = true;
template <>
constexpr bool kRollingPays<Half> = true;

// How results are written.
enum class RollingStores {
  kCached,
  kStreamed,  // past the caches
  // The same, but a vector waits until the strip is done with the next one. By
  // then nothing is read that has the lower bits of its address, by which a CPU
  // would take one for the other.
  kStreamedLate,
  // The same, but two neighbouring lines are written together.
  kStreamedInPairs,
};

// The columns that those of a strip see, whether they exist or not.
constexpr int kRollingWindow = kRollingCols + kRollingTaps - 1;

// Where a strip lies.
template <typename T>
struct RollingStrip {
  const T* src;  // the first pixel of the window
  T* dst;
  const T* filter;  // the tap that meets the first pixel of a window
  int64_t src_row_step;
  int64_t src_col_step;
  int64_t dst_row_step;
  int64_t dst_col_step;
  int64_t tap_row_step;
  int64_t tap_col_step;
  int64_t channels;
  int64_t rows;
  int64_t cols;
  TapRange window_rows;  // those that exist
  TapRange window_cols;
};

// Adds the products of a row of the window, whose first pixel is `src`, to sums
// of kRows dst rows.
template <Border kBorder, int N, int kRows, typename V, typename T>
inline __attribute__((always_inline)) void AddWindowRow(
    const RollingStrip<T>& strip, const T* src, const V* const (&taps)[kRows],
    V* const (&sums)[kRows]) {
#pragma GCC unroll 16
  for (int i = 0; i < kRollingWindow; ++i) {
    if (kBorder == kAnyBorder) {
      if (i < strip.window_cols.begin || i >= strip.window_cols.end) continue;
    } else if (i < MissingOnLeft(kBorder, kRollingTaps) ||
               i >= kRollingWindow - MissingOnRight(kBorder, kRollingTaps)) {
      continue;
    }
    V pixel = Access<T, N>::Load(src + i * strip.src_col_step);
    HoldInRegister(&pixel);
#pragma GCC unroll 4
    for (int tap = 0; tap < kRollingTaps; ++tap) {
      const int col = i - tap;
      if (col < 0 || col >= kRollingCols) continue;
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
        sums[row][col] += pixel * taps[row][tap];
      }
    }
  }
}

// How many vectors make a line of memory; unlike kVectorsOfLine of halfs, too,
// which do not stream one by one.
template <int N, typename T>
constexpr int kLineVectors = kLineBytes / (N * sizeof(T));

// Of a column, a line waits here, behind half of the next one where a vector is
// half a line.
template <int N, typename T>
constexpr int kWaitingLine =
    kLineVectors<N, T> > 1 ? kLineBytes / sizeof(T) : 0;
template <int N, typename T>
constexpr int kWaitingStep = kWaitingLine<N, T> + kLineBytes / sizeof(T);

// Columns from this one on write odd lines together with even ones behind them,
// others the other way round, so that the writes are spread evenly over the
// vectors of longer pixels.
constexpr int kFirstOddPair = (kRollingCols + 1) / 2;
template <typename T>
inline __attribute__((always_inline)) bool HasOddPairs(
    const RollingStrip<T>& strip) {
  return strip.channels > 2 * kLineBytes / int64_t{sizeof(T)};
}

// Writes sums of a dst row, or lets them wait in `waiting` and writes those of
// the vectors before. Where a vector is half a line of memory, the first half
// waits for the other.
template <Border kBorder, RollingStores kStores, int N, typename T, typename V>
inline __attribute__((always_inline)) void StoreRollingRow(
    const RollingStrip<T>& strip, const V* sums, int64_t vector, T* waiting,
    T* dst) {
  constexpr int kLine = kLineBytes / sizeof(T);
  constexpr bool kHalves = kLineVectors<N, T> > 1;
  typedef Vector<unsigned char, kLineBytes> Line;
  typedef Vector<unsigned char, N * sizeof(T)> Bits;
  const auto columns = [&](int begin, int end,
                           auto store) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int col = begin; col < end; ++col) {
      if (kBorder == kAnyBorder && col >= strip.cols) continue;
      store(sums[col], waiting + col * kWaitingStep<N, T>,
            dst + col * strip.dst_col_step);
    }
  };
  const auto each = [&](auto store) __attribute__((always_inline)) {
    columns(0, kRollingCols, store);
  };
  // The line that a sum completes, of which a half waits.
  const auto line_of = [](const V& sum,
                          const T* half) __attribute__((always_inline)) {
    if constexpr (kHalves) {
      T other[N];
      Access<T, N>::Store(sum, other);
      return JoinHalves(LoadBits<Bits>(half), LoadBits<Bits>(other));
    } else {
      return BitCast<Line>(sum);
    }
  };
  const auto wait_as_half =
      [](const V& sum, T* half, T*)
          __attribute__((always_inline)) { Access<T, N>::Store(sum, half); };
  if constexpr (kStores == RollingStores::kCached) {
    each([](const V& sum, T*, T* to) { Access<T, N>::Store(sum, to); });
    return;
  }
  if (kHalves && vector % 2 == 0) {
    each(wait_as_half);
    return;
  }
  // From here on a line is complete, which begins here or so far before.
  constexpr int kBefore = kHalves ? N : 0;
  const auto write = [&](const V& sum, T* wait, T* to)
                         __attribute__((always_inline)) {
                           Stream(line_of(sum, wait), to - kBefore);
                         };
  if constexpr (kStores == RollingStores::kStreamed) {
    each(write);
    return;
  }
  const auto wait_as_line = [&](const V& sum, T* wait,
                                T*) __attribute__((always_inline)) {
    const Line line = line_of(sum, wait);
    __builtin_memcpy(wait + kWaitingLine<N, T>, &line, sizeof(line));
  };
  const auto write_other = [](const T* wait,
                              T* to) __attribute__((always_inline)) {
    Stream(LoadBits<Line>(wait + kWaitingLine<N, T>), to - kBefore - kLine);
  };
  const int64_t line = vector / kLineVectors<N, T>;
  if constexpr (kStores == RollingStores::kStreamedLate) {
    if (line == 0) {
      each(wait_as_line);
      return;
    }
    each([&](const V& sum, T* wait, T* to) __attribute__((always_inline)) {
      write_other(wait, to);
      wait_as_line(sum, wait, to);
    });
    return;
  }
  const auto write_both = [&](const V& sum, T* wait, T* to)
                              __attribute__((always_inline)) {
                                write_other(wait, to);
                                write(sum, wait, to);
                              };
  const bool is_odd = line % 2 != 0;
  if (is_odd) {
    columns(0, kFirstOddPair, write_both);
  } else {
    columns(0, kFirstOddPair, wait_as_line);
  }
  if (is_odd == HasOddPairs(strip)) {
    columns(kFirstOddPair, kRollingCols, wait_as_line);
  } else if (line == 0) {
    columns(kFirstOddPair, kRollingCols, write);
  } else {
    columns(kFirstOddPair, kRollingCols, write_both);
  }
}

// Writes the lines that still wait when a strip is done.
template <RollingStores kStores, int N, typename T>
inline void WriteWaitingLines(const RollingStrip<T>& strip, const T* waiting) {
  constexpr int kLine = kLineBytes / sizeof(T);
  typedef Vector<unsigned char, kLineBytes> Line;
  const int64_t lines = strip.channels / kLine;
  constexpr bool kAll = kStores == RollingStores::kStreamedLate;
  const bool is_odd = lines % 2 != 0;
  const bool even_pairs = kAll || is_odd;
  const bool odd_pairs = kAll || is_odd != HasOddPairs(strip);
  T* dst = strip.dst + strip.channels - kLine;
  for (int64_t row = 0; row < strip.rows; ++row) {
    for (int col = 0; col < strip.cols; ++col) {
      if (!(col < kFirstOddPair ? even_pairs : odd_pairs)) continue;
      Stream(LoadBits<Line>(waiting + col * kWaitingStep<N, T> +
                            kWaitingLine<N, T>),
             dst + col * strip.dst_col_step);
    }
    dst += strip.dst_row_step;
    waiting += kRollingCols * kWaitingStep<N, T>;
  }
}

// The steps from the first pixel to the lines that a vector prefetches, in the
// order of memory. Pixels have so many lines and are not neighbours.
template <int kLine, typename T>
__attribute__((noinline)) void FindPrefetches(const RollingStrip<T>& strip,
                                              int64_t first_line,
                                              int64_t pixel_lines,
                                              int64_t (&steps)[kRollingCols]) {
  int64_t pixel = first_line / pixel_lines;
  int64_t line = first_line % pixel_lines;
  for (int64_t& step : steps) {
    step = pixel * strip.src_col_step + line * kLine;
    if (++line < pixel_lines) continue;
    line = 0;
    ++pixel;
  }
}

// Of the next strip, the source below dst begins at `next`.
template <Border kBorder, RollingStores kStores, int N, typename T>
__attribute__((noinline)) void SumRollingStrip(const RollingStrip<T>& strip,
                                               const T* next) {
  typedef Vector<typename AccumulatorOf<T>::type, N> V;
  constexpr int kCols = kRollingCols;
  constexpr int kTaps = kRollingTaps;
  // A line of each column, or half of one, until the rest of it is there.
  constexpr bool kLate = kStores == RollingStores::kStreamedLate ||
                         kStores == RollingStores::kStreamedInPairs;
  constexpr bool kWaits =
      kStores != RollingStores::kCached && (kLate || kLineVectors<N, T> > 1);
  alignas(kLineBytes)
      T waiting[kWaits ? kMostRollingRows * kCols * kWaitingStep<N, T> : 1];
  const int64_t end_row = strip.rows + kTaps - 1;
  // The first vector of each line prefetches as many lines of every row as
  // there are columns.
  constexpr int64_t kLine = kLineBytes / sizeof(T);
  const bool neighbours = strip.src_col_step == strip.channels;
  const int64_t pixel_lines = (strip.channels + kLine - 1) / kLine;
  const int64_t vectors = (strip.channels + N - 1) / N;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const int64_t channel = FirstLane<N>(vector, strip.channels);
    V taps[kTaps][kTaps];
#pragma GCC unroll 4
    for (int row = 0; row < kTaps; ++row) {
#pragma GCC unroll 4
      for (int col = 0; col < kTaps; ++col) {
        taps[row][col] = Access<T, N>::Load(strip.filter + channel +
                                            row * strip.tap_row_step +
                                            col * strip.tap_col_step);
      }
    }
    const bool prefetches = vector * N % kLine == 0;
    const int64_t first_line = vector * N / kLine * strip.cols;
    const T* prefetch = next + (neighbours ? first_line * kLine : 0);
    int64_t prefetch_steps[kCols];
    if (!neighbours && prefetches) {
      FindPrefetches<kLine>(strip, first_line, pixel_lines, prefetch_steps);
    }
    V sums[kTaps][kCols] = {};
    const T* src = strip.src + channel;
    // The row whose sums are complete with this one of the window.
    T* dst = strip.dst + channel - (kTaps - 1) * strip.dst_row_step;
    T* wait = waiting;
    int64_t row = 0;
    const auto prefetch_line = [&](const T* line) __attribute__((
                                   always_inline)) {
      if (kStores == RollingStores::kStreamedInPairs && HasOddPairs(strip)) {
        PrefetchToRead(line);
      } else {
        PrefetchToReadSoon(line);
      }
    };
    const auto add_row = [&](V* upper, V* middle,
                             V* lower) __attribute__((always_inline)) {
      if (row >= strip.window_rows.begin && row < strip.window_rows.end) {
        if (neighbours && prefetches) {
#pragma GCC unroll 16
          for (int i = 0; i < kCols; ++i) {
            if (kBorder == kAnyBorder && i >= strip.cols) continue;
            prefetch_line(prefetch + i * kLine);
          }
        } else if (prefetches) {
          for (int i = 0; i < strip.cols; ++i) {
            prefetch_line(prefetch + prefetch_steps[i]);
          }
        }
        if (row >= 2 && row < strip.rows) {
          AddWindowRow<kBorder, N, 3>(strip, src, {taps[2], taps[1], taps[0]},
                                      {upper, middle, lower});
        } else {
          if (row >= 2) {
            AddWindowRow<kBorder, N, 1>(strip, src, {taps[2]}, {upper});
          }
          if (row >= 1 && row <= strip.rows) {
            AddWindowRow<kBorder, N, 1>(strip, src, {taps[1]}, {middle});
          }
          if (row < strip.rows) {
            AddWindowRow<kBorder, N, 1>(strip, src, {taps[0]}, {lower});
          }
        }
      }
      if (row >= kTaps - 1) {
        StoreRollingRow<kBorder, kStores, N>(strip, upper, vector, wait, dst);
        wait += kCols * kWaitingStep<N, T>;
      }
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) upper[col] = V{};
      src += strip.src_row_step;
      prefetch += strip.src_row_step;
      dst += strip.dst_row_step;
      ++row;
    };
    while (true) {
      add_row(sums[0], sums[1], sums[2]);
      if (row == end_row) break;
      add_row(sums[1], sums[2], sums[0]);
      if (row == end_row) break;
      add_row(sums[2], sums[0], sums[1]);
      if (row == end_row) break;
    }
  }
  if constexpr (kLate) WriteWaitingLines<kStores, N>(strip, waiting);
}

// Positions in so many parts, as even as can be.
class EvenParts {
 public:
  explicit EvenParts(int64_t parts) : parts_(parts) {}
  void Cut(int64_t size) {
    if (size == size_) return;  // without a division
    size_ = size;
    shorter_ = size / parts_;
    longer_ = size % parts_;
  }
  int64_t Begin(int64_t part) const {
    return part * shorter_ + (part < longer_ ? part : longer_);
  }

 private:
  int64_t parts_;
  int64_t size_ = 0;
  int64_t shorter_ = 0;
  int64_t longer_ = 0;  // so many have one position more
};

// The strips of a problem, one after the other, from a unit on.
template <typename T>
class RollingStripWalk {
 public:
  RollingStripWalk(const GatherProblem& problem, const T* src, const T* filter,
                   T* dst, int64_t unit)
      : problem_(problem),
        src_(src),
        filter_(filter),
        dst_(dst),
        phases_down_(problem.rows),
        phases_across_(problem.cols),
        bands_(RollingBands(problem)),
        strips_(RollingStrips(problem)),
        down_(bands_),
        across_(strips_) {
    const auto next_digit = [&unit](int64_t base) {
      const int64_t digit = unit % base;
      unit /= base;
      return digit;
    };
    strip_ = next_digit(strips_);
    col_phase_ = next_digit(PhaseCount(problem.cols));
    block_ = next_digit(problem.num_blocks);
    band_ = next_digit(bands_);
    row_phase_ = next_digit(PhaseCount(problem.rows));
    image_ = unit;
    const GatherPlan& rows = problem.rows;
    const GatherPlan& cols = problem.cols;
    const int64_t depth = problem.in_depth;
    of_all_.src_row_step = rows.pitch * cols.src_size * depth;
    of_all_.src_col_step = cols.pitch * depth;
    of_all_.dst_row_step = rows.num_phases * cols.dst_size * depth;
    of_all_.dst_col_step = cols.num_phases * depth;
    of_all_.tap_row_step = rows.tap_step * kRollingTaps * depth;
    of_all_.tap_col_step = cols.tap_step * depth;
    BeginStrips();
  }

  RollingStrip<T> Next() {
    if (strip_ == strips_) {
      strip_ = 0;
      SkipToNextStrips();
      BeginStrips();
    }
    const GatherPlan& cols = problem_.cols;
    RollingStrip<T> strip = of_all_;
    const int64_t col = across_.Begin(strip_);
    const int64_t src_col = first_src_col_ + col * cols.pitch;
    strip.src += src_col * problem_.in_depth;
    strip.dst += col * of_all_.dst_col_step;
    strip.cols = across_.Begin(strip_ + 1) - col;
    strip.window_cols =
        ClipToSource(cols, src_col, strip.cols + kRollingTaps - 1);
    ++strip_;
    return strip;
  }

 private:
  void SkipToNextStrips() {
    if (++col_phase_ < PhaseCount(problem_.cols)) return;
    col_phase_ = 0;
    if (++block_ < problem_.num_blocks) return;
    block_ = 0;
    if (++band_ < bands_) return;
    band_ = 0;
    if (++row_phase_ < PhaseCount(problem_.rows)) return;
    row_phase_ = 0;
    ++image_;
  }

  // What the strips of a column phase have in common.
  void BeginStrips() {
    const GatherPlan& rows = problem_.rows;
    const GatherPlan& cols = problem_.cols;
    const int64_t depth = problem_.in_depth;
    const Phase down = phases_down_[row_phase_];
    const Phase across = phases_across_[col_phase_];
    across_.Cut(across.size);
    down_.Cut(down.size);
    first_src_col_ = across.run.first_src;
    const int64_t row = down_.Begin(band_);
    const int64_t src_row = down.run.first_src + row * rows.pitch;
    const int64_t dst_row = row_phase_ + row * rows.num_phases;
    const ChannelRange channels = ChannelsOfBlock(problem_, depth, block_);
    const int64_t channel = channels.first;
    of_all_.src = src_ +
                  (image_ * rows.src_size + src_row) * cols.src_size * depth +
                  channel;
    of_all_.dst =
        dst_ +
        ((image_ * rows.dst_size + dst_row) * cols.dst_size + col_phase_) *
            depth +
        channel;
    of_all_.filter =
        filter_ +
        (down.run.first_tap * kRollingTaps + across.run.first_tap) * depth +
        channel;
    of_all_.channels = channels.count;
    of_all_.rows = down_.Begin(band_ + 1) - row;
    of_all_.window_rows =
        ClipToSource(rows, src_row, of_all_.rows + kRollingTaps - 1);
  }

  const GatherProblem& problem_;
  const T* const src_;
  const T* const filter_;
  T* const dst_;
  const Phases phases_down_;
  const Phases phases_across_;
  const int64_t bands_;
  const int64_t strips_;
  int64_t image_;
  int64_t row_phase_;
  int64_t band_;
  int64_t block_;
  int64_t col_phase_;
  int64_t strip_;
  EvenParts down_;
  EvenParts across_;
  int64_t first_src_col_ = 0;
  RollingStrip<T> of_all_;
};

template <RollingStores kStores, int N, typename T>
void RollDownStrips(const GatherProblem& problem, const T* src, const T* filter,
                    T* dst, int64_t begin, int64_t end) {
  if (begin == end) return;
  RollingStripWalk<T> walk(problem, src, filter, dst, begin);
  RollingStrip<T> next = walk.Next();
  const int64_t units = RollingUnits(problem);
  for (int64_t unit = begin; unit < end; ++unit) {
    const RollingStrip<T> strip = next;
    // Behind the last strip of a piece of the work, as a rule the thread goes
    // on with the next piece.
    if (unit + 1 < units) next = walk.Next();
    // Rows that exist for those that exist here.
    const T* const prefetch =
        next.src + next.src_col_step +
        (next.window_rows.begin - strip.window_rows.begin) * next.src_row_step;
    const auto sum = [&](auto border) {
      SumRollingStrip<static_cast<Border>(decltype(border)::kValue), kStores,
                      N>(strip, prefetch);
    };
    WithBorder<kRollingWindow, kRollingTaps, /*kKnown=*/true>(
        strip.window_cols, strip.cols == kRollingCols, sum);
  }
}

template <typename Isa, typename T>
void GatherRolling(const GatherProblem& problem, const void* src,
                   const void* filter, void* dst, void* /*scratch*/,
                   int64_t begin, int64_t end) {
  constexpr int N = Isa::kVectorBytes / sizeof(typename AccumulatorOf<T>::type);
  static_assert(2 * N * sizeof(T) >= kLineBytes,
                "lines are of a vector or two");
  const auto run = [&](auto stores) {
    RollDownStrips<static_cast<RollingStores>(decltype(stores)::kValue), N>(
        problem, static_cast<const T*>(src), static_cast<const T*>(filter),
        static_cast<T*>(dst), begin, end);
  };
  constexpr int64_t kAliasStep = 2 << 10;
  const int64_t pixel_bytes = problem.in_depth * int64_t{sizeof(T)};
  if (!problem.beyond_cache ||
      reinterpret_cast<uintptr_t>(dst) % kLineBytes != 0) {
    run(Int<static_cast<int>(RollingStores::kCached)>());
    return;
  }
  // Of three lines the pair is of no use to one.
  const int64_t pixel_lines = pixel_bytes / kLineBytes;
  if (problem.joins_lines && (pixel_lines == 2 || pixel_lines > 3)) {
    run(Int<static_cast<int>(RollingStores::kStreamedInPairs)>());
    FinishStreaming();
    return;
  }
  // Where a vector is half a line, every other one is late anyway.
  constexpr RollingStores kWhereAliased = N * sizeof(T) == kLineBytes
                                              ? RollingStores::kStreamedLate
                                              : RollingStores::kStreamed;
  if (pixel_bytes % kAliasStep == 0) {
    run(Int<static_cast<int>(kWhereAliased)>());
  } else {
    run(Int<static_cast<int>(RollingStores::kStreamed)>());
  }
  FinishStreaming();
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_ROLLING_H_
