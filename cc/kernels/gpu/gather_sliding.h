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

#include "cc/kernels/gpu/copy_async.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_element.h"
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

// Rows and columns are swapped if the filter is taller than wide.
struct SlidingView : GatherView {
  TapAxis row_axis;
  TapAxis col_axis;
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

// The pixels or taps that a thread copies to shared memory, some of whose
// channels are copied at a time by one of up to 32 threads.
struct SlidingShare {
  int32_t pixel;    // the first
  int32_t pixels;   // from one to the next
  int32_t channel;  // the first of the block's
};

template <typename T>
__device__ __forceinline__ SlidingShare ShareOf(int32_t copy_bytes) {
  const int32_t units =
      kSlidingDepth<T> / (copy_bytes / static_cast<int32_t>(sizeof(T)));
  const int32_t threads = units < 32 ? units : 32;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  return {thread / threads, static_cast<int32_t>(blockDim.x) / threads,
          thread % threads * (kSlidingDepth<T> / units)};
}

template <typename T, int kUnit>
__device__ __forceinline__ void CopyPixels(const SlidingShare& share, T* to,
                                           const T* from, int32_t from_pitch,
                                           int32_t count, int32_t channels) {
  constexpr int kDepth = kSlidingDepth<T>;
  constexpr int kStride = kDepth / kUnit < 32 ? kDepth : 32 * kUnit;
  constexpr int kAtATime = 3;
  to += share.pixel * kDepth + share.channel;
  from += share.pixel * from_pitch + share.channel;
  channels -= share.channel;
#pragma unroll 1
  for (int32_t pixel = share.pixel; pixel < count;
       pixel += kAtATime * share.pixels) {
#pragma unroll
    for (int i = 0; i < kAtATime; ++i) {
      if (pixel + i * share.pixels < count) {
#pragma unroll
        for (int k = 0; k < kDepth; k += kStride) {
          if (k < channels) CopyAsync<kUnit * sizeof(T)>(to + k, from + k);
        }
      }
      to += share.pixels * kDepth;
      from += share.pixels * from_pitch;
    }
  }
}

// Copies the block's channels of `count` pixels or taps.
template <typename T>
__device__ __forceinline__ void CopyPixels(int32_t copy_bytes,
                                           const SlidingShare& share, T* to,
                                           const T* from, int32_t from_pitch,
                                           int32_t count, int32_t channels) {
  if (copy_bytes == 16) {
    CopyPixels<T, 16 / sizeof(T)>(share, to, from, from_pitch, count, channels);
  } else if (sizeof(T) == 2 && copy_bytes == 4) {
    CopyPixels<T, sizeof(T) == 2 ? 2 : 1>(share, to, from, from_pitch, count,
                                          channels);
  } else {
    CopyPixels<T, 1>(share, to, from, from_pitch, count, channels);
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
      for (int c = 0; c < kVector; ++c) {
#pragma unroll
        for (int u = 0; u < kCols; ++u) {
          const Accumulator<T> pixel = window[(i + u) % kCols][c];
          if (kUpper) sums[0][u][c] += pixel * upper[c];
        }
#pragma unroll
        for (int u = 0; u < kCols; ++u) {
          const Accumulator<T> pixel = window[(i + u) % kCols][c];
          if (kLower) sums[1][u][c] += pixel * lower[c];
        }
      }
    }
    pixels += kCols * kDepth;
    upper_taps += kCols * kDepth;
    lower_taps += kCols * kDepth;
  }
}

// What all threads of a block need to know now and then. It lies in shared
// memory, as the registers are for sums.
template <typename T>
struct SlidingBlock {
  int64_t first_image;
  int32_t first_channel;
  T* dst;  // of that image and channel
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
  int32_t pixel_row;  // elements to the next row of the lattice
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
  block->channels = view.dst_depth - channel < kDepth
                        ? static_cast<int32_t>(view.dst_depth - channel)
                        : kDepth;
  block->first_image = image;
  block->first_channel = channel;
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
  block->src_row =
      src + image * view.src.image + src_row * view.src.row + channel;
  block->tap_row = filter + row_run.first_tap * view.filter_row + channel;
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

// Stages a filter row.
template <typename T>
__device__ __forceinline__ void StageTaps(const SlidingView& view,
                                          const SlidingBlock<T>& block,
                                          const SlidingShare& share,
                                          int32_t tap_row, T* slot) {
  if (tap_row >= block.row_taps) return;
  CopyPixels(view.copy_bytes, share, slot,
             block.weights + tap_row * block.weight_row, block.weight_col,
             block.taps, block.channels);
}

// Stages the source row of a step, of each image.
template <typename T>
__device__ __forceinline__ void StagePixels(const SlidingView& view,
                                            const SlidingBlock<T>& block,
                                            const SlidingShare& share,
                                            int32_t step, T* src_slots) {
  constexpr int kDepth = kSlidingDepth<T>;
  T* to = src_slots + (step % kSlidingSlots * view.images * view.slot_cols +
                       block.inside_begin) *
                          kDepth;
  const T* from = block.pixels + step * block.pixel_row;
#pragma unroll 1
  for (int32_t image = 0; image < block.images; ++image) {
    CopyPixels(view.copy_bytes, share, to, from, block.pixel_col,
               block.inside_end - block.inside_begin, block.channels);
    to += view.slot_cols * kDepth;
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
    const SlidingShare share = ShareOf<T>(view.copy_bytes);
    // A filter row lies in the slot of its number modulo their count.
    int32_t tap_row = begin < block.rows ? 0 : begin - block.rows + 1;
    int32_t next_slot = tap_row % tap_slots;
    const auto stage_taps = [&](int32_t row) {
      StageTaps(view, block, share, row, taps + next_slot * tap_slot_size);
      if (++next_slot == tap_slots) next_slot = 0;
    };
    for (; tap_row <= begin; ++tap_row) stage_taps(tap_row);
    if (begin < block.end) StagePixels(view, block, share, begin, src_slots);
    FinishCopyGroup();
    // That of the upper row of sums.
    int32_t upper_slot = (begin - warp_row) % tap_slots;
    if (upper_slot < 0) upper_slot += tap_slots;
#pragma unroll 1
    for (int32_t step = begin; step < block.end; ++step) {
      WaitForCopies<0>();
      __syncthreads();
      if (step + 1 < block.end) {
        StagePixels(view, block, share, step + 1, src_slots);
        stage_taps(step + 1);
      }
      FinishCopyGroup();
      const int32_t upper_row = step - warp_row;  // of the filter
      const int32_t row_taps = block.row_taps;
      const bool upper = has_sums && upper_row >= 0 && upper_row < row_taps;
      const bool lower = has_sums && upper_row >= 1 && upper_row <= row_taps &&
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
  const TapAxis& row_axis = view.row_axis;
  const TapAxis& col_axis = view.col_axis;
  const ShortRun row_run = ShortRunOf(rows, block.row_phase);
  const ShortRun col_run = ShortRunOf(cols, block.col_phase);
  const T* const src_image = src + (block.first_image + image) * view.src.image;
#pragma unroll 1
  for (int32_t i = 0; i < kSlidingRows * kCols * kVector; ++i) {
    const int32_t c = i % kVector;
    const int32_t col = first_col + i / kVector % kCols * col_step;
    const int32_t row = first_row + i / kVector / kCols * row_step;
    if (row >= rows.dst_size || col >= cols.dst_size) continue;
    if (channel + c >= block.channels) continue;
    Narrow(
        GatherElement(view, row_axis, row_run,
                      row_run.src + row / row_step * row_axis.pitch, col_axis,
                      col_run, col_run.src + col / col_step * col_axis.pitch,
                      src_image, filter, block.first_channel + channel + c),
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
  // Tall filters have most of their rows in common anyway. With others, warps
  // below each other share more.
  view.middle_first = 2 * view.rows.filter_size >= down;
  view.warps_across = least(CeilDiv(across, kCols), view.middle_first ? 4 : 2);
  view.warps_down =
      least(CeilDiv(down, kSlidingRows), kSlidingWarps / view.warps_across);
  view.images = 1;
  view.slot_taps = least(view.cols.filter_size, 64);
  const auto shared_bytes_of = [&](SlidingView* view) {
    view->slot_cols = view->warps_across * kCols + view->slot_taps - 1;
    view->tap_slots =
        least(view->rows.filter_size, view->warps_down * kSlidingRows + 1);
    return kSlidingHeader<T> + (kSlidingSlots * view->images * view->slot_cols +
                                view->tap_slots * view->slot_taps) *
                                   kSlidingDepth<T> *
                                   static_cast<int64_t>(sizeof(T));
  };
  int64_t shared_bytes;
  while ((shared_bytes = shared_bytes_of(&view)) > max_shared_bytes) {
    int32_t* const largest = view.images > 1         ? &view.images
                             : view.warps_down > 1   ? &view.warps_down
                             : view.warps_across > 1 ? &view.warps_across
                                                     : &view.slot_taps;
    *largest = (*largest + 1) / 2;
  }
  // Where filters leave room for few warps, images share them.
  const int32_t warps = view.warps_across * view.warps_down;
  if (view.images == 1 && view.batch > 1 && 2 * warps <= kSlidingWarps &&
      2 * shared_bytes > max_shared_bytes) {
    SlidingView shared = view;
    shared.images = 2;
    const int64_t bytes = shared_bytes_of(&shared);
    if (bytes <= max_shared_bytes) {
      view = shared;
      shared_bytes = bytes;
    }
  }
  view.row_blocks = static_cast<int32_t>(
      PhaseCount(view.rows) * CeilDiv(down, view.warps_down * kSlidingRows));
  view.col_blocks = static_cast<int32_t>(
      PhaseCount(view.cols) * CeilDiv(across, view.warps_across * kCols));
  view.channel_blocks =
      static_cast<int32_t>(CeilDiv(view.dst_depth, kSlidingDepth<T>));
  view.image_blocks = static_cast<int32_t>(CeilDiv(view.batch, view.images));
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
  SlidingView sliding = {};
  static_cast<GatherView&>(sliding) =
      view.rows.filter_size > view.cols.filter_size ? Transposed(view) : view;
  sliding.row_axis = MakeTapAxis(sliding.rows);
  sliding.col_axis = MakeTapAxis(sliding.cols);
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
  // Of the largest GPUs, half a multiprocessor's, as there are registers for
  // two blocks.
  if (max_shared_bytes > 112 << 10) max_shared_bytes = 112 << 10;
  const int64_t across = PhaseSize(sliding.cols, 0);
  const auto idle = [across](int64_t cols) {
    return CeilDiv(across, cols) * cols - across;
  };
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
