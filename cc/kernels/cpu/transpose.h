// Lanes of several vectors rearranged in registers.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_TRANSPOSE_H_
#define TF_DWGRAD_CC_KERNELS_CPU_TRANSPOSE_H_

#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

template <int... I>
struct Lanes {};

// Lanes<Pattern::At(0), Pattern::At(1), ...>. Lanes from N on are those of a
// second vector.
template <typename Pattern, int kLeft, int... I>
struct LanesOf : LanesOf<Pattern, kLeft - 1, Pattern::At(kLeft - 1), I...> {};
template <typename Pattern, int... I>
struct LanesOf<Pattern, 0, I...> {
  typedef Lanes<I...> type;
};

// The lower or upper halves of two vectors, blocks of lanes in turn.
template <int N, int kBlock, bool kUpper>
struct Interleaved {
  static constexpr int At(int lane) {
    const int block = lane / kBlock;
    return block % 2 * N + (kUpper ? N / 2 : 0) + block / 2 * kBlock +
           lane % kBlock;
  }
};

// Every other lane of two vectors.
template <bool kOdd>
struct Alternate {
  static constexpr int At(int lane) { return 2 * lane + kOdd; }
};

// Lane l is element 3 * l + kRest of three vectors, as far as it is in the
// first two, ...
template <int N, int kRest>
struct ThirdOfTwo {
  static constexpr int At(int lane) {
    const int element = 3 * lane + kRest;
    return element < 2 * N ? element : lane;
  }
};
// ... or in the last; the second vector here.
template <int N, int kRest>
struct ThirdOfLast {
  static constexpr int At(int lane) {
    const int element = 3 * lane + kRest;
    return element < 2 * N ? lane : element - N;
  }
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TF_DWGRAD_HAS_SHUFFLEVECTOR
#endif
#endif

template <typename V, int... I>
inline __attribute__((always_inline)) V ShuffleLanes(const V& a, const V& b,
                                                     Lanes<I...>) {
#if defined(TF_DWGRAD_HAS_SHUFFLEVECTOR)
  return __builtin_shufflevector(a, b, I...);
#else
  // GCC before 12.
  typedef decltype(a == b) Mask;
  return __builtin_shuffle(a, b, Mask{I...});
#endif
}

template <typename Pattern, int N, typename V>
inline __attribute__((always_inline)) V Shuffle(const V& a, const V& b) {
  return ShuffleLanes(a, b, typename LanesOf<Pattern, N>::type());
}

// Vector i holds blocks (i, 0), (i, 1), ... and becomes that of blocks (0, i),
// (1, i), ...; with blocks of one lane, rows of a square become its columns.
template <typename A, int N, int kBlock = 1>
inline __attribute__((always_inline)) void Transpose(
    Vector<A, N> (&square)[N / kBlock]) {
  constexpr int kSize = N / kBlock;
#pragma GCC unroll 4
  for (int stage = 1; stage < kSize; stage *= 2) {
    Vector<A, N> next[kSize];
#pragma GCC unroll 16
    for (int i = 0; i < kSize / 2; ++i) {
      next[2 * i] = Shuffle<Interleaved<N, kBlock, false>, N>(
          square[i], square[i + kSize / 2]);
      next[2 * i + 1] = Shuffle<Interleaved<N, kBlock, true>, N>(
          square[i], square[i + kSize / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSize; ++i) square[i] = next[i];
  }
}

// Of neighbouring elements, vector i gets elements i, i + kCount, ...; kCount
// is 3 or a power of two.
template <typename A, int N, int kCount>
inline __attribute__((always_inline)) void Deinterleave(
    Vector<A, N> (&vectors)[kCount]) {
  typedef Vector<A, N> V;
  if constexpr (kCount == 3) {
    const V a = vectors[0], b = vectors[1], c = vectors[2];
    vectors[0] =
        Shuffle<ThirdOfLast<N, 0>, N>(Shuffle<ThirdOfTwo<N, 0>, N>(a, b), c);
    vectors[1] =
        Shuffle<ThirdOfLast<N, 1>, N>(Shuffle<ThirdOfTwo<N, 1>, N>(a, b), c);
    vectors[2] =
        Shuffle<ThirdOfLast<N, 2>, N>(Shuffle<ThirdOfTwo<N, 2>, N>(a, b), c);
  } else {
#pragma GCC unroll 4
    for (int stage = 1; stage < kCount; stage *= 2) {
      V next[kCount];
#pragma GCC unroll 16
      for (int i = 0; i < kCount / 2; ++i) {
        next[i] =
            Shuffle<Alternate<false>, N>(vectors[2 * i], vectors[2 * i + 1]);
        next[i + kCount / 2] =
            Shuffle<Alternate<true>, N>(vectors[2 * i], vectors[2 * i + 1]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) vectors[i] = next[i];
    }
  }
}

// Lane l gets lane from[l], a number known only at run time.
template <typename A, int N>
struct LaneChoice {
  typedef decltype(Vector<A, N>() == Vector<A, N>()) Mask;
  Mask from;
};

template <typename A, int N>
inline __attribute__((always_inline)) Vector<A, N> Choose(
    const Vector<A, N>& value, const LaneChoice<A, N>& choice) {
#if defined(__clang__)
  Vector<A, N> chosen;
  for (int lane = 0; lane < N; ++lane) chosen[lane] = value[choice.from[lane]];
  return chosen;
#else
  return __builtin_shuffle(value, choice.from);
#endif
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_TRANSPOSE_H_
