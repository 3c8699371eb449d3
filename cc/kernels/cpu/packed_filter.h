// The filter as the tiles want it: widened, the taps of one vector of channels
// after those of another. In the tensor they are so far apart that they compete
// for the same few places in the cache.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_PACKED_FILTER_H_
#define TF_DWGRAD_CC_KERNELS_CPU_PACKED_FILTER_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tile_sums.h"

namespace tf_dwgrad {
namespace {

// Packs all taps of one part of kParts * N neighbouring filter channels, the
// first of which is `filter`. If T is paired, each goes with the tap that comes
// `next_row` taps after it, where there is one.
template <int kPart, int N, typename T, typename A>
void PackFilterPart(const T* filter, int64_t taps, int64_t filter_depth, A* to,
                    int64_t next_row = 0) {
  static constexpr T kZeros[kParts<T> * N] = {};
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t next = tap + next_row;
    const T* below =
        next >= 0 && next < taps ? filter + next * filter_depth : kZeros;
    Access<A, N>::Store(
        LoadPart<kPart, N, kPairsRows<T>>(filter + tap * filter_depth, below),
        to + tap * N);
  }
}

// Packs all taps of `channels` neighbouring filter channels, in vectors that
// cover them as those of a tile do.
template <int N, typename T, typename A>
void PackFilterBlock(const T* filter, int64_t taps, int64_t filter_depth,
                     int64_t channels, A* to, int64_t next_row = 0) {
  constexpr int kLanes = kParts<T> * N;
  for (int64_t index = 0; index * kLanes < channels; ++index) {
    const T* from = filter + FirstLane<kLanes>(index, channels);
    PackFilterPart<0, N>(from, taps, filter_depth, to, next_row);
    if constexpr (kParts<T> > 1) {
      PackFilterPart<1, N>(from, taps, filter_depth, to + taps * N, next_row);
    }
    to += kParts<T> * taps * N;
  }
}

// Packs all taps of one vector of dst channels: lane l is filter channel
// channels[l] * stride + offset. `contiguous` tells that neighbouring lanes are
// neighbours in the filter.
template <int N, typename T, typename A>
void PackFilter(const T* filter, int64_t taps, int64_t filter_depth,
                const int64_t (&channels)[N], int64_t stride, int64_t offset,
                bool contiguous, A* to) {
  if (contiguous) {
    PackFilterPart<0, N>(filter + channels[0], taps, filter_depth, to);
    return;
  }
  for (int64_t tap = 0; tap < taps; ++tap) {
    const T* from = filter + tap * filter_depth;
    T gathered[N];
    for (int lane = 0; lane < N; ++lane) {
      gathered[lane] = from[channels[lane] * stride + offset];
    }
    Access<A, N>::Store(Access<T, N>::Load(gathered), to + tap * N);
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_PACKED_FILTER_H_
