// The OpKernels: they read attributes and operands, let the geometry unit judge
// them, allocate the result and hand the work to the CPU kernels on
// TensorFlow's thread pool.

#define EIGEN_USE_THREADS

#include <vector>

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/cpu/cpu_kernel.h"
#include "cc/kernels/read_attributes.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "unsupported/Eigen/CXX11/Tensor"

namespace tf_dwgrad {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

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

absl::Status ReadShape(const Tensor& tensor, const char* argument,
                       Shape4* shape) {
  if (tensor.dims() != 4) {
    return ToStatus(RankError(argument, tensor.dims(), 4));
  }
  for (int i = 0; i < 4; ++i) (*shape)[i] = tensor.dim_size(i);
  return absl::OkStatus();
}

absl::Status ReadSizes(const Tensor& tensor, ConvOp op, const char* argument,
                       Shape4* shape) {
  if (tensor.dims() != 1) {
    return ToStatus(RankError(argument, tensor.dims(), 1));
  }
  const auto flat = tensor.flat<int32_t>();
  const std::vector<int64_t> sizes(flat.data(), flat.data() + flat.size());
  return ToStatus(ShapeFromSizes(op, sizes, /*allow_unknown=*/false, shape));
}

template <ConvOp op, typename T>
class DepthwiseConvOp : public OpKernel {
 public:
  explicit DepthwiseConvOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, &attributes_));
  }

  void Compute(OpKernelContext* ctx) override {
    ConvShapes shapes;
    OP_REQUIRES_OK(ctx, ReadOperandShapes(ctx, &shapes));
    ConvGeometry geometry;
    OP_REQUIRES_OK(ctx,
                   ToStatus(MakeGeometry(op, attributes_, &shapes, &geometry)));

    TensorShape result_shape;
    OP_REQUIRES_OK(ctx, TensorShape::BuildTensorShape(ResultShape(op, shapes),
                                                      &result_shape));
    Tensor* result = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, result_shape, &result));

    const CpuKernel kernel(op, ElementTypeOf<T>(), geometry);
    if (!kernel.has_work()) {
      result->flat<T>().setZero();
      return;
    }
    Tensor workspace;
    if (kernel.workspace_bytes() > 0) {
      const TensorShape shape({static_cast<int64_t>(kernel.workspace_bytes())});
      OP_REQUIRES_OK(
          ctx, ctx->allocate_temp(tensorflow::DT_UINT8, shape, &workspace));
    }
    const Eigen::ThreadPoolDevice& device =
        ctx->eigen_device<Eigen::ThreadPoolDevice>();
    kernel.RunAll(ctx->input(kFirstOperand).data(),
                  ctx->input(kSecondOperand).data(), result->data(),
                  workspace.data(),
                  [&](int64_t units, double unit_cycles, auto do_units) {
                    device.parallelFor(
                        units,
                        Eigen::TensorOpCost(/*bytes_loaded=*/0,
                                            /*bytes_stored=*/0, unit_cycles),
                        do_units);
                  });
  }

 private:
  // Operands that hold numbers rather than sizes.
  static constexpr int kFirstOperand = op == ConvOp::kBackpropInput ? 1 : 0;
  static constexpr int kSecondOperand = op == ConvOp::kForward ? 1 : 2;

  static absl::Status ReadOperandShapes(OpKernelContext* ctx,
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
      TF_RETURN_IF_ERROR(
          ReadShape(ctx->input(1), names.filter, &shapes->filter));
    }
    if constexpr (op != ConvOp::kForward) {
      TF_RETURN_IF_ERROR(
          ReadShape(ctx->input(2), names.output, &shapes->output));
    }
    return absl::OkStatus();
  }

  ConvAttributes attributes_;
};

#define REGISTER_CPU(T)                                                        \
  REGISTER_KERNEL_BUILDER(                                                     \
      Name("DwgradDepthwiseConv2d").Device(DEVICE_CPU).TypeConstraint<T>("T"), \
      DepthwiseConvOp<ConvOp::kForward, T>);                                   \
  REGISTER_KERNEL_BUILDER(Name("DwgradDepthwiseConv2dBackpropInput")           \
                              .Device(DEVICE_CPU)                              \
                              .HostMemory("input_sizes")                       \
                              .TypeConstraint<T>("T"),                         \
                          DepthwiseConvOp<ConvOp::kBackpropInput, T>);         \
  REGISTER_KERNEL_BUILDER(Name("DwgradDepthwiseConv2dBackpropFilter")          \
                              .Device(DEVICE_CPU)                              \
                              .HostMemory("filter_sizes")                      \
                              .TypeConstraint<T>("T"),                         \
                          DepthwiseConvOp<ConvOp::kBackpropFilter, T>)

REGISTER_CPU(Eigen::half);
REGISTER_CPU(Eigen::bfloat16);
REGISTER_CPU(float);
REGISTER_CPU(double);
#undef REGISTER_CPU

}  // namespace
}  // namespace tf_dwgrad
