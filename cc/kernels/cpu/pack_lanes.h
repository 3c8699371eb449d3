// Moves pixels between the tensors and panels of packed ones, in which a pixel
// is a vector of accumulators. With a depth multiplier a pixel of the input
// gradient's source has several filter channels per lane; those of pass q go to
// a panel of their own, `pass_step` behind that of pass q - 1.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_PACK_LANES_H_
#define TF_DWGRAD_CC_KERNELS_CPU_PACK_LANES_H_

#include <stdint.h>

#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tap_block.h"
#include "cc/kernels/cpu/transpose.h"

namespace tf_dwgrad {
namespace {

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

// Neighbouring elements of the source that a vector of planes needs of one
// pixel: of each image one run.
template <int N>
struct LaneRuns {
  int64_t first[N];  // of the first pixel
  int64_t length[N];
  int count;
  int64_t longest;
  bool alike;        // all runs are of the same length
  int64_t place[N];  // where among the elements of all runs each lane begins
};

// Lane l needs elements [begin(l), end(l)) of each pixel of map.image[l].
template <int N, typename Begin, typename End>
LaneRuns<N> FindRuns(const LaneMap<N>& map, int64_t image_step, Begin begin,
                     End end) {
  LaneRuns<N> runs;
  runs.count = 0;
  int64_t run_begin = 0, run_end = 0, before = 0;
  for (int lane = 0; lane < N; ++lane) {
    const int64_t lane_begin = begin(map.channel[lane]);
    const int64_t lane_end = end(map.channel[lane]);
    if (lane == 0 || map.image[lane] != map.image[lane - 1]) {
      before += run_end - run_begin;
      run_begin = lane_begin;
      runs.first[runs.count] = map.image[lane] * image_step + lane_begin;
      ++runs.count;
    }
    run_end = lane_end;
    runs.length[runs.count - 1] = run_end - run_begin;
    runs.place[lane] = before + lane_begin - run_begin;
  }
  runs.longest = 0;
  runs.alike = true;
  for (int run = 0; run < runs.count; ++run) {
    if (runs.length[run] > runs.longest) runs.longest = runs.length[run];
    if (runs.length[run] != runs.length[0]) runs.alike = false;
  }
  return runs;
}

// Calls run with a number as a type if it is a power of two below N.
template <int N, typename Run>
inline bool WithPowerBelow(int64_t number, Run run) {
  if constexpr (N > 1) {
    if (number == N / 2) {
      run(Int<N / 2>());
      return true;
    }
    return WithPowerBelow<N / 2>(number, run);
  }
  return false;
}

// How many of `count` pixels, `step` elements apart, have `reach` elements
// behind their first one, `total` elements in all.
inline int64_t PixelsWithin(int64_t total, int64_t reach, int64_t step,
                            int64_t count) {
  if (total < reach) return 0;
  const int64_t pixels = (total - reach) / step + 1;
  return pixels < count ? pixels : count;
}

// Where packed pixels go, in accumulators.
template <typename A>
struct PackedPixels {
  A* first;
  int64_t pixel_step;
  int64_t pass_step;

  A* At(int64_t pixel, int64_t pass = 0) const {
    return first + pixel * pixel_step + pass * pass_step;
  }
  PackedPixels From(int64_t pixel) const {
    return {At(pixel), pixel_step, pass_step};
  }
};

// Packs pixels [begin, end) at distance `step`, of pass `pass`, lane by lane.
template <int N, typename T, typename A>
inline void PackEachLane(const T* const (&lanes)[N], int64_t offset,
                         int64_t step, int64_t begin, int64_t end, int64_t pass,
                         const PackedPixels<A>& to) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    T gathered[N];
    for (int lane = 0; lane < N; ++lane) {
      gathered[lane] = lanes[lane][offset + pixel * step + pass];
    }
    Access<A, N>::Store(Access<T, N>::Load(gathered), to.At(pixel, pass));
  }
}

// Packs pixels at distance `step` of which every lane has its own source.
// kBlock neighbouring lanes are neighbours in memory, and with `step` equal to
// kBlock so are pixels. Lanes from `used` on hold anything: they repeat the
// last one, behind which a block of its own may end outside the tensor.
template <int N, typename T, typename A>
void PackLanes(const T* const (&lanes)[N], int used, int64_t offset,
               int64_t step, int64_t block, int64_t count, A* to) {
  const auto pack = [&](auto block_lanes) {
    constexpr int kBlock = decltype(block_lanes)::kValue;
    constexpr int kSize = N / kBlock;
    for (int64_t index = 0; index * kSize < count; ++index) {
      const int64_t pixel = FirstLane<kSize>(index, count);
      Vector<A, N> square[kSize];
#pragma GCC unroll 16
      for (int i = 0; i < kSize; ++i) {
        const T* from = lanes[i * kBlock < used ? i * kBlock : 0];
        square[i] = Access<T, N>::Load(from + offset + pixel * kBlock);
      }
      Transpose<A, N, kBlock>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kSize; ++i) {
        Access<A, N>::Store(square[i], to + (pixel + i) * N);
      }
    }
  };
  if (step == block && count * block >= N && WithPowerBelow<N>(block, pack)) {
    return;
  }
  PackEachLane<N>(lanes, offset, step, 0, count, 0, PackedPixels<A>{to, N, 0});
}

// The way back, for the first `used` lanes.
template <int N, typename T, typename A>
void UnpackLanes(const A* from, int64_t count, T* const (&lanes)[N], int used,
                 int64_t offset, int64_t step, int64_t block, bool stream) {
  const auto unpack = [&](auto block_lanes) {
    constexpr int kBlock = decltype(block_lanes)::kValue;
    constexpr int kSize = N / kBlock;
    for (int64_t index = 0; index * kSize < count; ++index) {
      const int64_t pixel = FirstLane<kSize>(index, count);
      Vector<A, N> square[kSize];
#pragma GCC unroll 16
      for (int i = 0; i < kSize; ++i) {
        square[i] = Access<A, N>::Load(from + (pixel + i) * N);
      }
      Transpose<A, N, kBlock>(square);
      const bool aligned = stream && pixel == index * kSize;
#pragma GCC unroll 16
      for (int i = 0; i < kSize; ++i) {
        if (i * kBlock >= used) continue;
        T* to = lanes[i * kBlock] + offset + pixel * kBlock;
        if (kCanStream<T> && aligned) {
          Stream(square[i], to);
        } else {
          Access<T, N>::Store(square[i], to);
        }
      }
    }
  };
  if (step == block && count * block >= N && WithPowerBelow<N>(block, unpack)) {
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

// Packs all passes of pixels at distance `step`. lanes[l] is lane l's element
// of pass 0; those of the other passes follow it. Of the first `readable`
// pixels, N elements may be read from there.
template <int N, typename T, typename A>
void PackPasses(const T* const (&lanes)[N], int64_t offset, int64_t step,
                int64_t count, int64_t readable, int64_t passes,
                const PackedPixels<A>& to) {
  const auto load = [&](int64_t element, Vector<A, N>(&square)[N]) {
#pragma GCC unroll 16
    for (int lane = 0; lane < N; ++lane) {
      square[lane] = Access<T, N>::Load(lanes[lane] + offset + element);
    }
    Transpose<A, N>(square);
  };
  if (step == passes && count * passes >= N) {
    for (int64_t index = 0; index * N < count * passes; ++index) {
      const int64_t element = FirstLane<N>(index, count * passes);
      Vector<A, N> square[N];
      load(element, square);
      int64_t pass = element % passes, pixel = element / passes;
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        Access<A, N>::Store(square[i], to.At(pixel, pass));
        if (++pass == passes) {
          pass = 0;
          ++pixel;
        }
      }
    }
    return;
  }
  if (passes >= N) readable = count;
  for (int64_t pixel = 0; pixel < readable; ++pixel) {
    for (int64_t index = 0; index * N < passes; ++index) {
      const int64_t pass = passes < N ? 0 : FirstLane<N>(index, passes);
      Vector<A, N> square[N];
      load(pixel * step + pass, square);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        if (i >= passes) break;
        Access<A, N>::Store(square[i], to.At(pixel, pass + i));
      }
    }
  }
  for (int64_t pass = 0; pass < passes; ++pass) {
    PackEachLane<N>(lanes, offset, step, readable, count, pass, to);
  }
}

// How many pixels ahead.
constexpr int64_t kPixelsAhead = 16;

// The same if the passes of lane l + 1 follow those of lane l.
template <int N, typename T, typename A>
void PackNeighbours(const T* from, int64_t step, int64_t count,
                    int64_t readable, int64_t passes,
                    const PackedPixels<A>& to) {
  const auto split = [&](auto all_passes) {
    constexpr int kPasses = decltype(all_passes)::kValue;
    // Pieces of pixels that lie apart do not come by themselves.
    const bool prefetch = step > kPasses * N;
    for (int64_t pixel = 0; pixel < count; ++pixel) {
      if (prefetch) {
#pragma GCC unroll 16
        for (int i = 0; i < kPasses; ++i) {
          PrefetchToRead(from + (pixel + kPixelsAhead) * step + i * N);
        }
      }
      Vector<A, N> vectors[kPasses];
#pragma GCC unroll 16
      for (int i = 0; i < kPasses; ++i) {
        vectors[i] = Access<T, N>::Load(from + pixel * step + i * N);
      }
      if constexpr (kPasses > 1) Deinterleave<A, N, kPasses>(vectors);
#pragma GCC unroll 16
      for (int pass = 0; pass < kPasses; ++pass) {
        Access<A, N>::Store(vectors[pass], to.At(pixel, pass));
      }
    }
  };
  if (WithPowerBelow<N>(passes, split)) return;
  if constexpr (N > 3) {
    if (passes == 3) {
      split(Int<3>());
      return;
    }
  }
  const T* lanes[N];
  for (int lane = 0; lane < N; ++lane) lanes[lane] = from + lane * passes;
  PackPasses<N>(lanes, 0, step, count, readable, passes, to);
}

// Packs pixels of which lane l is element choice.from[l].
template <int N, typename T, typename A>
void PackChosen(const T* from, int64_t step, int64_t count, int64_t readable,
                const LaneChoice<A, N>& choice, const PackedPixels<A>& to) {
  for (int64_t pixel = 0; pixel < readable; ++pixel) {
    Access<A, N>::Store(
        Choose<A, N>(Access<T, N>::Load(from + pixel * step), choice),
        to.At(pixel));
  }
  const T* lanes[N];
  for (int lane = 0; lane < N; ++lane) lanes[lane] = from + choice.from[lane];
  PackEachLane<N>(lanes, 0, step, readable, count, 0, to);
}

// Runs are copied to and from a few pixels of memory, of which every lane has
// its place, so that no vector is read right after its pieces were written.
constexpr int64_t kStagedPixels = 8;

// Calls run with the number of elements to copy at a time.
template <int N, typename Run>
inline void WithPieces(int64_t longest, Run run) {
  if constexpr (N > 2) {
    if (longest <= N / 2) {
      WithPieces<N / 2>(longest, run);
      return;
    }
  }
  run(Int<N>());
}

// Copies `length` elements in pieces; what the last piece holds more is copied
// too unless `exact`.
template <int kPiece, typename T>
inline void CopyPieces(const T* from, int64_t length, bool exact, T* to) {
  int64_t i = 0;
  for (; exact ? i + kPiece <= length : i < length; i += kPiece) {
    __builtin_memcpy(to + i, from + i, kPiece * sizeof(T));
  }
  for (; i < length; ++i) to[i] = from[i];
}

// Calls use(pixels, number of pixels, index of the first) for a few pixels at a
// time, which hold the runs' elements one after the other, `width` < N * N + 1
// elements apart.
template <int N, typename T, typename Use>
void ForEachStaged(const LaneRuns<N>& runs, const T* src, int64_t step,
                   int64_t count, int64_t width, Use use) {
  T staged[kStagedPixels * N * N + N];
  // Lanes that are left over get something too.
  for (int64_t i = 0; i < kStagedPixels * width; ++i) staged[i] = T();
  WithPieces<N>(runs.longest, [&](auto piece) {
    constexpr int kPiece = decltype(piece)::kValue;
    const bool whole = runs.alike && runs.longest % kPiece == 0;
    const int64_t inexact = whole ? count : count - (kPiece - 2 + step) / step;
    for (int64_t first = 0; first < count; first += kStagedPixels) {
      const int64_t left = count - first;
      const int64_t pixels = left < kStagedPixels ? left : kStagedPixels;
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        T* to = staged + pixel * width;
        for (int run = 0; run < runs.count; ++run) {
          CopyPieces<kPiece>(src + runs.first[run] + (first + pixel) * step,
                             runs.length[run], first + pixel >= inexact, to);
          to += runs.length[run];
        }
      }
      use(static_cast<const T*>(staged), pixels, first);
    }
  });
}

// The way back from packed pixels. Where a run is all of a pixel, the next
// pixel may be written to before its own turn comes.
template <int N, typename T, typename A>
void UnpackRuns(const LaneRuns<N>& runs, const A* from, int64_t count,
                int64_t step, T* dst) {
  T staged[kStagedPixels * N + N];
  WithPieces<N>(runs.longest, [&](auto piece) {
    constexpr int kPiece = decltype(piece)::kValue;
    const int64_t inexact = count - (kPiece - 2 + step) / step;
    for (int64_t first = 0; first < count; first += kStagedPixels) {
      const int64_t left = count - first;
      const int64_t pixels = left < kStagedPixels ? left : kStagedPixels;
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        Access<T, N>::Store(Access<A, N>::Load(from + (first + pixel) * N),
                            staged + pixel * N);
      }
      const T* staged_run = staged;
      for (int run = 0; run < runs.count; ++run) {
        const int64_t length = runs.length[run];
        T* to = dst + runs.first[run] + first * step;
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
          CopyPieces<kPiece>(staged_run + pixel * N, length,
                             length != step || first + pixel >= inexact,
                             to + pixel * step);
        }
        staged_run += length;
      }
    }
  });
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_PACK_LANES_H_
