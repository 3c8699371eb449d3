// The ops in XLA's own terms, for devices on which there is no kernel to call.

#ifndef TF_DWGRAD_CC_KERNELS_XLA_CONVOLUTION_H_
#define TF_DWGRAD_CC_KERNELS_XLA_CONVOLUTION_H_

#include "cc/kernels/conv_geometry.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape.h"

namespace tf_dwgrad {

// `op` as one grouped convolution. Operands as for CpuKernel::Run. Half and
// bfloat16 are computed in float32 and rounded at the end.
xla::XlaOp LowerToConvolution(ConvOp op, const ConvGeometry& geometry,
                              xla::XlaOp first, xla::XlaOp second,
                              const xla::Shape& result_shape);

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_XLA_CONVOLUTION_H_
