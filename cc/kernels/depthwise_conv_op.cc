// The OpKernels for the CPU: they hand the work to the CPU kernels on
// TensorFlow's thread pool.

#define EIGEN_USE_THREADS

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/cpu/cpu_kernel.h"
#include "cc/kernels/read_attributes.h"
#include "cc/kernels/read_operands.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "unsupported/Eigen/CXX11/Tensor"

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
    ConvOperands operands;
    OP_REQUIRES_OK(ctx, ReadOperands<op>(attributes_, ctx, &operands));
    const CpuKernel kernel(op, ElementTypeOf<T>(), operands.geometry);
    if (!kernel.has_work()) {
      operands.result->flat<T>().setZero();
      return;
    }
    const void* first = operands.first->data();
    const void* second = operands.second->data();
    void* output = operands.result->data();
    ctx->eigen_device<Eigen::ThreadPoolDevice>().parallelFor(
        kernel.num_units(),
        Eigen::TensorOpCost(/*bytes_loaded=*/0, /*bytes_stored=*/0,
                            kernel.unit_cycles()),
        [&](Eigen::Index begin, Eigen::Index end) {
          kernel.Run(first, second, output, begin, end);
        });
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
