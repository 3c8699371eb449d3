// The variants of the filter gradient, for those who choose among them.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_VARIANTS_H_
#define TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_VARIANTS_H_

#include <cuda_runtime.h>

#include "cc/kernels/gpu/filter_gradient_view.h"

namespace tf_dwgrad {

enum class FilterGradientVariant { kRolling, kStrips, kGeneral };

// `workspace` holds num_chunks partial sums of every filter element, as
// accumulators.
template <typename T>
cudaError_t LaunchFilterGradient(FilterGradientVariant variant,
                                 const FilterGradientView& view,
                                 const void* input, const void* gradient,
                                 void* filter_gradient, void* workspace,
                                 cudaStream_t stream);

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_VARIANTS_H_
