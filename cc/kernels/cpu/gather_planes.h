// Forward op and input gradient for what suits no other kernel: few planes,
// pixels of few channels that see few taps, or filters so large that nothing
// can be packed. Vectors run along a row of a plane or, in NHWC, of an image:
// the few channels of its pixels are folded into the row.
//
// A unit of work is one dst row. It is computed in strips of one column phase:
// within a phase every tap adds a shifted, scaled piece of the source row to a
// strip of accumulators.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_PLANES_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_PLANES_H_

#include "cc/kernels/cpu/image_steps.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// acc[t] += weight * src[t] for as many whole vectors as [t, count) holds.
// Returns the t that is left.
template <int N, typename T, typename A>
inline int64_t AddScaledVectors(const T* src, int64_t t, int64_t count,
                                A weight, A* acc) {
  for (; t + N <= count; t += N) {
    const Vector<A, N> sum =
        Access<A, N>::Load(acc + t) + Access<T, N>::Load(src + t) * weight;
    Access<A, N>::Store(sum, acc + t);
  }
  return t;
}

// acc[t] += weight * src[t * pitch] for t in [0, count).
template <int N, typename T, typename A>
inline void AddScaled(const T* src, int64_t pitch, int64_t count, A weight,
                      A* acc) {
  constexpr int kFewLanes = 16 / sizeof(A);
  int64_t t = 0;
  if (pitch == 1) {
    t = AddScaledVectors<N>(src, t, count, weight, acc);
    t = AddScaledVectors<kFewLanes>(src, t, count, weight, acc);
  }
  while (t < count) {
    const int lanes =
        count - t < kFewLanes ? static_cast<int>(count - t) : kFewLanes;
    const Vector<A, kFewLanes> pixels = Collect<T, kFewLanes>(
        src + t * pitch, lanes, [pitch](int lane) { return lane * pitch; });
    // Neighbours that this tap does not reach stay as they are: an infinite
    // weight times the padding of the vector would reach them.
    StoreSome<A, kFewLanes>(
        LoadSome<A, kFewLanes>(acc + t, lanes) + pixels * weight, acc + t,
        lanes);
    t += lanes;
  }
}

// acc[t] += weight * src[t] for t in [0, count), where the weights of `depth`
// channels take turns: those of t = 0 to depth * N - 1 are given.
template <int N, typename T, typename A>
inline void AddRepeated(const T* src, int64_t count, const A* weights,
                        int64_t depth, A* acc) {
  int64_t t = 0;
  int64_t vector = 0;
  for (; t + N <= count; t += N) {
    const Vector<A, N> sum =
        Access<A, N>::Load(acc + t) +
        Access<T, N>::Load(src + t) * Access<A, N>::Load(weights + vector * N);
    Access<A, N>::Store(sum, acc + t);
    if (++vector == depth) vector = 0;
  }
  if (t == count) return;
  const int lanes = static_cast<int>(count - t);
  StoreSome<A, N>(LoadSome<A, N>(acc + t, lanes) +
                      LoadSome<T, N>(src + t, lanes) *
                          Access<A, N>::Load(weights + vector * N),
                  acc + t, lanes);
}

// Calls add(source pixel, index of the first, number of pixels, tap) for the
// taps that reach a strip of dst from one source plane, or from all planes of
// an image. Strip position t is position `first + t` of the column phase of
// `first_col_run`.
template <typename T, typename Add>
void ForEachTap(const GatherProblem& problem, const T* plane,
                const ImageSteps& steps, TapRun row_run, int64_t row,
                const TapRun& first_col_run, int64_t first, int64_t count,
                Add add) {
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  for (int64_t row_index = 0;;) {
    const int64_t row_base = row_run.first_src + row * rows.pitch;
    const TapRange row_taps = ClipToSource(rows, row_base, row_run.num_taps);
    for (int64_t m = row_taps.begin; m < row_taps.end; ++m) {
      const T* src_row = plane + (row_base + m * rows.pitch) * steps.row;
      const int64_t row_tap =
          (row_run.first_tap + m * rows.tap_step) * cols.filter_size;
      TapRun col_run = first_col_run;
      for (int64_t col_index = 0;;) {
        for (int64_t tap = 0; tap < col_run.num_taps; ++tap) {
          const int64_t base = col_run.first_src + (first + tap) * cols.pitch;
          const TapRange inside = ClipToSource(cols, base, count);
          if (inside.begin >= inside.end) continue;
          add(src_row + (base + inside.begin * cols.pitch) * steps.col,
              inside.begin, inside.end - inside.begin,
              row_tap + col_run.first_tap + tap * cols.tap_step);
        }
        if (++col_index >= cols.num_runs) break;
        NextRun(cols, col_index, &col_run);
      }
    }
    if (++row_index >= rows.num_runs) break;
    NextRun(rows, row_index, &row_run);
  }
}

// For each tap, the weights of the channels of the first N pixels.
template <int N, typename T, typename A>
void RepeatFilter(const T* filter, int64_t taps, int64_t depth, A* to) {
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int pixel = 0; pixel < N; ++pixel) {
      for (int64_t c = 0; c < depth; ++c) *to++ = Widen(filter[c]);
    }
    filter += depth;
  }
}

// Adds up groups of `size` sums, in place.
template <typename A>
void AddGroups(int64_t groups, int64_t size, A* acc) {
  for (int64_t group = 0; group < groups; ++group) {
    A sum = acc[group * size];
    for (int64_t i = 1; i < size; ++i) sum += acc[group * size + i];
    acc[group] = sum;
  }
}

// Rounds the `count` sums of a strip. The pixels of `depth` of them are `step`
// elements apart.
template <int N, typename T, typename A>
void StoreStrip(const A* acc, int64_t count, int64_t depth, int64_t step,
                T* dst) {
  int64_t t = 0;
  if (step == depth) {
    for (; t + N <= count; t += N) {
      Access<T, N>::Store(Access<A, N>::Load(acc + t), dst + t);
    }
    if (t < count) {
      StoreSome<T, N>(Access<A, N>::Load(acc + t), dst + t,
                      static_cast<int>(count - t));
    }
    return;
  }
  T* pixel = dst;
  int64_t channel = 0;
  for (; t < count; t += N) {
    T values[N];
    Access<T, N>::Store(Access<A, N>::Load(acc + t), values);
    for (int lane = 0; lane < N && t + lane < count; ++lane) {
      pixel[channel] = values[lane];
      if (++channel == depth) {
        channel = 0;
        pixel += step;
      }
    }
  }
}

template <typename Isa, typename T>
void GatherPlanes(const GatherProblem& problem, const void* src_data,
                  const void* filter_data, void* dst_data, void* scratch,
                  int64_t begin, int64_t end) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int N = Isa::kVectorBytes / sizeof(A);
  constexpr int64_t kStrip = 4 * kMostFoldedChannels;
  const T* src = static_cast<const T*>(src_data);
  const T* filter = static_cast<const T*>(filter_data);
  T* dst = static_cast<T*>(dst_data);
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t multiplier = problem.depth_multiplier;
  const int64_t filter_depth = FilterDepth(problem);
  const int64_t dst_depth = DstDepth(problem);
  const ImageSteps src_steps = StepsOf(problem.channels_last, SrcDepth(problem),
                                       rows.src_size, cols.src_size);
  const ImageSteps dst_steps =
      StepsOf(problem.channels_last, dst_depth, rows.dst_size, cols.dst_size);
  const int64_t col_phases = PhaseCount(cols);
  // Planes of dst that are done together, and the sums of one of their pixels:
  // with a multiplier those of a channel are added up in the end.
  const int64_t depth = problem.folded ? dst_depth : 1;
  const int64_t folded_depth = problem.folded ? filter_depth : 1;
  const int64_t image_units = dst_depth / depth * rows.dst_size;
  A* const repeated = static_cast<A*>(scratch);
  if (problem.folded) {
    RepeatFilter<N>(filter, rows.filter_size * cols.filter_size, filter_depth,
                    repeated);
  }
  A acc[kStrip + N];

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t row = unit % rows.dst_size;
    const int64_t channel = unit % image_units / rows.dst_size;
    const int64_t image = unit / image_units;
    T* dst_row = dst + image * dst_steps.image + channel * dst_steps.channel +
                 row * dst_steps.row;
    const T* src_image = src + image * src_steps.image;
    const TapRun row_run = FirstRun(rows, row % rows.num_phases);
    for (int64_t phase = 0; phase < col_phases; ++phase) {
      const TapRun col_run = FirstRun(cols, phase);
      const int64_t positions = PhaseSize(cols, phase);
      const int64_t strip = kStrip / folded_depth;
      for (int64_t first = 0; first < positions; first += strip) {
        const int64_t left = positions - first;
        const int64_t count = left < strip ? left : strip;
        for (int64_t t = 0; t < count * folded_depth + N; ++t) acc[t] = 0;
        const auto for_each_tap = [&](const T* plane, auto add) {
          ForEachTap(problem, plane, src_steps, row_run, row / rows.num_phases,
                     col_run, first, count, add);
        };
        // Adds one source plane, weighted by one filter channel.
        const auto add_plane = [&](int64_t src_channel, int64_t k) {
          for_each_tap(
              src_image + src_channel * src_steps.channel,
              [&](const T* from, int64_t t, int64_t pixels, int64_t tap) {
                AddScaled<N, T, A>(from, cols.pitch * src_steps.col, pixels,
                                   Widen(filter[tap * filter_depth + k]),
                                   acc + t);
              });
        };
        if (problem.folded) {
          for_each_tap(src_image, [&](const T* from, int64_t t, int64_t pixels,
                                      int64_t tap) {
            AddRepeated<N>(from, pixels * folded_depth,
                           repeated + tap * folded_depth * N, folded_depth,
                           acc + t * folded_depth);
          });
          if (folded_depth > depth) AddGroups(count * depth, multiplier, acc);
        } else if (problem.backward) {
          for (int64_t q = 0; q < multiplier; ++q) {
            const int64_t k = channel * multiplier + q;
            add_plane(k, k);
          }
        } else {
          add_plane(channel / multiplier, channel);
        }
        const int64_t step = cols.num_phases * dst_steps.col;
        StoreStrip<N>(acc, count * depth, depth, step,
                      dst_row + phase * dst_steps.col + first * step);
      }
    }
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_PLANES_H_
