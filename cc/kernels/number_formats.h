// The element types of the kernels and the type in which each accumulates.
// Half and BFloat16 hold bits only; arithmetic happens in float.

#ifndef TF_DWGRAD_CC_KERNELS_NUMBER_FORMATS_H_
#define TF_DWGRAD_CC_KERNELS_NUMBER_FORMATS_H_

#include <stdint.h>

namespace tf_dwgrad {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct AccumulatorOf {
  typedef float type;
};
template <>
struct AccumulatorOf<double> {
  typedef double type;
};

enum class ElementType { kHalf = 0, kBFloat16, kFloat32, kFloat64 };
inline constexpr int kNumElementTypes = 4;

inline constexpr int64_t SizeOf(ElementType type) {
  return type == ElementType::kFloat64   ? 8
         : type == ElementType::kFloat32 ? 4
                                         : 2;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_NUMBER_FORMATS_H_
