// The filter gradient with the sums of a square of taps in registers. A thread
// goes through strips of kStrip output pixels of one channel; of a strip, each
// tap row loads its window of input pixels once for all its taps. The threads
// of a block add their sums through shared memory.
//
// Strips lie along columns if channels come last, so that neighbouring threads
// have neighbouring channels, and along rows if channels come first, so that
// they have neighbouring columns. The axis along the strip is called `along`,
// the other `across`. Larger filters are cut into squares of taps.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_STRIPS_H_
#define TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_STRIPS_H_

#include "cc/kernels/gpu/add_partial_sums.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/filter_gradient_view.h"

namespace tf_dwgrad {

inline constexpr int kStripThreads = 128;
inline constexpr int kStrip = 7;  // divides the widths that are common

// One of the two axes, in 32 bits.
struct StripAxis {
  int32_t in;
  int32_t out;
  int32_t filter;
  int32_t stride;
  int32_t dilation;
  int32_t pad_before;
  int32_t input_pitch;  // elements between neighbouring input pixels
  int32_t output_pitch;
  int32_t tap_pitch;   // of the filter, in taps
  int32_t tap_blocks;  // squares of taps
};

struct StripView {
  StripAxis along;
  StripAxis across;
  // Strips follow the lattice of one phase of the dilation, so that their
  // windows overlap.
  int32_t phases;
  int32_t strips;  // of all phases
  int64_t items;   // strips of all images
  int64_t items_per_chunk;
  int64_t blocks;
  int64_t input_image;
  int64_t output_image;
  int64_t input_channel;
  int64_t output_channel;
  int64_t filter_size;
  int32_t filter_depth;
  int32_t multiplier;
  int32_t lanes;  // threads side by side along channels, a power of two
  int32_t channel_blocks;
};

template <typename T, int kTaps, int kStride>
__global__ void __launch_bounds__(kStripThreads, sizeof(T) == 8 ? 2 : 3)
    FilterGradientStrips(StripView view, const T* __restrict__ input,
                         const T* __restrict__ gradient,
                         Accumulator<T>* __restrict__ partial) {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Accumulator<T>* const shared =
      reinterpret_cast<Accumulator<T>*>(dynamic_shared);
  constexpr int kWindow = (kStrip - 1) * kStride + kTaps;
  const StripAxis& along = view.along;
  const StripAxis& across = view.across;
  const int thread = static_cast<int>(threadIdx.x);

  int64_t rest = blockIdx.x;
  const auto next = [&rest](int32_t size) {
    const int32_t index = static_cast<int32_t>(rest % size);
    rest /= size;
    return index;
  };
  const int32_t first_channel = next(view.channel_blocks) * view.lanes;
  const int32_t first_along = next(along.tap_blocks) * kTaps;
  const int32_t first_across = next(across.tap_blocks) * kTaps;
  const int64_t chunk = rest;
  const int32_t channel = first_channel + thread % view.lanes;
  const int32_t parts = kStripThreads / view.lanes;

  Accumulator<T> sums[kTaps][kTaps] = {};  // [across][along]
  int64_t end = (chunk + 1) * view.items_per_chunk;
  if (end > view.items) end = view.items;
  if (channel >= view.filter_depth) end = 0;
  for (int64_t item = chunk * view.items_per_chunk + thread / view.lanes;
       item < end; item += parts) {
    const int32_t out = static_cast<int32_t>(item % across.out);
    const int64_t above = item / across.out;
    const int32_t strip = static_cast<int32_t>(above % view.strips);
    const int64_t image = above / view.strips;

    // Positions first_out + u * step, u < count.
    const int32_t step = kStride == 1 ? along.dilation : 1;
    const int32_t first_out =
        strip % view.phases + strip / view.phases * kStrip * step;
    int32_t count = (along.out - first_out + step - 1) / step;
    if (count <= 0) continue;
    if (count > kStrip) count = kStrip;
    const int32_t first_in = first_out * along.stride - along.pad_before +
                             first_along * along.dilation;
    const int32_t in_step = along.dilation;  // of the window
    const T* from = gradient + image * view.output_image +
                    channel * view.output_channel +
                    first_out * along.output_pitch + out * across.output_pitch;
    const T* source = input + image * view.input_image +
                      channel / view.multiplier * view.input_channel;
    const int32_t first_row = out * across.stride - across.pad_before +
                              first_across * across.dilation;

    if (count == kStrip) {
      Accumulator<T> values[kStrip];
#pragma unroll
      for (int u = 0; u < kStrip; ++u) {
        values[u] = Widen(*from);
        from += step * along.output_pitch;
      }
      unsigned inside = 0;
#pragma unroll
      for (int w = 0; w < kWindow; ++w) {
        const int32_t at = first_in + w * in_step;
        if (at >= 0 && at < along.in) inside |= 1u << w;
      }
#pragma unroll
      for (int r = 0; r < kTaps; ++r) {
        const int32_t row = first_row + r * across.dilation;
        if (row < 0 || row >= across.in) continue;
        const T* at =
            source + row * across.input_pitch + first_in * along.input_pitch;
        T window[kWindow];
#pragma unroll
        for (int w = 0; w < kWindow; ++w) {
          if (inside >> w & 1) window[w] = *at;
          at += in_step * along.input_pitch;
        }
#pragma unroll
        for (int w = 0; w < kWindow; ++w) {
          if (!(inside >> w & 1)) continue;
          const Accumulator<T> pixel = Widen(window[w]);
#pragma unroll
          for (int u = 0; u < kStrip; ++u) {
            const int s = w - u * kStride;
            if (s >= 0 && s < kTaps) sums[r][s] += pixel * values[u];
          }
        }
      }
    } else {
      // The end of a row: pixel by pixel.
#pragma unroll 1
      for (int u = 0; u < count; ++u) {
        const Accumulator<T> value = Widen(from[u * step * along.output_pitch]);
#pragma unroll
        for (int r = 0; r < kTaps; ++r) {
          const int32_t row = first_row + r * across.dilation;
          if (row < 0 || row >= across.in) continue;
#pragma unroll
          for (int s = 0; s < kTaps; ++s) {
            const int32_t at = first_in + (u * kStride + s) * in_step;
            if (at < 0 || at >= along.in) continue;
            sums[r][s] +=
                Widen(
                    source[row * across.input_pitch + at * along.input_pitch]) *
                value;
          }
        }
      }
    }
  }

  // Tap row by tap row, which bounds the shared memory.
#pragma unroll
  for (int r = 0; r < kTaps; ++r) {
    __syncthreads();  // The previous row's sums have been read.
#pragma unroll
    for (int s = 0; s < kTaps; ++s) {
      shared[s * kStripThreads + thread] = sums[r][s];
    }
    for (int half = kStripThreads / 2; half >= view.lanes; half /= 2) {
      __syncthreads();
      if (thread < half) {
#pragma unroll
        for (int s = 0; s < kTaps; ++s) {
          shared[s * kStripThreads + thread] +=
              shared[s * kStripThreads + thread + half];
        }
      }
    }
    if (thread < view.lanes && channel < view.filter_depth &&
        first_across + r < across.filter) {
#pragma unroll
      for (int s = 0; s < kTaps; ++s) {
        if (first_along + s >= along.filter) continue;
        const int64_t tap = (first_across + r) * across.tap_pitch +
                            (first_along + s) * along.tap_pitch;
        partial[chunk * view.filter_size + tap * view.filter_depth + channel] =
            shared[s * kStripThreads + thread];
      }
    }
  }
}

// The size of the squares into which a filter is best cut: products, and twice
// for each load.
inline int StripTaps(const FilterGradientView& view) {
  int best = 0;
  int64_t least = 0;
  for (int taps : {3, 5, 7}) {
    const int64_t squares =
        CeilDiv(view.rows.filter, taps) * CeilDiv(view.cols.filter, taps);
    const int64_t cost = squares * (taps * taps * kStrip +
                                    2 * (taps * (kStrip - 1 + taps) + kStrip));
    if (best == 0 || cost < least) {
      best = taps;
      least = cost;
    }
  }
  return best;
}

inline StripView MakeStripView(const FilterGradientView& view) {
  const int taps = StripTaps(view);
  const auto axis = [&](const GpuConvAxis& from, int64_t input_pitch,
                        int64_t output_pitch, int64_t tap_pitch) {
    StripAxis to;
    to.in = static_cast<int32_t>(from.in);
    to.out = static_cast<int32_t>(from.out);
    to.filter = static_cast<int32_t>(from.filter);
    to.stride = static_cast<int32_t>(from.stride);
    to.dilation = static_cast<int32_t>(from.dilation);
    to.pad_before = static_cast<int32_t>(from.pad_before);
    to.input_pitch = static_cast<int32_t>(input_pitch);
    to.output_pitch = static_cast<int32_t>(output_pitch);
    to.tap_pitch = static_cast<int32_t>(tap_pitch);
    to.tap_blocks = static_cast<int32_t>(CeilDiv(from.filter, taps));
    return to;
  };
  const StripAxis rows =
      axis(view.rows, view.input.row, view.output.row, view.cols.filter);
  const StripAxis cols = axis(view.cols, view.input.col, view.output.col, 1);
  StripView strips;
  strips.along = view.channels_last ? cols : rows;
  strips.across = view.channels_last ? rows : cols;
  const int32_t step = strips.along.stride == 1 ? strips.along.dilation : 1;
  strips.phases = step < strips.along.out ? step : strips.along.out;
  strips.strips = static_cast<int32_t>(
      strips.phases * CeilDiv(CeilDiv(strips.along.out, step), kStrip));
  strips.items = view.batch * strips.strips * strips.across.out;
  strips.lanes = 1;
  if (view.channels_last) {
    strips.lanes = view.filter_depth > 16 ? 32 : view.filter_depth > 8 ? 16 : 8;
  }
  strips.channel_blocks =
      static_cast<int32_t>(CeilDiv(view.filter_depth, strips.lanes));
  strips.filter_size = view.filter_size;
  strips.filter_depth = static_cast<int32_t>(view.filter_depth);
  strips.multiplier = static_cast<int32_t>(view.multiplier);
  strips.input_image = view.input.image;
  strips.output_image = view.output.image;
  strips.input_channel = view.input.channel;
  strips.output_channel = view.output.channel;
  strips.items_per_chunk = CeilDiv(strips.items, view.num_chunks);
  strips.blocks = view.num_chunks * strips.channel_blocks *
                  strips.along.tap_blocks * strips.across.tap_blocks;
  return strips;
}

// Enough blocks for a large GPU, each with a few strips per thread.
inline int64_t StripChunks(const FilterGradientView& view) {
  constexpr int64_t kBlocks = 2048;
  constexpr int64_t kFewestStrips = 4;
  FilterGradientView whole = view;
  whole.num_chunks = 1;
  const StripView strips = MakeStripView(whole);
  const int64_t parts = kStripThreads / strips.lanes;
  const int64_t most = CeilDiv(strips.items, parts * kFewestStrips);
  const int64_t chunks = CeilDiv(kBlocks, strips.blocks);
  return chunks < most ? chunks : most;
}

// Along a strip, stride 1 with any dilation or stride 2 without; across, any.
// Offsets within an image fit 32 bits.
inline bool StripsApply(const FilterGradientView& view) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const auto fits = [](const GpuConvAxis& axis, int64_t pitch) {
    constexpr int64_t kTile = 32;  // at most what a square reaches beyond
    if (axis.stride >= kLimit || axis.dilation >= kLimit ||
        axis.filter >= kLimit) {
      return false;
    }
    const int64_t size = axis.in + axis.out + axis.pad_before +
                         kTile * axis.stride +
                         (axis.filter + kTile) * axis.dilation;
    return axis.out * axis.stride < kLimit && size < kLimit / pitch;
  };
  const int64_t row =
      view.input.row > view.output.row ? view.input.row : view.output.row;
  const int64_t col =
      view.input.col > view.output.col ? view.input.col : view.output.col;
  const GpuConvAxis& along = view.channels_last ? view.cols : view.rows;
  return (along.stride == 1 || (along.stride == 2 && along.dilation == 1)) &&
         fits(view.rows, row) && fits(view.cols, col) &&
         view.filter_depth < kLimit &&
         view.rows.filter * view.cols.filter < kLimit;
}

template <typename T>
cudaError_t LaunchFilterGradientStrips(const FilterGradientView& view,
                                       const void* input, const void* gradient,
                                       void* filter_gradient, void* workspace,
                                       cudaStream_t stream) {
  const StripView strips = MakeStripView(view);
  const int taps = StripTaps(view);
  const bool by_one = strips.along.stride == 1;
  const auto kernel = taps == 3   ? (by_one ? FilterGradientStrips<T, 3, 1>
                                            : FilterGradientStrips<T, 3, 2>)
                      : taps == 5 ? (by_one ? FilterGradientStrips<T, 5, 1>
                                            : FilterGradientStrips<T, 5, 2>)
                                  : (by_one ? FilterGradientStrips<T, 7, 1>
                                            : FilterGradientStrips<T, 7, 2>);
  const cudaError_t error = Launch(
      kernel, GridOf(strips.blocks), kStripThreads,
      taps * kStripThreads * static_cast<int64_t>(sizeof(Accumulator<T>)),
      stream, strips, static_cast<const T*>(input),
      static_cast<const T*>(gradient), static_cast<Accumulator<T>*>(workspace));
  if (error != cudaSuccess) return error;
  return LaunchAddPartialSums<T>(view, workspace, filter_gradient, stream);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_STRIPS_H_
