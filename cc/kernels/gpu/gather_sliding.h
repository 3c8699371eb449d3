// The gather for large filters where channels come last: a window of the
// source slides along a row in registers.
//
// A warp takes 32 vectors of channels, one a lane, and a thread two rows of
// kCols neighbouring sums of them. For every source row, it passes along the
// taps of the two filter rows that reach it: per tap, one pixel enters the
// window and two weights are read, all from shared memory, for 2 * kCols
// products of each channel. Source and filter rows are staged one step ahead of
// the sums; each serves all the warps of a block.
//
// Columns outside the image are zeros in shared memory and take part like any
// other, which is cheaper than to tell them apart. Only where a filter has
// infinities does that matter: sums that are no numbers are done again, each by
// itself and without the zeros.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_SLIDING_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_SLIDING_H_

#include <utility>

#ifdef SLIDING_TUNE
#include <cstdio>
#include <cstdlib>
#endif

#include "cc/kernels/gpu/copy_async.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

inline constexpr int kSlidingRows = 2;   // of a thread
inline constexpr int kSlidingWarps = 8;  // of a block, at most
inline constexpr int kSlidingSlots = 2;  // source rows in shared memory

// Channels of a lane: the widest load that takes no more time per byte.
template <typename T>
inline constexpr int kSlidingVector = 8 / sizeof(Accumulator<T>);
// Channels of a block.
template <typename T>
inline constexpr int kSlidingDepth = 32 * kSlidingVector<T>;

struct SlidingView {
  // Rows and columns are swapped if the filter is taller than wide.
  GatherPlan rows;
  GatherPlan cols;
  ImageStrides src;
  ImageStrides dst;
  int64_t filter_row;  // elements from a tap to the next
  int64_t filter_col;
  int64_t batch;
  int32_t depth;
  // The warps of a block.
  int32_t warps_across;
  int32_t warps_down;
  int32_t images;
  int32_t image_blocks;
  int32_t row_blocks;  // of all phases
  int32_t col_blocks;
  int32_t channel_blocks;
  // Shared memory.
  int32_t slot_cols;
  int32_t slot_taps;  // of a filter row, the next of it come after the first
  int32_t tap_slots;  // filter rows
  int32_t copy_bytes;
  bool whole_vectors;  // of dst
  // Whether the blocks of the middle rows, which have the most source rows,
  // come before those of other rows of all images.
  bool middle_first;
};

// Copies the block's channels of `count` pixels or taps to shared memory, by
// all threads of the block.
template <typename T, int kUnit>
__device__ __forceinline__ void CopyPixels(T* to, const T* from,
                                           int32_t from_pitch, int32_t count,
                                           int32_t channels) {
  constexpr int kDepth = kSlidingDepth<T>;
  constexpr int kThreads = kDepth / kUnit < 32 ? kDepth / kUnit : 32;
  constexpr int kStride = kThreads * kUnit;
  const int32_t first = static_cast<int32_t>(threadIdx.x) / kThreads;
  const int32_t pixels = static_cast<int32_t>(blockDim.x) / kThreads;
  const int32_t channel = static_cast<int32_t>(threadIdx.x) % kThreads * kUnit;
  to += first * kDepth + channel;
  from += first * from_pitch + channel;
#pragma unroll 2
  for (int32_t i = first; i < count; i += pixels) {
#pragma unroll
    for (int k = 0; k < kDepth; k += kStride) {
      if (channel + k < channels)
        CopyAsync<kUnit * sizeof(T)>(to + k, from + k);
    }
    to += pixels * kDepth;
    from += pixels * from_pitch;
  }
}

template <typename T>
__device__ __forceinline__ void CopyPixels(int32_t copy_bytes, T* to,
                                           const T* from, int32_t from_pitch,
                                           int32_t count, int32_t channels) {
  if (copy_bytes == 16) {
    CopyPixels<T, 16 / sizeof(T)>(to, from, from_pitch, count, channels);
  } else if (sizeof(T) == 2 && copy_bytes == 4) {
    CopyPixels<T, sizeof(T) == 2 ? 2 : 1>(to, from, from_pitch, count,
                                          channels);
  } else {
    CopyPixels<T, 1>(to, from, from_pitch, count, channels);
  }
}

template <typename T, int kVector>
__device__ __forceinline__ void LoadWidened(const T* from,
                                            Accumulator<T> (&to)[kVector]) {
  const auto vector = *reinterpret_cast<const Vector<T, kVector>*>(from);
#pragma unroll
  for (int c = 0; c < kVector; ++c) to[c] = Widen(vector.elements[c]);
}

// Adds a source row's products with one or two filter rows to the sums.
template <typename T, int kCols, bool kUpper, bool kLower>
__device__ __forceinline__ void SlideAlong(
    const T* pixels, const T* upper_taps, const T* lower_taps, int32_t taps,
    Accumulator<T> (&sums)[kSlidingRows][kCols][kSlidingVector<T>]) {
  static_assert(kSlidingRows == 2, "");
  constexpr int kVector = kSlidingVector<T>;
  constexpr int kDepth = kSlidingDepth<T>;
  // Pixel j lies in window[j % kCols].
  Accumulator<T> window[kCols][kVector];
#pragma unroll
  for (int j = 0; j < kCols - 1; ++j) {
    LoadWidened<T, kVector>(pixels + j * kDepth, window[j]);
  }
  pixels += (kCols - 1) * kDepth;
#pragma unroll 1
  for (; taps > 0; taps -= kCols) {
#pragma unroll
    for (int i = 0; i < kCols; ++i) {
      if (i >= taps) break;
      LoadWidened<T, kVector>(pixels + i * kDepth,
                              window[(i + kCols - 1) % kCols]);
      Accumulator<T> upper[kVector], lower[kVector];
      if (kUpper) LoadWidened<T, kVector>(upper_taps + i * kDepth, upper);
      if (kLower) LoadWidened<T, kVector>(lower_taps + i * kDepth, lower);
#pragma unroll
      for (int u = 0; u < kCols; ++u) {
#pragma unroll
        for (int c = 0; c < kVector; ++c) {
          const Accumulator<T> pixel = window[(i + u) % kCols][c];
          if (kUpper) sums[0][u][c] += pixel * upper[c];
          if (kLower) sums[1][u][c] += pixel * lower[c];
        }
      }
    }
    pixels += kCols * kDepth;
    upper_taps += kCols * kDepth;
    lower_taps += kCols * kDepth;
  }
}

// One element of dst, given the start of its source image and the filter, both
// at its channel.
template <typename T>
__device__ Accumulator<T> GatherElement(const SlidingView& view, const T* src,
                                        const T* filter, int32_t row,
                                        int32_t col) {
  const GatherPlan& rows = view.rows;
  const GatherPlan& cols = view.cols;
  const TapRun row_run = FirstRun(rows, row % rows.num_phases);
  const TapRun col_run = FirstRun(cols, col % cols.num_phases);
  const int64_t first_row =
      row_run.first_src + row / rows.num_phases * rows.pitch;
  const int64_t first_col =
      col_run.first_src + col / cols.num_phases * cols.pitch;
  const TapRange row_taps = ClipToSource(rows, first_row, row_run.num_taps);
  const TapRange col_taps = ClipToSource(cols, first_col, col_run.num_taps);
  Accumulator<T> sum = 0;
  for (int64_t r = row_taps.begin; r < row_taps.end; ++r) {
    for (int64_t s = col_taps.begin; s < col_taps.end; ++s) {
      sum +=
          Widen(src[(first_row + r * rows.pitch) * view.src.row +
                    (first_col + s * cols.pitch) * view.src.col]) *
          Widen(
              filter[(row_run.first_tap + r * rows.tap_step) * view.filter_row +
                     (col_run.first_tap + s * cols.tap_step) *
                         view.filter_col]);
    }
  }
  return sum;
}

// What all threads of a block need to know now and then. It lies in shared
// memory, as the registers are for sums.
template <typename T>
struct SlidingBlock {
  // The block's first image and channel.
  const T* src;
  const T* filter;
  T* dst;
  int32_t images;
  int32_t channels;
  // Positions of a phase.
  int32_t row_phase;
  int32_t col_phase;
  int32_t first_row;
  int32_t first_col;
  int32_t rows;
  // Of the march down the source rows: in step i, tap row i reaches the first
  // row of the block.
  const T* src_row;  // of step 0
  const T* tap_row;  // of step 0
  TapRun col_run;
  int32_t row_taps;
  int32_t begin;
  int32_t end;
  // Of those taps of a filter row that are staged together.
  const T* pixels;    // of step 0
  const T* weights;   // of tap row 0
  int32_t pixel_row;  // elements to the next row and column of the lattice
  int32_t pixel_col;
  int64_t weight_row;
  int32_t weight_col;
  int32_t taps;
  int32_t inside_begin;  // of the columns that are staged, those of the image
  int32_t inside_end;
};

// Bytes, a multiple of 16.
template <typename T>
inline constexpr int kSlidingHeader = (sizeof(SlidingBlock<T>) + 15) / 16 * 16;

template <typename T>
__device__ inline void StartBlock(const SlidingView& view, int32_t tile_cols,
                                  const T* src, const T* filter, T* dst,
                                  SlidingBlock<T>* block) {
  constexpr int kDepth = kSlidingDepth<T>;
  const GatherPlan& rows = view.rows;
  const GatherPlan& cols = view.cols;
  int64_t rest = blockIdx.x;
  const auto next = [&rest](int32_t size) {
    const int32_t index = static_cast<int32_t>(rest % size);
    rest /= size;
    return index;
  };
  const int32_t channel = next(view.channel_blocks) * kDepth;
  const int32_t col_block = next(view.col_blocks);
  int32_t row_block;
  if (view.middle_first) {
    const int32_t image_block = next(view.image_blocks);
    row_block = view.row_blocks / 2;
    row_block += rest % 2 == 0 ? rest / 2 : -(rest + 1) / 2;
    rest = image_block;
  } else {
    row_block = next(view.row_blocks);
  }
  const int64_t image = rest * view.images;
  block->images = view.batch - image < view.images
                      ? static_cast<int32_t>(view.batch - image)
                      : view.images;
  block->channels =
      view.depth - channel < kDepth ? view.depth - channel : kDepth;
  block->src = src + image * view.src.image + channel;
  block->filter = filter + channel;
  block->dst = dst + image * view.dst.image + channel;

  const int32_t row_phases = static_cast<int32_t>(PhaseCount(rows));
  const int32_t col_phases = static_cast<int32_t>(PhaseCount(cols));
  block->row_phase = row_block % row_phases;
  block->col_phase = col_block % col_phases;
  const int32_t tile_rows = view.warps_down * kSlidingRows;
  block->first_row = row_block / row_phases * tile_rows;
  block->first_col = col_block / col_phases * tile_cols;
  const int32_t rows_left =
      static_cast<int32_t>(PhaseSize(rows, block->row_phase)) -
      block->first_row;
  block->rows = rows_left < tile_rows ? rows_left : tile_rows;

  const TapRun row_run = FirstRun(rows, block->row_phase);
  block->col_run = FirstRun(cols, block->col_phase);
  block->row_taps = static_cast<int32_t>(row_run.num_taps);
  const int64_t src_row = row_run.first_src + block->first_row * rows.pitch;
  const TapRange steps =
      ClipToSource(rows, src_row, block->rows + block->row_taps - 1);
  block->begin = static_cast<int32_t>(steps.begin);
  block->end = static_cast<int32_t>(steps.end);
  block->src_row = block->src + src_row * view.src.row;
  block->tap_row = block->filter + row_run.first_tap * view.filter_row;
  block->pixel_row = static_cast<int32_t>(rows.pitch * view.src.row);
  block->pixel_col = static_cast<int32_t>(cols.pitch * view.src.col);
  block->weight_row = rows.tap_step * view.filter_row;
  block->weight_col = static_cast<int32_t>(cols.tap_step * view.filter_col);
}

// The part of the filter rows that begins `done` taps behind the first.
template <typename T>
__device__ inline void StartPart(const SlidingView& view, int32_t tile_cols,
                                 int32_t done, SlidingBlock<T>* block) {
  const GatherPlan& cols = view.cols;
  const int32_t left = static_cast<int32_t>(block->col_run.num_taps) - done;
  block->taps = left < view.slot_taps ? left : view.slot_taps;
  const int64_t first_col =
      block->col_run.first_src + (block->first_col + done) * cols.pitch;
  const TapRange inside =
      ClipToSource(cols, first_col, tile_cols + block->taps - 1);
  block->inside_begin = static_cast<int32_t>(inside.begin);
  block->inside_end = static_cast<int32_t>(inside.end);
  block->pixels =
      block->src_row + (first_col + inside.begin * cols.pitch) * view.src.col;
  block->weights =
      block->tap_row +
      (block->col_run.first_tap + done * cols.tap_step) * view.filter_col;
}

// Stages filter row `tap_row`.
template <typename T>
__device__ __forceinline__ void StageTaps(const SlidingView& view,
                                          const SlidingBlock<T>& block,
                                          int32_t tap_row, T* slot) {
  CopyPixels(view.copy_bytes, slot, block.weights + tap_row * block.weight_row,
             block.weight_col, block.taps, block.channels);
}

// Stages the source row of a step.
template <typename T>
__device__ __forceinline__ void StagePixels(const SlidingView& view,
                                            const SlidingBlock<T>& block,
                                            int32_t step, T* src_slots) {
  T* slot = src_slots + (step % kSlidingSlots * view.images * view.slot_cols +
                         block.inside_begin) *
                            kSlidingDepth<T>;
  const T* from = block.pixels + step * block.pixel_row;
  for (int32_t image = 0; image < block.images; ++image) {
    CopyPixels(view.copy_bytes, slot, from, block.pixel_col,
               block.inside_end - block.inside_begin, block.channels);
    slot += view.slot_cols * kSlidingDepth<T>;
    from += view.src.image;
  }
}

template <typename T, int kCols>
__global__ void __launch_bounds__(kSlidingWarps * 32, 2)
    GatherSliding(SlidingView view, const T* __restrict__ src,
                  const T* __restrict__ filter, T* __restrict__ dst) {
  constexpr int kVector = kSlidingVector<T>;
  constexpr int kDepth = kSlidingDepth<T>;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  auto& block = *reinterpret_cast<SlidingBlock<T>*>(dynamic_shared);
  T* const src_slots = reinterpret_cast<T*>(dynamic_shared + kSlidingHeader<T>);
  T* const taps =
      src_slots + kSlidingSlots * view.images * view.slot_cols * kDepth;

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int32_t warp_col = warp % view.warps_across * kCols;
  const int32_t warp_row =
      warp / view.warps_across % view.warps_down * kSlidingRows;
  const int32_t image = warp / view.warps_across / view.warps_down;
  const int32_t tile_cols = view.warps_across * kCols;

  if (threadIdx.x == 0) StartBlock(view, tile_cols, src, filter, dst, &block);
  __syncthreads();
  if (block.rows <= 0) return;
  const bool has_sums = warp_row < block.rows && image < block.images;

  Accumulator<T> sums[kSlidingRows][kCols][kVector] = {};
#pragma unroll 1
  for (int32_t done = 0;
       done < (block.row_taps > 0 ? block.col_run.num_taps : 0);
       done += view.slot_taps) {
    __syncthreads();  // Nothing staged before is still needed.
    if (threadIdx.x == 0) StartPart(view, tile_cols, done, &block);
    __syncthreads();
    for (int32_t i = warp; i < kSlidingSlots * view.images * view.slot_cols;
         i += static_cast<int32_t>(blockDim.x) / 32) {
      const int32_t col = i % view.slot_cols;
      if (col >= block.inside_begin && col < block.inside_end) continue;
      *reinterpret_cast<Vector<T, kVector>*>(
          &src_slots[i * kDepth + lane * kVector]) = {};
    }
    const int32_t begin = block.begin;
    const int32_t tap_slots = view.tap_slots;
    const int32_t tap_slot_size = view.slot_taps * kDepth;
    // A filter row lies in the slot of its number modulo their count.
    int32_t next_slot = begin - block.rows + 1;
    if (next_slot < 0) next_slot = 0;
    int32_t tap_row = next_slot;
    next_slot %= tap_slots;
    const auto stage_taps = [&](int32_t tap_row) {
      if (tap_row < block.row_taps) {
        StageTaps(view, block, tap_row, taps + next_slot * tap_slot_size);
      }
      if (++next_slot == tap_slots) next_slot = 0;
    };
    for (; tap_row <= begin; ++tap_row) stage_taps(tap_row);
    if (begin < block.end) StagePixels(view, block, begin, src_slots);
    FinishCopyGroup();
    // That of the upper row of sums.
    int32_t upper_slot = (begin - warp_row) % tap_slots;
    if (upper_slot < 0) upper_slot += tap_slots;
#pragma unroll 1
    for (int32_t step = begin; step < block.end; ++step) {
      WaitForCopies<0>();
      __syncthreads();
      if (step + 1 < block.end) {
        StagePixels(view, block, step + 1, src_slots);
        stage_taps(step + 1);
      }
      FinishCopyGroup();
      const int32_t tap_row = step - warp_row;  // of the upper row of sums
      const int32_t row_taps = block.row_taps;
      const bool upper = has_sums && tap_row >= 0 && tap_row < row_taps;
      const bool lower = has_sums && tap_row >= 1 && tap_row <= row_taps &&
                         warp_row + 1 < block.rows;
      const T* upper_taps = taps + upper_slot * tap_slot_size + lane * kVector;
      const T* lower_taps = upper_taps - tap_slot_size;
      if (upper_slot == 0) lower_taps += tap_slots * tap_slot_size;
      if (++upper_slot == tap_slots) upper_slot = 0;
      if (!upper && !lower) continue;
      const T* pixels =
          src_slots +
          ((step % kSlidingSlots * view.images + image) * view.slot_cols +
           warp_col) *
              kDepth +
          lane * kVector;
      if (upper && lower) {
        SlideAlong<T, kCols, true, true>(pixels, upper_taps, lower_taps,
                                         block.taps, sums);
      } else if (upper) {
        SlideAlong<T, kCols, true, false>(pixels, upper_taps, lower_taps,
                                          block.taps, sums);
      } else {
        SlideAlong<T, kCols, false, true>(pixels, upper_taps, lower_taps,
                                          block.taps, sums);
      }
    }
    WaitForCopies<0>();
  }

  const int32_t channel = lane * kVector;
  if (!has_sums || channel >= block.channels) return;
  const GatherPlan& rows = view.rows;
  const GatherPlan& cols = view.cols;
  // Positions v * num_phases from the first may lie outside dst.
  const int32_t first_row =
      block.row_phase +
      static_cast<int32_t>((block.first_row + warp_row) * rows.num_phases);
  const int32_t first_col =
      block.col_phase +
      static_cast<int32_t>((block.first_col + warp_col) * cols.num_phases);
  const int32_t row_step = static_cast<int32_t>(rows.num_phases);
  const int32_t col_step = static_cast<int32_t>(cols.num_phases);
  T* const to_image = block.dst + image * view.dst.image + channel;
  bool all_numbers = true;
#pragma unroll
  for (int v = 0; v < kSlidingRows; ++v) {
    const int32_t row = first_row + v * row_step;
    if (row >= rows.dst_size) continue;
    T* to = to_image + row * view.dst.row + first_col * view.dst.col;
#pragma unroll
    for (int u = 0; u < kCols; ++u) {
      if (first_col + u * col_step >= cols.dst_size) continue;
      Vector<T, kVector> result;
#pragma unroll
      for (int c = 0; c < kVector; ++c) {
        const Accumulator<T> sum = sums[v][u][c];
        if (channel + c < block.channels) {
          all_numbers = all_numbers && sum == sum;
        }
        Narrow(sum, &result.elements[c]);
      }
      // Of 32 bits, a vector would bind sums to registers of the same bank as
      // their pixels', which halves the rate of the products.
      if (sizeof(T) == 2 && view.whole_vectors) {
        *reinterpret_cast<Vector<T, kVector>*>(to) = result;
      } else {
#pragma unroll
        for (int c = 0; c < kVector; ++c) {
          if (channel + c < block.channels) to[c] = result.elements[c];
        }
      }
      to += col_step * view.dst.col;
    }
  }
  if (all_numbers) return;
  const T* const from_image = block.src + image * view.src.image + channel;
  for (int32_t i = 0; i < kSlidingRows * kCols * kVector; ++i) {
    const int32_t c = i % kVector;
    const int32_t col = first_col + i / kVector % kCols * col_step;
    const int32_t row = first_row + i / kVector / kCols * row_step;
    if (row >= rows.dst_size || col >= cols.dst_size) continue;
    if (channel + c >= block.channels) continue;
    Narrow(GatherElement(view, from_image + c, block.filter + channel + c, row,
                         col),
           to_image + row * view.dst.row + col * view.dst.col + c);
  }
}

template <typename T, int kCols>
cudaError_t LaunchSlidingTile(SlidingView view, int64_t max_shared_bytes,
                              const void* src, const void* filter, void* dst,
                              cudaStream_t stream) {
  const int64_t down = PhaseSize(view.rows, 0);
  const int64_t across = PhaseSize(view.cols, 0);
  const auto least = [](int64_t a, int64_t b) {
    return static_cast<int32_t>(a < b ? a : b);
  };
  view.warps_across = least(CeilDiv(across, kCols), 4);
  view.warps_down =
      least(CeilDiv(down, kSlidingRows), kSlidingWarps / view.warps_across / 2);
  view.images =
      least(view.batch, kSlidingWarps / view.warps_across / view.warps_down);
  view.slot_taps = least(view.cols.filter_size, 64);
#ifdef SLIDING_TUNE
  if (const char* s = getenv("SLIDING")) {
    int a = 0, d = 0, i = 0;
    sscanf(s, "%d,%d,%d", &a, &d, &i);
    if (a) view.warps_across = a;
    if (d) view.warps_down = d;
    if (i) view.images = i;
  }
#endif
  int64_t shared_bytes;
  for (;;) {
    view.slot_cols = view.warps_across * kCols + view.slot_taps - 1;
    view.tap_slots =
        least(view.rows.filter_size, view.warps_down * kSlidingRows + 1);
    shared_bytes = kSlidingHeader<T> +
                   (kSlidingSlots * view.images * view.slot_cols +
                    view.tap_slots * view.slot_taps) *
                       kSlidingDepth<T> * static_cast<int64_t>(sizeof(T));
    if (shared_bytes <= max_shared_bytes) break;
    int32_t* const largest = view.images > 1         ? &view.images
                             : view.warps_down > 1   ? &view.warps_down
                             : view.warps_across > 1 ? &view.warps_across
                                                     : &view.slot_taps;
    *largest = (*largest + 1) / 2;
  }
  view.row_blocks = static_cast<int32_t>(
      PhaseCount(view.rows) * CeilDiv(down, view.warps_down * kSlidingRows));
  view.col_blocks = static_cast<int32_t>(
      PhaseCount(view.cols) * CeilDiv(across, view.warps_across * kCols));
  view.channel_blocks =
      static_cast<int32_t>(CeilDiv(view.depth, kSlidingDepth<T>));
  view.image_blocks = static_cast<int32_t>(CeilDiv(view.batch, view.images));
  view.middle_first = 2 * view.rows.filter_size >= down;
#ifdef SLIDING_TUNE
  if (getenv("NOMIDDLE")) view.middle_first = false;
#endif
  const int64_t blocks = static_cast<int64_t>(view.image_blocks) *
                         view.row_blocks * view.col_blocks *
                         view.channel_blocks;
  const auto kernel = GatherSliding<T, kCols>;
  if (const cudaError_t error = AllowSharedBytes(kernel, shared_bytes)) {
    return error;
  }
  return Launch(kernel, GridOf(blocks),
                view.warps_across * view.warps_down * view.images * 32,
                shared_bytes, stream, view, static_cast<const T*>(src),
                static_cast<const T*>(filter), static_cast<T*>(dst));
}

template <typename T>
cudaError_t LaunchGatherSliding(const GatherView& view, const void* src,
                                const void* filter, void* dst,
                                cudaStream_t stream) {
  SlidingView sliding;
  sliding.rows = view.rows;
  sliding.cols = view.cols;
  sliding.src = view.src;
  sliding.dst = view.dst;
  sliding.filter_row = view.cols.filter_size * view.filter_depth;
  sliding.filter_col = view.filter_depth;
  if (view.rows.filter_size > view.cols.filter_size) {
    std::swap(sliding.rows, sliding.cols);
    std::swap(sliding.src.row, sliding.src.col);
    std::swap(sliding.dst.row, sliding.dst.col);
    std::swap(sliding.filter_row, sliding.filter_col);
  }
  sliding.batch = view.batch;
  sliding.depth = static_cast<int32_t>(view.dst_depth);
  const auto aligned = [&](int64_t bytes) {
    return view.dst_depth * sizeof(T) % bytes == 0 && IsAligned(src, bytes) &&
           IsAligned(filter, bytes);
  };
  sliding.copy_bytes = aligned(16)                    ? 16
                       : sizeof(T) == 2 && aligned(4) ? 4
                                                      : sizeof(T);
  sliding.whole_vectors = view.dst_depth % kSlidingVector<T> == 0 &&
                          IsAligned(dst, kSlidingVector<T> * sizeof(T));
  int64_t max_shared_bytes;
  if (const cudaError_t error = MaxSharedBytes(&max_shared_bytes)) return error;
  // Two blocks per multiprocessor.
  if (max_shared_bytes > 112 << 10) max_shared_bytes = 112 << 10;
  const int64_t across = PhaseSize(sliding.cols, 0);
  const auto idle = [across](int64_t cols) {
    return CeilDiv(across, cols) * cols - across;
  };
#ifdef SLIDING_TUNE
  if (const char* s = getenv("SLIDING")) {
    int a = 0, d = 0, i = 0, c = 0, kb = 0;
    sscanf(s, "%d,%d,%d,%d,%d", &a, &d, &i, &c, &kb);
    if (kb) max_shared_bytes = kb << 10;
    if (c == 7)
      return LaunchSlidingTile<T, 7>(sliding, max_shared_bytes, src, filter,
                                     dst, stream);
    if (c == 14)
      return LaunchSlidingTile<T, 14>(sliding, max_shared_bytes, src, filter,
                                      dst, stream);
    if (c == 16)
      return LaunchSlidingTile<T, 16>(sliding, max_shared_bytes, src, filter,
                                      dst, stream);
  }
#endif
  const auto launch = across <= 7           ? LaunchSlidingTile<T, 7>
                      : idle(16) < idle(14) ? LaunchSlidingTile<T, 16>
                                            : LaunchSlidingTile<T, 14>;
  return launch(sliding, max_shared_bytes, src, filter, dst, stream);
}

// One run of taps along each dimension; every channel of dst has one of src.
inline bool SlidingApplies(const GatherView& view) {
  return view.channels_last && view.passes == 1 && view.shared_by == 1 &&
         view.rows.num_runs == 1 && view.cols.num_runs == 1 &&
         ImagesFit32Bits(view);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_SLIDING_H_
