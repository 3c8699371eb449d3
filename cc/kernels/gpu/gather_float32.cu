#include "cc/kernels/gpu/gather.h"

namespace tf_dwgrad {

template cudaError_t LaunchGather<float>(GatherVariant, const GatherView&,
                                         const void*, const void*, void*,
                                         cudaStream_t);

}  // namespace tf_dwgrad
