// The filter gradient
//
//   dW[r, s, k] = sum over n, i, j of
//       input[n, i * stride - pad + r * dilation, j * ..., k / multiplier]
//       * dY[n, i, j, k]
//
// A unit of work is one filter row of a block of filter channels (NHWC) or of
// one filter channel (NCHW), summed over the whole batch, so that no two units
// share a sum. Each sum is formed per row of dY first and the rows are added
// up in order: fixed for any number of threads, and more accurate than one long
// chain.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_H_
#define TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// Taps of a filter row that share a pass over the batch.
constexpr int kTapsPerPass = 16;

// The positions i in [0, axis.out) at which `tap` reads inside the input.
inline TapRange PositionsInside(const FilterGradientAxis& axis, int64_t tap) {
  const int64_t offset = tap * axis.dilation - axis.pad;
  TapRange range = {0, 0};
  const int64_t last = axis.in - 1 - offset;
  if (last < 0) return range;
  range.begin = offset < 0 ? (-offset - 1) / axis.stride + 1 : 0;
  const int64_t fit = last / axis.stride + 1;
  range.end = fit < axis.out ? fit : axis.out;
  if (range.begin > range.end) range.begin = range.end;
  return range;
}

// Several vectors of neighbouring channels, to use whole cache lines.
template <typename A, int N>
struct ChannelSums {
  static constexpr int kVectors = static_cast<int>(kFilterGradientBlock) / N;
  Vector<A, N> part[kVectors];
};

template <typename T, int N>
void AddRowProducts(const T* input, int64_t input_step, const T* dy,
                    int64_t dy_step, int64_t count, int64_t channels,
                    int64_t first_channel, int64_t multiplier,
                    ChannelSums<typename AccumulatorOf<T>::type, N>* total) {
  typedef typename AccumulatorOf<T>::type A;
  typedef Vector<A, N> V;
  constexpr int kVectors = ChannelSums<A, N>::kVectors;
  if (multiplier == 1 && channels == kFilterGradientBlock) {
    V sum[kVectors] = {};
    for (int64_t j = 0; j < count; ++j) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        sum[v] +=
            Access<T, N>::Load(input + first_channel + j * input_step + v * N) *
            Access<T, N>::Load(dy + first_channel + j * dy_step + v * N);
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) total->part[v] += sum[v];
    return;
  }
  for (int v = 0; v * N < channels; ++v) {
    const int64_t k = first_channel + v * N;
    const int64_t left = channels - v * N;
    V sum = {};
    if (multiplier == 1 && left >= N) {
      for (int64_t j = 0; j < count; ++j) {
        sum += Access<T, N>::Load(input + k + j * input_step) *
               Access<T, N>::Load(dy + k + j * dy_step);
      }
    } else {
      const int lanes = left < N ? static_cast<int>(left) : N;
      for (int64_t j = 0; j < count; ++j) {
        const V pixels = Collect<T, N>(
            input + j * input_step, lanes,
            [k, multiplier](int lane) { return (k + lane) / multiplier; });
        sum += pixels * LoadSome<T, N>(dy + k + j * dy_step, lanes);
      }
    }
    total->part[v] += sum;
  }
}

// One filter row for `channels` filter channels.
template <int N, typename T>
void FilterRowChannelsLast(const FilterGradientProblem& problem, const T* input,
                           const T* dy, T* dw, int64_t tap_row,
                           int64_t first_channel, int64_t channels) {
  typedef ChannelSums<typename AccumulatorOf<T>::type, N> Sums;
  const FilterGradientAxis& rows = problem.rows;
  const FilterGradientAxis& cols = problem.cols;
  const int64_t multiplier = problem.depth_multiplier;
  const int64_t in_depth = problem.in_depth;
  const int64_t out_depth = in_depth * multiplier;
  const TapRange out_rows = PositionsInside(rows, tap_row);
  for (int64_t first_tap = 0; first_tap < cols.filter;
       first_tap += kTapsPerPass) {
    const int64_t taps_left = cols.filter - first_tap;
    const int64_t taps = taps_left < kTapsPerPass ? taps_left : kTapsPerPass;
    Sums total[kTapsPerPass] = {};
    for (int64_t image = 0; image < problem.batch; ++image) {
      for (int64_t i = out_rows.begin; i < out_rows.end; ++i) {
        const int64_t in_row =
            i * rows.stride + tap_row * rows.dilation - rows.pad;
        const T* input_row =
            input + (image * rows.in + in_row) * cols.in * in_depth;
        const T* dy_row = dy + (image * rows.out + i) * cols.out * out_depth;
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t tap_col = first_tap + t;
          const TapRange out_cols = PositionsInside(cols, tap_col);
          const int64_t in_col =
              out_cols.begin * cols.stride + tap_col * cols.dilation - cols.pad;
          AddRowProducts<T, N>(input_row + in_col * in_depth,
                               cols.stride * in_depth,
                               dy_row + out_cols.begin * out_depth, out_depth,
                               out_cols.end - out_cols.begin, channels,
                               first_channel, multiplier, &total[t]);
        }
      }
    }
    for (int64_t t = 0; t < taps; ++t) {
      T* tap_dw = dw + (tap_row * cols.filter + first_tap + t) * out_depth +
                  first_channel;
      for (int v = 0; v * N < channels; ++v) {
        const int64_t left = channels - v * N;
        StoreSome<T, N>(total[t].part[v], tap_dw + v * N,
                        left < N ? static_cast<int>(left) : N);
      }
    }
  }
}

template <typename Isa, typename T>
void FilterGradientChannelsLast(const FilterGradientProblem& problem,
                                const void* input_data, const void* dy_data,
                                void* dw_data, int64_t begin, int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int kLanes = Isa::kVectorBytes / sizeof(A);
  constexpr int kFewLanes = 16 / sizeof(A);
  const T* input = static_cast<const T*>(input_data);
  const T* dy = static_cast<const T*>(dy_data);
  T* dw = static_cast<T*>(dw_data);
  const int64_t out_depth = problem.in_depth * problem.depth_multiplier;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tap_row = unit % problem.rows.filter;
    const int64_t first = unit / problem.rows.filter * kFilterGradientBlock;
    const int64_t left = out_depth - first;
    // A block that is not full has more whole vectors if they are short.
    if (left >= kFilterGradientBlock) {
      FilterRowChannelsLast<kLanes>(problem, input, dy, dw, tap_row, first,
                                    kFilterGradientBlock);
    } else {
      FilterRowChannelsLast<kFewLanes>(problem, input, dy, dw, tap_row, first,
                                       left);
    }
  }
}

// The sum over one row of one plane; lane l holds the terms j = l (mod N).
template <typename T, int N>
Vector<typename AccumulatorOf<T>::type, N> RowDot(const T* input,
                                                  int64_t input_step,
                                                  const T* dy, int64_t count) {
  Vector<typename AccumulatorOf<T>::type, N> sum = {};
  int64_t j = 0;
  if (input_step == 1) {
    for (; j + N <= count; j += N) {
      sum += Access<T, N>::Load(input + j) * Access<T, N>::Load(dy + j);
    }
  }
  while (j < count) {
    const int lanes = count - j < N ? static_cast<int>(count - j) : N;
    sum += Collect<T, N>(input + j * input_step, lanes,
                         [input_step](int lane) { return lane * input_step; }) *
           LoadSome<T, N>(dy + j, lanes);
    j += lanes;
  }
  return sum;
}

template <typename Isa, typename T>
void FilterGradientPlanes(const FilterGradientProblem& problem,
                          const void* input_data, const void* dy_data,
                          void* dw_data, int64_t begin, int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  typedef Vector<A, N> V;
  const T* input = static_cast<const T*>(input_data);
  const T* dy = static_cast<const T*>(dy_data);
  T* dw = static_cast<T*>(dw_data);
  const FilterGradientAxis& rows = problem.rows;
  const FilterGradientAxis& cols = problem.cols;
  const int64_t multiplier = problem.depth_multiplier;
  const int64_t in_depth = problem.in_depth;
  const int64_t out_depth = in_depth * multiplier;

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tap_row = unit % rows.filter;
    const int64_t channel = unit / rows.filter;
    const TapRange out_rows = PositionsInside(rows, tap_row);
    for (int64_t first_tap = 0; first_tap < cols.filter;
         first_tap += kTapsPerPass) {
      const int64_t taps_left = cols.filter - first_tap;
      const int64_t taps = taps_left < kTapsPerPass ? taps_left : kTapsPerPass;
      V total[kTapsPerPass] = {};
      for (int64_t image = 0; image < problem.batch; ++image) {
        const T* input_plane =
            input +
            (image * in_depth + channel / multiplier) * rows.in * cols.in;
        const T* dy_plane =
            dy + (image * out_depth + channel) * rows.out * cols.out;
        for (int64_t i = out_rows.begin; i < out_rows.end; ++i) {
          const T* input_row =
              input_plane +
              (i * rows.stride + tap_row * rows.dilation - rows.pad) * cols.in;
          const T* dy_row = dy_plane + i * cols.out;
          for (int64_t t = 0; t < taps; ++t) {
            const int64_t tap_col = first_tap + t;
            const TapRange out_cols = PositionsInside(cols, tap_col);
            const int64_t in_col = out_cols.begin * cols.stride +
                                   tap_col * cols.dilation - cols.pad;
            total[t] += RowDot<T, N>(input_row + in_col, cols.stride,
                                     dy_row + out_cols.begin,
                                     out_cols.end - out_cols.begin);
          }
        }
      }
      for (int64_t t = 0; t < taps; ++t) {
        A sum = 0;
        for (int lane = 0; lane < N; ++lane) sum += total[t][lane];
        const V result = V{} + sum;
        StoreSome<T, N>(
            result,
            dw + (tap_row * cols.filter + first_tap + t) * out_depth + channel,
            1);
      }
    }
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_H_
