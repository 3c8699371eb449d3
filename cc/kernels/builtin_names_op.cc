// Our kernels behind the names of TensorFlow's depthwise ops.
//
// Nothing happens until the function of builtin_names.h is called. From then on
// TensorFlow makes one of our kernels wherever it would have made its own on
// the CPU, because ours have a higher priority. Each asks a flag at every call
// whether it is to compute, or to hand the call to the built-in kernel that it
// stands in front of. Graphs know nothing of this.
//
// With oneDNN on, TensorFlow renames the ops when it runs them
// ("_MklNative...", found by a label) and fuses a bias and an activation into
// the forward op.

#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cc/kernels/builtin_kernel.h"
#include "cc/kernels/builtin_names.h"
#include "cc/kernels/call_counters.h"
#include "cc/kernels/compute_on_cpu.h"
#include "tensorflow/core/framework/kernel_def_builder.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::DEVICE_CPU;
using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;

std::atomic<bool> serving{false};

// What all kernels behind built-in names have in common. T is the element type.
template <ConvOp op, typename T>
class StandIn : public OpKernel {
 public:
  StandIn(OpKernelConstruction* ctx, BuiltinFactory* builtin)
      : OpKernel(ctx), builtin_(builtin, *ctx) {}

  void Compute(OpKernelContext* ctx) final {
    const bool ours = supported_ && serving.load(std::memory_order_relaxed);
    CountCall(op, ElementTypeOf<T>(),
              ours ? Route::kBuiltinName : Route::kDelegated);
    if (!ours) {
      builtin_.Compute(ctx);
      return;
    }
    OP_REQUIRES_OK(ctx, attributes_status_);
    ComputeOurs(ctx);
  }

 protected:
  // The last thing that constructors do. While ours serve, the attributes have
  // to please us, and nothing of the built-in kernel is made: for some
  // attributes it refuses to be, for some it ends the process. Otherwise it
  // has its own way.
  void Finish(OpKernelConstruction* ctx, bool supported,
              absl::Status attributes_status) {
    supported_ = supported;
    attributes_status_ = attributes_status;
    if (supported && serving.load(std::memory_order_relaxed)) {
      OP_REQUIRES_OK(ctx, attributes_status);
    } else {
      builtin_.Make(ctx);
    }
  }

  virtual void ComputeOurs(OpKernelContext* ctx) = 0;

 private:
  BuiltinKernel builtin_;
  bool supported_ = true;
  absl::Status attributes_status_;
};

// The forward op, the input gradient and the filter gradient.
template <ConvOp op, typename T>
class ConvStandIn : public StandIn<op, T> {
 public:
  ConvStandIn(OpKernelConstruction* ctx, BuiltinFactory* builtin)
      : StandIn<op, T>(ctx, builtin) {
    this->Finish(ctx, /*supported=*/true, ReadAttributes(ctx, &attributes_));
  }

 private:
  void ComputeOurs(OpKernelContext* ctx) override {
    ComputeDepthwiseConv<op, T>(attributes_, ctx);
  }

  ConvAttributes attributes_;
};

// The forward op with a bias and perhaps an activation, which TensorFlow's
// graph optimizer makes of the ops of these names.
template <ConvOp op, typename T>
class FusedStandIn : public StandIn<op, T> {
 public:
  FusedStandIn(OpKernelConstruction* ctx, BuiltinFactory* builtin)
      : StandIn<op, T>(ctx, builtin) {
    std::vector<std::string> fused;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("fused_ops", &fused));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("leakyrelu_alpha", &leakyrelu_alpha_));
    this->Finish(ctx, ReadFusedOps(fused), ReadAttributes(ctx, &attributes_));
  }

 private:
  using Accumulator =
      std::conditional_t<std::is_same_v<T, double>, double, float>;
  enum class Activation { kNone, kRelu, kRelu6, kElu, kLeakyRelu };

  bool ReadFusedOps(const std::vector<std::string>& fused) {
    if (fused.empty() || fused.size() > 2 || fused[0] != "BiasAdd") {
      return false;
    }
    if (fused.size() == 1) return true;
    if (fused[1] == "Relu") {
      activation_ = Activation::kRelu;
    } else if (fused[1] == "Relu6") {
      activation_ = Activation::kRelu6;
    } else if (fused[1] == "Elu") {
      activation_ = Activation::kElu;
    } else if (fused[1] == "LeakyRelu") {
      activation_ = Activation::kLeakyRelu;
    } else {
      return false;
    }
    return true;
  }

  void ComputeOurs(OpKernelContext* ctx) override {
    ComputeDepthwiseConv<op, T>(attributes_, ctx);
    if (!ctx->status().ok()) return;
    Tensor* output = ctx->mutable_output(0);
    const int64_t depth = output->dim_size(attributes_.depth_dim());
    const Tensor& bias = ctx->input(2);
    OP_REQUIRES(ctx, bias.dims() == 1 && bias.dim_size(0) == depth,
                absl::InvalidArgumentError(absl::StrCat(
                    "bias must be of shape [", depth, "], but is of shape ",
                    bias.shape().DebugString())));
    if (output->NumElements() == 0) return;
    switch (activation_) {
      case Activation::kNone:
        return AddBias(ctx, output, [](Accumulator x) { return x; });
      // Comparisons that let a NaN pass.
      case Activation::kRelu:
        return AddBias(ctx, output,
                       [](Accumulator x) { return x <= 0 ? 0 : x; });
      case Activation::kRelu6:
        return AddBias(ctx, output, [](Accumulator x) {
          return x <= 0 ? 0 : x >= 6 ? 6 : x;
        });
      case Activation::kElu:
        return AddBias(ctx, output,
                       [](Accumulator x) { return x < 0 ? std::expm1(x) : x; });
      case Activation::kLeakyRelu: {
        const Accumulator alpha = leakyrelu_alpha_;
        return AddBias(ctx, output, [alpha](Accumulator x) {
          return x < 0 ? alpha * x : x;
        });
      }
    }
  }

  template <typename Activate>
  void AddBias(OpKernelContext* ctx, Tensor* output, Activate activate) const {
    const bool nhwc = attributes_.data_format == DataFormat::kNHWC;
    const T* bias = ctx->input(2).template flat<T>().data();
    const int64_t depth = ctx->input(2).NumElements();
    T* values = output->flat<T>().data();
    // A row is a pixel's channels, or a channel's plane.
    const int64_t row =
        nhwc ? depth : output->dim_size(2) * output->dim_size(3);
    const auto add = [&](Eigen::Index begin, Eigen::Index end) {
      for (Eigen::Index r = begin; r < end; ++r) {
        T* const at = values + r * row;
        const T* const of_row = bias + (nhwc ? 0 : r % depth);
        for (int64_t i = 0; i < row; ++i) {
          at[i] = static_cast<T>(
              activate(static_cast<Accumulator>(at[i]) +
                       static_cast<Accumulator>(of_row[nhwc ? i : 0])));
        }
      }
    };
    ctx->eigen_device<Eigen::ThreadPoolDevice>().parallelFor(
        output->NumElements() / row,
        Eigen::TensorOpCost(/*bytes_loaded=*/row * sizeof(T),
                            /*bytes_stored=*/row * sizeof(T),
                            /*compute_cycles=*/row),
        add);
  }

  ConvAttributes attributes_;
  Activation activation_ = Activation::kNone;
  float leakyrelu_alpha_ = 0;
};

template <typename Kernel>
class StandInFactory : public tensorflow::kernel_factory::OpKernelFactory {
 public:
  explicit StandInFactory(BuiltinFactory* builtin) : builtin_(builtin) {}
  OpKernel* Create(OpKernelConstruction* ctx) override {
    return new Kernel(ctx, builtin_);
  }

 private:
  BuiltinFactory* const builtin_;
};

// Where TensorFlow has a kernel for this op and type, ours goes in front.
template <typename Kernel>
absl::Status StandInFrontOf(const char* op, const char* label,
                            tensorflow::DataType type) {
  absl::StatusOr<FoundKernel> found = FindKernel(DEVICE_CPU, op, label, type);
  TF_RETURN_IF_ERROR(found.status());
  if (found->factory == nullptr) return absl::OkStatus();
  // Registers itself; the object holds nothing.
  tensorflow::kernel_factory::OpKernelRegistrar(
      tensorflow::KernelDefBuilder(op)
          .Device(DEVICE_CPU)
          .TypeConstraint("T", type)
          .Label(label)
          .Priority(found->def->priority() + 1)
          .Build(),
      "tf_dwgrad", std::make_unique<StandInFactory<Kernel>>(found->factory));
  return absl::OkStatus();
}

template <typename T>
absl::Status StandInForType() {
  constexpr tensorflow::DataType type = tensorflow::DataTypeToEnum<T>::value;
  constexpr char onednn[] = "MklNameChangeOp";
  using Forward = ConvStandIn<ConvOp::kForward, T>;
  using BackpropInput = ConvStandIn<ConvOp::kBackpropInput, T>;
  using BackpropFilter = ConvStandIn<ConvOp::kBackpropFilter, T>;
  TF_RETURN_IF_ERROR(
      StandInFrontOf<Forward>("DepthwiseConv2dNative", "", type));
  TF_RETURN_IF_ERROR(StandInFrontOf<BackpropInput>(
      "DepthwiseConv2dNativeBackpropInput", "", type));
  TF_RETURN_IF_ERROR(StandInFrontOf<BackpropFilter>(
      "DepthwiseConv2dNativeBackpropFilter", "", type));
  TF_RETURN_IF_ERROR(
      StandInFrontOf<Forward>("_MklNativeDepthwiseConv2dNative", onednn, type));
  TF_RETURN_IF_ERROR(StandInFrontOf<BackpropInput>(
      "_MklNativeDepthwiseConv2dNativeBackpropInput", onednn, type));
  TF_RETURN_IF_ERROR(StandInFrontOf<BackpropFilter>(
      "_MklNativeDepthwiseConv2dNativeBackpropFilter", onednn, type));
  return StandInFrontOf<FusedStandIn<ConvOp::kForward, T>>(
      "_MklNativeFusedDepthwiseConv2dNative", onednn, type);
}

absl::Status StandInForAll() {
  TF_RETURN_IF_ERROR(StandInForType<Eigen::half>());
  TF_RETURN_IF_ERROR(StandInForType<Eigen::bfloat16>());
  TF_RETURN_IF_ERROR(StandInForType<float>());
  return StandInForType<double>();
}

}  // namespace
}  // namespace tf_dwgrad

const char* tf_dwgrad_register_builtin_names() {
  static const std::string* const error =
      new std::string(tf_dwgrad::StandInForAll().message());
  return error->c_str();
}

void tf_dwgrad_serve_builtin_names(int serve) {
  tf_dwgrad::serving.store(serve != 0);
}

int tf_dwgrad_serves_builtin_names() { return tf_dwgrad::serving.load(); }
