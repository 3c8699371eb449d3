// The ops under jit_compile=True: the geometry unit judges the shapes while XLA
// compiles; the compiled program calls the CPU kernels or, on a GPU, convolves.

#include "cc/kernels/xla/depthwise_conv_xla_op.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cc/kernels/cpu_kernel_entry.h"
#include "cc/kernels/operand_shapes.h"
#include "cc/kernels/read_attributes.h"
#include "cc/kernels/xla/convolution.h"
#include "cc/kernels/xla/custom_call.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "xla/shape_util.h"

namespace tf_dwgrad {

using ::tensorflow::OpKernelConstruction;
using ::tensorflow::TensorShape;
using ::tensorflow::XlaOpKernelContext;

namespace {

// TF_DWGRAD_XLA_LOWERING=convolution shows on the CPU what a GPU gets.
bool ConvolutionIsForced() {
  const char* setting = std::getenv("TF_DWGRAD_XLA_LOWERING");
  return setting != nullptr && std::strcmp(setting, "convolution") == 0;
}

int64_t WorkspaceBytes(ConvOp op, const xla::Shape& result,
                       const ConvGeometry& geometry) {
  const ElementType type =
      result.element_type() == xla::F16    ? ElementType::kHalf
      : result.element_type() == xla::BF16 ? ElementType::kBFloat16
      : result.element_type() == xla::F32  ? ElementType::kFloat32
                                           : ElementType::kFloat64;
  return static_cast<int64_t>(
      tf_dwgrad_cpu_workspace_bytes(op, type, geometry));
}

}  // namespace

DepthwiseConvXlaOp::DepthwiseConvXlaOp(ConvOp op, XlaLowering lowering,
                                       OpKernelConstruction* ctx)
    : XlaOpKernel(ctx),
      op_(op),
      lowering_(ConvolutionIsForced() ? XlaLowering::kConvolution : lowering) {
  OP_REQUIRES_OK(ctx, ReadAttributes(ctx, &attributes_));
}

void DepthwiseConvXlaOp::Compile(XlaOpKernelContext* ctx) {
  ConvShapes shapes;
  OP_REQUIRES_OK(ctx, ReadOperandShapes(
                          op_,
                          [&](int index, const char* argument, Shape4* shape) {
                            return ReadShape(ctx, index, argument, shape);
                          },
                          [&](int index, const char* argument, Shape4* shape) {
                            return ReadSizes(ctx, index, argument, shape);
                          },
                          &shapes));
  ConvGeometry geometry;
  OP_REQUIRES_OK(ctx,
                 ToStatus(MakeGeometry(op_, attributes_, &shapes, &geometry)));

  const xla::XlaOp first = ctx->Input(FirstOperand(op_));
  const xla::XlaOp second = ctx->Input(SecondOperand(op_));
  std::vector<xla::Shape> operand_shapes;
  for (const xla::XlaOp operand : {first, second}) {
    const absl::StatusOr<xla::Shape> shape = ctx->builder()->GetShape(operand);
    OP_REQUIRES_OK(ctx, shape.status());
    // The kernels want the last dimension to be contiguous, and so on.
    operand_shapes.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
        shape->element_type(), shape->dimensions()));
  }
  const absl::StatusOr<xla::Shape> result_shape =
      xla::ShapeUtil::MakeValidatedShape(operand_shapes[0].element_type(),
                                         ResultShape(op_, shapes));
  OP_REQUIRES(ctx, result_shape.ok(),
              absl::ResourceExhaustedError("the result would be of shape " +
                                           ToString(ResultShape(op_, shapes)) +
                                           ", which is too large to allocate"));
  if (lowering_ == XlaLowering::kConvolution) {
    ctx->SetOutput(
        0, LowerToConvolution(op_, geometry, first, second, *result_shape));
    return;
  }
  // A second result is a way to have memory for the time of the call.
  const xla::Shape workspace_shape = xla::ShapeUtil::MakeShape(
      xla::U8, {WorkspaceBytes(op_, *result_shape, geometry)});
  const xla::XlaOp call = xla::CustomCallWithLayout(
      ctx->builder(), kCustomCallTarget, {first, second},
      xla::ShapeUtil::MakeTupleShape({*result_shape, workspace_shape}),
      operand_shapes, CustomCallAttributes(op_, geometry),
      /*has_side_effect=*/false, /*output_operand_aliasing=*/{},
      /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
      xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  ctx->SetOutput(0, xla::GetTupleElement(call, 0));
}

absl::Status DepthwiseConvXlaOp::ReadShape(XlaOpKernelContext* ctx, int index,
                                           const char* argument,
                                           Shape4* shape) const {
  TF_ASSIGN_OR_RETURN(const xla::Shape given, ctx->InputXlaShape(index));
  const int64_t rank = given.dimensions().size();
  if (rank != 4) return ToStatus(RankError(argument, rank, 4));
  if (!given.is_static()) {
    return absl::UnimplementedError(
        std::string(argument) +
        " must have a shape that is known when XLA compiles, but got " +
        given.ToString());
  }
  for (int i = 0; i < 4; ++i) (*shape)[i] = given.dimensions(i);
  return absl::OkStatus();
}

absl::Status DepthwiseConvXlaOp::ReadSizes(XlaOpKernelContext* ctx, int index,
                                           const char* argument,
                                           Shape4* shape) const {
  TF_ASSIGN_OR_RETURN(const xla::Shape given, ctx->InputXlaShape(index));
  const int64_t rank = given.dimensions().size();
  if (rank != 1) return ToStatus(RankError(argument, rank, 1));
  std::vector<int64_t> sizes;
  TF_RETURN_IF_ERROR(ctx->ConstantInputAsIntVector(index, &sizes));
  return ToStatus(ShapeFromSizes(op_, sizes, /*allow_unknown=*/false, shape));
}

namespace {

template <ConvOp op>
class CallingOp : public DepthwiseConvXlaOp {
 public:
  explicit CallingOp(OpKernelConstruction* ctx)
      : DepthwiseConvXlaOp(op, XlaLowering::kCallCpuKernels, ctx) {}
};

template <ConvOp op>
class ConvolvingOp : public DepthwiseConvXlaOp {
 public:
  explicit ConvolvingOp(OpKernelConstruction* ctx)
      : DepthwiseConvXlaOp(op, XlaLowering::kConvolution, ctx) {}
};

constexpr tensorflow::DataType kTypes[] = {
    tensorflow::DT_HALF, tensorflow::DT_BFLOAT16, tensorflow::DT_FLOAT,
    tensorflow::DT_DOUBLE};

// XLA makes kernels of its registrations once, when it first compiles: a
// library that is loaded later has to register the kernel itself. XLA's
// registration is what tells it, early or late, which inputs must be constants.
// The priority settles which kernel is meant if both are there.
#define REGISTER(name, constant_inputs, device, Class)                       \
  REGISTER_XLA_OP(                                                           \
      Name(name).Device(device).TypeConstraint("T", kTypes) constant_inputs, \
      Class);                                                                \
  REGISTER_KERNEL_BUILDER(                                                   \
      Name(name).Device(device).TypeConstraint("T", kTypes).Priority(1),     \
      Class)

#define REGISTER_OPS(device, Class)                                     \
  REGISTER("DwgradDepthwiseConv2d", , device, Class<ConvOp::kForward>); \
  REGISTER("DwgradDepthwiseConv2dBackpropInput",                        \
           .CompileTimeConstantInput("input_sizes"), device,            \
           Class<ConvOp::kBackpropInput>);                              \
  REGISTER("DwgradDepthwiseConv2dBackpropFilter",                       \
           .CompileTimeConstantInput("filter_sizes"), device,           \
           Class<ConvOp::kBackpropFilter>)

REGISTER_OPS(tensorflow::DEVICE_CPU_XLA_JIT, CallingOp);
REGISTER_OPS(tensorflow::DEVICE_GPU_XLA_JIT, ConvolvingOp);
#undef REGISTER_OPS
#undef REGISTER

}  // namespace
}  // namespace tf_dwgrad
