// How many calls each kernel served, for the user and the tests.

#ifndef TF_DWGRAD_CC_KERNELS_CALL_COUNTERS_H_
#define TF_DWGRAD_CC_KERNELS_CALL_COUNTERS_H_

#include <cstdint>

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/number_formats.h"

namespace tf_dwgrad {

// How a call came to be served.
enum class Route {
  kPluginOp = 0,  // by the plugin's own op
  kBuiltinName,   // by our kernel behind the name of a built-in op
  kJit,           // from code that XLA compiled
  kDelegated,     // by the built-in kernel, which ours stands in front of
};
inline constexpr int kNumConvOps = 3;
inline constexpr int kNumRoutes = 4;

// Thread-safe, in a few nanoseconds.
void CountCall(ConvOp op, ElementType type, Route route);

int64_t Calls(ConvOp op, ElementType type, Route route);
void ResetCalls();

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CALL_COUNTERS_H_
