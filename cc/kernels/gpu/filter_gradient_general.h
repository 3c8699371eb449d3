// The filter gradient for any problem. The output rows of all images are cut
// into chunks, each of which gives a partial sum of every tap.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_GENERAL_H_
#define TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_GENERAL_H_

#include "cc/kernels/gpu/add_partial_sums.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/filter_gradient_view.h"

namespace tf_dwgrad {

inline constexpr int kTapThreads = 128;
inline constexpr int kTapStrip = 4;  // tap columns of a thread

__host__ __device__ inline int64_t TapStrips(const FilterGradientView& view) {
  return view.rows.filter * CeilDiv(view.cols.filter, kTapStrip);
}

// Adds what output column `col` gives to the taps first_tap, first_tap + 1, ...
// `input` and `gradient` are the starts of a row and channel.
template <typename T>
__device__ inline void AddOutputColumn(const FilterGradientView& view,
                                       int64_t first_tap, int64_t col,
                                       const T* input, const T* gradient,
                                       Accumulator<T>* sums) {
  const GpuConvAxis& cols = view.cols;
  const Accumulator<T> value = Widen(gradient[col * view.output.col]);
  int64_t in = col * cols.stride - cols.pad_before + first_tap * cols.dilation;
#pragma unroll
  for (int u = 0; u < kTapStrip; ++u) {
    if (in >= 0 && in < cols.in && first_tap + u < cols.filter) {
      sums[u] += Widen(input[in * view.input.col]) * value;
    }
    in += cols.dilation;
  }
}

template <typename T>
__device__ inline void StorePartialSums(const FilterGradientView& view,
                                        int64_t chunk, int64_t tap_row,
                                        int64_t first_tap, int64_t channel,
                                        const Accumulator<T>* sums,
                                        Accumulator<T>* partial) {
  partial += chunk * view.filter_size +
             (tap_row * view.cols.filter + first_tap) * view.filter_depth +
             channel;
#pragma unroll
  for (int u = 0; u < kTapStrip; ++u) {
    if (first_tap + u < view.cols.filter) {
      partial[u * view.filter_depth] = sums[u];
    }
  }
}

// Channels last: neighbouring threads take neighbouring channels, each its
// strip of taps for a whole chunk.
template <typename T>
__global__ void __launch_bounds__(kTapThreads)
    FilterGradientByChannel(FilterGradientView view, int64_t items,
                            const T* __restrict__ input,
                            const T* __restrict__ gradient,
                            Accumulator<T>* __restrict__ partial) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t item =
           static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += stride) {
    const int64_t channel = item % view.filter_depth;
    const int64_t rest = item / view.filter_depth;
    const int64_t strip = rest % TapStrips(view);
    const int64_t chunk = rest / TapStrips(view);
    const int64_t tap_row = strip % view.rows.filter;
    const int64_t first_tap = strip / view.rows.filter * kTapStrip;

    Accumulator<T> sums[kTapStrip] = {};
    const OutputRows rows = RowsOfChunk(view, chunk);
    for (int64_t at = rows.begin; at < rows.end; ++at) {
      const int64_t image = at / view.rows.out;
      const int64_t row = at % view.rows.out;
      const int64_t in = row * view.rows.stride - view.rows.pad_before +
                         tap_row * view.rows.dilation;
      if (in < 0 || in >= view.rows.in) continue;
      const T* input_row = input + image * view.input.image +
                           in * view.input.row +
                           channel / view.multiplier * view.input.channel;
      const T* gradient_row = gradient + image * view.output.image +
                              row * view.output.row +
                              channel * view.output.channel;
#pragma unroll 2
      for (int64_t col = 0; col < view.cols.out; ++col) {
        AddOutputColumn(view, first_tap, col, input_row, gradient_row, sums);
      }
    }
    StorePartialSums<T>(view, chunk, tap_row, first_tap, channel, sums,
                        partial);
  }
}

// Channels first: the threads of a block take neighbouring pixels of one
// channel and add their sums at the end.
template <typename T>
__global__ void __launch_bounds__(kTapThreads)
    FilterGradientByPixel(FilterGradientView view, int64_t items,
                          const T* __restrict__ input,
                          const T* __restrict__ gradient,
                          Accumulator<T>* __restrict__ partial) {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Accumulator<T>* shared = reinterpret_cast<Accumulator<T>*>(dynamic_shared);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t strip = item % TapStrips(view);
    const int64_t rest = item / TapStrips(view);
    const int64_t channel = rest % view.filter_depth;
    const int64_t chunk = rest / view.filter_depth;
    const int64_t tap_row = strip % view.rows.filter;
    const int64_t first_tap = strip / view.rows.filter * kTapStrip;

    Accumulator<T> sums[kTapStrip] = {};
    const OutputRows rows = RowsOfChunk(view, chunk);
    const int64_t pixels = (rows.end - rows.begin) * view.cols.out;
    for (int64_t pixel = thread; pixel < pixels; pixel += kTapThreads) {
      const int64_t at = rows.begin + pixel / view.cols.out;
      const int64_t image = at / view.rows.out;
      const int64_t row = at % view.rows.out;
      const int64_t in = row * view.rows.stride - view.rows.pad_before +
                         tap_row * view.rows.dilation;
      if (in < 0 || in >= view.rows.in) continue;
      AddOutputColumn(view, first_tap, pixel % view.cols.out,
                      input + image * view.input.image + in * view.input.row +
                          channel / view.multiplier * view.input.channel,
                      gradient + image * view.output.image +
                          row * view.output.row + channel * view.output.channel,
                      sums);
    }
    __syncthreads();  // The previous item's sums have been read.
#pragma unroll
    for (int u = 0; u < kTapStrip; ++u)
      shared[u * kTapThreads + thread] = sums[u];
    for (int half = kTapThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half) {
#pragma unroll
        for (int u = 0; u < kTapStrip; ++u) {
          shared[u * kTapThreads + thread] +=
              shared[u * kTapThreads + thread + half];
        }
      }
    }
    if (thread == 0) {
#pragma unroll
      for (int u = 0; u < kTapStrip; ++u) sums[u] = shared[u * kTapThreads];
      StorePartialSums<T>(view, chunk, tap_row, first_tap, channel, sums,
                          partial);
    }
  }
}

// As many chunks as keep a large GPU busy, each with a few pixels per thread.
inline int64_t GeneralChunks(const FilterGradientView& view) {
  constexpr int64_t kThreads = 1 << 18;
  constexpr int64_t kFewestPixels = 8;
  const int64_t threads_per_channel = view.channels_last ? 1 : kTapThreads;
  const int64_t threads =
      TapStrips(view) * view.filter_depth * threads_per_channel;
  const int64_t chunks = CeilDiv(kThreads, threads);
  const int64_t pixels = view.batch * view.rows.out * view.cols.out;
  const int64_t most = CeilDiv(pixels, kFewestPixels * threads_per_channel);
  return chunks < most ? chunks : most;
}

template <typename T>
cudaError_t LaunchFilterGradientGeneral(const FilterGradientView& view,
                                        const void* input, const void* gradient,
                                        void* filter_gradient, void* workspace,
                                        cudaStream_t stream) {
  const int64_t items = view.num_chunks * TapStrips(view) * view.filter_depth;
  const int64_t blocks =
      view.channels_last ? CeilDiv(items, kTapThreads) : items;
  const int64_t shared_bytes =
      view.channels_last ? 0 : kTapStrip * kTapThreads * sizeof(Accumulator<T>);
  const cudaError_t error =
      Launch(view.channels_last ? FilterGradientByChannel<T>
                                : FilterGradientByPixel<T>,
             GridOf(blocks), kTapThreads, shared_bytes, stream, view, items,
             static_cast<const T*>(input), static_cast<const T*>(gradient),
             static_cast<Accumulator<T>*>(workspace));
  if (error != cudaSuccess) return error;
  return LaunchAddPartialSums<T>(view, workspace, filter_gradient, stream);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_GENERAL_H_
