// What the OpKernels for the CPU do, under whatever name they are registered:
// they hand the work to the CPU kernels on TensorFlow's thread pool.

#ifndef TF_DWGRAD_CC_KERNELS_COMPUTE_ON_CPU_H_
#define TF_DWGRAD_CC_KERNELS_COMPUTE_ON_CPU_H_

#ifndef EIGEN_USE_THREADS
#define EIGEN_USE_THREADS
#endif

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/cpu/cpu_kernel.h"
#include "cc/kernels/read_operands.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "unsupported/Eigen/CXX11/Tensor"

namespace tf_dwgrad {

// Computes output 0 of `ctx`, or sets its status to what is wrong.
template <ConvOp op, typename T>
void ComputeDepthwiseConv(const ConvAttributes& attributes,
                          tensorflow::OpKernelContext* ctx) {
  ConvOperands operands;
  OP_REQUIRES_OK(ctx, ReadOperands<op>(attributes, ctx, &operands));
  const Eigen::ThreadPoolDevice& device =
      ctx->eigen_device<Eigen::ThreadPoolDevice>();
  const CpuKernel kernel(op, ElementTypeOf<T>(), operands.geometry);
  if (!kernel.has_work()) {
    operands.result->flat<T>().setZero();
    return;
  }
  tensorflow::Tensor workspace;
  if (kernel.workspace_bytes() > 0) {
    const tensorflow::TensorShape shape(
        {static_cast<int64_t>(kernel.workspace_bytes())});
    OP_REQUIRES_OK(ctx,
                   ctx->allocate_temp(tensorflow::DT_UINT8, shape, &workspace));
  }
  kernel.RunAll(
      operands.first->data(), operands.second->data(), operands.result->data(),
      workspace.data(), [&](int64_t units, double unit_cycles, auto do_units) {
        device.parallelFor(units,
                           Eigen::TensorOpCost(/*bytes_loaded=*/0,
                                               /*bytes_stored=*/0, unit_cycles),
                           do_units);
      });
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_COMPUTE_ON_CPU_H_
