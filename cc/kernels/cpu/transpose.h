// Squares of N x N accumulators, transposed in registers.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_TRANSPOSE_H_
#define TF_DWGRAD_CC_KERNELS_CPU_TRANSPOSE_H_

#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

template <int... I>
struct Lanes {};

// Lanes<0, N, 1, N + 1, ...> from kFirst on: what interleaves two vectors.
template <int N, int kFirst, int kLeft, int... I>
struct InterleavedLanes
    : InterleavedLanes<N, kFirst + 1, kLeft - 1, I..., kFirst, kFirst + N> {};
template <int N, int kFirst, int... I>
struct InterleavedLanes<N, kFirst, 0, I...> {
  typedef Lanes<I...> type;
};

// Lanes<kFirst, kFirst + 2, ...>: every other lane of two vectors.
template <int kFirst, int kLeft, int... I>
struct AlternateLanes : AlternateLanes<kFirst + 2, kLeft - 1, I..., kFirst> {};
template <int kFirst, int... I>
struct AlternateLanes<kFirst, 0, I...> {
  typedef Lanes<I...> type;
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TF_DWGRAD_HAS_SHUFFLEVECTOR
#endif
#endif

template <typename V, int... I>
inline V Shuffle(const V& a, const V& b, Lanes<I...>) {
#if defined(TF_DWGRAD_HAS_SHUFFLEVECTOR)
  return __builtin_shufflevector(a, b, I...);
#else
  // GCC before 12.
  typedef decltype(a == b) Mask;
  return __builtin_shuffle(a, b, Mask{I...});
#endif
}

// Rows of a square become its columns.
template <typename A, int N>
inline __attribute__((always_inline)) void Transpose(
    Vector<A, N> (&square)[N]) {
  typedef Vector<A, N> V;
  typedef typename InterleavedLanes<N, 0, N / 2>::type Low;
  typedef typename InterleavedLanes<N, N / 2, N / 2>::type High;
#pragma GCC unroll 4
  for (int stage = 1; stage < N; stage *= 2) {
    V next[N];
#pragma GCC unroll 16
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = Shuffle(square[i], square[i + N / 2], Low());
      next[2 * i + 1] = Shuffle(square[i], square[i + N / 2], High());
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) square[i] = next[i];
  }
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_TRANSPOSE_H_
