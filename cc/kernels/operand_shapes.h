// Where the operands of the three ops stand, and which of them spells a shape
// rather than having it. Shape functions, OpKernels and XLA each read a shape
// in their own way, but all read them in this order.

#ifndef TF_DWGRAD_CC_KERNELS_OPERAND_SHAPES_H_
#define TF_DWGRAD_CC_KERNELS_OPERAND_SHAPES_H_

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "tensorflow/core/platform/errors.h"

namespace tf_dwgrad {

// The inputs that hold numbers rather than sizes.
constexpr int FirstOperand(ConvOp op) {
  return op == ConvOp::kBackpropInput ? 1 : 0;
}
constexpr int SecondOperand(ConvOp op) {
  return op == ConvOp::kForward ? 1 : 2;
}

// read_shape(index, argument, &shape) reads the shape of an input,
// read_sizes(index, argument, &shape) the one that its elements spell.
template <typename ReadShape, typename ReadSizes>
absl::Status ReadOperandShapes(ConvOp op, const ReadShape& read_shape,
                               const ReadSizes& read_sizes,
                               ConvShapes* shapes) {
  const ArgumentNames names = NamesFor(op);
  TF_RETURN_IF_ERROR(op == ConvOp::kBackpropInput
                         ? read_sizes(0, names.input, &shapes->input)
                         : read_shape(0, names.input, &shapes->input));
  TF_RETURN_IF_ERROR(op == ConvOp::kBackpropFilter
                         ? read_sizes(1, names.filter, &shapes->filter)
                         : read_shape(1, names.filter, &shapes->filter));
  if (op == ConvOp::kForward) return absl::OkStatus();
  return read_shape(2, names.output, &shapes->output);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_OPERAND_SHAPES_H_
