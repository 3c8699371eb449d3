// The gather where channels come last in whole vectors, for any filter and any
// depth multiplier that vectors are made of or made up of: straight from and to
// global memory.
//
// A thread owns a vector of neighbouring filter channels and sums a strip of
// neighbouring columns of a phase. With a depth multiplier, the vector has
// fewer channels of the source (forward op) or of the result (input gradient),
// which sums over them. Along the taps of a filter row, the window of the strip
// moves in registers. A block is a few rows high, so that the first cache
// serves what they share.
//
// Columns outside the image are zeros that take part; see gather_element.h.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_DIRECT_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_DIRECT_H_

#include <type_traits>

#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/gather_element.h"
#include "cc/kernels/gpu/gather_general.h"
#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

inline constexpr int kDirectThreads = 256;
inline constexpr int kDirectRows = 8;  // that lie side by side in a block

// Filter channels of a thread.
template <typename T>
inline constexpr int kDirectVector = 16 / sizeof(Accumulator<T>);

// Rows and columns are swapped if the filter is taller than wide.
struct DirectView {
  GatherView gather;
  TapAxis rows;
  TapAxis cols;
  int32_t groups;   // vectors of dst
  int32_t strips;   // of a row
  int32_t vectors;  // of filter channels that a vector of dst sums over
};

template <typename T, int kCount>
__device__ __forceinline__ void LoadVector(const T* from,
                                           Accumulator<T> (&to)[kCount]) {
  const auto vector = *reinterpret_cast<const Vector<T, kCount>*>(from);
#pragma unroll
  for (int c = 0; c < kCount; ++c) to[c] = Widen(vector.elements[c]);
}

// Neighbouring columns of the lattice in a row of the source.
struct DirectCols {
  int32_t col;
  int32_t pitch;
  int32_t size;
};

template <typename T, int kShare, int kSum, int kStrip>
struct DirectSums {
  static constexpr int kVector = kDirectVector<T>;
  static constexpr int kSrc = kVector / kShare;
  static constexpr int kDst = kVector / kSum;
  Accumulator<T> sums[kStrip][kDst] = {};

  // All loads go ahead of the sums. `row` is column 0.
  template <int kTaps>
  __device__ __forceinline__ void AddTaps(const T* row, DirectCols cols,
                                          int32_t col_pitch, const T* taps,
                                          int32_t tap_pitch) {
    Accumulator<T> weights[kTaps][kVector];
#pragma unroll
    for (int s = 0; s < kTaps; ++s) {
      LoadVector<T, kVector>(taps + s * tap_pitch, weights[s]);
    }
    Accumulator<T> window[kStrip + kTaps - 1][kSrc];
#pragma unroll
    for (int j = 0; j < kStrip + kTaps - 1; ++j) {
      if (cols.col >= 0 && cols.col < cols.size) {
        LoadVector<T, kSrc>(row + cols.col * col_pitch, window[j]);
      } else {
#pragma unroll
        for (int c = 0; c < kSrc; ++c) window[j][c] = 0;
      }
      cols.col += cols.pitch;
    }
#pragma unroll
    for (int s = 0; s < kTaps; ++s) {
#pragma unroll
      for (int u = 0; u < kStrip; ++u) {
#pragma unroll
        for (int c = 0; c < kVector; ++c) {
          sums[u][c / kSum] += window[s + u][c / kShare] * weights[s][c];
        }
      }
    }
  }
};

template <typename T, int kShare, int kSum, int kStrip>
__global__ void __launch_bounds__(kDirectThreads,
                                  sizeof(T) == 8 || kShare + kSum == 2 ? 2 : 3)
    GatherDirect(DirectView view, const T* __restrict__ src,
                 const T* __restrict__ filter, T* __restrict__ dst) {
  using Sums = DirectSums<T, kShare, kSum, kStrip>;
  constexpr int kVector = Sums::kVector;
  constexpr int kDst = Sums::kDst;
  const GatherView& gather = view.gather;
  const TapAxis& rows = view.rows;
  const TapAxis& cols = view.cols;

  int32_t rest =
      static_cast<int32_t>(blockIdx.x * kDirectThreads + threadIdx.x);
  const auto next = [&rest](int32_t size) {
    const int32_t index = rest % size;
    rest /= size;
    return index;
  };
  const int32_t group = next(view.groups);
  int32_t row = next(kDirectRows);
  const int32_t strip = next(view.strips);
  row += rest * kDirectRows;
  if (row >= rows.dst_size) return;
  const int32_t channel = group * kDst;
  const int32_t first_k = group * view.vectors * kVector;

  const int32_t phase = strip % cols.phases;
  const int32_t first = strip / cols.phases * kStrip;
  const ShortRun col_run = RunOfPhase(cols, gather.cols, phase);
  const ShortRun row_run = RunOfPhase(
      rows, gather.rows, rows.num_phases == 1 ? 0 : row % rows.num_phases);
  const int32_t first_col = col_run.src + first * cols.pitch;
  const int32_t first_row = row_run.src + row / rows.num_phases * rows.pitch;
  const int32_t src_pitch = static_cast<int32_t>(gather.src.row);
  const int32_t col_pitch = static_cast<int32_t>(gather.src.col);
  const int32_t tap_pitch =
      cols.tap_step * static_cast<int32_t>(gather.filter_col);
  // Whether the sources of neighbouring columns are those of neighbouring taps.
  const bool windows = kStrip == 1 || cols.src_step == cols.pitch;

  // The taps that reach the image from any column of the strip.
  int32_t begin_tap = 0, end_tap = col_run.num_taps;
  if (windows) {
    const TapRange inside = StepsInside(first_col, cols.src_step, cols.src_size,
                                        end_tap + kStrip - 1);
    if (inside.begin > kStrip - 1) {
      begin_tap = static_cast<int32_t>(inside.begin) - (kStrip - 1);
    }
    if (inside.end < end_tap) end_tap = static_cast<int32_t>(inside.end);
  }

  for (int64_t image = blockIdx.y; image < gather.batch; image += gridDim.y) {
    Sums sums;
    const T* const src_image = src + image * gather.src.image;
#pragma unroll 1
    for (int32_t m = 0; m < row_run.num_taps; ++m) {
      const int32_t src_row = first_row + m * rows.src_step;
      if (src_row < 0 || src_row >= rows.src_size) continue;
      const T* const tap_row =
          filter + (row_run.first_tap + m * rows.tap_step) * gather.filter_row +
          col_run.first_tap * gather.filter_col + begin_tap * tap_pitch +
          first_k;
#pragma unroll 1
      for (int32_t i = 0; i < view.vectors; ++i) {
        const int32_t k = first_k + i * kVector;
        const T* const from =
            src_image + src_row * src_pitch +
            (kShare == 1 ? k : k / static_cast<int32_t>(gather.shared_by));
        const T* taps = tap_row + i * kVector;
        const int32_t step = kStrip == 1 ? cols.src_step : cols.pitch;
        DirectCols window = {first_col + begin_tap * cols.src_step, step,
                             cols.src_size};
        int32_t left = end_tap - begin_tap;
        const auto add = [&](auto count) {
          constexpr int kTaps = decltype(count)::value;
          sums.template AddTaps<kTaps>(from, window, col_pitch, taps,
                                       tap_pitch);
          left -= kTaps;
          window.col += kTaps * cols.src_step;
          taps += kTaps * tap_pitch;
        };
        // A short strip has room for more loads ahead.
        constexpr int kMost = kStrip == 1 ? 6 : 3;
#pragma unroll 1
        while (windows && left >= kMost) {
          add(std::integral_constant<int, kMost>());
        }
        if (windows && left >= 3) add(std::integral_constant<int, 3>());
        if (windows && left == 2) add(std::integral_constant<int, 2>());
#pragma unroll 1
        while (left > 0) add(std::integral_constant<int, 1>());
      }
    }

    bool all_numbers = true;
    T* const to =
        dst + image * gather.dst.image + row * gather.dst.row + channel;
    const int32_t dst_col = static_cast<int32_t>(gather.dst.col);
#pragma unroll
    for (int u = 0; u < kStrip; ++u) {
      const int32_t col = phase + (first + u) * cols.num_phases;
      if (col >= cols.dst_size) continue;
      Vector<T, kDst> result;
#pragma unroll
      for (int c = 0; c < kDst; ++c) {
        const Accumulator<T> sum = sums.sums[u][c];
        all_numbers = all_numbers && sum == sum;
        Narrow(sum, &result.elements[c]);
      }
      *reinterpret_cast<Vector<T, kDst>*>(to + col * dst_col) = result;
    }
    if (all_numbers) continue;
    for (int32_t i = 0; i < kStrip * kDst; ++i) {
      const int32_t u = i / kDst, c = i % kDst;
      const int32_t col = phase + (first + u) * cols.num_phases;
      if (col >= cols.dst_size) continue;
      Narrow(GatherElement(gather, rows, row_run, first_row, cols, col_run,
                           first_col + u * cols.pitch, src_image, filter,
                           channel + c),
             to + col * dst_col + c);
    }
  }
}

template <typename T, int kShare, int kSum, int kStrip>
cudaError_t LaunchDirectStrip(DirectView view, const void* src,
                              const void* filter, void* dst,
                              cudaStream_t stream) {
  const GatherView& gather = view.gather;
  view.groups =
      static_cast<int32_t>(gather.dst_depth / (kDirectVector<T> / kSum));
  view.strips = static_cast<int32_t>(
      PhaseCount(gather.cols) * CeilDiv(PhaseSize(gather.cols, 0), kStrip));
  const int64_t tasks = static_cast<int64_t>(view.groups) * view.strips *
                        CeilDiv(gather.rows.dst_size, kDirectRows) *
                        kDirectRows;
  constexpr int64_t kMaxImages = 65535;
  const dim3 grid(static_cast<unsigned>(CeilDiv(tasks, kDirectThreads)),
                  static_cast<unsigned>(
                      gather.batch < kMaxImages ? gather.batch : kMaxImages));
  return Launch(GatherDirect<T, kShare, kSum, kStrip>, grid, kDirectThreads, 0,
                stream, view, static_cast<const T*>(src),
                static_cast<const T*>(filter), static_cast<T*>(dst));
}

template <typename T, int kShare, int kSum>
cudaError_t LaunchDirectVector(const DirectView& view, const void* src,
                               const void* filter, void* dst,
                               cudaStream_t stream) {
  // Long strips share more, short ones are more threads.
  constexpr int kLong = 4;
  constexpr int64_t kEnough = 1 << 17;
  const GatherView& gather = view.gather;
  const int64_t threads = gather.batch * gather.rows.dst_size *
                          gather.cols.dst_size * gather.dst_depth /
                          (kDirectVector<T> / kSum) / kLong;
  return threads < kEnough ? LaunchDirectStrip<T, kShare, kSum, 1>(
                                 view, src, filter, dst, stream)
                           : LaunchDirectStrip<T, kShare, kSum, kLong>(
                                 view, src, filter, dst, stream);
}

template <typename T>
cudaError_t LaunchGatherDirect(const GatherView& gather, const void* src,
                               const void* filter, void* dst,
                               cudaStream_t stream) {
  constexpr int kVector = kDirectVector<T>;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const int64_t share = least(gather.shared_by, kVector);
  const int64_t sum = least(gather.passes, kVector);
  const auto aligned = [](const void* pointer, int64_t elements) {
    return IsAligned(pointer, elements * static_cast<int64_t>(sizeof(T)));
  };
  if (!aligned(src, kVector / share) || !aligned(filter, kVector) ||
      !aligned(dst, kVector / sum)) {
    return LaunchGatherGeneral<T>(gather, src, filter, dst, stream);
  }
  DirectView view = {};
  view.gather = gather.rows.filter_size > gather.cols.filter_size
                    ? Transposed(gather)
                    : gather;
  view.rows = MakeTapAxis(view.gather.rows);
  view.cols = MakeTapAxis(view.gather.cols);
  view.vectors = static_cast<int32_t>(gather.passes / sum);
  const auto launch = share == 4   ? LaunchDirectVector<T, kVector, 1>
                      : share == 2 ? LaunchDirectVector<T, 2, 1>
                      : sum == 4   ? LaunchDirectVector<T, 1, kVector>
                      : sum == 2   ? LaunchDirectVector<T, 1, 2>
                                   : LaunchDirectVector<T, 1, 1>;
  return launch(view, src, filter, dst, stream);
}

// Whole vectors of filter channels, each of which has one or more whole depth
// multipliers or a whole part of one.
inline bool DirectApplies(const GatherView& view, int64_t element_bytes) {
  const int64_t vector = element_bytes == 8 ? 2 : 4;
  const auto divides = [vector](int64_t multiplier) {
    return vector % multiplier == 0 || multiplier % vector == 0;
  };
  const auto most_tasks = [](const GatherPlan& plan) {
    return plan.dst_size + 4 * plan.num_phases + kDirectRows;
  };
  const int64_t tasks =
      most_tasks(view.rows) * most_tasks(view.cols) * view.dst_depth;
  return view.channels_last && view.filter_depth % vector == 0 &&
         divides(view.passes) && divides(view.shared_by) &&
         ImagesFit32Bits(view) && tasks < int64_t{1} << 30;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_DIRECT_H_
