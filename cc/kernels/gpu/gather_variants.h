// The variants of the gather, for those who choose among them.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_VARIANTS_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_VARIANTS_H_

#include <cuda_runtime.h>

#include "cc/kernels/gpu/gather_view.h"

namespace tf_dwgrad {

enum class GatherVariant {
  kPlanes,
  kRolling,
  kSliding,
  kDirect,
  kTiles,
  kStaged,
  kGeneral
};

template <typename T>
cudaError_t LaunchGather(GatherVariant variant, const GatherView& view,
                         const void* src, const void* filter, void* dst,
                         cudaStream_t stream);

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_VARIANTS_H_
