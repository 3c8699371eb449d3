// A kernel of TensorFlow's own, found in its registry, for a kernel of ours
// that is registered in front of it.

#ifndef TF_DWGRAD_CC_KERNELS_BUILTIN_KERNEL_H_
#define TF_DWGRAD_CC_KERNELS_BUILTIN_KERNEL_H_

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tf_dwgrad {

using BuiltinFactory = tensorflow::kernel_factory::OpKernelFactory;

struct FoundKernel {
  const tensorflow::KernelDef* def = nullptr;  // null if there is none
  BuiltinFactory* factory = nullptr;           // the registry's own
};

// The kernel that TensorFlow would choose now for this op with attribute `T`.
// Fails if TensorFlow keeps its kernels otherwise than this library expects.
absl::StatusOr<FoundKernel> FindKernel(const char* device, const char* op,
                                       const char* label,
                                       tensorflow::DataType type);

// The kernel that a factory makes, made when it is first needed: making one
// for attributes that only our kernel supports is an error, or worse.
class BuiltinKernel {
 public:
  BuiltinKernel(BuiltinFactory* factory,
                const tensorflow::OpKernelConstruction& ctx)
      : factory_(factory),
        device_type_(ctx.device_type()),
        graph_def_version_(ctx.graph_def_version()) {}

  // Makes the kernel at once; what is wrong is in the status of `ctx`.
  void Make(tensorflow::OpKernelConstruction* ctx) {
    kernel_.reset(factory_->Create(ctx));
  }

  void Compute(tensorflow::OpKernelContext* ctx);

 private:
  absl::Status MakeLate(tensorflow::OpKernelContext* ctx);

  BuiltinFactory* const factory_;
  const tensorflow::DeviceType device_type_;
  const int graph_def_version_;
  std::mutex mutex_;  // guards the making of kernel_
  std::unique_ptr<tensorflow::OpKernel> kernel_;
};

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_BUILTIN_KERNEL_H_
