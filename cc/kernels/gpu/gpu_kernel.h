// The three ops on an NVIDIA GPU, for callers that know nothing of CUDA: the
// op kernels, and through a foreign-function interface the tests and the
// benchmark.
//
// The launchers put work on a stream and return. They neither wait, allocate
// nor use atomics; the result depends on the operands alone, bit for bit.
// Operands are device pointers, those of the op without its sizes; what they
// return is a cudaError_t, 0 for success.
//
// An op has several variants, of which the best that applies is chosen by the
// problem if `variant` is kGpuChooseVariant. A variant that does not apply is
// refused with cudaErrorInvalidValue.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_GPU_KERNEL_H_
#define TF_DWGRAD_CC_KERNELS_GPU_GPU_KERNEL_H_

#include <stdint.h>

#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/gpu/gpu_problem.h"

// `op` is a ConvOp, `element_type` an ElementType (cc/kernels/
// number_formats.h); `stream` is a cudaStream_t.
#define TF_DWGRAD_GPU_API extern "C" __attribute__((visibility("default")))

TF_DWGRAD_GPU_API int TfDwgradGpuForward(
    const tf_dwgrad::GpuConvProblem* problem, int element_type, int variant,
    const void* input, const void* filter, void* output, void* stream);

TF_DWGRAD_GPU_API int TfDwgradGpuBackpropInput(
    const tf_dwgrad::GpuConvProblem* problem, int element_type, int variant,
    const void* filter, const void* out_backprop, void* in_backprop,
    void* stream);

// `workspace` holds at least TfDwgradGpuBackpropFilterWorkspace bytes of the
// same problem, type and variant; it may be null if that is zero.
TF_DWGRAD_GPU_API int TfDwgradGpuBackpropFilter(
    const tf_dwgrad::GpuConvProblem* problem, int element_type, int variant,
    const void* input, const void* out_backprop, void* filter_backprop,
    void* workspace, int64_t workspace_bytes, void* stream);

TF_DWGRAD_GPU_API int64_t TfDwgradGpuBackpropFilterWorkspace(
    const tf_dwgrad::GpuConvProblem* problem, int element_type, int variant);

// Variants are numbered from 0, the best first.
TF_DWGRAD_GPU_API int TfDwgradGpuVariantCount(int op);
TF_DWGRAD_GPU_API const char* TfDwgradGpuVariantName(int op, int variant);
// 1 if the variant can do the problem.
TF_DWGRAD_GPU_API int TfDwgradGpuVariantApplies(
    int op, const tf_dwgrad::GpuConvProblem* problem, int element_type,
    int variant);
TF_DWGRAD_GPU_API int TfDwgradGpuChooseVariant(
    int op, const tf_dwgrad::GpuConvProblem* problem, int element_type);

// What the runtime says of an error that a launcher returned.
TF_DWGRAD_GPU_API const char* TfDwgradGpuErrorString(int error);

namespace tf_dwgrad {

inline constexpr int kGpuChooseVariant = -1;

inline GpuConvProblem MakeGpuConvProblem(const ConvGeometry& geometry) {
  const auto axis = [](const AxisGeometry& from) {
    return GpuConvAxis{from.in,     from.out,      from.filter,
                       from.stride, from.dilation, from.pad_before};
  };
  return {geometry.batch,
          geometry.in_depth,
          geometry.depth_multiplier,
          axis(geometry.rows),
          axis(geometry.cols),
          geometry.data_format == DataFormat::kNHWC};
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_GPU_KERNEL_H_
