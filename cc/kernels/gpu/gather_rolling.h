// The gather for small filters: 3x3, 5x5 and 7x7 with the filter and the sums
// in registers, straight from and to global memory.
//
// A thread owns a few columns and neighbouring channels and marches down the
// rows. Every source row is loaded once and added to all dst rows that it
// reaches, whose sums roll along: after each step the topmost is complete. So a
// thread does K * K products per column for about one load, and the caches see
// what neighbouring columns share.
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
  int32_t cells;     // of a phase, at most
  int32_t per_task;  // cells that a thread does
  int32_t tasks;     // of all phases
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
  int64_t tasks;
  int32_t channel_groups;
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

inline void SplitIntoTasks(int64_t per_task, RollingAxis* axis) {
  axis->per_task = static_cast<int32_t>(per_task);
  axis->tasks =
      static_cast<int32_t>(axis->phases * CeilDiv(axis->cells, per_task));
}

// Small blocks waste few registers; with these many per SM, none spills.
inline constexpr int kRollingThreads = 64;
template <typename T>
inline constexpr int kRollingBlocks = sizeof(T) == 8 ? 4 : 6;

template <typename T, int kSize, March kMarch, int kChannels, int kCells>
__global__ void __launch_bounds__(kRollingThreads, kRollingBlocks<T>)
    GatherRolling(RollingView view, const T* __restrict__ src,
                  const T* __restrict__ filter, T* __restrict__ dst) {
  using Shape = RollingShape<kSize, kMarch>;
  using Pixel = Vector<T, kChannels>;
  constexpr int kReach = Shape::kReach;
  constexpr int kColumns = kCells * Shape::kPositions;
  constexpr int kLiveRows = kReach * Shape::kPositions;
  constexpr int kWindow = (kCells + kReach - 1) * Shape::kSources;

  int64_t rest =
      static_cast<int64_t>(blockIdx.x) * kRollingThreads + threadIdx.x;
  if (rest >= view.tasks) return;
  const auto next = [&rest](int32_t size) {
    const int32_t index = static_cast<int32_t>(rest % size);
    rest /= size;
    return index;
  };
  int32_t group = 0;
  if (view.channels_last) group = next(view.channel_groups);
  const int32_t col_task = next(view.cols.tasks);
  const int32_t row_task = next(view.rows.tasks);
  if (!view.channels_last) group = next(view.channel_groups);
  const int32_t channel = group * kChannels;
  src += rest * view.src.image + channel / view.shared_by * view.src.channel;
  dst += rest * view.dst.image + channel * view.dst.channel;

  const int32_t src_row = static_cast<int32_t>(view.src.row);
  const int32_t src_col = static_cast<int32_t>(view.src.col);
  const int32_t dst_row = static_cast<int32_t>(view.dst.row);
  const int32_t dst_col = static_cast<int32_t>(view.dst.col);

  Accumulator<T> weights[kSize][kSize][kChannels];
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
      }
    }
  }

  // The columns never change: which of the window lie inside src, which of the
  // sums inside dst, and where both start.
  const int32_t col_phase = col_task % view.cols.phases;
  const int32_t first_cell = col_task / view.cols.phases * kCells;
  const int32_t first_src = view.cols.src_start + col_phase +
                            (first_cell - (kReach - 1)) * view.cols.src_step;
  const int32_t first_dst =
      view.cols.dst_start + col_phase + first_cell * view.cols.dst_step;
  unsigned inside = 0, written = 0;
#pragma unroll
  for (int w = 0; w < kWindow; ++w) {
    const int32_t col = first_src + w / Shape::kSources * view.cols.src_step +
                        w % Shape::kSources;
    if (col >= 0 && col < view.cols.src_size) inside |= 1u << w;
  }
#pragma unroll
  for (int u = 0; u < kColumns; ++u) {
    const int32_t col = first_dst + u / Shape::kPositions * view.cols.dst_step +
                        u % Shape::kPositions;
    if (col >= 0 && col < view.cols.dst_size) written |= 1u << u;
  }
  src += first_src * src_col;
  dst += first_dst * dst_col;
  // From the last source or position of a step to the first of the next.
  const int32_t src_next =
      (view.cols.src_step - (Shape::kSources - 1)) * src_col;
  const int32_t dst_next =
      (view.cols.dst_step - (Shape::kPositions - 1)) * dst_col;

  const int32_t row_phase = row_task % view.rows.phases;
  const int32_t first_step = row_task / view.rows.phases * view.rows.per_task;
  const int32_t end_step = first_step + view.rows.per_task < view.rows.cells
                               ? first_step + view.rows.per_task
                               : view.rows.cells;

  Accumulator<T> sums[kLiveRows][kColumns][kChannels] = {};
  for (int32_t step = first_step - (kReach - 1); step < end_step; ++step) {
#pragma unroll
    for (int q = 0; q < Shape::kSources; ++q) {
      const int32_t row =
          view.rows.src_start + row_phase + step * view.rows.src_step + q;
      if (row < 0 || row >= view.rows.src_size) continue;
      const T* from = src + row * src_row;
      Pixel window[kWindow];
#pragma unroll
      for (int w = 0; w < kWindow; ++w) {
        if (inside >> w & 1) {
          window[w] = *reinterpret_cast<const Pixel*>(from);
        }
        // Adding up keeps the compiler from holding every offset in a register.
        from += w % Shape::kSources == Shape::kSources - 1 ? src_next : src_col;
      }
#pragma unroll
      for (int w = 0; w < kWindow; ++w) {
        if (!(inside >> w & 1)) continue;
        Accumulator<T> pixel[kChannels];
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          pixel[c] = Widen(window[w].elements[c]);
        }
#pragma unroll
        for (int live = 0; live < kLiveRows; ++live) {
          const int r =
              Shape::Tap(live / Shape::kPositions, live % Shape::kPositions, q);
          if (r >= kSize) continue;
#pragma unroll
          for (int u = 0; u < kColumns; ++u) {
            const int ahead =
                u / Shape::kPositions + kReach - 1 - w / Shape::kSources;
            if (ahead < 0 || ahead >= kReach) continue;
            const int s =
                Shape::Tap(ahead, u % Shape::kPositions, w % Shape::kSources);
            if (s >= kSize) continue;
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              sums[live][u][c] += pixel[c] * weights[r][s][c];
            }
          }
        }
      }
    }

    if (step >= first_step) {
#pragma unroll
      for (int p = 0; p < Shape::kPositions; ++p) {
        const int32_t row =
            view.rows.dst_start + row_phase + step * view.rows.dst_step + p;
        if (row < 0 || row >= view.rows.dst_size) continue;
        T* to = dst + row * dst_row;
#pragma unroll
        for (int u = 0; u < kColumns; ++u) {
          if (written >> u & 1) {
            Pixel result;
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              Narrow(sums[p][u][c], &result.elements[c]);
            }
            *reinterpret_cast<Pixel*>(to) = result;
          }
          to += u % Shape::kPositions == Shape::kPositions - 1 ? dst_next
                                                               : dst_col;
        }
      }
    }
#pragma unroll
    for (int live = 0; live < kLiveRows; ++live) {
#pragma unroll
      for (int u = 0; u < kColumns; ++u) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          sums[live][u][c] = live + Shape::kPositions < kLiveRows
                                 ? sums[live + Shape::kPositions][u][c]
                                 : Accumulator<T>(0);
        }
      }
    }
  }
}

template <typename T, int kSize, March kMarch, int kChannels, int kCells>
cudaError_t LaunchRollingTile(const GatherView& view, const void* src,
                              const void* filter, void* dst,
                              cudaStream_t stream) {
  RollingView rolling;
  rolling.rows = MakeRollingAxis<kSize, kMarch>(view.rows);
  rolling.cols = MakeRollingAxis<kSize, kMarch>(view.cols);
  SplitIntoTasks(kCells, &rolling.cols);
  rolling.channel_groups = static_cast<int32_t>(view.dst_depth / kChannels);
  // Columns of whole images are cut where there are too few for a large GPU,
  // but not into pieces of which most would be the overlap.
  constexpr int64_t kTasks = 1 << 17;
  constexpr int64_t kFewestCells = 2 * RollingShape<kSize, kMarch>::kReach;
  const int64_t whole = view.batch * rolling.channel_groups *
                        rolling.cols.tasks * rolling.rows.phases;
  const int64_t pieces = CeilDiv(kTasks, whole);
  const int64_t cells = CeilDiv(rolling.rows.cells, pieces);
  SplitIntoTasks(cells < kFewestCells ? kFewestCells : cells, &rolling.rows);
  rolling.tasks = view.batch * rolling.channel_groups * rolling.cols.tasks *
                  rolling.rows.tasks;
  rolling.shared_by = static_cast<int32_t>(view.shared_by);
  rolling.filter_depth = view.filter_depth;
  rolling.src = view.src;
  rolling.dst = view.dst;
  rolling.channels_last = view.channels_last;
  rolling.flipped = kMarch == March::kByOne && !view.backward;
  return Launch(GatherRolling<T, kSize, kMarch, kChannels, kCells>,
                GridOf(CeilDiv(rolling.tasks, kRollingThreads)),
                kRollingThreads, 0, stream, rolling, static_cast<const T*>(src),
                static_cast<const T*>(filter), static_cast<T*>(dst));
}

// Tiles are as large as the registers allow: about 100 for sums, filter and
// window. Channels in a vector, where there are whole vectors of them;
// otherwise threads lie side by side along rows, or along odd channels.
template <typename T, int kSize, March kMarch>
cudaError_t LaunchRollingMarch(const GatherView& view, const void* src,
                               const void* filter, void* dst,
                               cudaStream_t stream) {
  constexpr int kVector = (kSize == 3   ? 16
                           : kSize == 5 ? 8
                                        : 4) /
                          sizeof(Accumulator<T>);
  constexpr int kChannels = kVector > 0 ? kVector : 1;
  constexpr int kWide = kSize == 7 ? (sizeof(T) == 8 ? 2 : 7) : 4;
  constexpr int kCells = kMarch == March::kUp ? kWide / 2 : kWide;
  const int64_t bytes = sizeof(Vector<T, kChannels>);
  if (view.channels_last && view.dst_depth % kChannels == 0 &&
      (kChannels == 1 || view.shared_by == 1) && IsAligned(src, bytes) &&
      IsAligned(filter, bytes) && IsAligned(dst, bytes)) {
    return LaunchRollingTile<T, kSize, kMarch, kChannels, kCells>(
        view, src, filter, dst, stream);
  }
  return LaunchRollingTile<T, kSize, kMarch, 1, 1>(view, src, filter, dst,
                                                   stream);
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
  const bool by_one = rows.stride == 1;
  const bool by_two =
      rows.stride == 2 && rows.dilation == 1 && cols.dilation == 1;
  return (size == 7 && by_one) ||
         ((size == 3 || size == 5) && (by_one || by_two));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_ROLLING_H_
