// All variants of the filter gradient for one element type. Each type has a
// file that instantiates this one, so that they compile side by side.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_H_
#define TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_H_

#include "cc/kernels/gpu/filter_gradient_general.h"
#include "cc/kernels/gpu/filter_gradient_rolling.h"
#include "cc/kernels/gpu/filter_gradient_strips.h"
#include "cc/kernels/gpu/filter_gradient_variants.h"

namespace tf_dwgrad {

template <typename T>
cudaError_t LaunchFilterGradient(FilterGradientVariant variant,
                                 const FilterGradientView& view,
                                 const void* input, const void* gradient,
                                 void* filter_gradient, void* workspace,
                                 cudaStream_t stream) {
  switch (variant) {
    case FilterGradientVariant::kRolling:
      return LaunchFilterGradientRolling<T>(view, input, gradient,
                                            filter_gradient, workspace, stream);
    case FilterGradientVariant::kStrips:
      return LaunchFilterGradientStrips<T>(view, input, gradient,
                                           filter_gradient, workspace, stream);
    case FilterGradientVariant::kGeneral:
      return LaunchFilterGradientGeneral<T>(view, input, gradient,
                                            filter_gradient, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_H_
