// One element of the gather's result, by itself: what kernels that let zeros
// stand for the sources outside the image fall back on. A zero times an
// infinity of the filter is no number, so that a sum which is one needs no
// second look.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_ELEMENT_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_ELEMENT_H_

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

// The taps of a phase, counted in 32 bits, as 64 would cost registers: position
// t and tap number m of the run meet at source src + t * pitch + m * src_step.
struct ShortRun {
  int32_t first_tap;
  int32_t num_taps;
  int32_t src;
};

inline constexpr int kRunsAtHand = 4;

struct TapAxis {
  ShortRun runs[kRunsAtHand];  // of the first phases
  int32_t phases;
  int32_t num_phases;  // of a larger result
  int32_t pitch;
  int32_t src_step;
  int32_t tap_step;
  int32_t src_size;
  int32_t dst_size;
};

// Where a plan has several runs, the taps in their own order are one.
__host__ __device__ inline ShortRun ShortRunOf(const GatherPlan& plan,
                                               int64_t phase) {
  const TapRun run = FirstRun(plan, phase);
  return {
      static_cast<int32_t>(run.first_tap),
      static_cast<int32_t>(plan.num_runs > 1 ? plan.filter_size : run.num_taps),
      static_cast<int32_t>(run.first_src)};
}

// To find a run takes divisions of 64 bits, which small filters are not worth.
__device__ inline ShortRun RunOfPhase(const TapAxis& axis,
                                      const GatherPlan& plan, int32_t phase) {
  return phase < kRunsAtHand ? axis.runs[phase] : ShortRunOf(plan, phase);
}

inline TapAxis MakeTapAxis(const GatherPlan& plan) {
  TapAxis axis = {};
  axis.phases = static_cast<int32_t>(PhaseCount(plan));
  for (int phase = 0; phase < kRunsAtHand && phase < axis.phases; ++phase) {
    axis.runs[phase] = ShortRunOf(plan, phase);
  }
  axis.num_phases = static_cast<int32_t>(plan.num_phases);
  axis.pitch = static_cast<int32_t>(plan.pitch);
  axis.src_step =
      static_cast<int32_t>(plan.num_runs > 1 ? plan.dilation : plan.pitch);
  axis.tap_step = static_cast<int32_t>(plan.num_runs > 1 ? 1 : plan.tap_step);
  axis.src_size = static_cast<int32_t>(plan.src_size);
  axis.dst_size = static_cast<int32_t>(plan.dst_size);
  return axis;
}

// `first_row` and `first_col` are the sources of the runs' first taps, `src` is
// the start of the image.
template <typename T>
__device__ Accumulator<T> GatherElement(
    const GatherView& view, const TapAxis& rows, const ShortRun& row_run,
    int32_t first_row, const TapAxis& cols, const ShortRun& col_run,
    int32_t first_col, const T* src, const T* filter, int32_t channel) {
  const int32_t passes = static_cast<int32_t>(view.passes);
  const int32_t shared_by = static_cast<int32_t>(view.shared_by);
  Accumulator<T> sum = 0;
#pragma unroll 1
  for (int32_t r = 0; r < row_run.num_taps; ++r) {
    const int32_t row = first_row + r * rows.src_step;
    if (row < 0 || row >= rows.src_size) continue;
#pragma unroll 1
    for (int32_t s = 0; s < col_run.num_taps; ++s) {
      const int32_t col = first_col + s * cols.src_step;
      if (col < 0 || col >= cols.src_size) continue;
      const T* pixel = src + row * view.src.row + col * view.src.col;
      const T* tap = filter +
                     (row_run.first_tap + r * rows.tap_step) * view.filter_row +
                     (col_run.first_tap + s * cols.tap_step) * view.filter_col;
#pragma unroll 1
      for (int32_t k = channel * passes; k < (channel + 1) * passes; ++k) {
        sum += Widen(pixel[k / shared_by]) * Widen(tap[k]);
      }
    }
  }
  return sum;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_ELEMENT_H_
