// What shape functions and OpKernels share in speaking to TensorFlow.

#ifndef TF_DWGRAD_CC_KERNELS_READ_ATTRIBUTES_H_
#define TF_DWGRAD_CC_KERNELS_READ_ATTRIBUTES_H_

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "tensorflow/core/platform/errors.h"

namespace tf_dwgrad {

inline absl::Status ToStatus(const ErrorMessage& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

// `context` is an InferenceContext or an OpKernelConstruction.
template <typename Context>
absl::Status ReadAttributes(Context* context, ConvAttributes* attributes) {
  RawAttributes raw;
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &raw.strides));
  TF_RETURN_IF_ERROR(context->GetAttr("padding", &raw.padding));
  const absl::Status explicit_paddings =
      context->GetAttr("explicit_paddings", &raw.explicit_paddings);
  // TensorFlow's fused op does not have it.
  if (!absl::IsNotFound(explicit_paddings)) {
    TF_RETURN_IF_ERROR(explicit_paddings);
  }
  TF_RETURN_IF_ERROR(context->GetAttr("data_format", &raw.data_format));
  TF_RETURN_IF_ERROR(context->GetAttr("dilations", &raw.dilations));
  return ToStatus(ParseAttributes(raw, attributes));
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_READ_ATTRIBUTES_H_
