// What a compiled program says to call the kernels: a target, and the problem
// as a list of integers.

#ifndef TF_DWGRAD_CC_KERNELS_XLA_CUSTOM_CALL_H_
#define TF_DWGRAD_CC_KERNELS_XLA_CUSTOM_CALL_H_

#include <array>
#include <cstdint>
#include <string>

#include "cc/kernels/conv_geometry.h"

namespace tf_dwgrad {

inline constexpr char kCustomCallTarget[] = "tf_dwgrad_depthwise_conv2d";
inline constexpr char kProblemAttribute[] = "problem";

using EncodedProblem = std::array<int64_t, 17>;

inline EncodedProblem EncodeProblem(ConvOp op, const ConvGeometry& g) {
  return {static_cast<int64_t>(op),
          static_cast<int64_t>(g.data_format),
          g.batch,
          g.in_depth,
          g.depth_multiplier,
          g.rows.in,
          g.rows.out,
          g.rows.filter,
          g.rows.stride,
          g.rows.dilation,
          g.rows.pad_before,
          g.cols.in,
          g.cols.out,
          g.cols.filter,
          g.cols.stride,
          g.cols.dilation,
          g.cols.pad_before};
}

inline void DecodeProblem(const int64_t* p, ConvOp* op, ConvGeometry* g) {
  *op = static_cast<ConvOp>(p[0]);
  g->data_format = static_cast<DataFormat>(p[1]);
  g->batch = p[2];
  g->in_depth = p[3];
  g->depth_multiplier = p[4];
  g->rows = {p[5], p[6], p[7], p[8], p[9], p[10]};
  g->cols = {p[11], p[12], p[13], p[14], p[15], p[16]};
}

// The attributes of the custom call, in MLIR's notation.
inline std::string CustomCallAttributes(ConvOp op,
                                        const ConvGeometry& geometry) {
  std::string text = std::string("{") + kProblemAttribute + " = array<i64";
  char separator = ':';
  for (const int64_t value : EncodeProblem(op, geometry)) {
    text += separator + std::string(" ") + std::to_string(value);
    separator = ',';
  }
  return text + ">}";
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_XLA_CUSTOM_CALL_H_
