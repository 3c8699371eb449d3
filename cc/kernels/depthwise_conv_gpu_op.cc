// The OpKernels for NVIDIA GPUs: they put the work of the GPU kernels on
// TensorFlow's stream. Compiled by the C++ compiler and without any header of
// CUDA's: those that TensorFlow ships are of another release than nvcc's.

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/gpu/gpu_kernel.h"
#include "cc/kernels/read_attributes.h"
#include "cc/kernels/read_operands.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/device_address.h"
#include "xla/stream_executor/stream.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::DEVICE_GPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

// TensorFlow's own allocations are aligned; a slice that shares a buffer may
// not be.
bool Aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data()) % 16 == 0;
}

// The variant that can do every problem, wherever its operands lie.
int GeneralVariant(ConvOp op) {
  const int count = TfDwgradGpuVariantCount(static_cast<int>(op));
  for (int variant = 0; variant < count; ++variant) {
    const std::string_view name =
        TfDwgradGpuVariantName(static_cast<int>(op), variant);
    if (name == "general") return variant;
  }
  return kGpuChooseVariant;
}

template <ConvOp op, typename T>
class DepthwiseConvGpuOp : public OpKernel {
 public:
  explicit DepthwiseConvGpuOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, &attributes_));
  }

  void Compute(OpKernelContext* ctx) override {
    ConvOperands operands;
    OP_REQUIRES_OK(ctx, ReadOperands<op>(attributes_, ctx, &operands));
    if (operands.result->NumElements() == 0) return;

    OP_REQUIRES(ctx, ctx->op_device_context() != nullptr,
                absl::InternalError("the GPU device has no stream"));
    stream_executor::Stream* stream = ctx->op_device_context()->stream();
    if (operands.first->NumElements() == 0 ||
        operands.second->NumElements() == 0) {
      const uint64_t bytes = operands.result->TotalBytes();
      stream_executor::DeviceAddressBase zeros(operands.result->data(), bytes);
      OP_REQUIRES_OK(ctx, stream->MemZero(&zeros, bytes));
      return;
    }
    OP_REQUIRES_OK(
        ctx, Launch(ctx, operands, stream->platform_specific_handle().stream));
  }

 private:
  absl::Status Launch(OpKernelContext* ctx, const ConvOperands& operands,
                      void* stream) const {
    const GpuConvProblem problem = MakeGpuConvProblem(operands.geometry);
    constexpr int type = static_cast<int>(ElementTypeOf<T>());
    const bool aligned = Aligned(*operands.first) &&
                         Aligned(*operands.second) && Aligned(*operands.result);
    const int variant = aligned ? kGpuChooseVariant : GeneralVariant(op);
    const void* first = operands.first->data();
    const void* second = operands.second->data();
    void* result = operands.result->data();
    int error = 0;
    if constexpr (op == ConvOp::kForward) {
      error = TfDwgradGpuForward(&problem, type, variant, first, second, result,
                                 stream);
    } else if constexpr (op == ConvOp::kBackpropInput) {
      error = TfDwgradGpuBackpropInput(&problem, type, variant, first, second,
                                       result, stream);
    } else {
      const int64_t bytes =
          TfDwgradGpuBackpropFilterWorkspace(&problem, type, variant);
      Tensor workspace;
      TF_RETURN_IF_ERROR(ctx->allocate_temp(tensorflow::DT_UINT8,
                                            TensorShape({bytes}), &workspace));
      error =
          TfDwgradGpuBackpropFilter(&problem, type, variant, first, second,
                                    result, workspace.data(), bytes, stream);
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
