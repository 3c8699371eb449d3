// The gather in NCHW for filters too large for registers, for any stride,
// dilation and depth multiplier.
//
// A block takes one channel of a few images, or a band of rows of it, and puts
// what one run of taps (GatherPlan) reads of it into shared memory, widened and
// with zeros at its sides, beside the weights. Each thread then sums a tile of
// kTileRows x kTileCols neighbouring positions: a vector of 4 pixels and a
// vector of 4 weights for each row, the same for all threads, serve
// 4 * kTileRows * kTileCols products, of which none needs a test. Rows outside
// the image are skipped.
//
// Zeros at the sides are right unless a weight is infinite or NaN; then columns
// are tested.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_TILES_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_TILES_H_

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

inline constexpr int kTileRows = 2;
inline constexpr int kTileCols = 8;
inline constexpr int kQuad = 4;  // elements loaded at a time
inline constexpr int kTilesThreads = 320;
// So many blocks fit an SM. Before sm_90, two would make it spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr int kTilesBlocks = 1;
#else
inline constexpr int kTilesBlocks = 2;
#endif
inline constexpr int64_t kTilesBytes = 47 << 10;

struct TilesView {
  GatherView gather;
  int32_t images;  // that a block takes
  int32_t image_groups;
  int32_t strips;     // tiles side by side
  int32_t tile_rows;  // of tiles of a band
  int32_t bands;      // of a phase
  int32_t pitch;      // between rows in shared memory
  int32_t image_pitch;
  int32_t weight_rows;
  int32_t weight_pitch;
};

// Where shared memory holds the column of a row: quads of even numbers in the
// first half and of odd numbers in the second, so that neighbouring threads,
// two quads apart, read neighbouring ones.
__device__ __forceinline__ int32_t TileColumn(int32_t col, int32_t pitch) {
  const int32_t quad = col / kQuad;
  return (quad & 1) * (pitch / 2) + quad / 2 * kQuad + col % kQuad;
}

template <typename Sum>
struct Quad {
  Sum elements[kQuad];
};

template <typename Sum>
__device__ __forceinline__ Quad<Sum> LoadQuad(const Sum* from) {
  Quad<Sum> quad;
  constexpr int kCount = 16 / sizeof(Sum);
#pragma unroll
  for (int i = 0; i < kQuad; i += kCount) {
    const auto part = *reinterpret_cast<const Vector<Sum, kCount>*>(from + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) quad.elements[i + j] = part.elements[j];
  }
  return quad;
}

// kTaps taps of the rows [kBegin, kEnd) of sums, from a window of three quads.
template <int kTaps, int kBegin, int kEnd, typename Sum>
__device__ __forceinline__ void AddTileTaps(const Sum* weights,
                                            const Quad<Sum>& first,
                                            const Quad<Sum>& second,
                                            const Quad<Sum>& third,
                                            Sum (&sums)[kTileRows][kTileCols]) {
  Quad<Sum> taps[kTileRows];
#pragma unroll
  for (int i = 0; i * kQuad < kTaps * kTileRows; ++i) {
    taps[i] = LoadQuad(weights + i * kQuad);
  }
#pragma unroll
  for (int s = 0; s < kTaps; ++s) {
#pragma unroll
    for (int u = 0; u < kTileCols; ++u) {
      const int j = u + s;
      const Sum pixel = j < kQuad       ? first.elements[j % kQuad]
                        : j < 2 * kQuad ? second.elements[j % kQuad]
                                        : third.elements[j % kQuad];
#pragma unroll
      for (int v = kBegin; v < kEnd; ++v) {
        const int at = s * kTileRows + v;
        sums[v][u] += pixel * taps[at / kQuad].elements[at % kQuad];
      }
    }
  }
}

// All taps of a row of the source. Even and odd quads of the window start at
// `even` and `odd`; the weights of a tap for both rows of sums lie side by
// side.
template <int kBegin, int kEnd, typename Sum>
__device__ __forceinline__ void AddTileRow(const Sum* even, const Sum* odd,
                                           const Sum* weights, int32_t taps,
                                           Sum (&sums)[kTileRows][kTileCols]) {
  // Three quads take turns, so that none is moved.
  Quad<Sum> a = LoadQuad(even), b = LoadQuad(odd), c;
  const auto rest = [&](int32_t count, const Quad<Sum>& first,
                        const Quad<Sum>& second, const Sum* next) {
    if (count == 1) {
      AddTileTaps<1, kBegin, kEnd>(weights, first, second, second, sums);
    } else if (count == 2) {
      AddTileTaps<2, kBegin, kEnd>(weights, first, second, LoadQuad(next),
                                   sums);
    } else if (count == 3) {
      AddTileTaps<3, kBegin, kEnd>(weights, first, second, LoadQuad(next),
                                   sums);
    }
  };
  const auto add = [&](const Quad<Sum>& first, const Quad<Sum>& second,
                       const Quad<Sum>& third) {
    AddTileTaps<kQuad, kBegin, kEnd>(weights, first, second, third, sums);
    weights += kTileRows * kQuad;
    taps -= kQuad;
  };
#pragma unroll 1
  for (;;) {
    even += kQuad;
    if (taps < kQuad) return rest(taps, a, b, even);
    c = LoadQuad(even);
    add(a, b, c);
    odd += kQuad;
    if (taps < kQuad) return rest(taps, b, c, odd);
    a = LoadQuad(odd);
    add(b, c, a);
    even += kQuad;
    if (taps < kQuad) return rest(taps, c, a, even);
    b = LoadQuad(even);
    add(c, a, b);
    // An odd number of quads: the halves change roles.
    const Sum* const swapped = even;
    even = odd;
    odd = swapped;
  }
}

template <typename T>
__global__ void __launch_bounds__(kTilesThreads,
                                  sizeof(T) == 8 ? 1 : kTilesBlocks)
    GatherTiles(TilesView view, const T* __restrict__ src,
                const T* __restrict__ filter, T* __restrict__ dst) {
  using Sum = Accumulator<T>;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  // A row of zeros, the images, the weights, whether these are all finite.
  Sum* const zeros = reinterpret_cast<Sum*>(dynamic_shared);
  Sum* const slots = zeros + view.pitch;
  Sum* const weights = slots + view.images * view.image_pitch;
  int* const finite =
      reinterpret_cast<int*>(weights + view.weight_rows * view.weight_pitch);
  const GatherView& gather = view.gather;
  const GatherPlan& rows = gather.rows;
  const GatherPlan& cols = gather.cols;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int32_t threads = static_cast<int32_t>(blockDim.x);
  constexpr int32_t kWarp = 32;

  int32_t rest = static_cast<int32_t>(blockIdx.x);
  const auto next = [&rest](int32_t size) {
    const int32_t index = rest % size;
    rest /= size;
    return index;
  };
  const int32_t band = next(view.bands);
  const int32_t row_phase = next(static_cast<int32_t>(PhaseCount(rows)));
  const int32_t col_phase = next(static_cast<int32_t>(PhaseCount(cols)));
  const int32_t channel = next(static_cast<int32_t>(gather.dst_depth));
  const int32_t first_image = rest * view.images;
  int32_t images = static_cast<int32_t>(gather.batch) - first_image;
  if (images > view.images) images = view.images;
  src += first_image * gather.src.image;
  dst += first_image * gather.dst.image + channel * gather.dst.channel;

  // The tiles of a warp are in few rows.
  const int32_t across = view.strips * view.images;
  const int32_t block_row = band * view.tile_rows * kTileRows;
  const int32_t strip = thread % view.strips;
  const int32_t image = thread / view.strips % view.images;
  const int32_t tile_row = thread / across * kTileRows;
  const int32_t warp_top = thread / kWarp * kWarp / across * kTileRows;
  const int32_t block_rows = view.tile_rows * kTileRows;
  const int32_t warp_end =
      ((thread / kWarp * kWarp + kWarp - 1) / across + 1) * kTileRows;
  const int32_t warp_bottom = warp_end < block_rows ? warp_end : block_rows;

  for (int32_t i = thread; i < view.pitch; i += threads) zeros[i] = 0;
  Sum sums[kTileRows][kTileCols] = {};
  const auto add_run = [&](const TapRun& row_run, const TapRun& col_run,
                           int32_t pass) {
    const int32_t row_taps = static_cast<int32_t>(row_run.num_taps);
    const int32_t col_taps = static_cast<int32_t>(col_run.num_taps);
    const int32_t first_row =
        static_cast<int32_t>(row_run.first_src + block_row * rows.pitch);
    const TapRange steps =
        ClipToSource(rows, first_row, block_rows + row_taps - 1);
    const int32_t begin = static_cast<int32_t>(steps.begin);
    const int32_t end = static_cast<int32_t>(steps.end);
    const int32_t filter_channel =
        static_cast<int32_t>(channel * gather.passes) + pass;
    const int32_t span = view.strips * kTileCols + col_taps - 1;
    const TapRange range = ClipToSource(cols, col_run.first_src, span);
    const int32_t inside_begin = static_cast<int32_t>(range.begin);
    const int32_t inside_end = static_cast<int32_t>(range.end);

    __syncthreads();  // Nothing staged before is still needed.
    if (thread == 0) *finite = 1;
    __syncthreads();
    const T* const plane =
        src + filter_channel / gather.shared_by * gather.src.channel;
    // Several rows at a time, for as many loads under way.
    constexpr int kBatch = 8;
    const int32_t staged_rows = images * (end - begin);
    const int32_t warps = threads / kWarp;
#pragma unroll 1
    for (int32_t i = thread / kWarp; i < staged_rows; i += kBatch * warps) {
      int32_t from[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int32_t row = i + b * warps;
        from[b] = static_cast<int32_t>(
            row / (end - begin) * gather.src.image +
            (first_row + (begin + row % (end - begin)) * rows.pitch) *
                gather.src.row +
            col_run.first_src);
      }
#pragma unroll 1
      for (int32_t col = thread % kWarp; col < view.pitch; col += kWarp) {
        const bool counts = col >= inside_begin && col < inside_end;
        const int32_t to = TileColumn(col, view.pitch);
        T pixels[kBatch] = {};
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          if (counts && i + b * warps < staged_rows) {
            pixels[b] = plane[from[b] + col * static_cast<int32_t>(cols.pitch)];
          }
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          const int32_t row = i + b * warps;
          if (row >= staged_rows) continue;
          slots[row / (end - begin) * view.image_pitch +
                row % (end - begin) * view.pitch + to] = Widen(pixels[b]);
        }
      }
    }
    for (int32_t i = thread; i < row_taps * col_taps; i += threads) {
      const int32_t r = i / col_taps, s = i % col_taps;
      const Sum weight = Widen(
          filter[((row_run.first_tap + r * rows.tap_step) * cols.filter_size +
                  col_run.first_tap + s * cols.tap_step) *
                     gather.filter_depth +
                 filter_channel]);
      // Step r uses it for the upper row of sums, the next for the lower.
      weights[r * view.weight_pitch + s * kTileRows] = weight;
      weights[(r + 1) * view.weight_pitch + s * kTileRows + 1] = weight;
      if (!(weight * 0 == 0)) *finite = 0;
    }
    __syncthreads();

    // Steps of the first tile row of this warp to the last.
    const Sum* const window = slots + image * view.image_pitch + strip * kQuad;
    const int32_t first_step = begin - warp_bottom + kTileRows > 0
                                   ? begin - warp_bottom + kTileRows
                                   : 0;
    const int32_t most = row_taps + kTileRows - 1;
    const int32_t end_step = end - warp_top < most ? end - warp_top : most;
    if (*finite != 0) {
#pragma unroll 1
      for (int32_t step = first_step; step < end_step; ++step) {
        const int32_t row = tile_row + step;
        const Sum* const even = row >= begin && row < end
                                    ? window + (row - begin) * view.pitch
                                    : zeros + strip * kQuad;
        const Sum* const odd = even + view.pitch / 2;
        const Sum* const taps = weights + step * view.weight_pitch;
        if (step == 0) {
          AddTileRow<0, 1>(even, odd, taps, col_taps, sums);
        } else if (step == row_taps) {
          AddTileRow<1, 2>(even, odd, taps, col_taps, sums);
        } else {
          AddTileRow<0, 2>(even, odd, taps, col_taps, sums);
        }
      }
      return;
    }
#pragma unroll 1
    for (int32_t step = first_step; step < end_step; ++step) {
      const int32_t row = tile_row + step;
      if (row < begin || row >= end) continue;
#pragma unroll 1
      for (int32_t s = 0; s < col_taps; ++s) {
#pragma unroll
        for (int u = 0; u < kTileCols; ++u) {
          const int32_t col = strip * kTileCols + u + s;
          if (col < inside_begin || col >= inside_end) continue;
          const Sum pixel =
              slots[image * view.image_pitch + (row - begin) * view.pitch +
                    TileColumn(col, view.pitch)];
#pragma unroll
          for (int v = 0; v < kTileRows; ++v) {
            if (step < v || step - v >= row_taps) continue;
            sums[v][u] +=
                pixel * weights[step * view.weight_pitch + s * kTileRows + v];
          }
        }
      }
    }
  };

  TapRun row_run = FirstRun(rows, row_phase);
  for (int64_t row_index = 0;;) {
    TapRun col_run = FirstRun(cols, col_phase);
    for (int64_t col_index = 0;;) {
      if (row_run.num_taps > 0 && col_run.num_taps > 0) {
        for (int32_t pass = 0; pass < gather.passes; ++pass) {
          add_run(row_run, col_run, pass);
        }
      }
      if (++col_index >= cols.num_runs) break;
      NextRun(cols, col_index, &col_run);
    }
    if (++row_index >= rows.num_runs) break;
    NextRun(rows, row_index, &row_run);
  }

  if (image >= images || tile_row >= block_rows) return;
#pragma unroll
  for (int v = 0; v < kTileRows; ++v) {
    const int32_t row = row_phase + (block_row + tile_row + v) *
                                        static_cast<int32_t>(rows.num_phases);
    if (row >= rows.dst_size) continue;
    T* const to = dst + image * gather.dst.image + row * gather.dst.row;
    // Vectors would bind the sums to registers of the same bank as the pixels.
#pragma unroll
    for (int u = 0; u < kTileCols; ++u) {
      const int32_t col = col_phase + (strip * kTileCols + u) *
                                          static_cast<int32_t>(cols.num_phases);
      if (col < cols.dst_size) Narrow(sums[v][u], to + col);
    }
  }
}

// How a problem is cut for GatherTiles; no images if it does not fit.
inline TilesView MakeTilesView(const GatherView& view,
                               int64_t accumulator_bytes) {
  TilesView tiles;
  tiles.gather = view;
  tiles.images = 0;
  const auto taps = [](const GatherPlan& plan) {
    const int64_t step = plan.tap_step < 0 ? -plan.tap_step : plan.tap_step;
    return CeilDiv(plan.filter_size, step);
  };
  const int64_t row_taps = taps(view.rows), col_taps = taps(view.cols);
  const int64_t strips = CeilDiv(PhaseSize(view.cols, 0), kTileCols);
  const int64_t tile_rows = CeilDiv(PhaseSize(view.rows, 0), kTileRows);
  // A window of the last taps reads two quads from where it starts, and one
  // more.
  constexpr int64_t kPair = 2 * kQuad;
  const int64_t pitch =
      CeilDiv(strips * kTileCols + col_taps + kQuad, kPair) * kPair;
  const int64_t weight_pitch = CeilDiv(col_taps, kQuad) * kQuad * kTileRows;
  const int64_t weight_rows = row_taps + kTileRows - 1;
  const int64_t most =
      kTilesBytes / accumulator_bytes - 1 - pitch - weight_pitch * weight_rows;
  if (strips > kTilesThreads || pitch > kTilesBytes) return tiles;

  double best_score = 0;
  for (int64_t bands = 1; bands <= tile_rows; ++bands) {
    const int64_t band_rows = CeilDiv(tile_rows, bands);
    if (CeilDiv(tile_rows, band_rows) != bands) continue;
    int64_t slot_rows = band_rows * kTileRows + row_taps - 1;
    // Rows outside are not there.
    if (slot_rows > view.rows.src_size) slot_rows = view.rows.src_size;
    // Images follow each other in the banks as strips do.
    int64_t image_pitch = slot_rows * pitch;
    image_pitch += ((strips - image_pitch / kQuad) % 8 + 8) % 8 * kQuad;
    for (int64_t images = 1; images <= view.batch; ++images) {
      const int64_t busy = images * strips * band_rows;
      if (busy > kTilesThreads || images * image_pitch > most) break;
      const int64_t blocks = CeilDiv(view.batch, images) * view.dst_depth *
                             PhaseCount(view.rows) * PhaseCount(view.cols) *
                             bands;
      const double score =
          static_cast<double>(busy) /
          static_cast<double>(CeilDiv(busy, 32) * CeilDiv(view.batch, images) *
                              images) *
          static_cast<double>(blocks < 512 ? blocks : 512) *
          static_cast<double>(busy < 192 ? busy : 192);
      if (score <= best_score) continue;
      best_score = score;
      tiles.images = static_cast<int32_t>(images);
      tiles.image_groups = static_cast<int32_t>(CeilDiv(view.batch, images));
      tiles.strips = static_cast<int32_t>(strips);
      tiles.tile_rows = static_cast<int32_t>(band_rows);
      tiles.bands = static_cast<int32_t>(bands);
      tiles.pitch = static_cast<int32_t>(pitch);
      tiles.image_pitch = static_cast<int32_t>(image_pitch);
      tiles.weight_rows = static_cast<int32_t>(weight_rows);
      tiles.weight_pitch = static_cast<int32_t>(weight_pitch);
    }
    if (best_score > 0) break;
  }
  return tiles;
}

inline int64_t TilesBlocks(const TilesView& tiles) {
  const GatherView& view = tiles.gather;
  return tiles.image_groups * view.dst_depth * PhaseCount(view.rows) *
         PhaseCount(view.cols) * tiles.bands;
}

// NCHW where a row of tiles and the weights fit a block.
inline bool TilesApply(const GatherView& view, int64_t element_bytes) {
  if (view.channels_last || !ImagesFit32Bits(view)) return false;
  const TilesView tiles = MakeTilesView(view, element_bytes == 8 ? 8 : 4);
  return tiles.images > 0 && TilesBlocks(tiles) < 0x7fffffff;
}

template <typename T>
cudaError_t LaunchGatherTiles(const GatherView& view, const void* src,
                              const void* filter, void* dst,
                              cudaStream_t stream) {
  using Sum = Accumulator<T>;
  TilesView tiles = MakeTilesView(view, sizeof(Sum));
  if (tiles.images == 0) return cudaErrorInvalidValue;
  const int64_t busy =
      static_cast<int64_t>(tiles.images) * tiles.strips * tiles.tile_rows;
  const int64_t shared =
      tiles.pitch + static_cast<int64_t>(tiles.images) * tiles.image_pitch +
      static_cast<int64_t>(tiles.weight_rows) * tiles.weight_pitch + 1;
  return Launch(GatherTiles<T>, GridOf(TilesBlocks(tiles)),
                static_cast<int>(CeilDiv(busy, 32) * 32),
                shared * static_cast<int64_t>(sizeof(Sum)), stream, tiles,
                static_cast<const T*>(src), static_cast<const T*>(filter),
                static_cast<T*>(dst));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_TILES_H_
