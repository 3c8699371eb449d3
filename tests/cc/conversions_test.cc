// Every half and bfloat16 through the kernels' conversions: 1x1 convolutions,
// whose products are exact in float32, against a rounding in double. Flushing
// of denormals, which TensorFlow turns on in its threads, must change nothing.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cc/kernels/cpu/choose_kernels.h"
#include "cc/kernels/cpu/cpu_kernel.h"
#include "tests/cc/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tf_dwgrad {
namespace {

constexpr int kValues = 1 << 16;
constexpr double kSmallestNormalFloat = 0x1p-126;

struct Format {
  ElementType type;
  const char* name;
  int fraction_bits;
  int bias;
};
constexpr Format kHalf = {ElementType::kHalf, "half", 10, 15};
constexpr Format kBFloat16 = {ElementType::kBFloat16, "bfloat16", 7, 127};

double Decode(const Format& format, uint16_t bits) {
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const int all_ones = 2 * format.bias + 1;
  const int exponent = bits >> format.fraction_bits & all_ones;
  double value;
  if (exponent == all_ones) {
    value = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(fraction, 1 - format.bias - format.fraction_bits);
  } else {
    value = std::ldexp(fraction + (1 << format.fraction_bits),
                       exponent - format.bias - format.fraction_bits);
  }
  return bits >> 15 ? -value : value;
}

// To nearest, ties to even.
double Round(const Format& format, double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const int exponent = std::max(std::ilogb(value), 1 - format.bias);
  const double unit = std::ldexp(1, exponent - format.fraction_bits);
  const double rounded = std::nearbyint(value / unit) * unit;
  const double limit = std::ldexp(1, format.bias + 1);
  return std::abs(rounded) < limit ? rounded : std::copysign(INFINITY, value);
}

// Denormals are flushed to zero while this lives, as operands and results.
class FlushDenormals {
 public:
  explicit FlushDenormals(bool flush) : before_(Get()) {
    if (flush) Set(before_ | kFlush);
  }
  ~FlushDenormals() { Set(before_); }

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kFlush = 0x8040;
  static uint64_t Get() { return _mm_getcsr(); }
  static void Set(uint64_t mode) { _mm_setcsr(static_cast<uint32_t>(mode)); }
#elif defined(__aarch64__)
  // With the bit for 16-bit formats, which conversions must not heed.
  static constexpr uint64_t kFlush = 1 << 24 | 1 << 19;
  static uint64_t Get() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void Set(uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
  static constexpr uint64_t kFlush = 0;
  static uint64_t Get() { return 0; }
  static void Set(uint64_t) {}
#endif

  uint64_t before_;
};

// Each 16-bit pattern times its weight; a single weight is for all of them.
void TestProducts(const Format& format, const std::vector<uint16_t>& weights,
                  bool flush) {
  ConvGeometry geometry;
  geometry.batch = 1;
  geometry.in_depth = static_cast<int64_t>(weights.size());
  geometry.depth_multiplier = 1;
  geometry.rows = {1, 1, 1, 1, 1, 0};
  geometry.cols = geometry.rows;
  // With one channel the vectors run along the row.
  geometry.cols.in = geometry.cols.out = kValues / geometry.in_depth;

  std::vector<uint16_t> input(kValues), result(kValues);
  for (int i = 0; i < kValues; ++i) input[i] = static_cast<uint16_t>(i);
  const CpuKernel kernel(ConvOp::kForward, format.type, geometry);
  {
    const FlushDenormals mode(flush);
    kernel.Run(input.data(), weights.data(), result.data(),
               /*workspace=*/nullptr, 0, kernel.num_units());
  }

  for (int i = 0; i < kValues; ++i) {
    const double value = Decode(format, input[i]);
    const double weight = Decode(format, weights[i % weights.size()]);
    const double product = value * weight;
    // Where bfloat16 has denormals float32 has them, too: those are flushed, or
    // rounded twice.
    if (std::abs(product) < kSmallestNormalFloat && product != 0) continue;
    if (flush && (std::abs(value) < kSmallestNormalFloat ||
                  std::abs(weight) < kSmallestNormalFloat)) {
      continue;
    }
    const double expected = Round(format, product);
    const double actual = Decode(format, result[i]);
    if (std::isnan(expected) ? !std::isnan(actual) : actual != expected) {
      CHECK_THAT(false, format.name << (flush ? " (flushing) " : " ") << value
                                    << " * " << weight << " is " << actual
                                    << ", not " << expected);
      return;
    }
  }
}

void TestFormat(const Format& format) {
  std::mt19937 random(1);
  const uint16_t one =
      static_cast<uint16_t>(format.bias << format.fraction_bits);
  const uint16_t unit = static_cast<uint16_t>(1 << format.fraction_bits);
  for (const bool flush : {false, true}) {
    // One; many ties; into the denormals and out of the format; a denormal.
    for (const int weight : {one + 0, one + unit / 2, one - 9 * unit,
                             one - 14 * unit, one + 5 * unit, 3}) {
      TestProducts(format, {static_cast<uint16_t>(weight)}, flush);
      TestProducts(
          format, std::vector<uint16_t>(kValues, static_cast<uint16_t>(weight)),
          flush);
    }
    for (int i = 0; i < 8; ++i) {
      std::vector<uint16_t> weights(kValues);
      for (uint16_t& weight : weights) weight = static_cast<uint16_t>(random());
      TestProducts(format, weights, flush);
    }
  }
}

}  // namespace
}  // namespace tf_dwgrad

int main() {
  std::cout << "instruction set: " << tf_dwgrad::ChosenKernels().kernels->isa
            << "\n";
  tf_dwgrad::TestFormat(tf_dwgrad::kHalf);
  tf_dwgrad::TestFormat(tf_dwgrad::kBFloat16);
  return tf_dwgrad::Finish();
}
