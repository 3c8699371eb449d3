// All variants of the gather for one element type. Each type has a file that
// instantiates this one, so that they compile side by side.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GATHER_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GATHER_H_

#include "cc/kernels/gpu/gather_direct.h"
#include "cc/kernels/gpu/gather_general.h"
#include "cc/kernels/gpu/gather_planes.h"
#include "cc/kernels/gpu/gather_rolling.h"
#include "cc/kernels/gpu/gather_sliding.h"
#include "cc/kernels/gpu/gather_staged.h"
#include "cc/kernels/gpu/gather_tiles.h"
#include "cc/kernels/gpu/gather_variants.h"

namespace tf_dwgrad {

template <typename T>
cudaError_t LaunchGather(GatherVariant variant, const GatherView& view,
                         const void* src, const void* filter, void* dst,
                         cudaStream_t stream) {
  switch (variant) {
    case GatherVariant::kPlanes:
      return LaunchGatherPlanes<T>(view, src, filter, dst, stream);
    case GatherVariant::kRolling:
      return LaunchGatherRolling<T>(view, src, filter, dst, stream);
    case GatherVariant::kSliding:
      return LaunchGatherSliding<T>(view, src, filter, dst, stream);
    case GatherVariant::kDirect:
      return LaunchGatherDirect<T>(view, src, filter, dst, stream);
    case GatherVariant::kTiles:
      return LaunchGatherTiles<T>(view, src, filter, dst, stream);
    case GatherVariant::kStaged:
      return LaunchGatherStaged<T>(view, src, filter, dst, stream);
    case GatherVariant::kGeneral:
      return LaunchGatherGeneral<T>(view, src, filter, dst, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GATHER_H_
