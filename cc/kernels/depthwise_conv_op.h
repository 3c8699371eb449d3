// What the OpKernels do, under whatever name they are registered: they let the
// geometry unit judge attributes and operands, allocate the result and hand the
// work to the CPU kernels on TensorFlow's thread pool.

#ifndef TF_DWGRAD_CC_KERNELS_DEPTHWISE_CONV_OP_H_
#define TF_DWGRAD_CC_KERNELS_DEPTHWISE_CONV_OP_H_

#ifndef EIGEN_USE_THREADS
#define EIGEN_USE_THREADS
#endif

#include <vector>

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/cpu/cpu_kernel.h"
#include "cc/kernels/read_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "unsupported/Eigen/CXX11/Tensor"

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

inline absl::Status ReadSizes(const tensorflow::Tensor& tensor, ConvOp op,
                              const char* argument, Shape4* shape) {
  if (tensor.dims() != 1) {
    return ToStatus(RankError(argument, tensor.dims(), 1));
  }
  const auto flat = tensor.flat<int32_t>();
  const std::vector<int64_t> sizes(flat.data(), flat.data() + flat.size());
  return ToStatus(ShapeFromSizes(op, sizes, /*allow_unknown=*/false, shape));
}

template <ConvOp op>
absl::Status ReadOperandShapes(tensorflow::OpKernelContext* ctx,
                               ConvShapes* shapes) {
  const ArgumentNames names = NamesFor(op);
  if constexpr (op == ConvOp::kBackpropInput) {
    TF_RETURN_IF_ERROR(
        ReadSizes(ctx->input(0), op, names.input, &shapes->input));
  } else {
    TF_RETURN_IF_ERROR(ReadShape(ctx->input(0), names.input, &shapes->input));
  }
  if constexpr (op == ConvOp::kBackpropFilter) {
    TF_RETURN_IF_ERROR(
        ReadSizes(ctx->input(1), op, names.filter, &shapes->filter));
  } else {
    TF_RETURN_IF_ERROR(ReadShape(ctx->input(1), names.filter, &shapes->filter));
  }
  if constexpr (op != ConvOp::kForward) {
    TF_RETURN_IF_ERROR(ReadShape(ctx->input(2), names.output, &shapes->output));
  }
  return absl::OkStatus();
}

// Computes output 0 of `ctx`, or sets its status to what is wrong.
template <ConvOp op, typename T>
void ComputeDepthwiseConv(const ConvAttributes& attributes,
                          tensorflow::OpKernelContext* ctx) {
  // Operands that hold numbers rather than sizes.
  constexpr int first_operand = op == ConvOp::kBackpropInput ? 1 : 0;
  constexpr int second_operand = op == ConvOp::kForward ? 1 : 2;

  ConvShapes shapes;
  OP_REQUIRES_OK(ctx, ReadOperandShapes<op>(ctx, &shapes));
  ConvGeometry geometry;
  OP_REQUIRES_OK(ctx,
                 ToStatus(MakeGeometry(op, attributes, &shapes, &geometry)));

  tensorflow::TensorShape result_shape;
  OP_REQUIRES_OK(ctx, tensorflow::TensorShape::BuildTensorShape(
                          ResultShape(op, shapes), &result_shape));
  tensorflow::Tensor* result = nullptr;
  OP_REQUIRES_OK(ctx, ctx->allocate_output(0, result_shape, &result));

  const CpuKernel kernel(op, ElementTypeOf<T>(), geometry);
  if (!kernel.has_work()) {
    result->flat<T>().setZero();
    return;
  }
  tensorflow::Tensor workspace;
  if (kernel.workspace_bytes() > 0) {
    const tensorflow::TensorShape shape(
        {static_cast<int64_t>(kernel.workspace_bytes())});
    OP_REQUIRES_OK(ctx,
                   ctx->allocate_temp(tensorflow::DT_UINT8, shape, &workspace));
  }
  const Eigen::ThreadPoolDevice& device =
      ctx->eigen_device<Eigen::ThreadPoolDevice>();
  kernel.RunAll(
      ctx->input(first_operand).data(), ctx->input(second_operand).data(),
      result->data(), workspace.data(),
      [&](int64_t units, double unit_cycles, auto do_units) {
        device.parallelFor(units,
                           Eigen::TensorOpCost(/*bytes_loaded=*/0,
                                               /*bytes_stored=*/0, unit_cycles),
                           do_units);
      });
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_DEPTHWISE_CONV_OP_H_
