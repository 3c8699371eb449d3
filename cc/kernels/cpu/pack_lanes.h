// Moves pixels between the tensors and panels of packed ones, in which a pixel
// is a vector of accumulators.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_PACK_LANES_H_
#define TF_DWGRAD_CC_KERNELS_CPU_PACK_LANES_H_

#include <stdint.h>

#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tap_block.h"
#include "cc/kernels/cpu/transpose.h"

namespace tf_dwgrad {
namespace {

// Packs pixels at distance `step` of which every lane has its own source.
template <int N, typename T, typename A>
void PackLanes(const T* const (&lanes)[N], int64_t offset, int64_t step,
               int64_t count, A* to) {
  if (step == 1 && count >= N) {
    for (int64_t index = 0; index * N < count; ++index) {
      const int64_t pixel = FirstLane<N>(index, count);
      Vector<A, N> square[N];
#pragma GCC unroll 16
      for (int lane = 0; lane < N; ++lane) {
        square[lane] = Access<T, N>::Load(lanes[lane] + offset + pixel);
      }
      Transpose<A, N>(square);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        Access<A, N>::Store(square[i], to + (pixel + i) * N);
      }
    }
    return;
  }
  for (int64_t pixel = 0; pixel < count; ++pixel) {
    T gathered[N];
    for (int lane = 0; lane < N; ++lane) {
      gathered[lane] = lanes[lane][offset + pixel * step];
    }
    Access<A, N>::Store(Access<T, N>::Load(gathered), to + pixel * N);
  }
}

// The way back, for the first `used` lanes.
template <int N, typename T, typename A>
void UnpackLanes(const A* from, int64_t count, T* const (&lanes)[N], int used,
                 int64_t offset, int64_t step, bool stream) {
  if (step == 1 && count >= N) {
    for (int64_t index = 0; index * N < count; ++index) {
      const int64_t pixel = FirstLane<N>(index, count);
      Vector<A, N> square[N];
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        square[i] = Access<A, N>::Load(from + (pixel + i) * N);
      }
      Transpose<A, N>(square);
      const bool aligned = stream && pixel == index * N;
#pragma GCC unroll 16
      for (int lane = 0; lane < N; ++lane) {
        if (lane >= used) continue;
        T* to = lanes[lane] + offset + pixel;
        if (kCanStream<T> && aligned) {
          Stream(square[lane], to);
        } else {
          Access<T, N>::Store(square[lane], to);
        }
      }
    }
    return;
  }
  for (int64_t pixel = 0; pixel < count; ++pixel) {
    T values[N];
    Access<T, N>::Store(Access<A, N>::Load(from + pixel * N), values);
    for (int lane = 0; lane < used; ++lane) {
      lanes[lane][offset + pixel * step] = values[lane];
    }
  }
}

// One vector of dst planes: where its lanes belong.
template <int N>
struct LaneMap {
  int64_t image[N];
  int64_t channel[N];  // of dst
  int used;
  bool contiguous;  // channels of one image in ascending order
};

template <int N>
LaneMap<N> MapLanes(int64_t first_plane, int64_t num_planes, int64_t depth) {
  LaneMap<N> map;
  const int64_t left = num_planes - first_plane;
  map.used = left < N ? static_cast<int>(left) : N;
  int64_t image = first_plane / depth;
  int64_t channel = first_plane % depth;
  map.contiguous = map.used == N && channel + N <= depth;
  for (int lane = 0; lane < N; ++lane) {
    map.image[lane] = image;
    map.channel[lane] = channel;
    // The lanes that are left over repeat the last plane.
    if (lane + 1 < map.used && ++channel == depth) {
      channel = 0;
      ++image;
    }
  }
  return map;
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_PACK_LANES_H_
