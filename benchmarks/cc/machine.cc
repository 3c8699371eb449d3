#include "benchmarks/cc/machine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tf_dwgrad {
namespace {

constexpr int kLine = 64;
typedef float Piece __attribute__((vector_size(16)));

// Chains enough to hide the latency of a multiply-add, in 16 registers.
constexpr int kChains = 12;

// A macro, because the compiler splits vectors that the target lacks before it
// puts an inline function into one for a better target. Volatile: nothing can
// be worked out beforehand or left out.
#define DEFINE_MULTIPLY_ADD(Name, kBytes, kTarget)                          \
  template <typename A>                                                     \
  kTarget int64_t Name(int64_t rounds) {                                    \
    typedef A V __attribute__((vector_size(kBytes)));                       \
    volatile A unknown = 1;                                                 \
    const V factor = V{} + unknown;                                         \
    V sum[kChains];                                                         \
    for (int i = 0; i < kChains; ++i) sum[i] = V{} + unknown;               \
    for (int64_t round = 0; round < rounds; ++round) {                      \
      _Pragma("GCC unroll 16") for (int i = 0; i < kChains; ++i) {          \
        sum[i] = sum[i] * factor + factor;                                  \
      }                                                                     \
    }                                                                       \
    for (int i = 0; i < kChains; ++i) unknown = sum[i][0];                  \
    return rounds * kChains * static_cast<int64_t>(kBytes / sizeof(A)) * 2; \
  }

DEFINE_MULTIPLY_ADD(MultiplyAddAnyCpu, 16, )
#if defined(__x86_64__)
DEFINE_MULTIPLY_ADD(MultiplyAddAvx2, 32, __attribute__((target("avx2,fma"))))
DEFINE_MULTIPLY_ADD(MultiplyAddAvx512, 64, __attribute__((target("avx512f"))))
#endif

template <typename A>
int64_t MultiplyAddOf(int vector_bytes, int64_t rounds) {
#if defined(__x86_64__)
  if (vector_bytes == 64) return MultiplyAddAvx512<A>(rounds);
  if (vector_bytes == 32) return MultiplyAddAvx2<A>(rounds);
#else
  (void)vector_bytes;
#endif
  return MultiplyAddAnyCpu<A>(rounds);
}

}  // namespace

void Copy(const void* from_bytes, void* to_bytes, int64_t bytes) {
  const Piece* from = static_cast<const Piece*>(from_bytes);
  Piece* to = static_cast<Piece*>(to_bytes);
  for (int64_t line = 0; line < bytes / kLine; ++line, from += 4, to += 4) {
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
    // Keeps the compiler from calling memcpy, which chooses its own stores.
    asm volatile("" : : : "memory");
  }
}

void CopyPastCaches(const void* from, void* to, int64_t bytes) {
#if defined(__x86_64__)
  const __m128i* source = static_cast<const __m128i*>(from);
  __m128i* target = static_cast<__m128i*>(to);
  for (int64_t i = 0; i < bytes / 16; ++i) {
    _mm_stream_si128(target + i, _mm_load_si128(source + i));
  }
  _mm_sfence();
#else
  Copy(from, to, bytes);
#endif
}

int64_t MultiplyAdd(ElementType type, int vector_bytes, int64_t rounds) {
  return type == ElementType::kFloat64
             ? MultiplyAddOf<double>(vector_bytes, rounds)
             : MultiplyAddOf<float>(vector_bytes, rounds);
}

}  // namespace tf_dwgrad
