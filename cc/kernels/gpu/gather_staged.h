// The gather for filters too large for registers, for any stride and dilation:
// rows of the source are staged in shared memory, two ahead of the sums, and a
// filter row is done a few taps at a time, which stay in registers.
//
// A warp takes 32 channels, one a lane, whatever the layout. A thread sums
// kStagedRows x kStagedCols neighbouring positions of a phase (GatherPlan): of
// each block of S taps, kStagedCols + S - 1 loads from shared memory serve
// kStagedRows * kStagedCols * S products. What lies outside the image is
// skipped, so that large filters on small images do no idle products.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_STAGED_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_STAGED_H_

#include "cc/kernels/gpu/copy_async.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

inline constexpr int kLanes = 32;
inline constexpr int kStagedWarps = 4;
inline constexpr int kStagedThreads = kStagedWarps * kLanes;
inline constexpr int kStagedRows = 2;   // of a thread
inline constexpr int kStagedCols = 14;  // divides the widths that are common
inline constexpr int kStagedSlots = 3;  // source rows in shared memory

// Tap columns whose sources are staged together; of a larger filter, one such
// part comes after the other.
template <typename T>
inline constexpr int kMostStagedTaps = sizeof(T) == 8 ? 32 : 64;

// Elements between neighbouring columns in shared memory. Channels first,
// neighbouring threads stage neighbouring columns: an odd pitch spreads them
// over the banks.
constexpr int StagedPitch(bool channels_last) {
  return channels_last ? kLanes : kLanes + 1;
}

struct StagedView {
  GatherView gather;
  int32_t warps_across;  // side by side; the others are below each other
  int32_t row_blocks;    // of all phases
  int32_t col_blocks;
  int32_t channel_blocks;
  int32_t slot_cols;
  bool whole_units;  // 16 bytes of channels are copied at a time
};

// Taps [first, first + kTaps) of two filter rows, the second for the lower row
// of sums. Bit j of `inside` says whether window column j counts. Unless
// kClipped, all columns and both rows do.
template <typename T, int kPitch, int kTaps, bool kClipped>
__device__ __forceinline__ void AddTaps(
    const T* window, unsigned inside, bool upper, bool lower,
    const T* upper_taps, const T* lower_taps, int64_t tap_pitch,
    Accumulator<T> (&sums)[kStagedRows][kStagedCols]) {
  static_assert(kStagedRows == 2, "");
  Accumulator<T> weights[2][kTaps];
#pragma unroll
  for (int s = 0; s < kTaps; ++s) {
    if (!kClipped || upper) weights[0][s] = Widen(*upper_taps);
    if (!kClipped || lower) weights[1][s] = Widen(*lower_taps);
    // Adding up keeps the compiler from holding every offset in a register.
    upper_taps += tap_pitch;
    lower_taps += tap_pitch;
  }
#pragma unroll
  for (int j = 0; j < kStagedCols + kTaps - 1; ++j) {
    if (kClipped && !(inside >> j & 1)) continue;
    const Accumulator<T> pixel = Widen(window[j * kPitch]);
#pragma unroll
    for (int s = 0; s < kTaps; ++s) {
      const int u = j - s;
      if (u < 0 || u >= kStagedCols) continue;
      if (!kClipped || upper) sums[0][u] += pixel * weights[0][s];
      if (!kClipped || lower) sums[1][u] += pixel * weights[1][s];
    }
  }
}

// The bits [begin, end) of 32.
__device__ inline unsigned BitsBetween(int32_t begin, int32_t end) {
  if (begin < 0) begin = 0;
  if (end > 32) end = 32;
  return begin >= end ? 0 : (0xffffffffu >> (32 - (end - begin))) << begin;
}

// Copies `cols` columns of the lattice, the first at `first_col`, of one source
// row and of the block's channels to shared memory. What is outside the image
// is left alone, as nothing reads it.
template <typename T, int kPitch>
__device__ __forceinline__ void StageRow(const StagedView& view, const T* row,
                                         int32_t first_col, int32_t cols,
                                         int32_t first_channel, int32_t pass,
                                         T* slot) {
  const GatherView& gather = view.gather;
  const int32_t pitch = static_cast<int32_t>(gather.cols.pitch);
  const int32_t size = static_cast<int32_t>(gather.cols.src_size);
  const int32_t depth = static_cast<int32_t>(gather.dst_depth);
  if (view.whole_units) {
    constexpr int kUnit = 16 / sizeof(T);
    constexpr int kUnits = kLanes / kUnit;
    for (int i = threadIdx.x; i < cols * kUnits; i += kStagedThreads) {
      const int32_t col = i / kUnits;
      const int32_t lane = i % kUnits * kUnit;
      const int32_t src_col = first_col + col * pitch;
      if (src_col < 0 || src_col >= size || first_channel + lane >= depth) {
        continue;
      }
      CopyAsync<16>(&slot[col * kPitch + lane],
                    row + src_col * gather.src.col + first_channel + lane);
    }
    return;
  }
  for (int i = threadIdx.x; i < cols * kLanes; i += kStagedThreads) {
    const int32_t col = gather.channels_last ? i / kLanes : i % cols;
    const int32_t lane = gather.channels_last ? i % kLanes : i / cols;
    const int32_t src_col = first_col + col * pitch;
    const int32_t channel = first_channel + lane;
    if (src_col < 0 || src_col >= size || channel >= depth) continue;
    slot[col * kPitch + lane] = row[src_col * gather.src.col +
                                    (channel * gather.passes + pass) /
                                        gather.shared_by * gather.src.channel];
  }
}

template <typename T, int kPitch>
__global__ void __launch_bounds__(kStagedThreads)
    GatherStaged(StagedView view, const T* __restrict__ src,
                 const T* __restrict__ filter, T* __restrict__ dst) {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  T* const slots = reinterpret_cast<T*>(dynamic_shared);
  const int32_t slot_size = view.slot_cols * kPitch;
  const GatherView& gather = view.gather;
  const GatherPlan& rows = gather.rows;
  const GatherPlan& cols = gather.cols;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int32_t warps_down = kStagedWarps / view.warps_across;

  int64_t rest = blockIdx.x;
  const auto next = [&rest](int32_t size) {
    const int32_t index = static_cast<int32_t>(rest % size);
    rest /= size;
    return index;
  };
  const int32_t first_channel = next(view.channel_blocks) * kLanes;
  const int32_t col_block = next(view.col_blocks);
  const int32_t row_block = next(view.row_blocks);
  src += rest * gather.src.image;
  dst += rest * gather.dst.image;

  const int32_t row_phases = static_cast<int32_t>(PhaseCount(rows));
  const int32_t col_phases = static_cast<int32_t>(PhaseCount(cols));
  const int32_t row_phase = row_block % row_phases;
  const int32_t col_phase = col_block % col_phases;
  // Positions of the phase: the block's, and from there this warp's.
  const int32_t block_row = row_block / row_phases * warps_down * kStagedRows;
  const int32_t block_col =
      col_block / col_phases * view.warps_across * kStagedCols;
  const int32_t warp_row = warp / view.warps_across * kStagedRows;
  const int32_t warp_col = warp % view.warps_across * kStagedCols;
  int32_t block_rows =
      static_cast<int32_t>(PhaseSize(rows, row_phase)) - block_row;
  if (block_rows <= 0) return;  // the whole block
  if (block_rows > warps_down * kStagedRows) {
    block_rows = warps_down * kStagedRows;
  }

  // Lanes without a channel of their own follow the first.
  const bool has_channel = first_channel + lane < gather.dst_depth;
  const int32_t channel = has_channel ? first_channel + lane : first_channel;

  Accumulator<T> sums[kStagedRows][kStagedCols] = {};
  const auto march = [&](const TapRun& row_run, const TapRun& col_run,
                         int32_t pass) {
    const int32_t row_taps = static_cast<int32_t>(row_run.num_taps);
    const int32_t col_taps = static_cast<int32_t>(col_run.num_taps);
    const int32_t first_row =
        static_cast<int32_t>(row_run.first_src + block_row * rows.pitch);
    const int32_t first_col =
        static_cast<int32_t>(col_run.first_src + block_col * cols.pitch);
    const int32_t staged_cols = view.warps_across * kStagedCols + col_taps - 1;
    const TapRange steps =
        ClipToSource(rows, first_row, block_rows + row_taps - 1);
    const int32_t end = static_cast<int32_t>(steps.end);
    // Which of this warp's window columns lie inside the image.
    const TapRange range = ClipToSource(cols, first_col + warp_col * cols.pitch,
                                        kStagedCols + col_taps - 1);
    const int32_t inside_begin = static_cast<int32_t>(range.begin);
    const int32_t inside_end = static_cast<int32_t>(range.end);
    const int64_t tap_pitch = cols.tap_step * gather.filter_depth;
    const int64_t tap_row_pitch =
        rows.tap_step * cols.filter_size * gather.filter_depth;
    const T* taps = filter +
                    (row_run.first_tap * cols.filter_size + col_run.first_tap) *
                        gather.filter_depth +
                    channel * gather.passes + pass;
    const auto stage = [&](int32_t step) {
      if (step < end) {
        StageRow<T, kPitch>(
            view, src + (first_row + step * rows.pitch) * gather.src.row,
            first_col, staged_cols, first_channel, pass,
            slots + step % kStagedSlots * slot_size);
      }
      FinishCopyGroup();
    };

    __syncthreads();  // Nothing staged before is still needed.
    int32_t step = static_cast<int32_t>(steps.begin);
    stage(step);
    stage(step + 1);
    for (; step < end; ++step) {
      WaitForCopies<1>();
      __syncthreads();
      stage(step + 2);
      const int32_t tap_row = step - warp_row;  // of the upper row of sums
      const bool upper = tap_row >= 0 && tap_row < row_taps;
      const bool lower = tap_row >= 1 && tap_row <= row_taps;
      if (!upper && !lower) continue;
      const T* window =
          slots + step % kStagedSlots * slot_size + warp_col * kPitch + lane;
      const T* upper_taps = taps + tap_row * tap_row_pitch;
      const T* lower_taps = upper_taps - tap_row_pitch;
      const bool both = upper && lower;
#pragma unroll 1
      for (int32_t tap = 0; tap < col_taps;) {
        const int32_t most = both ? col_taps - tap : 0;
        int count;
        if (most >= 8 && tap >= inside_begin &&
            tap + kStagedCols + 7 <= inside_end) {
          count = 8;
          AddTaps<T, kPitch, 8, false>(window, 0, true, true, upper_taps,
                                       lower_taps, tap_pitch, sums);
        } else if (most >= 4 && tap >= inside_begin &&
                   tap + kStagedCols + 3 <= inside_end) {
          count = 4;
          AddTaps<T, kPitch, 4, false>(window, 0, true, true, upper_taps,
                                       lower_taps, tap_pitch, sums);
        } else {
          const unsigned inside =
              BitsBetween(inside_begin - tap, inside_end - tap);
          if (col_taps - tap >= 4) {
            count = 4;
            AddTaps<T, kPitch, 4, true>(window, inside, upper, lower,
                                        upper_taps, lower_taps, tap_pitch,
                                        sums);
          } else {
            count = 1;
            AddTaps<T, kPitch, 1, true>(window, inside, upper, lower,
                                        upper_taps, lower_taps, tap_pitch,
                                        sums);
          }
        }
        tap += count;
        window += count * kPitch;
        upper_taps += count * tap_pitch;
        lower_taps += count * tap_pitch;
      }
    }
    WaitForCopies<0>();
  };

  TapRun row_run = FirstRun(rows, row_phase);
  for (int64_t row_index = 0;;) {
    TapRun col_run = FirstRun(cols, col_phase);
    for (int64_t col_index = 0;;) {
      for (int32_t pass = 0; pass < gather.passes; ++pass) {
        for (int64_t done = 0; done < col_run.num_taps;
             done += kMostStagedTaps<T>) {
          TapRun part = col_run;
          part.first_tap += done * cols.tap_step;
          part.first_src += done * cols.pitch;
          part.num_taps -= done;
          if (part.num_taps > kMostStagedTaps<T>) {
            part.num_taps = kMostStagedTaps<T>;
          }
          if (row_run.num_taps > 0) march(row_run, part, pass);
        }
      }
      if (++col_index >= cols.num_runs) break;
      NextRun(cols, col_index, &col_run);
    }
    if (++row_index >= rows.num_runs) break;
    NextRun(rows, row_index, &row_run);
  }

  if (!has_channel) return;
#pragma unroll
  for (int v = 0; v < kStagedRows; ++v) {
    const int32_t row =
        row_phase +
        static_cast<int32_t>((block_row + warp_row + v) * rows.num_phases);
    if (row >= rows.dst_size) continue;
    T* to = dst + row * gather.dst.row + channel * gather.dst.channel;
#pragma unroll
    for (int u = 0; u < kStagedCols; ++u) {
      const int32_t col =
          col_phase +
          static_cast<int32_t>((block_col + warp_col + u) * cols.num_phases);
      if (col < cols.dst_size) Narrow(sums[v][u], to + col * gather.dst.col);
    }
  }
}

template <typename T>
cudaError_t LaunchGatherStaged(const GatherView& view, const void* src,
                               const void* filter, void* dst,
                               cudaStream_t stream) {
  StagedView staged;
  staged.gather = view;
  const int64_t positions_down = PhaseSize(view.rows, 0);
  const int64_t positions_across = PhaseSize(view.cols, 0);
  // Warps below each other share more of a row than side by side, but where
  // there is room for two the upper ones wait less for the lower.
  staged.warps_across = positions_across > kStagedCols ? 2 : 1;
  const int64_t rows = kStagedWarps / staged.warps_across * kStagedRows;
  const int64_t cols = staged.warps_across * kStagedCols;
  staged.row_blocks = static_cast<int32_t>(PhaseCount(view.rows) *
                                           CeilDiv(positions_down, rows));
  staged.col_blocks = static_cast<int32_t>(PhaseCount(view.cols) *
                                           CeilDiv(positions_across, cols));
  staged.channel_blocks = static_cast<int32_t>(CeilDiv(view.dst_depth, kLanes));
  const int64_t taps = view.cols.filter_size < kMostStagedTaps<T>
                           ? view.cols.filter_size
                           : kMostStagedTaps<T>;
  staged.slot_cols = static_cast<int32_t>(cols + taps - 1);
  staged.whole_units =
      view.channels_last && view.passes == 1 && view.shared_by == 1 &&
      view.dst_depth * sizeof(T) % 16 == 0 && IsAligned(src, 16);
  const int64_t pitch = StagedPitch(view.channels_last);
  const int64_t shared_bytes = kStagedSlots *
                               static_cast<int64_t>(staged.slot_cols) * pitch *
                               static_cast<int64_t>(sizeof(T));
  const int64_t blocks = view.batch * staged.row_blocks * staged.col_blocks *
                         staged.channel_blocks;
  return Launch(view.channels_last ? GatherStaged<T, StagedPitch(true)>
                                   : GatherStaged<T, StagedPitch(false)>,
                GridOf(blocks), kStagedThreads, shared_bytes, stream, staged,
                static_cast<const T*>(src), static_cast<const T*>(filter),
                static_cast<T*>(dst));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_STAGED_H_
