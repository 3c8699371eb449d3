// The OpKernels for NVIDIA GPUs: they put the work of the GPU kernels on
// TensorFlow's stream. Compiled by the C++ compiler and without any header of
// CUDA's: those that TensorFlow ships are of another release than nvcc's.

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/gpu/gpu_kernel.h"
#include "cc/kernels/read_attributes.h"
#include "cc/kernels/read_operands.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::DEVICE_GPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

template <ConvOp op, typename T>
class DepthwiseConvGpuOp : public OpKernel {
 public:
  explicit DepthwiseConvGpuOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, &attributes_));
  }

  void Compute(OpKernelContext* ctx) override {
    ConvOperands operands;
    OP_REQUIRES_OK(ctx, ReadOperands<op>(attributes_, ctx, &operands));
    OP_REQUIRES(ctx, ctx->op_device_context() != nullptr,
                absl::InternalError("the GPU device has no stream"));
    void* const stream =
        ctx->op_device_context()->stream()->platform_specific_handle().stream;
    OP_REQUIRES_OK(ctx, Launch(ctx, operands, stream));
  }

 private:
  absl::Status Launch(OpKernelContext* ctx, const ConvOperands& operands,
                      void* stream) const {
    const GpuConvProblem problem = MakeGpuConvProblem(operands.geometry);
    constexpr int type = static_cast<int>(ElementTypeOf<T>());
    const void* first = operands.first->data();
    const void* second = operands.second->data();
    void* result = operands.result->data();
    int error = 0;
    if constexpr (op == ConvOp::kForward) {
      error = TfDwgradGpuForward(&problem, type, kGpuChooseVariant, first,
                                 second, result, stream);
    } else if constexpr (op == ConvOp::kBackpropInput) {
      error = TfDwgradGpuBackpropInput(&problem, type, kGpuChooseVariant, first,
                                       second, result, stream);
    } else {
      const int64_t bytes =
          TfDwgradGpuBackpropFilterWorkspace(&problem, type, kGpuChooseVariant);
      Tensor workspace;
      TF_RETURN_IF_ERROR(ctx->allocate_temp(tensorflow::DT_UINT8,
                                            TensorShape({bytes}), &workspace));
      error = TfDwgradGpuBackpropFilter(&problem, type, kGpuChooseVariant,
                                        first, second, result, workspace.data(),
                                        bytes, stream);
    }
    if (error == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(
        type_string(), " could not be started on the GPU: ",
        TfDwgradGpuErrorString(error), " (CUDA error ", error, ")"));
  }

  ConvAttributes attributes_;
};

// Sizes are needed before anything can be put on the stream.
#define REGISTER_GPU(T)                                                        \
  REGISTER_KERNEL_BUILDER(                                                     \
      Name("DwgradDepthwiseConv2d").Device(DEVICE_GPU).TypeConstraint<T>("T"), \
      DepthwiseConvGpuOp<ConvOp::kForward, T>);                                \
  REGISTER_KERNEL_BUILDER(Name("DwgradDepthwiseConv2dBackpropInput")           \
                              .Device(DEVICE_GPU)                              \
                              .HostMemory("input_sizes")                       \
                              .TypeConstraint<T>("T"),                         \
                          DepthwiseConvGpuOp<ConvOp::kBackpropInput, T>);      \
  REGISTER_KERNEL_BUILDER(Name("DwgradDepthwiseConv2dBackpropFilter")          \
                              .Device(DEVICE_GPU)                              \
                              .HostMemory("filter_sizes")                      \
                              .TypeConstraint<T>("T"),                         \
                          DepthwiseConvGpuOp<ConvOp::kBackpropFilter, T>)

REGISTER_GPU(Eigen::half);
REGISTER_GPU(Eigen::bfloat16);
REGISTER_GPU(float);
REGISTER_GPU(double);
#undef REGISTER_GPU

}  // namespace
}  // namespace tf_dwgrad
