// What XLA's compiler is told of the three ops.

#ifndef TF_DWGRAD_CC_KERNELS_XLA_DEPTHWISE_CONV_XLA_OP_H_
#define TF_DWGRAD_CC_KERNELS_XLA_DEPTHWISE_CONV_XLA_OP_H_

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"

namespace tf_dwgrad {

// What an op is compiled to.
enum class XlaLowering {
  kCallCpuKernels,
  kConvolution,  // of XLA's own, for any device
};

// Compiles one of the ops. The op may have any name, so long as its inputs and
// attributes are those of ours; those of TensorFlow's depthwise ops are.
class DepthwiseConvXlaOp : public ::tensorflow::XlaOpKernel {
 public:
  DepthwiseConvXlaOp(ConvOp op, XlaLowering lowering,
                     ::tensorflow::OpKernelConstruction* ctx);

  void Compile(::tensorflow::XlaOpKernelContext* ctx) override;

 private:
  absl::Status ReadShape(::tensorflow::XlaOpKernelContext* ctx, int index,
                         const char* argument, Shape4* shape) const;
  absl::Status ReadSizes(::tensorflow::XlaOpKernelContext* ctx, int index,
                         const char* argument, Shape4* shape) const;

  const ConvOp op_;
  const XlaLowering lowering_;
  ConvAttributes attributes_;
};

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_XLA_DEPTHWISE_CONV_XLA_OP_H_
