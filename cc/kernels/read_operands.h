// What the OpKernels of every device do first: they read the operands, let the
// geometry unit judge them and allocate the result.

#ifndef TF_DWGRAD_CC_KERNELS_READ_OPERANDS_H_
#define TF_DWGRAD_CC_KERNELS_READ_OPERANDS_H_

#include <vector>

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/number_formats.h"
#include "cc/kernels/operand_shapes.h"
#include "cc/kernels/read_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_dwgrad {

template <typename T>
constexpr ElementType ElementTypeOf();
template <>
constexpr ElementType ElementTypeOf<Eigen::half>() {
  return ElementType::kHalf;
}
template <>
constexpr ElementType ElementTypeOf<Eigen::bfloat16>() {
  return ElementType::kBFloat16;
}
template <>
constexpr ElementType ElementTypeOf<float>() {
  return ElementType::kFloat32;
}
template <>
constexpr ElementType ElementTypeOf<double>() {
  return ElementType::kFloat64;
}

inline absl::Status ReadShape(const tensorflow::Tensor& tensor,
                              const char* argument, Shape4* shape) {
  if (tensor.dims() != 4) {
    return ToStatus(RankError(argument, tensor.dims(), 4));
  }
  for (int i = 0; i < 4; ++i) (*shape)[i] = tensor.dim_size(i);
  return absl::OkStatus();
}

// `tensor` is in the host's memory.
inline absl::Status ReadSizes(const tensorflow::Tensor& tensor, ConvOp op,
                              const char* argument, Shape4* shape) {
  if (tensor.dims() != 1) {
    return ToStatus(RankError(argument, tensor.dims(), 1));
  }
  const auto flat = tensor.flat<int32_t>();
  const std::vector<int64_t> sizes(flat.data(), flat.data() + flat.size());
  return ToStatus(ShapeFromSizes(op, sizes, /*allow_unknown=*/false, shape));
}

// Operands that hold numbers rather than sizes.
struct ConvOperands {
  ConvGeometry geometry;
  const tensorflow::Tensor* first = nullptr;
  const tensorflow::Tensor* second = nullptr;
  tensorflow::Tensor* result = nullptr;
};

// On success `result` is output 0 of `ctx`, allocated but not written.
template <ConvOp op>
absl::Status ReadOperands(const ConvAttributes& attributes,
                          tensorflow::OpKernelContext* ctx,
                          ConvOperands* operands) {
  ConvShapes shapes;
  TF_RETURN_IF_ERROR(ReadOperandShapes(
      op,
      [ctx](int index, const char* argument, Shape4* shape) {
        return ReadShape(ctx->input(index), argument, shape);
      },
      [ctx](int index, const char* argument, Shape4* shape) {
        return ReadSizes(ctx->input(index), op, argument, shape);
      },
      &shapes));
  TF_RETURN_IF_ERROR(
      ToStatus(MakeGeometry(op, attributes, &shapes, &operands->geometry)));
  operands->first = &ctx->input(FirstOperand(op));
  operands->second = &ctx->input(SecondOperand(op));
  tensorflow::TensorShape shape;
  TF_RETURN_IF_ERROR(tensorflow::TensorShape::BuildTensorShape(
      ResultShape(op, shapes), &shape));
  return ctx->allocate_output(0, shape, &operands->result);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_READ_OPERANDS_H_
