#include "cc/kernels/gpu/filter_gradient.h"

namespace tf_dwgrad {

template cudaError_t LaunchFilterGradient<BFloat16>(FilterGradientVariant,
                                                    const FilterGradientView&,
                                                    const void*, const void*,
                                                    void*, void*, cudaStream_t);

}  // namespace tf_dwgrad
