// Vectors of N accumulators in the compiler's own vector extension (GCC,
// Clang), with loads and stores that convert from and to the element type.
//
// Everything here has internal linkage, because the same source is compiled
// once per instruction set.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_SIMD_H_
#define TF_DWGRAD_CC_KERNELS_CPU_SIMD_H_

#include <stdint.h>

#include "cc/kernels/number_formats.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tf_dwgrad {
namespace {

// A line of memory at a time, where that is two vectors: what comes with each
// turn of the loop over a pixel's channels comes half as often.
template <typename T>
struct LineOf {
  T value;
};

}  // namespace

template <typename T>
struct AccumulatorOf<LineOf<T>> {
  typedef typename AccumulatorOf<T>::type type;
};

namespace {

template <typename A, int N>
struct VectorOf {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
};
template <typename A, int N>
using Vector = typename VectorOf<A, N>::type;

// A number as a type, for generic lambdas.
template <int kNumber>
struct Int {
  static constexpr int kValue = kNumber;
};

template <typename To, typename From>
inline __attribute__((always_inline)) To BitCast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "sizes must match");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// The unaligned load of a whole vector of another element type.
template <typename V, typename T>
inline __attribute__((always_inline)) V LoadBits(const T* from) {
  V to;
  __builtin_memcpy(&to, from, sizeof(to));
  return to;
}

// binary16 to binary32. Subnormals are rebuilt by a subtraction of normal
// numbers, so that the result holds even where denormals are flushed to zero.
// (The conversions of x86 and ARM64 heed no such mode for halfs.)
template <int N>
inline __attribute__((always_inline)) Vector<float, N> WidenHalf(
    Vector<uint16_t, N> half) {
#if defined(__AVX512F__)
  // With a mask, because GCC warns of a variable in the one without.
  if constexpr (N == 16) {
    return BitCast<Vector<float, N>>(
        _mm512_maskz_cvtph_ps(0xffff, BitCast<__m256i>(half)));
  }
#endif
#if defined(__F16C__)
  if constexpr (N == 8) {
    return BitCast<Vector<float, N>>(_mm256_cvtph_ps(BitCast<__m128i>(half)));
  }
#endif
#if defined(__aarch64__)
  if constexpr (N == 4) {
    return BitCast<Vector<float, N>>(vcvt_f32_f16(BitCast<float16x4_t>(half)));
  }
#endif
  typedef Vector<uint32_t, N> Bits;
  typedef Vector<float, N> Floats;
  const Bits wide = __builtin_convertvector(half, Bits);
  const Bits magnitude = (wide & 0x7fffu) << 13;
  const Bits exponent = magnitude & 0x0f800000u;
  const Bits normal = magnitude + 0x38000000u;
  const Bits infinite = magnitude + 0x70000000u;
  const Bits offset = magnitude + 0x38800000u;
  const Bits base = Bits{} + 0x38800000u;
  const Bits subnormal =
      BitCast<Bits>(BitCast<Floats>(offset) - BitCast<Floats>(base));
  const Bits result = exponent == 0x0f800000u
                          ? infinite
                          : (exponent == 0u ? subnormal : normal);
  return BitCast<Floats>(result | ((wide & 0x8000u) << 16));
}

// binary32 to binary16, rounding to nearest even.
template <int N>
inline __attribute__((always_inline)) Vector<uint16_t, N> NarrowToHalf(
    Vector<float, N> value) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return BitCast<Vector<uint16_t, N>>(
        _mm512_maskz_cvtps_ph(0xffff, BitCast<__m512>(value),
                              _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#endif
#if defined(__F16C__)
  if constexpr (N == 8) {
    return BitCast<Vector<uint16_t, N>>(
        _mm256_cvtps_ph(BitCast<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
#if defined(__aarch64__)
  if constexpr (N == 4) {
    return BitCast<Vector<uint16_t, N>>(
        vcvt_f16_f32(BitCast<float32x4_t>(value)));
  }
#endif
  typedef Vector<uint32_t, N> Bits;
  typedef Vector<float, N> Floats;
  const Bits all = BitCast<Bits>(value);
  const Bits sign = all & 0x80000000u;
  const Bits magnitude = all ^ sign;
  const Bits infinite = Bits{} + 0x7c00u;
  const Bits not_a_number = Bits{} + 0x7e00u;
  // Adding one half leaves the rounded subnormal in the low bits.
  const Bits one_half = Bits{} + 0x3f000000u;
  const Bits subnormal =
      BitCast<Bits>(BitCast<Floats>(magnitude) + BitCast<Floats>(one_half)) -
      one_half;
  const Bits odd = (magnitude >> 13) & 1u;
  const Bits normal = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  const Bits result =
      magnitude > 0x7f800000u
          ? not_a_number
          : (magnitude >= 0x47800000u
                 ? infinite
                 : (magnitude < 0x38800000u ? subnormal : normal));
  return __builtin_convertvector(result | (sign >> 16), Vector<uint16_t, N>);
}

// GCC converts the halves of a vector apart and puts them together, hence the
// instructions by name.
template <int N>
inline __attribute__((always_inline)) Vector<float, N> WidenBFloat16(
    Vector<uint16_t, N> bits) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return BitCast<Vector<float, N>>(_mm512_maskz_slli_epi32(
        0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, BitCast<__m256i>(bits)),
        16));
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    return BitCast<Vector<float, N>>(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(BitCast<__m128i>(bits)), 16));
  }
#endif
#if defined(__aarch64__)
  if constexpr (N == 4) {
    return BitCast<Vector<float, N>>(
        vshll_n_u16(BitCast<uint16x4_t>(bits), 16));
  }
#endif
  typedef Vector<uint32_t, N> Bits;
  return BitCast<Vector<float, N>>(__builtin_convertvector(bits, Bits) << 16);
}

// The bits of a binary32 whose upper half is the nearest bfloat16, or even.
template <int N>
inline __attribute__((always_inline)) Vector<uint32_t, N> RoundToBFloat16(
    Vector<float, N> value) {
  typedef Vector<uint32_t, N> Bits;
  const Bits all = BitCast<Bits>(value);
  const Bits rounded = all + 0x7fffu + ((all >> 16) & 1u);
  const Bits quiet = all | 0x400000u;
  // Only a NaN does not equal itself.
  return value == value ? rounded : quiet;
}

// binary32 to bfloat16, rounding to nearest even. (The CPU's own conversion
// flushes denormals; so do TensorFlow's threads.)
template <int N>
inline __attribute__((always_inline)) Vector<uint16_t, N> NarrowToBFloat16(
    Vector<float, N> value) {
#if defined(__AVX512BF16__)
  if constexpr (N == 16) {
    return BitCast<Vector<uint16_t, N>>(
        _mm512_cvtneps_pbh(BitCast<__m512>(value)));
  }
#endif
  return __builtin_convertvector(RoundToBFloat16<N>(value) >> 16,
                                 Vector<uint16_t, N>);
}

// Access<T, N> moves N elements of type T between memory and a vector of
// accumulators.
template <typename T, int N>
struct Access {
  static inline __attribute__((always_inline)) Vector<T, N> Load(
      const T* from) {
    return LoadBits<Vector<T, N>>(from);
  }
  static inline __attribute__((always_inline)) void Store(Vector<T, N> value,
                                                          T* to) {
    __builtin_memcpy(to, &value, sizeof(value));
  }
};

template <int N>
struct Access<Half, N> {
  static inline __attribute__((always_inline)) Vector<float, N> Load(
      const Half* from) {
    return WidenHalf<N>(LoadBits<Vector<uint16_t, N>>(from));
  }
  static inline __attribute__((always_inline)) void Store(
      Vector<float, N> value, Half* to) {
    const Vector<uint16_t, N> bits = NarrowToHalf<N>(value);
    __builtin_memcpy(to, &bits, sizeof(bits));
  }
};

template <int N>
struct Access<BFloat16, N> {
  static inline __attribute__((always_inline)) Vector<float, N> Load(
      const BFloat16* from) {
    return WidenBFloat16<N>(LoadBits<Vector<uint16_t, N>>(from));
  }
  static inline __attribute__((always_inline)) void Store(
      Vector<float, N> value, BFloat16* to) {
    const Vector<uint16_t, N> bits = NarrowToBFloat16<N>(value);
    __builtin_memcpy(to, &bits, sizeof(bits));
  }
};

// Four elements in the first lanes; what the others hold is not defined.
template <int N, typename A>
inline __attribute__((always_inline)) Vector<A, N> LoadFour(const A* from) {
#if defined(__AVX512F__)
  // With a mask and not widened, because GCC warns of a variable in those.
  if constexpr (N == 16) {
    return BitCast<Vector<A, N>>(
        _mm512_maskz_broadcast_f32x4(0xffff, _mm_loadu_ps(from)));
  } else if constexpr (N == 8 && sizeof(A) == 8) {
    return BitCast<Vector<A, N>>(
        _mm512_maskz_broadcast_f64x4(0xff, _mm256_loadu_pd(from)));
  }
#endif
#if defined(__AVX__)
  if constexpr (N == 8 && sizeof(A) == 4) {
    return BitCast<Vector<A, N>>(_mm256_zextps128_ps256(_mm_loadu_ps(from)));
  }
#endif
  return Access<A, N>::Load(from);
}

// BFloat16 read a register at a time: it makes two vectors of floats, one of
// the elements at even places and one of those at odd places. Each takes a
// single cheap operation, where widening neighbours takes a permutation as
// well.
struct EvenOddBFloat16 {
  uint16_t bits;
};

// BFloat16 read a register of each of two pixels at a time, one below the
// other, for an instruction that adds the products of a pair to a float: it
// makes two vectors of pairs, each with the elements of one pixel in the lower
// halves and those of the other in the upper ones. The taps are such pairs,
// too. Vectors of pairs go by as vectors of floats.
struct PairedBFloat16 {
  uint16_t bits;
};

template <typename T>
constexpr bool kIsLine = false;
template <typename T>
constexpr bool kIsLine<LineOf<T>> = true;

// How many vectors of accumulators are done in turn for the same pixels: those
// that a register full of T makes when it is taken apart, or those of a line.
template <typename T>
constexpr int kParts = 1;
template <>
constexpr int kParts<EvenOddBFloat16> = 2;
template <>
constexpr int kParts<PairedBFloat16> = 2;
template <typename T>
constexpr int kParts<LineOf<T>> = 2;

template <typename T>
constexpr bool kPairsRows = false;
template <>
constexpr bool kPairsRows<PairedBFloat16> = true;

// What T is read as to be taken apart, and to be paired as well.
template <typename T>
struct TakenApart {
  typedef T type;
  typedef T paired_type;
};
template <>
struct TakenApart<BFloat16> {
  typedef EvenOddBFloat16 type;
  typedef PairedBFloat16 paired_type;
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
// The part kPart of pairs: of every eight neighbours the first four, or the
// last. Faster than to take apart what is at even and at odd places.
template <int kPart>
inline __attribute__((always_inline)) Vector<float, 16> Interleave(
    __m512i lower, __m512i upper) {
  // With a mask, because GCC warns of a variable in those without.
  return BitCast<Vector<float, 16>>(
      kPart == 0 ? _mm512_maskz_unpacklo_epi16(~__mmask32{0}, lower, upper)
                 : _mm512_maskz_unpackhi_epi16(~__mmask32{0}, lower, upper));
}
#endif

// The part kPart of the kParts * N elements from `from` on, if T is paired,
// each with the one below it or, unless kPaired, with zero.
template <int kPart, int N, bool kPaired = false, typename T>
inline __attribute__((always_inline)) Vector<typename AccumulatorOf<T>::type, N>
LoadPart(const T* from, [[maybe_unused]] const T* below = nullptr) {
  if constexpr (kParts<T> == 1) {
    return Access<T, N>::Load(from);
  } else if constexpr (kIsLine<T>) {
    return Access<decltype(from->value), N>::Load(&from->value + kPart * N);
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  } else if constexpr (kPairsRows<T>) {
    return Interleave<kPart>(
        LoadBits<__m512i>(from),
        kPaired ? LoadBits<__m512i>(below) : _mm512_setzero_si512());
#endif
  } else {
    typedef Vector<uint32_t, N> Bits;
    const Bits pairs = LoadBits<Bits>(from);
    return BitCast<Vector<float, N>>(kPart == 0 ? pairs << 16
                                                : pairs & 0xffff0000u);
  }
}

// Of paired taps, the lower of each; the upper becomes zero.
template <typename T, typename V>
inline __attribute__((always_inline)) V LowerOfPairs(const V& taps) {
  if constexpr (kPairsRows<T>) {
    typedef Vector<uint32_t, sizeof(V) / sizeof(uint32_t)> Bits;
    return BitCast<V>(BitCast<Bits>(taps) & 0xffffu);
  } else {
    return taps;
  }
}

// sum + pixel * tap, or plus both products of a pair.
template <typename T, typename V>
inline __attribute__((always_inline)) V AddProduct(const V& sum, const V& pixel,
                                                   const V& tap) {
#if defined(__AVX512BF16__)
  if constexpr (kPairsRows<T>) {
    return BitCast<V>(_mm512_dpbf16_ps(BitCast<__m512>(sum),
                                       BitCast<__m512bh>(pixel),
                                       BitCast<__m512bh>(tap)));
  }
#endif
  return sum + pixel * tap;
}

// Rounds the two parts of T and puts them together again.
template <typename T, int N>
inline __attribute__((always_inline)) Vector<uint32_t, N> JoinParts(
    Vector<float, N> even, Vector<float, N> odd) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  if constexpr (N == 16) {
    typedef Vector<uint16_t, 2 * N> Halves;
    const Halves rounded = BitCast<Halves>(
        _mm512_cvtne2ps_pbh(BitCast<__m512>(odd), BitCast<__m512>(even)));
    if constexpr (kPairsRows<T>) {
      typedef Vector<uint64_t, N / 2> Fours;
      const Fours order = {0, 4, 1, 5, 2, 6, 3, 7};
      return BitCast<Vector<uint32_t, N>>(
          __builtin_shuffle(BitCast<Fours>(rounded), order));
    }
    const Halves order = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                          21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                          11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return BitCast<Vector<uint32_t, N>>(__builtin_shuffle(rounded, order));
  }
#endif
  return RoundToBFloat16<N>(even) >> 16 |
         (RoundToBFloat16<N>(odd) & 0xffff0000u);
}

// Keeps the compiler from loading a vector again wherever it is used, which is
// slow if it lies across lines.
template <typename V>
inline __attribute__((always_inline)) void HoldInRegister(V* vector) {
#if defined(__AVX512F__)
  asm("" : "+v"(*vector));
#elif defined(__x86_64__)
  asm("" : "+x"(*vector));
#elif defined(__aarch64__)
  asm("" : "+w"(*vector));
#endif
}

// Brings a line that will be read as far as the second cache.
inline __attribute__((always_inline)) void PrefetchToRead(const void* line) {
  __builtin_prefetch(line, /*rw=*/0, /*locality=*/2);
}

// The same into the first cache, which has little room, but where a CPU may
// take the hint more seriously.
inline __attribute__((always_inline)) void PrefetchToReadSoon(
    const void* line) {
  __builtin_prefetch(line, /*rw=*/0, /*locality=*/3);
}

// One that will be written comes into the first.
inline __attribute__((always_inline)) void PrefetchToWrite(const void* line) {
  __builtin_prefetch(line, /*rw=*/1, /*locality=*/3);
}

// A store past the caches to an address that is a multiple of the vector's
// size: the line is neither read first nor kept. Needs FinishStreaming before
// another thread may read it.
template <typename V>
inline __attribute__((always_inline)) void Stream(V value, void* to) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) {
    _mm512_stream_si512(static_cast<__m512i*>(to), BitCast<__m512i>(value));
    return;
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) {
    _mm256_stream_si256(static_cast<__m256i*>(to), BitCast<__m256i>(value));
    return;
  }
#endif
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 16) {
    _mm_stream_si128(static_cast<__m128i*>(to), BitCast<__m128i>(value));
    return;
  }
#endif
  __builtin_memcpy(to, &value, sizeof(value));
}

// The upper half of a vector and then the lower half of another.
template <typename V>
inline __attribute__((always_inline)) V UpperThenLower(V upper, V lower) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) {
    return BitCast<V>(_mm512_maskz_shuffle_i64x2(
        0xff, BitCast<__m512i>(upper), BitCast<__m512i>(lower), 0x4e));
  }
#endif
  V result;
  constexpr int kHalf = sizeof(V) / 2;
  char* const to = reinterpret_cast<char*>(&result);
  __builtin_memcpy(to, reinterpret_cast<const char*>(&upper) + kHalf, kHalf);
  __builtin_memcpy(to + kHalf, &lower, kHalf);
  return result;
}

// Two halves of a line as one vector, without the way through memory. With a
// mask, because GCC warns of a variable in the one without.
template <typename V>
inline __attribute__((always_inline)) auto JoinHalves(V lower, V upper) {
  typedef Vector<unsigned char, 2 * sizeof(V)> Line;
#if defined(__AVX512F__)
  if constexpr (sizeof(Line) == 64) {
    return BitCast<Line>(_mm512_maskz_inserti64x4(
        0xff, _mm512_castsi256_si512(BitCast<__m256i>(lower)),
        BitCast<__m256i>(upper), 1));
  }
#endif
  const V both[2] = {lower, upper};
  return LoadBits<Line>(both);
}

inline void FinishStreaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// The first `lanes` elements; the other lanes are zero.
template <typename T, int N>
inline Vector<typename AccumulatorOf<T>::type, N> LoadSome(const T* from,
                                                           int lanes) {
  T padded[N] = {};
  for (int lane = 0; lane < lanes; ++lane) padded[lane] = from[lane];
  return Access<T, N>::Load(padded);
}

// Loads of accumulators that keep the lanes of which `lanes` has a bit; the
// others are zero. Elsewhere than with AVX-512, they are read as well.
template <typename A, int N>
struct MaskedLoad {
#if defined(__AVX512F__)
  uint32_t mask;

  explicit inline __attribute__((always_inline)) MaskedLoad(uint32_t lanes)
      : mask(lanes) {}
  template <typename T>
  inline __attribute__((always_inline)) Vector<A, N> Load(const T* from) const {
    if constexpr (sizeof(T) == 2) {
      Vector<uint16_t, N> bits;
      if constexpr (N == 16) {
        bits = BitCast<Vector<uint16_t, N>>(
            _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from));
      } else {
        bits = BitCast<Vector<uint16_t, N>>(
            _mm_maskz_loadu_epi16(static_cast<__mmask8>(mask), from));
      }
      T elements[N];
      __builtin_memcpy(elements, &bits, sizeof(bits));
      return Access<T, N>::Load(elements);
    } else if constexpr (sizeof(T) == 4 && N == 16) {
      return BitCast<Vector<A, N>>(
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from));
    } else if constexpr (sizeof(T) == 4) {
      return BitCast<Vector<A, N>>(
          _mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), from));
    } else {
      return BitCast<Vector<A, N>>(
          _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from));
    }
  }
#else
  typedef decltype(Vector<A, N>() == Vector<A, N>()) Bits;
  Bits kept;

  explicit inline __attribute__((always_inline)) MaskedLoad(uint32_t lanes) {
    Bits bit;
    for (int lane = 0; lane < N; ++lane) bit[lane] = 1u << lane;
    kept = ((Bits{} + lanes) & bit) != 0;
  }
  template <typename T>
  inline __attribute__((always_inline)) Vector<A, N> Load(const T* from) const {
    return BitCast<Vector<A, N>>(
        BitCast<Bits>(Vector<A, N>(Access<T, N>::Load(from))) & kept);
  }
#endif
};

// Elements [begin, end) of the N from `from` on; the other lanes are zero, and
// nothing is read for them.
template <int N, typename T>
inline __attribute__((always_inline)) Vector<T, N> LoadLanes(const T* from,
                                                             int64_t begin,
                                                             int64_t end) {
#if defined(__AVX512F__)
  if constexpr (N * sizeof(T) == 64) {
    return MaskedLoad<T, N>((1u << end) - (1u << begin)).Load(from);
  }
#elif defined(__AVX2__)
  constexpr int kInts = 8;
  alignas(32) static const int32_t kMask[3 * kInts] = {
      0,  0,  0,  0,  0, 0, 0, 0, -1, -1, -1, -1,
      -1, -1, -1, -1, 0, 0, 0, 0, 0,  0,  0,  0};
  if constexpr (N * sizeof(T) == sizeof(__m256i)) {
    constexpr int64_t kIntsOfLane = sizeof(T) / sizeof(int32_t);
    const auto mask =
        LoadBits<Vector<int32_t, kInts>>(kMask + kInts - begin * kIntsOfLane) &
        LoadBits<Vector<int32_t, kInts>>(kMask + 2 * kInts - end * kIntsOfLane);
    return BitCast<Vector<T, N>>(_mm256_maskload_epi32(
        reinterpret_cast<const int*>(from), BitCast<__m256i>(mask)));
  }
#endif
  T padded[N] = {};
  for (int64_t lane = begin; lane < end; ++lane) padded[lane] = from[lane];
  return Access<T, N>::Load(padded);
}

// All lanes hold the value, which comes from memory.
template <typename A, int N>
inline __attribute__((always_inline)) Vector<A, N> Broadcast(const A& value) {
  // Not a sum with zero, which turns a negative zero around.
  return value - Vector<A, N>{};
}

// The first `lanes` elements, fewer than N.
template <typename T, int N>
inline __attribute__((always_inline)) void StoreLanes(
    Vector<typename AccumulatorOf<T>::type, N> value, T* to, int64_t lanes) {
  T elements[N];
  Access<T, N>::Store(value, elements);
#if defined(__AVX512F__)
  const unsigned mask = (1u << lanes) - 1;
  if constexpr (sizeof(elements) == 64 && sizeof(T) == 4) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask),
                          LoadBits<__m512>(elements));
  } else if constexpr (sizeof(elements) == 64) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask),
                          LoadBits<__m512d>(elements));
  } else if constexpr (sizeof(elements) == 32 && sizeof(T) == 4) {
    _mm256_mask_storeu_ps(to, static_cast<__mmask8>(mask),
                          LoadBits<__m256>(elements));
  } else if constexpr (sizeof(elements) == 32) {
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(mask),
                             LoadBits<__m256i>(elements));
  } else {
    _mm_mask_storeu_epi16(to, static_cast<__mmask8>(mask),
                          LoadBits<__m128i>(elements));
  }
#else
  int64_t i = 0;
#pragma GCC unroll 4
  for (int64_t step = N / 2; step > 0; step /= 2) {
    if ((lanes & step) == 0) continue;
    __builtin_memcpy(to + i, elements + i, step * sizeof(T));
    i += step;
  }
#endif
}

template <typename T, int N>
inline void StoreSome(Vector<typename AccumulatorOf<T>::type, N> value, T* to,
                      int lanes) {
  T padded[N];
  Access<T, N>::Store(value, padded);
  for (int lane = 0; lane < lanes; ++lane) to[lane] = padded[lane];
}

// Elements from[offset(0)], from[offset(1)], ...; the other lanes are zero.
template <typename T, int N, typename Offset>
inline Vector<typename AccumulatorOf<T>::type, N> Collect(const T* from,
                                                          int lanes,
                                                          Offset offset) {
  T gathered[N] = {};
  for (int lane = 0; lane < lanes; ++lane) {
    gathered[lane] = from[offset(lane)];
  }
  return Access<T, N>::Load(gathered);
}

template <typename T>
inline typename AccumulatorOf<T>::type Widen(T value) {
  T padded[4] = {value};
  return Access<T, 4>::Load(padded)[0];
}
template <>
inline float Widen<float>(float value) {
  return value;
}
template <>
inline double Widen<double>(double value) {
  return value;
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_SIMD_H_
