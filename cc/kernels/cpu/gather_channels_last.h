// Forward op and input gradient for NHWC: vectors run over channels.
//
// A tile is kCols neighbouring positions of one column phase. Its taps are done
// in blocks of up to Isa::kMaxTaps neighbouring taps of a filter row, all rows
// of the filter at a time: for each vector of channels the tile's sums stay in
// registers while a window slides over the source row, in which each pixel is
// loaded once and used by every (position, tap) pair that meets it. Source
// pixels outside the image are left out of the window.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_CHANNELS_LAST_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_CHANNELS_LAST_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// Filter channels whose sums are kept at a time. A block of dst channels fits.
constexpr int64_t kPanelChannels = kMaxChannelBlock;

// A block of taps as one tile sees it. Pointers are to the first channel of the
// panel; steps are in elements.
template <typename T>
struct TapBlock {
  const T* src;  // window column 0 in the first source row
  const T* filter;
  int64_t src_row_step;
  int64_t src_col_step;
  int64_t filter_row_step;
  int64_t filter_col_step;
  int64_t num_rows;
  TapRange window;    // the window columns that exist
  const T* prefetch;  // window column 0 of the source row needed next, or null
  bool first;         // the sums start at zero
};

// Where the sums of a tile are kept between blocks and where they go in the
// end. `panel` holds, for each vector of channels, one vector per position. The
// vectors cover [0, N), [N, 2N), ...; if the channels are no multiple of N, the
// last vector covers the last N of them, and the few that it shares with its
// neighbour are computed twice.
template <typename T>
struct TileSums {
  typename AccumulatorOf<T>::type* panel;
  T* dst;             // null: they stay in the panel
  int64_t dst_step;   // from a position to the next
  int64_t positions;  // of the tile that exist
  bool stream;        // to dst past the caches
};

template <int kCols, int kTaps, typename V>
inline __attribute__((always_inline)) void AddPixel(int j, const V& pixel,
                                                    const V (&weight)[kTaps],
                                                    V (&sum)[kCols]) {
#pragma GCC unroll 16
  for (int tap = 0; tap < kTaps; ++tap) {
    if (j >= tap && j - tap < kCols) sum[j - tap] += pixel * weight[tap];
  }
}

// Vectors of 16-bit elements are half as long in memory; pieces of a line do
// not stream well.
template <typename T, int N>
constexpr bool kCanStream =
    sizeof(T) == sizeof(typename AccumulatorOf<T>::type);

// The first channel of vector `index` among those that cover `channels`.
template <int N>
inline int64_t FirstLane(int64_t index, int64_t channels) {
  return index * N + N <= channels ? index * N : channels - N;
}

// Adds a block of taps for vectors of N channels; there are at least N.
template <int N, int kCols, int kTaps, bool kWholeWindow, typename T>
void AddTapBlock(const TapBlock<T>& block, int64_t channels,
                 const TileSums<T>& sums, bool last) {
  typedef typename AccumulatorOf<T>::type A;
  typedef Vector<A, N> V;
  constexpr int kWindow = kCols + kTaps - 1;
  constexpr int64_t kLine = 64 / sizeof(T);
  A* panel = sums.panel;
  for (int64_t index = 0; index * N < channels; ++index) {
    const int64_t c = FirstLane<N>(index, channels);
    if (block.prefetch != nullptr && (N >= kLine || c % kLine == 0)) {
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) {
        __builtin_prefetch(block.prefetch + col * block.src_col_step + c);
      }
    }
    V sum[kCols];
    if (block.first) {
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) sum[col] = V{};
    } else {
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) {
        sum[col] = Access<A, N>::Load(panel + col * N);
      }
    }
    const T* src = block.src + c;
    const T* filter = block.filter + c;
    for (int64_t row = 0; row < block.num_rows; ++row) {
      V weight[kTaps];
#pragma GCC unroll 16
      for (int tap = 0; tap < kTaps; ++tap) {
        weight[tap] = Access<T, N>::Load(filter + tap * block.filter_col_step);
      }
#pragma GCC unroll 32
      for (int j = 0; j < kWindow; ++j) {
        if (kWholeWindow || (j >= block.window.begin && j < block.window.end)) {
          AddPixel<kCols, kTaps>(
              j, Access<T, N>::Load(src + j * block.src_col_step), weight, sum);
        }
      }
      src += block.src_row_step;
      filter += block.filter_row_step;
    }
    if (last && sums.dst != nullptr) {
      T* dst = sums.dst + c;
      if (kCanStream<T, N> && sums.stream) {
#pragma GCC unroll 16
        for (int col = 0; col < kCols; ++col) {
          if (col < sums.positions) Stream(sum[col], dst + col * sums.dst_step);
        }
      } else {
#pragma GCC unroll 16
        for (int col = 0; col < kCols; ++col) {
          if (col < sums.positions) {
            Access<T, N>::Store(sum[col], dst + col * sums.dst_step);
          }
        }
      }
    } else {
#pragma GCC unroll 16
      for (int col = 0; col < kCols; ++col) {
        Access<A, N>::Store(sum[col], panel + col * N);
      }
    }
    panel += kCols * N;
  }
}

// Adds a block of taps for one vector of channels of which only `lanes` exist
// or of which each reads a source channel of its own: lane l belongs to filter
// channel l of the panel and to the source channel that `source_offset(l)`
// gives.
template <int N, int kCols, typename T, typename SourceOffset>
void AddTapBlockByLane(const TapBlock<T>& block, int taps, int lanes,
                       SourceOffset source_offset, const TileSums<T>& sums,
                       bool last) {
  typedef typename AccumulatorOf<T>::type A;
  typedef Vector<A, N> V;
  V sum[kCols] = {};
  if (!block.first) {
    for (int col = 0; col < kCols; ++col) {
      sum[col] = Access<A, N>::Load(sums.panel + col * N);
    }
  }
  for (int64_t row = 0; row < block.num_rows; ++row) {
    const T* src = block.src + row * block.src_row_step;
    const T* filter = block.filter + row * block.filter_row_step;
    for (int64_t j = block.window.begin; j < block.window.end; ++j) {
      const V pixel =
          Collect<T, N>(src + j * block.src_col_step, lanes, source_offset);
      for (int tap = 0; tap < taps; ++tap) {
        if (j >= tap && j - tap < kCols) {
          sum[j - tap] +=
              pixel *
              LoadSome<T, N>(filter + tap * block.filter_col_step, lanes);
        }
      }
    }
  }
  for (int col = 0; col < kCols; ++col) {
    if (!last || sums.dst == nullptr) {
      Access<A, N>::Store(sum[col], sums.panel + col * N);
    } else if (col < sums.positions) {
      StoreSome<T, N>(sum[col], sums.dst + col * sums.dst_step, lanes);
    }
  }
}

template <int N, int kCols, int kTaps, typename T>
inline void AddVectors(const TapBlock<T>& block, int64_t channels,
                       const TileSums<T>& sums, bool last) {
  if (block.window.begin == 0 && block.window.end == kCols + kTaps - 1) {
    AddTapBlock<N, kCols, kTaps, true>(block, channels, sums, last);
  } else {
    AddTapBlock<N, kCols, kTaps, false>(block, channels, sums, last);
  }
}

// Finds the instance for a number of taps that is only known at run time.
template <int N, int kCols, int kTaps, typename T>
inline void AddVectorsOf(int taps, const TapBlock<T>& block, int64_t channels,
                         const TileSums<T>& sums, bool last) {
  if constexpr (kTaps > 1) {
    if (taps < kTaps) {
      AddVectorsOf<N, kCols, kTaps - 1>(taps, block, channels, sums, last);
      return;
    }
  }
  AddVectors<N, kCols, kTaps>(block, channels, sums, last);
}

// Adds a block of `taps` taps to the panel of `channels` filter channels that
// starts at filter channel `first_channel`.
template <typename Isa, int N, int kCols, typename T>
void AddBlock(const GatherProblem& problem, const TapBlock<T>& block, int taps,
              int64_t first_channel, int64_t channels, const TileSums<T>& sums,
              bool last) {
  const int64_t multiplier = problem.depth_multiplier;
  if (!problem.backward && multiplier != 1) {
    // block.src is at channel 0 of the image: neighbours share a channel.
    TapBlock<T> vector_block = block;
    TileSums<T> vector_sums = sums;
    for (int64_t c = 0; c < channels; c += N) {
      const int64_t k = first_channel + c;
      AddTapBlockByLane<N, kCols>(
          vector_block, taps,
          channels - c < N ? static_cast<int>(channels - c) : N,
          [k, multiplier](int lane) { return (k + lane) / multiplier; },
          vector_sums, last);
      vector_block.filter += N;
      vector_sums.panel += kCols * N;
      vector_sums.dst += N;
    }
  } else if (channels >= N) {
    AddVectorsOf<N, kCols, Isa::kMaxTaps>(taps, block, channels, sums, last);
  } else {
    AddTapBlockByLane<N, kCols>(
        block, taps, static_cast<int>(channels),
        [](int lane) { return static_cast<int64_t>(lane); }, sums, last);
  }
}

// Where a tile lies and which taps reach it, apart from the channels.
template <typename T>
struct Tile {
  TapRun row_run;
  TapRun col_run;
  int64_t row;        // position within the row phase
  int64_t col;        // first position within the column phase
  int64_t positions;  // of the tile that lie inside dst
  const T* src;       // the image
  T* dst;             // the first position, channel 0
  int64_t dst_step;   // from a position to the next
  bool stream;        // dst past the caches
};

// The sums of all taps for the filter channels [first_channel, first_channel +
// channels) of one tile.
template <typename Isa, int N, int kCols, typename T>
void SumTile(const GatherProblem& problem, const Tile<T>& tile, const T* filter,
             int64_t first_channel, int64_t channels, const TileSums<T>& sums) {
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t filter_depth = FilterDepth(problem);
  const int64_t src_depth = SrcDepth(problem);
  const bool shared_channels = src_depth != filter_depth;

  TapBlock<T> block;
  block.src_row_step = rows.pitch * cols.src_size * src_depth;
  block.src_col_step = cols.pitch * src_depth;
  block.filter_row_step = rows.tap_step * cols.filter_size * filter_depth;
  block.filter_col_step = cols.tap_step * filter_depth;
  block.first = true;

  // A block is added when the next one is known, so that the last one can go
  // straight to dst.
  TapBlock<T> pending = block;
  pending.num_rows = 0;
  pending.window = {0, 0};
  pending.src = tile.src;
  pending.filter = filter;
  pending.prefetch = nullptr;
  int pending_taps = 1;
  bool have_pending = false;

  TapRun row_run = tile.row_run;
  for (int64_t row_index = 0;;) {
    const int64_t row_base = row_run.first_src + tile.row * rows.pitch;
    const TapRange row_taps = ClipToSource(rows, row_base, row_run.num_taps);
    block.num_rows = row_taps.end - row_taps.begin;
    const int64_t src_row = row_base + row_taps.begin * rows.pitch;
    const int64_t tap_row = row_run.first_tap + row_taps.begin * rows.tap_step;
    const int64_t next_row = row_base + row_run.num_taps * rows.pitch;

    TapRun col_run = tile.col_run;
    for (int64_t col_index = 0; block.num_rows > 0;) {
      for (int64_t first = 0; first < col_run.num_taps;
           first += Isa::kMaxTaps) {
        const int64_t rest = col_run.num_taps - first;
        const int taps =
            rest < Isa::kMaxTaps ? static_cast<int>(rest) : Isa::kMaxTaps;
        const int64_t src_col =
            col_run.first_src + (tile.col + first) * cols.pitch;
        block.window = ClipToSource(cols, src_col, kCols + taps - 1);
        if (block.window.begin >= block.window.end) continue;
        if (have_pending) {
          AddBlock<Isa, N, kCols>(problem, pending, pending_taps, first_channel,
                                  channels, sums, /*last=*/false);
          block.first = false;
        }
        const int64_t src_channel = shared_channels ? 0 : first_channel;
        block.src = tile.src + (src_row * cols.src_size + src_col) * src_depth +
                    src_channel;
        const int64_t tap_col = col_run.first_tap + first * cols.tap_step;
        block.filter = filter +
                       (tap_row * cols.filter_size + tap_col) * filter_depth +
                       first_channel;
        block.prefetch =
            first == 0 && next_row < rows.src_size
                ? tile.src +
                      (next_row * cols.src_size + src_col + taps - 1) *
                          src_depth +
                      src_channel
                : nullptr;
        pending = block;
        pending_taps = taps;
        have_pending = true;
      }
      if (++col_index >= cols.num_runs) break;
      NextRun(cols, col_index, &col_run);
    }
    if (++row_index >= rows.num_runs) break;
    NextRun(rows, row_index, &row_run);
  }
  // Without a single tap this writes the zeros.
  AddBlock<Isa, N, kCols>(problem, pending, pending_taps, first_channel,
                          channels, sums, /*last=*/true);
}

// total[c] += the sum of kWidth (or, if that is 0, `width`) neighbours in
// `row`.
template <int kWidth, typename A>
inline void AddNeighbours(const A* row, int64_t channels, int64_t width,
                          A* total) {
  if (kWidth > 0) width = kWidth;
  for (int64_t c = 0; c < channels; ++c) {
    A sum = total[c];
    for (int64_t q = 0; q < width; ++q) sum += row[c * width + q];
    total[c] = sum;
  }
}

// Adds up the depth_multiplier (or, of a large one, `width`) neighbouring
// filter channels that belong to each of `channels` input channels.
template <int N, int kCols, typename A>
void ReducePanel(const A* panel, int64_t channels, int64_t width, A* total) {
  const int64_t panel_channels = channels * width;
  A row[kPanelChannels + N];
  for (int col = 0; col < kCols; ++col, total += kPanelChannels) {
    for (int64_t index = 0; index * N < panel_channels; ++index) {
      const int64_t k =
          panel_channels < N ? 0 : FirstLane<N>(index, panel_channels);
      Access<A, N>::Store(Access<A, N>::Load(panel + (index * kCols + col) * N),
                          row + k);
    }
    switch (width) {
      case 2:
        AddNeighbours<2>(row, channels, width, total);
        break;
      case 4:
        AddNeighbours<4>(row, channels, width, total);
        break;
      case 8:
        AddNeighbours<8>(row, channels, width, total);
        break;
      default:
        AddNeighbours<0>(row, channels, width, total);
        break;
    }
  }
}

// The dst channels [begin, end) of one tile.
template <typename Isa, int N, int kCols, typename T>
void RunTile(const GatherProblem& problem, const Tile<T>& tile, const T* filter,
             int64_t begin, int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  A panel[kCols * kPanelChannels];
  TileSums<T> sums = {panel, nullptr, tile.dst_step, tile.positions,
                      tile.stream};

  const int64_t multiplier = problem.depth_multiplier;
  if (!problem.backward || multiplier == 1) {
    sums.dst = tile.dst + begin;
    SumTile<Isa, N, kCols>(problem, tile, filter, begin, end - begin, sums);
    return;
  }

  // The input gradient with a depth multiplier: whole input channels per panel,
  // or a part of one if the multiplier is larger than the panel.
  const int64_t group =
      multiplier < kPanelChannels ? kPanelChannels / multiplier : 1;
  const int64_t part =
      multiplier < kPanelChannels ? multiplier : kPanelChannels;
  A total[kCols * kPanelChannels];
  for (int64_t c = begin; c < end; c += group) {
    const int64_t channels = end - c < group ? end - c : group;
    for (int col = 0; col < kCols; ++col) {
      for (int64_t i = 0; i < channels; ++i) {
        total[col * kPanelChannels + i] = 0;
      }
    }
    for (int64_t q = 0; q < multiplier; q += part) {
      const int64_t width = multiplier - q < part ? multiplier - q : part;
      SumTile<Isa, N, kCols>(problem, tile, filter, c * multiplier + q,
                             channels * width, sums);
      ReducePanel<N, kCols>(panel, channels, width, total);
    }
    for (int64_t col = 0; col < tile.positions; ++col) {
      const A* sum = total + col * kPanelChannels;
      T* dst = tile.dst + col * tile.dst_step + c;
      for (int64_t i = 0; i < channels; i += N) {
        const int lanes = channels - i < N ? static_cast<int>(channels - i) : N;
        StoreSome<T, N>(LoadSome<A, N>(sum + i, lanes), dst + i, lanes);
      }
    }
  }
}

// A unit of work is one dst row of one image for one block of channels.
template <typename Isa, int N, typename T>
void GatherRows(const GatherProblem& problem, const T* src, const T* filter,
                T* dst, int64_t begin, int64_t end) {
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t src_depth = SrcDepth(problem);
  const int64_t dst_depth = DstDepth(problem);
  const int64_t col_phases = PhaseCount(cols);
  // Every vector of every pixel must be aligned.
  const bool stream = problem.stream_dst && kCanStream<T, N> &&
                      dst_depth % N == 0 &&
                      reinterpret_cast<uintptr_t>(dst) % (N * sizeof(T)) == 0;

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit % rows.dst_size;
    const int64_t block = unit / rows.dst_size % problem.num_blocks;
    const int64_t image = unit / rows.dst_size / problem.num_blocks;
    const int64_t first_channel = block * problem.channel_block;
    const int64_t rest = dst_depth - first_channel;
    const int64_t last_channel =
        first_channel +
        (rest < problem.channel_block ? rest : problem.channel_block);
    T* dst_row =
        dst + (image * rows.dst_size + row) * cols.dst_size * dst_depth;

    Tile<T> tile;
    tile.src = src + image * rows.src_size * cols.src_size * src_depth;
    tile.row_run = FirstRun(rows, row % rows.num_phases);
    tile.row = row / rows.num_phases;
    tile.dst_step = cols.num_phases * dst_depth;
    tile.stream = stream;
    for (int64_t phase = 0; phase < col_phases; ++phase) {
      tile.col_run = FirstRun(cols, phase);
      const int64_t positions = PhaseSize(cols, phase);
      int64_t done = 0;
      while (done < positions) {
        const int64_t left = positions - done;
        // The narrow tile wastes less on the last few positions.
        const bool narrow =
            left <= Isa::kNarrowCols || left == 2 * Isa::kNarrowCols;
        const int64_t size = narrow ? Isa::kNarrowCols : Isa::kWideCols;
        tile.col = done;
        tile.positions = left < size ? left : size;
        tile.dst = dst_row + (phase + done * cols.num_phases) * dst_depth;
        if (narrow) {
          RunTile<Isa, N, Isa::kNarrowCols>(problem, tile, filter,
                                            first_channel, last_channel);
        } else {
          RunTile<Isa, N, Isa::kWideCols>(problem, tile, filter, first_channel,
                                          last_channel);
        }
        done += size;
      }
    }
  }
  if (stream) FinishStreaming();
}

template <typename Isa, typename T>
void GatherChannelsLast(const GatherProblem& problem, const void* src,
                        const void* filter, void* dst, int64_t begin,
                        int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int kLanes = Isa::kVectorBytes / sizeof(A);
  constexpr int kFewLanes = 16 / sizeof(A);
  const bool few_channels = FilterDepth(problem) < kLanes;
  const auto rows =
      few_channels ? GatherRows<Isa, kFewLanes, T> : GatherRows<Isa, kLanes, T>;
  rows(problem, static_cast<const T*>(src), static_cast<const T*>(filter),
       static_cast<T*>(dst), begin, end);
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_CHANNELS_LAST_H_
