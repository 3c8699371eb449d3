// Forward op and input gradient from packed sources: either layout, any depth
// multiplier, any number of taps.
//
// A unit of work first copies the source pixels and the filter taps that it
// needs into scratch memory, one or a few vectors of accumulators per pixel,
// one per tap. The copy turns NCHW into vectors of channels, sets the filter
// channels of a depth multiplier apart, widens 16-bit types once, and puts
// pixels whose distance in the image is a large power of two, which would
// compete for few places in the cache, next to each other. The tiles are then
// the same as those of the direct gather. In NCHW the sums too are turned
// around on their way out.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_PACKED_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_PACKED_H_

#include "cc/kernels/cpu/coming_lines.h"
#include "cc/kernels/cpu/gather_tile.h"
#include "cc/kernels/cpu/image_steps.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/pack_lanes.h"
#include "cc/kernels/cpu/packed_filter.h"

namespace tf_dwgrad {
namespace {

// The part of one dimension that a panel covers.
struct PanelRange {
  int64_t first_phase;
  int64_t end_phase;
  int64_t begin;  // positions of each phase
  int64_t end;
  SourceRange sources;
  // dst positions, in the order in which the panel holds them.
  int64_t first_dst;
  int64_t dst_count;
  int64_t dst_pitch;
};

inline PanelRange FindPanel(const GatherPlan& plan, const PanelSplit& split,
                            int64_t index) {
  PanelRange range;
  const int64_t phases = PhaseCount(plan);
  int64_t panel = index;
  range.first_phase = 0;
  range.end_phase = phases;
  if (!split.all_phases) {
    const int64_t panels = split.num_panels / phases;
    range.first_phase = index / panels;
    range.end_phase = range.first_phase + 1;
    panel = index % panels;
  }
  const int64_t size = PhaseSize(plan, range.first_phase);
  range.begin = panel * split.positions;
  range.end = range.begin + split.positions;
  if (range.end > size) range.end = size;
  if (range.begin > range.end) range.begin = range.end;
  range.sources = SourcesOf(plan, range.first_phase, range.end_phase,
                            range.begin, range.end, split.skip_sources);
  range.dst_pitch = split.all_phases ? 1 : plan.num_phases;
  range.first_dst = range.first_phase + range.begin * plan.num_phases;
  const int64_t end = range.first_phase + range.end * plan.num_phases;
  range.dst_count =
      split.all_phases
          ? (end < plan.dst_size ? end : plan.dst_size) - range.first_dst
          : range.end - range.begin;
  return range;
}

template <typename Isa, typename T>
class PackedGather {
 public:
  PackedGather(const GatherProblem& problem, const void* src,
               const void* filter, void* dst, void* scratch)
      : problem_(problem),
        rows_(problem.rows),
        cols_(problem.cols),
        phases_down_(problem.rows),
        phases_across_(problem.cols),
        src_(static_cast<const T*>(src)),
        filter_(static_cast<const T*>(filter)),
        dst_(static_cast<T*>(dst)),
        passes_(Passes(problem)) {
    src_steps_ = StepsOf(problem.channels_last, SrcDepth(problem),
                         rows_.src_size, cols_.src_size);
    dst_steps_ = StepsOf(problem.channels_last, DstDepth(problem),
                         rows_.dst_size, cols_.dst_size);
    taps_ = rows_.filter_size * cols_.filter_size;
    max_vectors_ = problem.block_vectors;
    packed_src_ = static_cast<A*>(scratch);
    packed_filter_ =
        packed_src_ + passes_ * max_vectors_ * problem.panel_pixels * N;
    packed_dst_ = packed_filter_ + passes_ * max_vectors_ * taps_ * N;
    const int64_t aligned =
        problem.flat ? rows_.dst_size * cols_.dst_size : DstDepth(problem);
    stream_ = problem.beyond_cache && kCanStream<T> && aligned % N == 0 &&
              reinterpret_cast<uintptr_t>(dst) % (N * sizeof(T)) == 0;
  }

  template <int kMaxTaps, int kTileRows>
  void Run(int64_t begin, int64_t end) {
    const int64_t images = problem_.flat ? 1 : problem_.batch;
    int64_t packed_block = -1, found_row_panel = -1, found_col_panel = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t rest = unit;
      const int64_t col_panel = rest % problem_.col_panels.num_panels;
      rest /= problem_.col_panels.num_panels;
      const int64_t row_panel = rest % problem_.row_panels.num_panels;
      rest /= problem_.row_panels.num_panels;
      const int64_t image = rest % images;
      const int64_t block = rest / images;
      if (row_panel != found_row_panel) {
        row_range_ = FindPanel(rows_, problem_.row_panels, row_panel);
        found_row_panel = row_panel;
      }
      if (col_panel != found_col_panel) {
        col_range_ = FindPanel(cols_, problem_.col_panels, col_panel);
        found_col_panel = col_panel;
      }
      if (row_range_.dst_count == 0 || col_range_.dst_count == 0) continue;
      if (block != packed_block) {
        StartBlock(block);
        packed_block = block;
      }
      if (problem_.flat) {
        PackFlat();
        PlanPrefetch(unit + 1, end);
        RunTiles<kMaxTaps, kTileRows>(packed_dst_);
        UnpackFlat();
      } else {
        PackChannels(image);
        RunTiles<kMaxTaps, kTileRows>(dst_ + image * dst_steps_.image +
                                      row_range_.first_dst * dst_steps_.row +
                                      col_range_.first_dst * dst_steps_.col +
                                      first_channel_);
      }
    }
    if (stream_) FinishStreaming();
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);

  int64_t SrcChannel(int64_t dst_channel, int64_t pass) const {
    return problem_.backward ? dst_channel * passes_ + pass
                             : dst_channel / problem_.depth_multiplier;
  }

  // The packed source from one of the block's channels on. Pixels are whole
  // vectors apart.
  PackedPixels<A> PackedSrc(int64_t channel) const {
    return {packed_src_ + channel, num_vectors_ * N,
            num_vectors_ * N * problem_.panel_pixels};
  }

  // Finds the channels of a block and packs its filter.
  void StartBlock(int64_t block) {
    if (problem_.flat) {
      first_plane_ = block * N;
      map_ = MapLanes<N>(first_plane_, problem_.batch * DstDepth(problem_),
                         DstDepth(problem_));
      first_channel_ = map_.channel[0];
      channels_ = N;
      num_vectors_ = 1;
      if (problem_.channels_last) FindFlatRuns();
      PackVectorFilter(map_.channel, map_.contiguous, 0);
      return;
    }
    const ChannelRange block_channels =
        ChannelsOfBlock(problem_, DstDepth(problem_), block);
    first_channel_ = block_channels.first;
    channels_ = block_channels.count;
    num_vectors_ = (channels_ + N - 1) / N;
    for (int64_t vector = 0; vector < num_vectors_; ++vector) {
      int64_t channels[N];
      for (int lane = 0; lane < N; ++lane) {
        channels[lane] =
            first_channel_ + FirstLane<N>(vector, channels_) + lane;
      }
      PackVectorFilter(channels, true, vector);
    }
  }

  void PackVectorFilter(const int64_t (&channels)[N], bool contiguous,
                        int64_t vector) {
    for (int64_t pass = 0; pass < passes_; ++pass) {
      PackFilter<N>(
          filter_, taps_, FilterDepth(problem_), channels, passes_, pass,
          contiguous && passes_ == 1,
          packed_filter_ + (pass * max_vectors_ + vector) * taps_ * N);
    }
  }

  // Calls pack(offset in the source, pixels, first packed pixel) for pieces of
  // neighbouring pixels.
  template <typename Pack>
  void ForEachPiece(Pack pack) const {
    const SourceRange& rows = row_range_.sources;
    const SourceRange& cols = col_range_.sources;
    if (rows.pitch == 1 && cols.count == cols_.src_size) {
      pack(rows.first * src_steps_.row, rows.count * cols.count, 0);
      return;
    }
    for (int64_t row = 0; row < rows.count; ++row) {
      pack((rows.first + row * rows.pitch) * src_steps_.row +
               cols.first * src_steps_.col,
           cols.count, row * cols.count);
    }
  }

  void FindFlatRuns() {
    const int64_t multiplier = problem_.depth_multiplier;
    const bool backward = problem_.backward;
    src_runs_ = FindRuns<N>(
        map_, src_steps_.image,
        [&](int64_t channel) {
          return backward ? channel * multiplier : channel / multiplier;
        },
        [&](int64_t channel) {
          return backward ? (channel + 1) * multiplier
                          : channel / multiplier + 1;
        });
    dst_runs_ = FindRuns<N>(
        map_, dst_steps_.image, [](int64_t channel) { return channel; },
        [](int64_t channel) { return channel + 1; });
  }

  void PackFlat() {
    const int64_t step = src_steps_.col;
    const PackedPixels<A> packed = PackedSrc(0);
    const auto find_lanes = [&](int64_t pass, const T*(&lanes)[N]) {
      for (int lane = 0; lane < N; ++lane) {
        lanes[lane] = src_ + map_.image[lane] * src_steps_.image +
                      SrcChannel(map_.channel[lane], pass) * src_steps_.channel;
      }
    };
    const T* lanes[N];
    if (step == 1 || (problem_.depth_multiplier == 1 && N % step == 0)) {
      for (int64_t pass = 0; pass < passes_; ++pass) {
        find_lanes(pass, lanes);
        ForEachPiece([&](int64_t offset, int64_t count, int64_t first) {
          PackLanes<N>(lanes, map_.used, offset, step, step, count,
                       packed.At(first, pass));
        });
      }
      return;
    }
    if (passes_ == step || passes_ >= N) {
      find_lanes(0, lanes);
      ForEachPiece([&](int64_t offset, int64_t count, int64_t first) {
        PackPasses<N>(lanes, offset, step, count, 0, passes_,
                      packed.From(first));
      });
      return;
    }
    LaneChoice<A, N> choice;
    for (int lane = 0; lane < N; ++lane) {
      choice.from[lane] = src_runs_.place[lane];
    }
    const int64_t width = N * passes_;
    ForEachPiece([&](int64_t offset, int64_t count, int64_t first) {
      ForEachStaged<N>(
          src_runs_, src_ + offset, step, count, width,
          [&](const T* staged, int64_t pixels, int64_t first_staged) {
            const PackedPixels<A> piece = packed.From(first + first_staged);
            if (problem_.backward || problem_.depth_multiplier == 1) {
              PackNeighbours<N>(staged, width, pixels, pixels, passes_, piece);
            } else {
              PackChosen<N>(staged, width, pixels, pixels, choice, piece);
            }
          });
    });
  }

  // While the tiles of a unit are summed up, the pixels that the sums go to and
  // those that the next unit needs come into the cache. For whole planes of
  // NCHW, which lie one behind the other; longer pieces come by themselves.
  void PlanPrefetch(int64_t next_unit, int64_t end) {
    ahead_src_ = ahead_dst_ = ComingLines();
    if (!problem_.beyond_cache || problem_.channels_last ||
        problem_.row_panels.num_panels > 1 ||
        problem_.col_panels.num_panels > 1) {
      return;
    }
    const int64_t calls =
        (row_range_.end - row_range_.begin + problem_.tile_rows - 1) /
        problem_.tile_rows * (row_range_.end_phase - row_range_.first_phase);
    if (!stream_) {
      ahead_dst_ = ComingLines(dst_ + first_plane_ * dst_steps_.channel,
                               map_.used * dst_steps_.channel, calls);
    }
    if (next_unit >= end) return;
    const int64_t next_plane = next_unit * N;
    const int64_t left = problem_.batch * DstDepth(problem_) - next_plane;
    const int64_t planes = left < N ? left : N;
    const int64_t multiplier = problem_.depth_multiplier;
    ahead_src_ = ComingLines(
        src_ + (problem_.backward ? next_plane * multiplier
                                  : next_plane / multiplier) *
                   src_steps_.channel,
        (problem_.backward ? planes * multiplier : planes / multiplier) *
            src_steps_.channel,
        calls);
  }

  void UnpackFlat() {
    T* lanes[N];
    for (int lane = 0; lane < N; ++lane) {
      lanes[lane] = dst_ + map_.image[lane] * dst_steps_.image +
                    map_.channel[lane] * dst_steps_.channel;
    }
    const PanelRange& rows = row_range_;
    const PanelRange& cols = col_range_;
    const int64_t step = dst_steps_.col;
    const auto unpack = [&](const A* from, int64_t count, int64_t offset,
                            bool stream) {
      if (N % step == 0) {
        UnpackLanes<N>(from, count, lanes, map_.used, offset, step, step,
                       stream);
      } else {
        UnpackRuns<N>(dst_runs_, from, count, step, dst_ + offset);
      }
    };
    if (rows.dst_pitch == 1 && cols.dst_count == cols_.dst_size) {
      const int64_t offset = rows.first_dst * dst_steps_.row;
      unpack(packed_dst_, rows.dst_count * cols.dst_count, offset,
             stream_ && offset % N == 0);
      return;
    }
    for (int64_t row = 0; row < rows.dst_count; ++row) {
      unpack(packed_dst_ + row * cols.dst_count * N, cols.dst_count,
             (rows.first_dst + row * rows.dst_pitch) * dst_steps_.row +
                 cols.first_dst * dst_steps_.col,
             false);
    }
  }

  void PackChannels(int64_t image) {
    const T* src = src_ + image * src_steps_.image;
    const int64_t step = src_steps_.col;
    const int64_t multiplier = problem_.depth_multiplier;
    ForEachPiece([&](int64_t offset, int64_t count, int64_t first) {
      for (int64_t vector = 0; vector < num_vectors_; ++vector) {
        const int64_t lane = FirstLane<N>(vector, channels_);
        const int64_t channel = first_channel_ + lane;
        const PackedPixels<A> to = PackedSrc(lane).From(first);
        const int64_t src_channel = SrcChannel(channel, 0);
        const T* from = src + offset + src_channel;
        const int64_t left = count * step - src_channel;
        if (problem_.backward || multiplier == 1) {
          const int64_t readable =
              PixelsWithin(left, (N - 1) * passes_ + N, step, count);
          PackNeighbours<N>(from, step, count, readable, passes_, to);
          continue;
        }
        LaneChoice<A, N> choice;
        int64_t source = 0, repeated = channel % multiplier;
        for (int lane = 0; lane < N; ++lane) {
          choice.from[lane] = source;
          if (++repeated == multiplier) {
            repeated = 0;
            ++source;
          }
        }
        PackChosen<N>(from, step, count, PixelsWithin(left, N, step, count),
                      choice, to);
      }
    });
  }

  // All tiles of the panel. D is A if dst is the packed panel, T if it is the
  // image at the panel's first position.
  template <int kMaxTaps, int kTileRows, typename D>
  void RunTiles(D* dst) {
    A panel[kMaxPositions * (kMostPackedLines * kLineBytes / sizeof(T) + N)];
    const PackedPixels<A> packed = PackedSrc(0);
    Operands<A> operands;
    operands.src = packed.first;
    operands.first_row = row_range_.sources.first;
    operands.first_col = col_range_.sources.first;
    operands.row_pitch = row_range_.sources.pitch;
    operands.src_row_step = col_range_.sources.count * packed.pixel_step;
    operands.src_col_step = packed.pixel_step;
    operands.src_pass_step = packed.pass_step;
    operands.filter = packed_filter_;
    operands.filter_tap_step = N;
    operands.filter_vector_step = taps_ * N;
    operands.filter_pass_step = max_vectors_ * taps_ * N;
    operands.passes = passes_;

    const int64_t row_step = problem_.flat
                                 ? col_range_.dst_count * N
                                 : dst_steps_.row * row_range_.dst_pitch;
    const int64_t col_step = problem_.flat ? N : dst_steps_.col;
    const int64_t row_phases = row_range_.end_phase - row_range_.first_phase;
    TileSums<A> sums;
    sums.panel = panel;
    sums.row_step = row_step * row_phases;
    sums.col_step = col_step * (problem_.scattered ? 1 : cols_.num_phases);
    sums.stream = stream_ && !problem_.flat;
    sums.prefetch_dst = false;

    for (int64_t first = row_range_.begin; first < row_range_.end;
         first += problem_.tile_rows) {
      for (int64_t row_phase = row_range_.first_phase;
           row_phase < row_range_.end_phase; ++row_phase) {
        ahead_src_.template Prefetch<false>();
        ahead_dst_.template Prefetch<true>();
        const Phase down = phases_down_[row_phase];
        TilePlace tile;
        tile.row = first;
        tile.row_run = down.run;
        const int64_t rows_left =
            (down.size < row_range_.end ? down.size : row_range_.end) - first;
        if (rows_left <= 0) continue;
        const int tile_rows = rows_left < problem_.tile_rows ? 1 : kTileRows;
        D* dst_row = dst + ((first - row_range_.begin) * row_phases +
                            row_phase - row_range_.first_phase) *
                               row_step;
        // Sums of a tile that are not where they belong yet.
        const auto convert = [&](D* to) {
          return [=](int64_t position, int64_t positions, int64_t step) {
            if constexpr (sizeof(D) != sizeof(A)) {
              const A* from = sums.panel;
              for (int64_t vector = 0; vector < num_vectors_; ++vector) {
                D* to_vector = to + FirstLane<N>(vector, channels_);
                for (int row = 0; row < tile_rows; ++row) {
                  for (int64_t i = 0; i < positions; ++i) {
                    Access<D, N>::Store(
                        Access<A, N>::Load(from + (row * step + i) * N),
                        to_vector + row * sums.row_step +
                            (position + i) * sums.col_step);
                  }
                }
                from += tile_rows * step * N;
              }
            }
          };
        };
        if (problem_.scattered) {
          D* to = dst_row - col_range_.first_dst * col_step;
          sums.dst = DirectResult(to);
          SumScatteredRow<Isa, N>(problem_, tile.row_run, tile.row,
                                  col_range_.first_dst,
                                  col_range_.first_dst + col_range_.dst_count,
                                  operands, channels_, sums, convert(to));
          continue;
        }
        if (problem_.strided) {
          D* to = dst_row - col_range_.first_dst * col_step;
          sums.dst = DirectResult(to);
          SumStridedRow<Isa, N, 3>(problem_, tile.row, col_range_.begin,
                                   col_range_.end, operands, channels_, sums,
                                   convert(to));
          continue;
        }
        for (int64_t phase = 0; phase < PhaseCount(cols_); ++phase) {
          const Phase across = phases_across_[phase];
          tile.col_run = across.run;
          const int64_t end =
              across.size < col_range_.end ? across.size : col_range_.end;
          if (col_range_.begin >= end) continue;
          // Position 0 of the phase.
          D* to = dst_row +
                  (phase - col_range_.begin * cols_.num_phases) * col_step;
          sums.dst = DirectResult(to);
          SumTileRow<Isa, N, kMaxTaps, kTileRows>(
              problem_, tile, tile_rows, col_range_.begin, end, operands,
              channels_, sums, convert(to));
        }
      }
    }
  }

  // Accumulators can go there without a conversion.
  template <typename D>
  static A* DirectResult(D* to) {
    if constexpr (sizeof(D) == sizeof(A)) {
      return reinterpret_cast<A*>(to);
    } else {
      return nullptr;
    }
  }

  const GatherProblem& problem_;
  const GatherPlan& rows_;
  const GatherPlan& cols_;
  const Phases phases_down_;
  const Phases phases_across_;
  const T* src_;
  const T* filter_;
  T* dst_;
  int64_t passes_;
  ImageSteps src_steps_;
  ImageSteps dst_steps_;
  int64_t taps_;
  int64_t max_vectors_;
  A* packed_src_;
  A* packed_filter_;
  A* packed_dst_;
  bool stream_;
  ComingLines ahead_src_;
  ComingLines ahead_dst_;
  // Of the unit at hand.
  PanelRange row_range_ = {};
  PanelRange col_range_ = {};
  LaneMap<N> map_ = {};
  LaneRuns<N> src_runs_ = {};
  LaneRuns<N> dst_runs_ = {};
  int64_t first_plane_ = 0;
  int64_t first_channel_ = 0;
  int64_t channels_ = 0;
  int64_t num_vectors_ = 0;
};

template <typename Isa, typename T>
void GatherPacked(const GatherProblem& problem, const void* src,
                  const void* filter, void* dst, void* scratch, int64_t begin,
                  int64_t end) {
  PackedGather<Isa, T> gather(problem, src, filter, dst, scratch);
  WithTileShape<Isa>(problem, [&](auto max_taps, auto tile_rows) {
    gather
        .template Run<decltype(max_taps)::kValue, decltype(tile_rows)::kValue>(
            begin, end);
  });
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_PACKED_H_
