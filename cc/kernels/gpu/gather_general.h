// The gather for any problem: a thread sums neighbouring columns of a phase,
// whose sources are a window that moves by one with every tap. Nothing is
// staged; the caches serve what threads share.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_GENERAL_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_GENERAL_H_

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

inline constexpr int kGeneralThreads = 128;
inline constexpr int kGeneralStrip = 4;  // columns of a thread

// Adds the products of one run of tap columns to the columns of a strip. `src`
// is the start of a row and channel, `filter` that of a tap row.
template <typename T>
__device__ void AddTapColumns(const GatherView& view, const TapRun& run,
                              int64_t first, const T* src, const T* filter,
                              Accumulator<T>* sums) {
  const GatherPlan& cols = view.cols;
  // The taps that reach the image from any column of the strip.
  const int64_t base = run.first_src + first * cols.pitch;
  const TapRange range =
      ClipToSource(cols, base, run.num_taps + kGeneralStrip - 1);
  const int64_t begin =
      range.begin < kGeneralStrip ? 0 : range.begin - (kGeneralStrip - 1);
  const int64_t end = range.end < run.num_taps ? range.end : run.num_taps;

  Accumulator<T> window[kGeneralStrip] = {};
  bool inside[kGeneralStrip];
  int64_t col = base + begin * cols.pitch;
  const auto load = [&](Accumulator<T>* value) {
    const bool valid = col >= 0 && col < cols.src_size;
    if (valid) *value = Widen(src[col * view.src.col]);
    col += cols.pitch;
    return valid;
  };
#pragma unroll
  for (int u = 1; u < kGeneralStrip; ++u) inside[u] = load(&window[u]);
  const T* tap =
      filter + (run.first_tap + begin * cols.tap_step) * view.filter_depth;
#pragma unroll 4
  for (int64_t m = begin; m < end; ++m) {
#pragma unroll
    for (int u = 1; u < kGeneralStrip; ++u) {
      window[u - 1] = window[u];
      inside[u - 1] = inside[u];
    }
    inside[kGeneralStrip - 1] = load(&window[kGeneralStrip - 1]);
    const Accumulator<T> weight = Widen(*tap);
    tap += cols.tap_step * view.filter_depth;
#pragma unroll
    for (int u = 0; u < kGeneralStrip; ++u) {
      if (inside[u]) sums[u] += window[u] * weight;
    }
  }
}

// Items are strips, numbered such that neighbouring threads read and write
// neighbouring elements: by channel if channels come last, otherwise by column.
template <typename T>
__global__ void __launch_bounds__(kGeneralThreads)
    GatherGeneral(GatherView view, int64_t strips, int64_t items,
                  const T* __restrict__ src, const T* __restrict__ filter,
                  T* __restrict__ dst) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t item =
           static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += stride) {
    int64_t rest = item;
    const auto next = [&rest](int64_t size) {
      const int64_t index = rest % size;
      rest /= size;
      return index;
    };
    int64_t channel = 0;
    if (view.channels_last) channel = next(view.dst_depth);
    const int64_t strip = next(strips);
    const int64_t row = next(view.rows.dst_size);
    if (!view.channels_last) channel = next(view.dst_depth);
    const int64_t image = rest;

    const int64_t phases = PhaseCount(view.cols);
    const int64_t phase = strip % phases;
    const int64_t first = strip / phases * kGeneralStrip;
    const int64_t row_phase = row % view.rows.num_phases;
    const int64_t row_position = row / view.rows.num_phases;
    Accumulator<T> sums[kGeneralStrip] = {};
    TapRun row_run = FirstRun(view.rows, row_phase);
    for (int64_t row_index = 0;;) {
      const int64_t base = row_run.first_src + row_position * view.rows.pitch;
      const TapRange range = ClipToSource(view.rows, base, row_run.num_taps);
      for (int64_t m = range.begin; m < range.end; ++m) {
        const int64_t tap_row = row_run.first_tap + m * view.rows.tap_step;
        const T* src_row = src + image * view.src.image +
                           (base + m * view.rows.pitch) * view.src.row;
        const T* tap_start =
            filter + tap_row * view.cols.filter_size * view.filter_depth;
        for (int64_t pass = 0; pass < view.passes; ++pass) {
          const int64_t k = channel * view.passes + pass;
          TapRun col_run = FirstRun(view.cols, phase);
          for (int64_t col_index = 0;;) {
            AddTapColumns(view, col_run, first,
                          src_row + k / view.shared_by * view.src.channel,
                          tap_start + k, sums);
            if (++col_index >= view.cols.num_runs) break;
            NextRun(view.cols, col_index, &col_run);
          }
        }
      }
      if (++row_index >= view.rows.num_runs) break;
      NextRun(view.rows, row_index, &row_run);
    }
    T* to = dst + image * view.dst.image + row * view.dst.row +
            channel * view.dst.channel;
#pragma unroll
    for (int u = 0; u < kGeneralStrip; ++u) {
      const int64_t col = phase + (first + u) * view.cols.num_phases;
      if (col < view.cols.dst_size) Narrow(sums[u], to + col * view.dst.col);
    }
  }
}

template <typename T>
cudaError_t LaunchGatherGeneral(const GatherView& view, const void* src,
                                const void* filter, void* dst,
                                cudaStream_t stream) {
  const int64_t strips =
      PhaseCount(view.cols) * CeilDiv(PhaseSize(view.cols, 0), kGeneralStrip);
  const int64_t items =
      view.batch * view.rows.dst_size * view.dst_depth * strips;
  return Launch(GatherGeneral<T>, GridOf(CeilDiv(items, kGeneralThreads)),
                kGeneralThreads, 0, stream, view, strips, items,
                static_cast<const T*>(src), static_cast<const T*>(filter),
                static_cast<T*>(dst));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_GENERAL_H_
