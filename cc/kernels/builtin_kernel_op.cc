#include <cstddef>
#include <string>
#include <utility>

#include "cc/kernels/builtin_kernel.h"
#include "tensorflow/core/framework/kernel_def.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/node_properties.h"
#include "tensorflow/core/framework/op.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::KernelDef;
using ::tensorflow::NodeDef;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;

// How TensorFlow 2.21 keeps a registered kernel. The registry gives out the
// first member and the value of the second, by which FindKernel checks that
// they lie as they do here.
struct RegisteredKernel {
  const KernelDef def;
  const std::string class_name;
  std::unique_ptr<BuiltinFactory> factory;
};

}  // namespace

absl::StatusOr<FoundKernel> FindKernel(const char* device, const char* op,
                                       const char* label,
                                       tensorflow::DataType type) {
  NodeDef node;
  node.set_name("tf_dwgrad");
  node.set_op(op);
  (*node.mutable_attr())["T"].set_type(type);
  if (*label != '\0') (*node.mutable_attr())["_kernel"].set_s(label);
  const KernelDef* def = nullptr;
  std::string class_name;
  const absl::Status found =
      tensorflow::FindKernelDef(device, node, &def, &class_name);
  if (absl::IsNotFound(found)) return FoundKernel();
  TF_RETURN_IF_ERROR(found);

  const auto* kernel = reinterpret_cast<const RegisteredKernel*>(def);
  if (kernel->class_name.size() != class_name.size() ||
      kernel->class_name != class_name || kernel->factory == nullptr) {
    return absl::UnimplementedError(
        "this TensorFlow keeps its kernels otherwise than the one that "
        "tf_dwgrad was written for");
  }
  return FoundKernel{def, kernel->factory.get()};
}

void BuiltinKernel::Compute(OpKernelContext* ctx) {
  OpKernel* kernel;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kernel_ == nullptr) OP_REQUIRES_OK(ctx, MakeLate(ctx));
    kernel = kernel_.get();
  }
  kernel->Compute(ctx);
}

absl::Status BuiltinKernel::MakeLate(OpKernelContext* ctx) {
  const OpKernel& ours = ctx->op_kernel();
  std::shared_ptr<const tensorflow::NodeProperties> properties;
  TF_RETURN_IF_ERROR(tensorflow::NodeProperties::CreateFromNodeDef(
      ours.def(), tensorflow::OpRegistry::Global(), &properties));
  absl::Status status;
  OpKernelConstruction construction(
      device_type_, ctx->device(),
      ctx->device()->GetAllocator(tensorflow::AllocatorAttributes()),
      ctx->function_library(), ctx->resource_manager(), properties,
      ours.input_memory_types(), ours.output_memory_types(), graph_def_version_,
      &status);
  std::unique_ptr<OpKernel> kernel(factory_->Create(&construction));
  TF_RETURN_IF_ERROR(status);
  kernel_ = std::move(kernel);
  return absl::OkStatus();
}

}  // namespace tf_dwgrad
