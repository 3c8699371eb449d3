// Random small problems with small integers, which every type holds exactly,
// and a direct evaluation of the definition to check an implementation by.

#ifndef TF_DWGRAD_TESTS_CC_RANDOM_PROBLEMS_H_
#define TF_DWGRAD_TESTS_CC_RANDOM_PROBLEMS_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/number_formats.h"
#include "tests/cc/check.h"

namespace tf_dwgrad {

using Random = std::mt19937;

inline int64_t Pick(Random& random, std::initializer_list<int64_t> values) {
  return values.begin()[random() % values.size()];
}

// Small integers are exact in every type.
struct Tensor {
  std::vector<double> values;
  std::vector<unsigned char> bytes;
};

inline void Encode(double value, ElementType type, unsigned char* to) {
  if (type == ElementType::kFloat64) {
    std::memcpy(to, &value, 8);
    return;
  }
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, 4);
  if (type == ElementType::kFloat32) {
    std::memcpy(to, &bits, 4);
    return;
  }
  uint16_t half = static_cast<uint16_t>(bits >> 16);
  if (type == ElementType::kHalf) {
    const uint32_t sign = bits >> 31 << 15;
    const uint32_t magnitude = bits & 0x7fffffff;
    half = static_cast<uint16_t>(
        sign | (magnitude == 0       ? 0
                : std::isinf(narrow) ? 31 << 10
                                     : (magnitude >> 13) - (112 << 10)));
  }
  std::memcpy(to, &half, 2);
}

inline double Decode(const unsigned char* from, ElementType type) {
  if (type == ElementType::kFloat64) {
    double value;
    std::memcpy(&value, from, 8);
    return value;
  }
  uint32_t bits = 0;
  if (type == ElementType::kFloat32) {
    std::memcpy(&bits, from, 4);
  } else {
    uint16_t half;
    std::memcpy(&half, from, 2);
    if (type == ElementType::kHalf) {
      const int exponent = (half >> 10) & 31;
      const double magnitude =
          exponent == 0 ? std::ldexp(half & 1023, -24)
                        : std::ldexp((half & 1023) + 1024, exponent - 25);
      if (exponent == 31 && (half & 1023) != 0) return NAN;
      if (exponent == 31) return half & 0x8000 ? -INFINITY : INFINITY;
      return half & 0x8000 ? -magnitude : magnitude;
    }
    bits = static_cast<uint32_t>(half) << 16;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline Tensor RandomTensor(Random& random, ElementType type, int64_t size) {
  constexpr int64_t kDigits = 20;  // to base 3, of a random number
  Tensor tensor;
  tensor.values.resize(size);
  tensor.bytes.resize(size * SizeOf(type));
  uint32_t number = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (i % kDigits == 0) number = static_cast<uint32_t>(random());
    tensor.values[i] = static_cast<int>(number % 3) - 1;
    number /= 3;
    Encode(tensor.values[i], type, &tensor.bytes[i * SizeOf(type)]);
  }
  return tensor;
}

// 3x3 on one image of 4x4 and two channels.
inline ConvGeometry SmallGeometry(int64_t depth_multiplier) {
  ConvGeometry geometry;
  geometry.batch = 1;
  geometry.in_depth = 2;
  geometry.depth_multiplier = depth_multiplier;
  geometry.rows = geometry.cols = {4, 4, 3, 1, 1, 1};
  return geometry;
}

struct Problem {
  ConvGeometry geometry;
  std::string text;

  int64_t InputIndex(int64_t n, int64_t y, int64_t x, int64_t c) const {
    const ConvGeometry& g = geometry;
    return g.data_format == DataFormat::kNHWC
               ? ((n * g.rows.in + y) * g.cols.in + x) * g.in_depth + c
               : ((n * g.in_depth + c) * g.rows.in + y) * g.cols.in + x;
  }
  int64_t OutputIndex(int64_t n, int64_t i, int64_t j, int64_t k) const {
    const ConvGeometry& g = geometry;
    return g.data_format == DataFormat::kNHWC
               ? ((n * g.rows.out + i) * g.cols.out + j) * g.out_depth() + k
               : ((n * g.out_depth() + k) * g.rows.out + i) * g.cols.out + j;
  }
  int64_t InputSize() const {
    const ConvGeometry& g = geometry;
    return g.batch * g.rows.in * g.cols.in * g.in_depth;
  }
  int64_t OutputSize() const {
    const ConvGeometry& g = geometry;
    return g.batch * g.rows.out * g.cols.out * g.out_depth();
  }
  int64_t FilterSize() const {
    const ConvGeometry& g = geometry;
    return g.rows.filter * g.cols.filter * g.out_depth();
  }
};

inline AxisGeometry RandomAxis(Random& random, bool wide) {
  for (;;) {
    AxisGeometry axis;
    axis.in = wide ? 10 + random() % 290 : 1 + random() % 16;
    axis.filter = Pick(random, {1, 1, 2, 3, 3, 4, 5, 6, 7, 9, 13, 31});
    axis.stride = Pick(random, {1, 1, 1, 2, 2, 3, 4, 7});
    axis.dilation = Pick(random, {1, 1, 1, 2, 3, 4, 6});
    axis.pad_before = random() % 8;
    const int64_t room = axis.in + axis.pad_before + random() % 8 -
                         ((axis.filter - 1) * axis.dilation + 1);
    if (room < 0) continue;
    axis.out = room / axis.stride + 1;
    return axis;
  }
}

inline std::string TextOf(const ConvGeometry& g) {
  std::ostringstream text;
  text << (g.data_format == DataFormat::kNHWC ? "NHWC" : "NCHW") << " batch "
       << g.batch << " depth " << g.in_depth << "x" << g.depth_multiplier;
  for (const AxisGeometry& axis : {g.rows, g.cols}) {
    text << " | in " << axis.in << " out " << axis.out << " filter "
         << axis.filter << " stride " << axis.stride << " dilation "
         << axis.dilation << " pad " << axis.pad_before;
  }
  return text.str();
}

inline Problem RandomProblem(Random& random) {
  Problem problem;
  ConvGeometry& g = problem.geometry;
  g.data_format = random() % 2 ? DataFormat::kNHWC : DataFormat::kNCHW;
  const bool wide = random() % 8 == 0;
  g.batch = 1 + random() % 2;
  g.in_depth = wide ? Pick(random, {1, 3, 8})
                    : Pick(random, {1, 2, 3, 4, 7, 8, 15, 16, 17, 24, 33, 40});
  g.depth_multiplier = wide ? 1 : Pick(random, {1, 1, 1, 2, 3, 4, 5, 8});
  if (random() % 16 == 0) g.in_depth = Pick(random, {256, 257, 270, 300});
  if (random() % 16 == 0) {
    g.in_depth = Pick(random, {1, 2});
    g.depth_multiplier = Pick(random, {100, 255, 256, 257, 520});
  }
  // Few channels of many images share a vector.
  if (random() % 4 == 0) {
    g.batch = 3 + random() % 20;
    g.in_depth = Pick(random, {1, 1, 2, 3, 4, 5, 7, 8, 12});
    g.depth_multiplier = Pick(random, {1, 1, 2, 3, 4, 5, 8, 9, 17});
  }
  g.rows = RandomAxis(random, false);
  g.cols = RandomAxis(random, wide);
  problem.text = TextOf(g);
  return problem;
}

// Calls visit(input index, filter index, output index) for every product.
template <typename Visit>
void ForEachProduct(const Problem& problem, Visit visit) {
  const ConvGeometry& g = problem.geometry;
  // From a channel to the next.
  const int64_t input_step = problem.InputIndex(0, 0, 0, 1);
  const int64_t output_step = problem.OutputIndex(0, 0, 0, 1);
  // The compiler makes vectors of that.
  const bool is_plain =
      input_step == 1 && output_step == 1 && g.depth_multiplier == 1;
  for (int64_t n = 0; n < g.batch; ++n)
    for (int64_t i = 0; i < g.rows.out; ++i)
      for (int64_t r = 0; r < g.rows.filter; ++r) {
        const int64_t y =
            i * g.rows.stride - g.rows.pad_before + r * g.rows.dilation;
        if (y < 0 || y >= g.rows.in) continue;
        for (int64_t j = 0; j < g.cols.out; ++j)
          for (int64_t s = 0; s < g.cols.filter; ++s) {
            const int64_t x =
                j * g.cols.stride - g.cols.pad_before + s * g.cols.dilation;
            if (x < 0 || x >= g.cols.in) continue;
            const int64_t input = problem.InputIndex(n, y, x, 0);
            const int64_t filter = (r * g.cols.filter + s) * g.out_depth();
            const int64_t output = problem.OutputIndex(n, i, j, 0);
            if (is_plain) {
              for (int64_t c = 0; c < g.in_depth; ++c) {
                visit(input + c, filter + c, output + c);
              }
              continue;
            }
            int64_t k = 0;
            for (int64_t c = 0; c < g.in_depth; ++c) {
              for (int64_t q = 0; q < g.depth_multiplier; ++q, ++k) {
                visit(input + c * input_step, filter + k,
                      output + k * output_step);
              }
            }
          }
      }
}

// Memory that starts poisoned, aligned like TensorFlow's tensors, with guards
// around it.
class GuardedMemory {
 public:
  explicit GuardedMemory(int64_t size)
      : size_(size), storage_(size + 2 * kGuard + kAlignment, kPoison) {
    unsigned char* first = storage_.data();
    while (reinterpret_cast<uintptr_t>(first) % kAlignment != 0) ++first;
    data_ = first + kGuard;
  }
  GuardedMemory(const GuardedMemory&) = delete;

  unsigned char* data() { return data_; }
  bool guards_are_intact() const {
    for (int64_t i = 0; i < kGuard; ++i) {
      if (data_[-1 - i] != kPoison || data_[size_ + i] != kPoison) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kGuard = 256;          // keeps the alignment
  static constexpr unsigned char kPoison = 0xff;  // a NaN in every type

  const int64_t size_;
  std::vector<unsigned char> storage_;
  unsigned char* data_;
};

// Runs an op of which run(first, second, result) is the implementation, with
// the operands in the order of the op's arguments, and checks the result. It
// starts poisoned, and guards around it must stay untouched. An infinity here
// and there, if asked for, tells whether padding takes part in products.
template <typename Run>
void CheckOp(Random& random, const Problem& problem, ConvOp op,
             ElementType type, const std::string& name, bool infinities,
             Run run) {
  Tensor input = RandomTensor(random, type, problem.InputSize());
  Tensor filter = RandomTensor(random, type, problem.FilterSize());
  Tensor output = RandomTensor(random, type, problem.OutputSize());
  if (infinities) {
    for (Tensor* tensor : {&input, &filter, &output}) {
      const size_t i = random() % tensor->values.size();
      tensor->values[i] = INFINITY;
      Encode(INFINITY, type, &tensor->bytes[i * SizeOf(type)]);
    }
  }
  std::vector<double> expected;
  const Tensor *first, *second;
  switch (op) {
    case ConvOp::kForward:
      expected.resize(problem.OutputSize());
      first = &input;
      second = &filter;
      ForEachProduct(problem, [&](int64_t x, int64_t w, int64_t y) {
        expected[y] += input.values[x] * filter.values[w];
      });
      break;
    case ConvOp::kBackpropInput:
      expected.resize(problem.InputSize());
      first = &filter;
      second = &output;
      ForEachProduct(problem, [&](int64_t x, int64_t w, int64_t y) {
        expected[x] += output.values[y] * filter.values[w];
      });
      break;
    default:
      expected.resize(problem.FilterSize());
      first = &input;
      second = &output;
      ForEachProduct(problem, [&](int64_t x, int64_t w, int64_t y) {
        expected[w] += input.values[x] * output.values[y];
      });
      break;
  }

  GuardedMemory result(static_cast<int64_t>(expected.size()) * SizeOf(type));
  run(first->bytes.data(), second->bytes.data(), result.data());

  const char* op_name = op == ConvOp::kForward         ? "forward"
                        : op == ConvOp::kBackpropInput ? "input gradient"
                                                       : "filter gradient";
  if (!result.guards_are_intact()) {
    CHECK_THAT(false, name << ' ' << op_name << " type "
                           << static_cast<int>(type)
                           << " writes outside its result: " << problem.text);
    return;
  }
  // bfloat16 holds integers up to 256, half up to 2048; beyond, the kernel
  // rounds and the comparison would need to.
  const double exact = type == ElementType::kBFloat16 ? 256
                       : type == ElementType::kHalf   ? 2048
                                                      : 1e7;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double value = Decode(result.data() + i * SizeOf(type), type);
    const bool comparable =
        !(std::abs(expected[i]) > exact) || std::isinf(expected[i]);
    const bool same =
        value == expected[i] || (std::isnan(value) && std::isnan(expected[i]));
    if (comparable && !same) {
      CHECK_THAT(false, name << ' ' << op_name << " type "
                             << static_cast<int>(type) << " element " << i
                             << " is " << value << ", not " << expected[i]
                             << ": " << problem.text);
      return;
    }
  }
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_TESTS_CC_RANDOM_PROBLEMS_H_
