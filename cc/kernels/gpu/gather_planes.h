// The gather for small filters in NCHW: 3x3, 5x5 and 7x7 with the filter and
// the sums in registers, as GatherRolling, but from planes in shared memory.
//
// In NCHW some neighbouring planes, or a band of rows of a large one, are one
// piece of memory, whatever their sizes. A block copies such a piece to shared
// memory as it is, 16 bytes at a time and all of it at once, so that many bytes
// are under way; other blocks compute meanwhile. Each thread then marches down
// a few columns of a plane: a row costs a few loads from shared memory, where
// neighbouring threads read neighbouring elements, and is added to all dst rows
// that it reaches.
//
// Columns outside the image count as zeros, which spares the sums all tests.
// That is right unless a weight is infinite or NaN; such channels are done
// again, tap by tap.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_PLANES_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_PLANES_H_

#include "cc/kernels/gpu/copy_async.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_rolling.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

// An axis that is cut into tasks.
struct PlanesAxis : RollingAxis {
  int32_t per_task;  // cells that a thread does
  int32_t tasks;     // of all phases
};

inline void SplitIntoTasks(int64_t per_task, PlanesAxis* axis) {
  axis->per_task = static_cast<int32_t>(per_task);
  axis->tasks =
      static_cast<int32_t>(axis->phases * CeilDiv(axis->cells, per_task));
}

struct PlanesView {
  PlanesAxis rows;
  PlanesAxis cols;
  int32_t src_depth;
  int32_t planes;           // of src that a block takes
  int32_t channel_groups;   // of so many planes
  int32_t bands;            // that planes are cut into
  int32_t band_tasks;       // of rows of a band, of all phases
  int32_t rows_of_threads;  // that share the band's tasks
  int32_t margin;           // elements in front of the piece that may be read
  int32_t shared_by;        // dst planes that read the same src plane
  int32_t filter_depth;
  int64_t src_image;
  int64_t dst_image;
  int32_t src_plane;
  int32_t dst_plane;
  int32_t dst_offset;  // of what is to be stored, in shared memory
  bool flipped;        // Tap r of the march is tap kSize - 1 - r of the filter.
  bool paired;         // Two neighbouring columns of dst are stored at a time.
};

inline constexpr int kPlanesThreads = 256;
// Copies so many elements back, that lie in shared memory as CopyPiece has it.
template <typename T>
__device__ __forceinline__ void StorePiece(const T* from, int32_t size, T* to) {
  using Unit = Vector<uint32_t, 4>;
  constexpr int32_t kUnit = 16 / sizeof(T);
  const int32_t shift =
      static_cast<int32_t>(reinterpret_cast<uintptr_t>(to) % 16 / sizeof(T));
  int32_t head = shift == 0 ? 0 : kUnit - shift;
  if (head > size) head = size;
  const int32_t units = (size - head) / kUnit;
  const int32_t threads = static_cast<int32_t>(blockDim.x);
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = thread; i < units; i += threads) {
    *reinterpret_cast<Unit*>(to + head + i * kUnit) =
        *reinterpret_cast<const Unit*>(from + head + i * kUnit);
  }
  const int32_t done = head + units * kUnit;
  if (thread < head) to[thread] = from[thread];
  if (thread < size - done) to[done + thread] = from[done + thread];
}

// So many fit an SM. Before sm_90, one more would make 5x5 spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr int kPlanesBlocksOf5 = 2;
#else
inline constexpr int kPlanesBlocksOf5 = 3;
#endif
template <typename T, int kSize>
inline constexpr int kPlanesBlocks = (kSize == 7   ? 2
                                      : kSize == 5 ? kPlanesBlocksOf5
                                                   : 4) /
                                     (sizeof(T) == 8 ? 2 : 1);

// Copies so many elements, which lie as far from an address of 16 bytes in
// shared as in global memory.
template <typename T>
__device__ __forceinline__ void CopyPiece(const T* from, int32_t size, T* to) {
  constexpr int32_t kUnit = 16 / sizeof(T);
  const int32_t shift =
      static_cast<int32_t>(reinterpret_cast<uintptr_t>(from) % 16 / sizeof(T));
  int32_t head = shift == 0 ? 0 : kUnit - shift;
  if (head > size) head = size;
  const int32_t units = (size - head) / kUnit;
  const int32_t threads = static_cast<int32_t>(blockDim.x);
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = thread; i < units; i += threads) {
    CopyAsync<16>(to + head + i * kUnit, from + head + i * kUnit);
  }
  // What is left at both ends.
  const int32_t done = head + units * kUnit;
  if (thread < head) to[thread] = from[thread];
  if (thread < size - done) to[done + thread] = from[done + thread];
  FinishCopyGroup();
}

// The element if the mask is its type's kInside, zero if it is kOutside.
template <typename T>
struct MaskOf {
  static constexpr uint32_t kInside = 0xffffffffu, kOutside = 0;
};
// Selects the bytes of a float.
template <>
struct MaskOf<BFloat16> {
  static constexpr uint32_t kInside = 0x1044, kOutside = 0x4444;
};

__device__ __forceinline__ float WidenIf(uint32_t mask, BFloat16 value) {
  return __uint_as_float(__byte_perm(value.bits, 0, mask));
}
__device__ __forceinline__ float WidenIf(uint32_t mask, Half value) {
  return Widen(Half{static_cast<uint16_t>(value.bits & mask)});
}
__device__ __forceinline__ float WidenIf(uint32_t mask, float value) {
  return __uint_as_float(__float_as_uint(value) & mask);
}
__device__ __forceinline__ double WidenIf(uint32_t mask, double value) {
  return mask != 0 ? value : 0;
}

template <typename T, int kSize, March kMarch, int kCells, bool kStaged>
__global__ void __launch_bounds__(kPlanesThreads, kPlanesBlocks<T, kSize>)
    GatherPlanes(PlanesView view, const T* __restrict__ src,
                 const T* __restrict__ filter, T* __restrict__ dst) {
  using Shape = RollingShape<kSize, kMarch>;
  using Sum = Accumulator<T>;
  using Mask = MaskOf<T>;
  constexpr int kReach = Shape::kReach;
  constexpr int kSources = Shape::kSources;
  constexpr int kPositions = Shape::kPositions;
  constexpr int kColumns = kCells * kPositions;
  constexpr int kLiveRows = kReach * kPositions;
  constexpr int kWindow = (kCells + kReach - 1) * kSources;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];

  const PlanesAxis& rows = view.rows;
  const PlanesAxis& cols = view.cols;
  const auto next = [](auto* rest, int32_t size) {
    const int32_t index = static_cast<int32_t>(*rest % size);
    *rest /= size;
    return index;
  };
  int32_t rest = static_cast<int32_t>(blockIdx.x);
  const int32_t band = next(&rest, view.bands);
  const int32_t first_plane = next(&rest, view.channel_groups) * view.planes;
  int32_t planes = view.src_depth - first_plane;
  if (planes > view.planes) planes = view.planes;

  // The rows that the band reads.
  int32_t top = 0, bottom = rows.src_size;
  const int32_t band_step = band * view.band_tasks * rows.per_task;
  if (view.bands > 1) {
    const int32_t begin =
        rows.src_start + (band_step - (kReach - 1)) * rows.src_step;
    const int32_t end =
        rows.src_start + kSources +
        (band_step + view.band_tasks * rows.per_task - 1) * rows.src_step;
    if (begin > top) top = begin;
    if (end < bottom) bottom = end;
  }
  src += rest * view.src_image +
         static_cast<int64_t>(first_plane) * view.src_plane +
         top * cols.src_size;
  dst += rest * view.dst_image +
         static_cast<int64_t>(first_plane) * view.shared_by * view.dst_plane;
  // The rows that the band writes.
  int32_t dst_top = 0, dst_bottom = rows.dst_size;
  if (kStaged && view.bands > 1) {
    const int32_t begin = rows.dst_start + band_step * rows.dst_step;
    const int32_t end = begin + view.band_tasks * rows.per_task * rows.dst_step;
    if (begin > dst_top) dst_top = begin;
    if (end < dst_bottom) dst_bottom = end;
  }
  T* const dst_piece = dst + dst_top * cols.dst_size;
  if (kStaged) {
    dst = reinterpret_cast<T*>(dynamic_shared) + view.dst_offset +
          reinterpret_cast<uintptr_t>(dst_piece) % 16 / sizeof(T) -
          dst_top * cols.dst_size;
  }
  T* const staged = reinterpret_cast<T*>(dynamic_shared) + view.margin +
                    reinterpret_cast<uintptr_t>(src) % 16 / sizeof(T);
  CopyPiece(
      src,
      view.bands > 1 ? (bottom - top) * cols.src_size : planes * view.src_plane,
      staged);

  const int32_t tasks =
      cols.tasks * view.rows_of_threads * planes * view.shared_by;
  const int32_t threads = static_cast<int32_t>(blockDim.x);
  for (int32_t first = 0; first < tasks; first += threads) {
    const bool busy = first + static_cast<int32_t>(threadIdx.x) < tasks;
    int32_t task = busy ? first + static_cast<int32_t>(threadIdx.x) : 0;
    const int32_t col_task = next(&task, cols.tasks);
    const int32_t first_row_task = next(&task, view.rows_of_threads);
    const int32_t channel = first_plane * view.shared_by + task;

    Sum weights[kSize][kSize];
    Sum zero = 0;  // unless a weight is infinite or NaN
#pragma unroll
    for (int r = 0; r < kSize; ++r) {
#pragma unroll
      for (int s = 0; s < kSize; ++s) {
        const int tap = r * kSize + s;
        weights[r][s] = Widen(
            filter[channel + (view.flipped ? kSize * kSize - 1 - tap : tap) *
                                 view.filter_depth]);
        zero += 0 * weights[r][s];
      }
    }
    if (first == 0) {
      WaitForCopies<0>();
      __syncthreads();
    }
    if (!busy) continue;

    // The columns never change: which of the window lie inside src, which of
    // the sums inside dst, and where both start.
    const int32_t col_phase = col_task % cols.phases;
    const int32_t first_cell = col_task / cols.phases * kCells;
    const int32_t first_src = cols.src_start + col_phase +
                              (first_cell - (kReach - 1)) * cols.src_step;
    const int32_t first_dst =
        cols.dst_start + col_phase + first_cell * cols.dst_step;
    const auto src_col = [&](int w) {
      return w / kSources * cols.src_step + w % kSources;
    };
    const auto dst_col = [&](int u) {
      return u / kPositions * cols.dst_step + u % kPositions;
    };
    uint32_t inside[kWindow];
    bool written[kColumns];
#pragma unroll
    for (int w = 0; w < kWindow; ++w) {
      const int32_t col = first_src + src_col(w);
      inside[w] =
          col >= 0 && col < cols.src_size ? Mask::kInside : Mask::kOutside;
      // Or the compiler tests the column again for every row.
      asm volatile("" : "+r"(inside[w]));
    }
#pragma unroll
    for (int u = 0; u < kColumns; ++u) {
      const int32_t col = first_dst + dst_col(u);
      written[u] = col >= 0 && col < cols.dst_size;
    }
    if (kColumns == 1 && !written[0]) continue;
    const T* const plane =
        staged + task / view.shared_by * view.src_plane + first_src;
    T* const to_plane = dst + task * view.dst_plane + first_dst;

#pragma unroll 1
    for (int32_t row_task = first_row_task; row_task < view.band_tasks;
         row_task += view.rows_of_threads) {
      const int32_t row_phase = row_task % rows.phases;
      const int32_t first_step =
          band_step + row_task / rows.phases * rows.per_task;
      int32_t end_step = first_step + rows.per_task;
      if (end_step > rows.cells) end_step = rows.cells;
      // The last cell of a phase may lie outside.
      if (rows.phases > 1 &&
          rows.dst_start + row_phase + (end_step - 1) * rows.dst_step >=
              rows.dst_size) {
        --end_step;
      }

      Sum sums[kLiveRows][kColumns] = {};
      int32_t step = first_step - (kReach - 1);
      int32_t src_row = rows.src_start + row_phase + step * rows.src_step;
      int32_t dst_row = rows.dst_start + row_phase + step * rows.dst_step;
      const T* from = plane + (src_row - top) * cols.src_size;
      T* to = to_plane + dst_row * cols.dst_size;
#pragma unroll 1
      for (; step < end_step; ++step) {
#pragma unroll
        for (int q = 0; q < kSources; ++q) {
          if (static_cast<uint32_t>(src_row + q) >=
              static_cast<uint32_t>(rows.src_size)) {
            continue;
          }
          Sum window[kWindow];
#pragma unroll
          for (int w = 0; w < kWindow; ++w) {
            window[w] =
                WidenIf(inside[w], from[q * cols.src_size + src_col(w)]);
          }
#pragma unroll
          for (int w = 0; w < kWindow; ++w) {
#pragma unroll
            for (int live = 0; live < kLiveRows; ++live) {
              const int r = Shape::Tap(live / kPositions, live % kPositions, q);
              if (r >= kSize) continue;
#pragma unroll
              for (int u = 0; u < kColumns; ++u) {
                const int ahead = u / kPositions + kReach - 1 - w / kSources;
                if (ahead < 0 || ahead >= kReach) continue;
                const int s = Shape::Tap(ahead, u % kPositions, w % kSources);
                if (s >= kSize) continue;
                sums[live][u] += window[w] * weights[r][s];
              }
            }
          }
        }

        if (step >= first_step) {
#pragma unroll
          for (int p = 0; p < kPositions; ++p) {
            // Cells of a single position lie inside.
            if (kPositions > 1 && static_cast<uint32_t>(dst_row + p) >=
                                      static_cast<uint32_t>(rows.dst_size)) {
              continue;
            }
            T* const row = to + p * cols.dst_size;
            if (kColumns % 2 == 0 && view.paired) {
#pragma unroll
              for (int u = 0; u + 1 < kColumns; u += 2) {
                Vector<T, 2> pair;
                Narrow(sums[p][u], &pair.elements[0]);
                Narrow(sums[p][u + 1], &pair.elements[1]);
                if (written[u])
                  *reinterpret_cast<Vector<T, 2>*>(row + u) = pair;
              }
            } else {
#pragma unroll
              for (int u = 0; u < kColumns; ++u) {
                if (written[u]) Narrow(sums[p][u], row + dst_col(u));
              }
            }
          }
        }
        src_row += rows.src_step;
        from += rows.src_step * cols.src_size;
        dst_row += rows.dst_step;
        to += rows.dst_step * cols.dst_size;
#pragma unroll
        for (int live = 0; live < kLiveRows; ++live) {
#pragma unroll
          for (int u = 0; u < kColumns; ++u) {
            sums[live][u] = live + kPositions < kLiveRows
                                ? sums[live + kPositions][u]
                                : Sum(0);
          }
        }
      }
      if (zero == 0) continue;

      // An infinite or NaN weight: only what is inside counts.
#pragma unroll 1
      for (int32_t step = first_step; step < end_step; ++step) {
#pragma unroll 1
        for (int i = 0; i < kPositions * kColumns; ++i) {
          const int p = i / kColumns, u = i % kColumns;
          const int32_t row =
              rows.dst_start + row_phase + step * rows.dst_step + p;
          const int32_t col = first_dst + dst_col(u);
          if (row < 0 || row >= rows.dst_size || col < 0 ||
              col >= cols.dst_size) {
            continue;
          }
          Sum sum = 0;
#pragma unroll 1
          for (int j = 0; j < kReach * kSources * kReach * kSources; ++j) {
            const int down = j / (kReach * kSources);
            const int across = j % (kReach * kSources);
            const int32_t src_row = rows.src_start + row_phase +
                                    (step - down / kSources) * rows.src_step +
                                    down % kSources;
            const int32_t src_at =
                first_src +
                (u / kPositions + kReach - 1 - across / kSources) *
                    cols.src_step +
                across % kSources;
            const int r = Shape::Tap(down / kSources, p, down % kSources);
            const int s = Shape::Tap(across / kSources, u % kPositions,
                                     across % kSources);
            if (r >= kSize || s >= kSize || src_row < 0 ||
                src_row >= rows.src_size || src_at < 0 ||
                src_at >= cols.src_size) {
              continue;
            }
            const int tap = r * kSize + s;
            sum += Widen(plane[(src_row - top) * cols.src_size + src_at -
                               first_src]) *
                   Widen(filter[channel +
                                (view.flipped ? kSize * kSize - 1 - tap : tap) *
                                    view.filter_depth]);
          }
          Narrow(sum, dst + task * view.dst_plane + row * cols.dst_size + col);
        }
      }
    }
  }
  if (kStaged) {
    __syncthreads();
    StorePiece(dst + dst_top * cols.dst_size,
               view.bands > 1 ? (dst_bottom - dst_top) * cols.dst_size
                              : planes * view.shared_by * view.dst_plane,
               dst_piece);
  }
}

// Planes of src, where no sum is over several.
inline int64_t SrcDepth(const GatherView& view) {
  return view.dst_depth / view.shared_by;
}

// How planes are shared out among blocks and threads.
struct PlanesTiling {
  int64_t per_task = 0;  // cells of rows
  int64_t band_tasks = 0;
  int64_t rows_of_threads = 0;
  int64_t planes = 0;  // none if there is no tiling
  int64_t bands = 0;
  int64_t piece = 0;      // elements that a block copies, at most
  int64_t dst_piece = 0;  // and stores
  // Elements in front of and behind the piece that may be read.
  int64_t front = 0;
  int64_t back = 0;
};

// Several blocks of that much fit an SM of any GPU.
inline constexpr int64_t kPieceBytes = 32 << 10;
inline constexpr int64_t kMarginBytes = 8 << 10;
// Enough for the SMs of a large GPU to have several each.
inline constexpr int64_t kFewestBlocks = 512;
// Of a block. On an H200, 3x3 takes 1 to 3 % longer with 128, larger filters up
// to 6 % longer with 256.
template <int kSize>
inline constexpr int64_t kBusyThreads = kSize == 3 ? 256 : 128;
// With what is stored by way of shared memory; more would leave an SM too few
// blocks.
inline constexpr int64_t kStagedBytes = 40 << 10;

// The tiling that keeps the most threads busy with the fewest rows done twice,
// where threads do whole columns or a few parts of them.
template <int kSize, March kMarch>
PlanesTiling FindPlanesTiling(const GatherView& view, int64_t element_bytes,
                              const PlanesAxis& rows, const PlanesAxis& cols) {
  using Shape = RollingShape<kSize, kMarch>;
  constexpr int64_t kReach = Shape::kReach;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const auto clamp = [&](int64_t a, int64_t limit) {
    return a < 1 ? 1 : least(a, limit);
  };
  PlanesTiling best;
  const int64_t src_col = cols.src_start - (kReach - 1) * cols.src_step;
  const int64_t end_col =
      cols.src_start + cols.phases - 1 + Shape::kSources +
      (cols.tasks / cols.phases * cols.per_task - 1) * cols.src_step;
  const int64_t unit = 16 / element_bytes;
  const int64_t front = src_col < 0 ? CeilDiv(-src_col, unit) * unit : 0;
  const int64_t back = end_col > cols.src_size ? end_col - cols.src_size : 0;
  if ((front + back) * element_bytes > kMarginBytes) return best;

  const int64_t depth = SrcDepth(view);
  const int64_t most = kPieceBytes / element_bytes;
  const int64_t plane = view.src.channel;
  const int64_t across = cols.tasks * view.shared_by;
  double best_score = 0;
  for (int64_t parts = 1; parts <= rows.cells; ++parts) {
    const int64_t per_task = CeilDiv(rows.cells, parts);
    if (per_task < 2 * kReach && best_score > 0) break;
    const int64_t tasks = CeilDiv(rows.cells, per_task);
    int64_t planes = 1, bands = 1, band_tasks = tasks * rows.phases;
    int64_t rows_of_threads = band_tasks;
    int64_t piece, dst_piece;
    if (plane <= most) {
      planes = least(kBusyThreads<kSize> / (tasks * across), most / plane);
      planes = least(planes, CeilDiv(view.batch * depth, kFewestBlocks));
      planes = CeilDiv(depth, CeilDiv(depth, clamp(planes, depth)));
      // Phases are few rows each: better many of them share the weights.
      rows_of_threads =
          clamp(kBusyThreads<kSize> / (planes * across), band_tasks);
      rows_of_threads =
          CeilDiv(band_tasks, CeilDiv(band_tasks, rows_of_threads));
      piece = planes * plane;
      dst_piece = planes * view.shared_by * view.dst.channel;
    } else {
      if (rows.phases > 1) continue;
      const auto piece_of = [&](int64_t band_tasks) {
        return ((band_tasks * per_task + kReach - 2) * rows.src_step +
                Shape::kSources) *
               cols.src_size;
      };
      band_tasks = clamp(kBusyThreads<kSize> / across, tasks);
      while (band_tasks > 1 && piece_of(band_tasks) > most) --band_tasks;
      if (piece_of(band_tasks) > most) continue;
      bands = CeilDiv(tasks, band_tasks);
      band_tasks = CeilDiv(tasks, bands);
      rows_of_threads = band_tasks;
      piece = piece_of(band_tasks);
      dst_piece = band_tasks * per_task * rows.dst_step * cols.dst_size;
    }
    const int64_t busy = planes * rows_of_threads * across;
    const int64_t blocks = view.batch * CeilDiv(depth, planes) * bands;
    const int64_t halo = tasks > 1 ? kReach - 1 : 0;
    const double score = static_cast<double>(busy) /
                         static_cast<double>(CeilDiv(busy, 32)) *
                         static_cast<double>(rows.cells) /
                         static_cast<double>(tasks * (per_task + halo)) *
                         static_cast<double>(least(blocks, kFewestBlocks)) *
                         static_cast<double>(least(busy, 128));
    if (score <= best_score) continue;
    best_score = score;
    best = {per_task, band_tasks, rows_of_threads, planes, bands,
            piece,    dst_piece,  front,           back};
  }
  return best;
}

// Two columns share most of a window.
constexpr int PlanesCells(int size, March march, int64_t element_bytes) {
  return march == March::kByOne &&
                 (element_bytes == 2 || (element_bytes == 4 && size > 3))
             ? 2
             : 1;
}

template <int kSize, March kMarch>
struct PlanesPlan {
  PlanesAxis rows;
  PlanesAxis cols;
  PlanesTiling tiling;

  PlanesPlan(const GatherView& view, int64_t element_bytes)
      : rows{MakeRollingAxis<kSize, kMarch>(view.rows), 0, 0},
        cols{MakeRollingAxis<kSize, kMarch>(view.cols), 0, 0} {
    SplitIntoTasks(PlanesCells(kSize, kMarch, element_bytes), &cols);
    tiling = FindPlanesTiling<kSize, kMarch>(view, element_bytes, rows, cols);
  }
};

template <typename T, int kSize, March kMarch>
cudaError_t LaunchPlanesMarch(const GatherView& view, const void* src,
                              const void* filter, void* dst,
                              cudaStream_t stream) {
  constexpr int kCells = PlanesCells(kSize, kMarch, sizeof(T));
  constexpr int kColumns = kCells * RollingShape<kSize, kMarch>::kPositions;
  const PlanesPlan<kSize, kMarch> plan(view, sizeof(T));
  const PlanesTiling& tiling = plan.tiling;
  if (tiling.planes == 0) return cudaErrorInvalidValue;
  PlanesView planes;
  planes.rows = plan.rows;
  planes.cols = plan.cols;
  SplitIntoTasks(tiling.per_task, &planes.rows);
  planes.src_depth = static_cast<int32_t>(SrcDepth(view));
  planes.planes = static_cast<int32_t>(tiling.planes);
  planes.channel_groups =
      static_cast<int32_t>(CeilDiv(planes.src_depth, tiling.planes));
  planes.bands = static_cast<int32_t>(tiling.bands);
  planes.band_tasks = static_cast<int32_t>(tiling.band_tasks);
  planes.rows_of_threads = static_cast<int32_t>(tiling.rows_of_threads);
  planes.margin = static_cast<int32_t>(tiling.front);
  planes.shared_by = static_cast<int32_t>(view.shared_by);
  planes.filter_depth = static_cast<int32_t>(view.filter_depth);
  planes.src_image = view.src.image;
  planes.dst_image = view.dst.image;
  planes.src_plane = static_cast<int32_t>(view.src.channel);
  planes.dst_plane = static_cast<int32_t>(view.dst.channel);
  planes.flipped = kMarch == March::kByOne && !view.backward;
  planes.paired = kColumns % 2 == 0 && planes.cols.phases == 1 &&
                  planes.cols.dst_start % 2 == 0 &&
                  planes.cols.dst_size % 2 == 0 &&
                  IsAligned(dst, 2 * sizeof(T));
  const int64_t tasks = tiling.planes * tiling.rows_of_threads *
                        planes.cols.tasks * view.shared_by;
  const int64_t threads =
      tasks < kPlanesThreads ? CeilDiv(tasks, 32) * 32 : kPlanesThreads;
  constexpr int64_t kUnit = 16 / sizeof(T);
  int64_t shared = tiling.front + tiling.piece + kUnit + tiling.back;
  shared = CeilDiv(shared, kUnit) * kUnit;
  planes.dst_offset = static_cast<int32_t>(shared);
  const int64_t with_dst = shared + tiling.dst_piece + kUnit;
  // By way of shared memory where threads would store two columns one by one.
  // Single columns, and bands or single planes, take longer that way.
  constexpr bool kMayStage = kMarch == March::kByOne && kCells > 1;
  const bool staged =
      kMayStage && !planes.paired && tiling.planes > 1 &&
      with_dst * static_cast<int64_t>(sizeof(T)) <= kStagedBytes;
  if (staged) shared = with_dst;
  const auto kernel = staged ? GatherPlanes<T, kSize, kMarch, kCells, kMayStage>
                             : GatherPlanes<T, kSize, kMarch, kCells, false>;
  return Launch(
      kernel, GridOf(view.batch * planes.channel_groups * planes.bands),
      static_cast<int>(threads), shared * static_cast<int64_t>(sizeof(T)),
      stream, planes, static_cast<const T*>(src), static_cast<const T*>(filter),
      static_cast<T*>(dst));
}

template <int kSizeOfFilter, March kMarchOfRows>
struct PlanesKind {
  static constexpr int kSize = kSizeOfFilter;
  static constexpr March kMarch = kMarchOfRows;
};

// Calls call(PlanesKind) for what the rolling variant does.
template <typename Call>
auto WithPlanesKind(const GatherView& view, Call call) {
  const int64_t size = view.rows.filter_size;
  if (view.rows.stride == 1) {
    if (size == 3) return call(PlanesKind<3, March::kByOne>());
    if (size == 5) return call(PlanesKind<5, March::kByOne>());
    return call(PlanesKind<7, March::kByOne>());
  }
  if (view.backward) {
    if (size == 3) return call(PlanesKind<3, March::kUp>());
    return call(PlanesKind<5, March::kUp>());
  }
  if (size == 3) return call(PlanesKind<3, March::kDown>());
  return call(PlanesKind<5, March::kDown>());
}

template <typename T>
cudaError_t LaunchGatherPlanes(const GatherView& view, const void* src,
                               const void* filter, void* dst,
                               cudaStream_t stream) {
  return WithPlanesKind(view, [&](auto kind) {
    return LaunchPlanesMarch<T, decltype(kind)::kSize, decltype(kind)::kMarch>(
        view, src, filter, dst, stream);
  });
}

// In NCHW, what the rolling variant does, if enough rows fit a block.
inline bool PlanesApply(const GatherView& view, int64_t element_bytes) {
  if (view.channels_last || !RollingApplies(view)) return false;
  return WithPlanesKind(view, [&](auto kind) {
    const PlanesPlan<decltype(kind)::kSize, decltype(kind)::kMarch> plan(
        view, element_bytes);
    return plan.tiling.planes > 0;
  });
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_PLANES_H_
