// The OpKernels of the plugin's own ops.

#include "cc/kernels/call_counters.h"
#include "cc/kernels/compute_on_cpu.h"
#include "cc/kernels/read_attributes.h"
#include "cc/kernels/read_operands.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;

template <ConvOp op, typename T>
class DepthwiseConvOp : public OpKernel {
 public:
  explicit DepthwiseConvOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadAttributes(ctx, &attributes_));
  }

  void Compute(OpKernelContext* ctx) override {
    CountCall(op, ElementTypeOf<T>(), Route::kPluginOp);
    ComputeDepthwiseConv<op, T>(attributes_, ctx);
  }

 private:
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
