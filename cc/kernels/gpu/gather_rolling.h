// The gather for small filters: 3x3, 5x5 and 7x7 with the filter and the sums
// in registers, straight from and to global memory.
//
// A thread owns a few columns and neighbouring channels and marches down the
// rows, of one image after the other. Every source row is loaded once, a step
// or two before it is wanted, and added to all dst rows that it reaches, whose
// sums roll along: after each step the topmost is complete. So a thread does K
// * K products per column for about one load, and the caches see what
// neighbouring columns share.
//
// Along a dimension, dst is cut into cells, each of which is one step of the
// march:
//
//   stride 1            cells are single positions of one phase of the lattice
//                       (GatherPlan), so any dilation is fine;
//   input gradient      a source reaches kStride phases of dst at once, which
//                       together are a cell;
//   forward, strided    a cell is a position of dst, a step kStride sources.
//
// Step e reads the sources src_start + e * src_step + q, q < kSources, and
// completes the positions dst_start + e * dst_step + q, q < kPositions. A
// source reaches kReach cells from its own on.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_ROLLING_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_ROLLING_H_

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

// What kind of step a march takes.
enum class March { kByOne, kUp, kDown };

template <int kSize, March kMarch>
struct RollingShape {
  static constexpr int kStride = kMarch == March::kByOne ? 1 : 2;
  static constexpr int kSources = kMarch == March::kDown ? kStride : 1;
  static constexpr int kPositions = kMarch == March::kUp ? kStride : 1;
  static constexpr int kReach = (kSize + kStride - 1) / kStride;

  // The tap by which source q of a step reaches position p of the cell that is
  // `ahead` cells further; out of range if it does not.
  static __device__ constexpr int Tap(int ahead, int p, int q) {
    return kMarch == March::kDown ? kStride * (kReach - 1 - ahead) + q
                                  : kStride * ahead + p;
  }
};

// All within an image is counted in 32 bits; 64 would cost registers.
struct RollingAxis {
  int32_t phases;
  int32_t cells;  // of a phase, at most
  // Of phase 0; a phase starts one further in both.
  int32_t src_start;
  int32_t src_step;
  int32_t src_size;
  int32_t dst_start;
  int32_t dst_step;
  int32_t dst_size;
};

struct RollingView {
  RollingAxis rows;
  RollingAxis cols;
  uint32_t tasks;
  int32_t channel_groups;
  int32_t col_tasks;  // of all phases
  // The cells of all images, one after the other, are cut into chunks. Some at
  // the end of an image may not exist.
  int32_t all_cells;
  int32_t cells_of_image;
  int32_t cells_of_chunk;
  int32_t shared_by;
  int64_t filter_depth;
  ImageStrides src;
  ImageStrides dst;
  bool channels_last;
  bool flipped;  // Tap r of the march is tap kSize - 1 - r of the filter.
};

template <int kSize, March kMarch>
RollingAxis MakeRollingAxis(const GatherPlan& plan) {
  using Shape = RollingShape<kSize, kMarch>;
  RollingAxis axis;
  axis.src_size = static_cast<int32_t>(plan.src_size);
  axis.dst_size = static_cast<int32_t>(plan.dst_size);
  axis.phases = 1;
  axis.dst_start = 0;
  if (kMarch == March::kByOne) {
    axis.phases = static_cast<int32_t>(PhaseCount(plan));
    axis.cells = static_cast<int32_t>(PhaseSize(plan, 0));
    axis.src_step = static_cast<int32_t>(plan.pitch);
    axis.src_start = static_cast<int32_t>(FirstRun(plan, 0).first_src +
                                          (kSize - 1) * plan.pitch);
    axis.dst_step = static_cast<int32_t>(plan.num_phases);
  } else if (kMarch == March::kUp) {
    const int32_t pad = static_cast<int32_t>(plan.pad);
    const int32_t first = pad / Shape::kStride;
    axis.cells = (axis.dst_size - 1 + pad) / Shape::kStride - first + 1;
    axis.src_step = 1;
    axis.src_start = first;
    axis.dst_step = Shape::kStride;
    axis.dst_start = first * Shape::kStride - pad;
  } else {
    axis.cells = axis.dst_size;
    axis.src_step = Shape::kStride;
    axis.src_start =
        static_cast<int32_t>(Shape::kStride * (Shape::kReach - 1) - plan.pad);
    axis.dst_step = 1;
  }
  return axis;
}

// Small blocks waste few registers.
inline constexpr int kRollingThreads = 64;

// Multiprocessors of a large GPU, for which work is cut.
inline constexpr int64_t kLargeGpu = 132;

// What a thread does at a time: so many neighbouring channels and cells.
template <typename T, int kSize, March kMarch, int kChannelCount,
          int kCellCount>
struct RollingTile {
  using Shape = RollingShape<kSize, kMarch>;
  static constexpr int kChannels = kChannelCount;
  static constexpr int kCells = kCellCount;
  // Source rows on their way while one is added. As many as registers allow:
  // memory takes as long as two steps of 3x3 do.
  static constexpr int kAhead = kSize == 7 ? 0
                                : Shape::kReach == 3 && Shape::kSources == 1
                                    ? 2
                                    : 1;
  // Steps in the loop's body. With all that a sum lives, no sum moves; of 7x7
  // they exceed the instruction cache.
  static constexpr int kUnroll = kSize == 7 ? 1 : Shape::kReach;
  // Of a multiprocessor at a time; with these many, no register spills.
  static constexpr int kWarps =
      sizeof(T) == 8                                            ? 8
      : sizeof(T) == 2 && kSize == 3 && kMarch != March::kByOne ? 16
                                                                : 12;
};

template <typename T, int kSize, March kMarch, typename Tile>
__global__ void __launch_bounds__(kRollingThreads,
                                  Tile::kWarps * 32 / kRollingThreads)
    GatherRolling(RollingView view, const T* __restrict__ src,
                  const T* __restrict__ filter, T* __restrict__ dst) {
  using Shape = RollingShape<kSize, kMarch>;
  constexpr int kChannels = Tile::kChannels;
  constexpr int kCells = Tile::kCells;
  using Pixel = Vector<T, kChannels>;
  using RawPixel = Raw<sizeof(Pixel)>;
  constexpr int kReach = Shape::kReach;
  constexpr int kSources = Shape::kSources;
  constexpr int kPositions = Shape::kPositions;
  constexpr int kColumns = kCells * kPositions;
  constexpr int kWindow = (kCells + kReach - 1) * kSources;
  constexpr unsigned kWholeWindow = (1u << kWindow) - 1;

  const uint32_t task = blockIdx.x * kRollingThreads + threadIdx.x;
  if (task >= view.tasks) return;
  uint32_t rest = task;
  const auto next = [&rest](uint32_t size) {
    const uint32_t index = rest % size;
    rest /= size;
    return static_cast<int32_t>(index);
  };
  int32_t group = 0;
  if (view.channels_last) group = next(view.channel_groups);
  const int32_t col_task = next(view.col_tasks);
  if (!view.channels_last) group = next(view.channel_groups);
  const int32_t row_phase = next(view.rows.phases);
  const int32_t first = static_cast<int32_t>(rest) * view.cells_of_chunk;
  const int32_t image = first / view.cells_of_image;
  const int32_t cells = view.rows.cells;
  int32_t first_cell = first % view.cells_of_image;
  int32_t count = view.all_cells - first < view.cells_of_chunk
                      ? view.all_cells - first
                      : view.cells_of_chunk;
  if (cells != view.cells_of_image && count > cells - first_cell) {
    count = cells - first_cell;
  }
  const int32_t channel = group * kChannels;
  src += image * view.src.image + channel / view.shared_by * view.src.channel;
  dst += image * view.dst.image + channel * view.dst.channel;

  const int32_t src_row = static_cast<int32_t>(view.src.row);
  const int32_t src_col = static_cast<int32_t>(view.src.col);
  const int32_t dst_row = static_cast<int32_t>(view.dst.row);
  const int32_t dst_col = static_cast<int32_t>(view.dst.col);

  // The columns never change: which of the window lie inside src, which of the
  // sums inside dst, and where both start.
  const int32_t col_phase = col_task % view.cols.phases;
  const int32_t col_cell = col_task / view.cols.phases * kCells;
  const int32_t first_src = view.cols.src_start + col_phase +
                            (col_cell - (kReach - 1)) * view.cols.src_step;
  const int32_t first_dst =
      view.cols.dst_start + col_phase + col_cell * view.cols.dst_step;
  unsigned inside = 0, written = 0;
#pragma unroll
  for (int w = 0; w < kWindow; ++w) {
    const int32_t col =
        first_src + w / kSources * view.cols.src_step + w % kSources;
    if (col >= 0 && col < view.cols.src_size) inside |= 1u << w;
  }
#pragma unroll
  for (int u = 0; u < kColumns; ++u) {
    const int32_t col =
        first_dst + u / kPositions * view.cols.dst_step + u % kPositions;
    if (col >= 0 && col < view.cols.dst_size) written |= 1u << u;
  }
  src += first_src * src_col;
  dst += first_dst * dst_col;
  // From the last source or position of a step to the first of the next.
  const int32_t src_next = (view.cols.src_step - (kSources - 1)) * src_col;
  const int32_t dst_next = (view.cols.dst_step - (kPositions - 1)) * dst_col;

  // An image takes as many steps as it has cells, and kReach - 1 before the
  // first is complete. What is left in the sums then belongs to no cell.
  int32_t at = first_cell - (kReach - 1);
  const int32_t steps =
      count + ((first_cell + count - 1) / cells + 1) * (kReach - 1);
  const int32_t first_row = view.rows.src_start + row_phase;
  const auto row_at = [&](int32_t step, int q) {
    return first_row + step * view.rows.src_step + q;
  };

  int32_t load_at = at, loads = steps;
  const auto load = [&](int q, RawPixel(&window)[kWindow]) {
    const int32_t row = row_at(load_at, q);
    const bool wanted = loads > 0 && row >= 0 && row < view.rows.src_size;
    // Adding up keeps the compiler from holding every offset in a register.
    const T* from = src + row * src_row;
    if constexpr (Tile::kAhead > 0) from = KeepAdded(from);
#pragma unroll
    for (int w = 0; w < kWindow; ++w) {
      const bool wants = wanted && (inside >> w & 1);
      from += w == 0 ? 0 : w % kSources == 0 ? src_next : src_col;
      if constexpr (Tile::kAhead > 0) {
        from = KeepAdded(from);
        LoadIf(wants, from, &window[w]);
      } else {
        window[w] = RawPixel{};
        if (wants) window[w] = *reinterpret_cast<const RawPixel*>(from);
      }
    }
    if (q < kSources - 1) return;
    --loads;
    if (++load_at == cells) {
      load_at = 1 - kReach;
      src += view.src.image;
    }
  };

  // Buffers and sums are rings whose places are known when the loop over
  // steps is unrolled; otherwise they move.
  constexpr int kBuffers = Tile::kAhead + 1;
  constexpr int kUnroll = Tile::kUnroll;
  constexpr bool kSumsMove = kUnroll % kReach != 0;
  constexpr bool kBuffersMove = kUnroll * kSources % kBuffers != 0;
  RawPixel windows[kBuffers][kWindow] = {};
#pragma unroll
  for (int a = 0; a < Tile::kAhead; ++a) load(a % kSources, windows[a]);

  Accumulator<T> weights[kSize][kSize][kChannels], nothing = 0;
#pragma unroll
  for (int r = 0; r < kSize; ++r) {
#pragma unroll
    for (int s = 0; s < kSize; ++s) {
      const int tap = r * kSize + s;
      const Pixel taps = *reinterpret_cast<const Pixel*>(
          filter + channel +
          (view.flipped ? kSize * kSize - 1 - tap : tap) * view.filter_depth);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        weights[r][s][c] = Widen(taps.elements[c]);
        KeepWide(weights[r][s][c]);
        nothing += weights[r][s][c] * 0;
      }
    }
  }

  // What is outside the image is 0 in the windows, which adds nothing, unless
  // the filter has infinities.
  const bool adds_outside = inside == kWholeWindow || nothing == 0;

  Accumulator<T> sums[kReach][kPositions][kColumns][kChannels] = {};
#pragma unroll 1
  for (int32_t left = steps; left > 0; left -= kUnroll) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (left <= i) break;
#pragma unroll
      for (int q = 0; q < kSources; ++q) {
        const int g = kBuffersMove ? 0 : i * kSources + q;
        load((q + Tile::kAhead) % kSources,
             windows[(g + Tile::kAhead) % kBuffers]);
        const RawPixel(&window)[kWindow] = windows[g % kBuffers];
        const int32_t row = row_at(at, q);
        if (row >= 0 && row < view.rows.src_size) {
          Accumulator<T> pixels[kWindow][kChannels];
#pragma unroll
          for (int w = 0; w < kWindow; ++w) {
            Pixel narrow;
            memcpy(&narrow, &window[w], sizeof(narrow));
            WidenAll(narrow, pixels[w]);
          }
          const auto add = [&](int live, int w) {
            const int p = live % kPositions;
            const int r = Shape::Tap(live / kPositions, p, q);
            if (r >= kSize) return;
#pragma unroll
            for (int u = 0; u < kColumns; ++u) {
              const int ahead = u / kPositions + kReach - 1 - w / kSources;
              if (ahead < 0 || ahead >= kReach) continue;
              const int s = Shape::Tap(ahead, u % kPositions, w % kSources);
              if (s >= kSize) continue;
#pragma unroll
              for (int c = 0; c < kChannels; ++c) {
                sums[((kSumsMove ? 0 : i) + live / kPositions) % kReach][p][u]
                    [c] += pixels[w][c] * weights[r][s][c];
              }
            }
          };
          if (adds_outside) {
#pragma unroll
            for (int live = 0; live < kReach * kPositions; ++live) {
              // Where products are many, those for no cell of the task are
              // spared.
              const int32_t ahead = live / kPositions;
              if (kSize > 3 && (at + ahead < first_cell ||
                                at + ahead >= cells || ahead >= left - i)) {
                continue;
              }
#pragma unroll
              for (int w = 0; w < kWindow; ++w) add(live, w);
            }
          } else {
#pragma unroll
            for (int w = 0; w < kWindow; ++w) {
              if (!(inside >> w & 1)) continue;
#pragma unroll
              for (int live = 0; live < kReach * kPositions; ++live) {
                add(live, w);
              }
            }
          }
        }
        if (kBuffersMove) {
#pragma unroll
          for (int a = 0; a < Tile::kAhead; ++a) {
#pragma unroll
            for (int w = 0; w < kWindow; ++w) {
              windows[a][w] = windows[a + 1][w];
            }
          }
        }
      }

      if (at >= first_cell) {
#pragma unroll
        for (int p = 0; p < kPositions; ++p) {
          const int32_t row =
              view.rows.dst_start + row_phase + at * view.rows.dst_step + p;
          if (row < 0 || row >= view.rows.dst_size) continue;
          T* to = dst + row * dst_row;
#pragma unroll
          for (int u = 0; u < kColumns; ++u) {
            if (written >> u & 1) {
              Pixel result;
              NarrowAll(sums[kSumsMove ? 0 : i % kReach][p][u], &result);
              *reinterpret_cast<Pixel*>(to) = result;
            }
            to += u % kPositions == kPositions - 1 ? dst_next : dst_col;
          }
        }
      }
#pragma unroll
      for (int p = 0; p < kPositions; ++p) {
#pragma unroll
        for (int u = 0; u < kColumns; ++u) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            if constexpr (!kSumsMove) {
              sums[i % kReach][p][u][c] = 0;
            } else {
#pragma unroll
              for (int live = 0; live < kReach; ++live) {
                sums[live][p][u][c] = live + 1 < kReach
                                          ? sums[live + 1][p][u][c]
                                          : Accumulator<T>(0);
              }
            }
          }
        }
      }
      if (++at == cells) {
        at = 1 - kReach;
        first_cell = 0;
        dst += view.dst.image;
      }
    }
  }
}

// How the cells of all images are cut into chunks: pieces of an image, or
// neighbouring images' together.
struct RollingChunks {
  int64_t cells;  // of a chunk
  int64_t image;  // of an image, those included that make chunks whole
};

// Chunks such that a large GPU does all of them at once, or a few times as
// many: a last few that it does alone would take as long as all. An image costs
// a chunk reach - 1 steps more than cells. The results do not depend on it.
inline RollingChunks CutIntoChunks(int64_t units, int64_t batch, int64_t cells,
                                   int64_t reach, int64_t resident) {
  RollingChunks best = {cells, cells};
  int64_t least = 0;
  const auto consider = [&](RollingChunks chunks, int64_t images) {
    const int64_t count = CeilDiv(batch * chunks.image, chunks.cells);
    const int64_t steps = CeilDiv(units * count, resident) *
                          (chunks.cells + images * (reach - 1));
    if (least == 0 || steps < least) {
      least = steps;
      best = chunks;
    }
  };
  constexpr int64_t kMostRounds = 8;
  for (int64_t rounds = 1; rounds <= kMostRounds; ++rounds) {
    const int64_t count = rounds * resident / units;
    const int64_t wanted = CeilDiv(batch * cells, count > 0 ? count : 1);
    if (wanted < cells) {
      const int64_t pieces = cells / wanted;
      for (int64_t n = pieces; n <= pieces + 1; ++n) {
        const int64_t size = CeilDiv(cells, n);
        consider({size, CeilDiv(cells, size) * size}, 1);
      }
    } else {
      const int64_t images = CeilDiv(wanted, cells);
      consider({wanted, cells}, images + 1);
      consider({images * cells, cells}, images);
    }
  }
  return best;
}

template <typename T, int kSize, March kMarch, typename Tile>
cudaError_t LaunchRollingTile(const GatherView& view, const void* src,
                              const void* filter, void* dst,
                              cudaStream_t stream) {
  RollingView rolling;
  rolling.rows = MakeRollingAxis<kSize, kMarch>(view.rows);
  rolling.cols = MakeRollingAxis<kSize, kMarch>(view.cols);
  rolling.col_tasks = static_cast<int32_t>(
      rolling.cols.phases * CeilDiv(rolling.cols.cells, Tile::kCells));
  rolling.channel_groups =
      static_cast<int32_t>(view.dst_depth / Tile::kChannels);
  const int64_t units = static_cast<int64_t>(rolling.channel_groups) *
                        rolling.col_tasks * rolling.rows.phases;
  const RollingChunks chunks = CutIntoChunks(
      units, view.batch, rolling.rows.cells,
      RollingShape<kSize, kMarch>::kReach, Tile::kWarps * 32 * kLargeGpu);
  const int64_t all_cells = view.batch * chunks.image;
  rolling.cells_of_image = static_cast<int32_t>(chunks.image);
  rolling.cells_of_chunk = static_cast<int32_t>(chunks.cells);
  rolling.all_cells = static_cast<int32_t>(all_cells);
  rolling.tasks =
      static_cast<uint32_t>(units * CeilDiv(all_cells, chunks.cells));
  rolling.shared_by = static_cast<int32_t>(view.shared_by);
  rolling.filter_depth = view.filter_depth;
  rolling.src = view.src;
  rolling.dst = view.dst;
  rolling.channels_last = view.channels_last;
  rolling.flipped = kMarch == March::kByOne && !view.backward;
  return Launch(GatherRolling<T, kSize, kMarch, Tile>,
                GridOf(CeilDiv(rolling.tasks, kRollingThreads)),
                kRollingThreads, 0, stream, rolling, static_cast<const T*>(src),
                static_cast<const T*>(filter), static_cast<T*>(dst));
}

// Tiles are as large as the registers allow. Channels in a vector, where there
// are whole vectors of them; otherwise threads lie side by side along odd
// channels or, channels first, along rows.
template <typename T, int kSize, March kMarch>
cudaError_t LaunchRollingMarch(const GatherView& view, const void* src,
                               const void* filter, void* dst,
                               cudaStream_t stream) {
  constexpr int kAccumulators = kSize == 3 ? 4 : kSize == 5 ? 2 : 1;
  constexpr int kChannels =
      sizeof(T) == 8 ? (kAccumulators + 1) / 2 : kAccumulators;
  constexpr int kCells = kMarch != March::kByOne ? 2
                         : kSize == 3            ? 3
                         : kSize == 5            ? (sizeof(T) == 8 ? 4 : 5)
                                                 : (sizeof(T) == 8 ? 2 : 7);
  const auto launch = [&](auto tile) {
    return LaunchRollingTile<T, kSize, kMarch, decltype(tile)>(
        view, src, filter, dst, stream);
  };
  if (!view.channels_last) {
    return launch(RollingTile<T, kSize, kMarch, 1, 1>());
  }
  const int64_t bytes = sizeof(Vector<T, kChannels>);
  if (view.dst_depth % kChannels == 0 &&
      (kChannels == 1 || view.shared_by == 1) && IsAligned(src, bytes) &&
      IsAligned(filter, bytes) && IsAligned(dst, bytes)) {
    return launch(RollingTile<T, kSize, kMarch, kChannels, kCells>());
  }
  return launch(RollingTile<T, kSize, kMarch, 1, kCells>());
}

template <typename T>
cudaError_t LaunchGatherRolling(const GatherView& view, const void* src,
                                const void* filter, void* dst,
                                cudaStream_t stream) {
  const auto launch =
      view.rows.stride == 1 ? (view.rows.filter_size == 3
                                   ? LaunchRollingMarch<T, 3, March::kByOne>
                               : view.rows.filter_size == 5
                                   ? LaunchRollingMarch<T, 5, March::kByOne>
                                   : LaunchRollingMarch<T, 7, March::kByOne>)
      : view.backward
          ? (view.rows.filter_size == 3 ? LaunchRollingMarch<T, 3, March::kUp>
                                        : LaunchRollingMarch<T, 5, March::kUp>)
          : (view.rows.filter_size == 3
                 ? LaunchRollingMarch<T, 3, March::kDown>
                 : LaunchRollingMarch<T, 5, March::kDown>);
  return launch(view, src, filter, dst, stream);
}

// Square filters of 3 or 5 with stride 1, any dilation, or stride 2, and of 7
// with stride 1; no sums over a depth multiplier.
inline bool RollingApplies(const GatherView& view) {
  const GatherPlan& rows = view.rows;
  const GatherPlan& cols = view.cols;
  const int64_t size = rows.filter_size;
  if (cols.filter_size != size || cols.stride != rows.stride) return false;
  if (view.passes > 1 || !ImagesFit32Bits(view)) return false;
  // The cells of all images are counted in 32 bits, up to twice as many.
  if (view.batch >= (int64_t{1} << 29) / (rows.dst_size + 1)) return false;
  const bool by_one = rows.stride == 1;
  const bool by_two =
      rows.stride == 2 && rows.dilation == 1 && cols.dilation == 1;
  return (size == 7 && by_one) ||
         ((size == 3 || size == 5) && (by_one || by_two));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_ROLLING_H_
