// The built-in depthwise ops under jit_compile=True on the CPU. As in
// builtin_names_op.cc nothing happens until the function below is called, and
// graphs know nothing of it. XLA makes a kernel for each compilation and keeps
// what it compiled: the switch is asked when a function is compiled.

#include <memory>
#include <string>

#include "cc/kernels/builtin_kernel.h"
#include "cc/kernels/builtin_names.h"
#include "cc/kernels/xla/depthwise_conv_xla_op.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/kernel_def_builder.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::DEVICE_CPU_XLA_JIT;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;

class XlaStandInFactory : public BuiltinFactory {
 public:
  XlaStandInFactory(ConvOp op, BuiltinFactory* builtin)
      : op_(op), builtin_(builtin) {}

  OpKernel* Create(OpKernelConstruction* ctx) override {
    if (!tf_dwgrad_serves_builtin_names()) return builtin_->Create(ctx);
    return new DepthwiseConvXlaOp(op_, XlaLowering::kCallCpuKernels, ctx);
  }

 private:
  const ConvOp op_;
  BuiltinFactory* const builtin_;
};

absl::Status StandInFrontOf(const char* name, ConvOp op) {
  for (const tensorflow::DataType type :
       {tensorflow::DT_HALF, tensorflow::DT_BFLOAT16, tensorflow::DT_FLOAT,
        tensorflow::DT_DOUBLE}) {
    absl::StatusOr<FoundKernel> found =
        FindKernel(DEVICE_CPU_XLA_JIT, name, "", type);
    TF_RETURN_IF_ERROR(found.status());
    if (found->factory == nullptr) continue;
    tensorflow::kernel_factory::OpKernelRegistrar(
        tensorflow::KernelDefBuilder(name)
            .Device(DEVICE_CPU_XLA_JIT)
            .TypeConstraint("T", type)
            .Priority(found->def->priority() + 1)
            .Build(),
        "tf_dwgrad", std::make_unique<XlaStandInFactory>(op, found->factory));
  }
  return absl::OkStatus();
}

absl::Status StandInForAll() {
  // XLA keeps its kernels to itself until it is asked for them.
  tensorflow::XlaOpRegistry::RegisterCompilationKernels();
  TF_RETURN_IF_ERROR(StandInFrontOf("DepthwiseConv2dNative", ConvOp::kForward));
  TF_RETURN_IF_ERROR(StandInFrontOf("DepthwiseConv2dNativeBackpropInput",
                                    ConvOp::kBackpropInput));
  return StandInFrontOf("DepthwiseConv2dNativeBackpropFilter",
                        ConvOp::kBackpropFilter);
}

}  // namespace
}  // namespace tf_dwgrad

// As tf_dwgrad_register_builtin_names() of the op library.
extern "C" __attribute__((visibility("default"))) const char*
tf_dwgrad_register_builtin_names_xla() {
  static const std::string* const error =
      new std::string(tf_dwgrad::StandInForAll().message());
  return error->c_str();
}
