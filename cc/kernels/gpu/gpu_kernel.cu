#include "cc/kernels/gpu/filter_gradient_general.h"
#include "cc/kernels/gpu/filter_gradient_rolling.h"
#include "cc/kernels/gpu/filter_gradient_strips.h"
#include "cc/kernels/gpu/filter_gradient_variants.h"
#include "cc/kernels/gpu/gather_direct.h"
#include "cc/kernels/gpu/gather_planes.h"
#include "cc/kernels/gpu/gather_rolling.h"
#include "cc/kernels/gpu/gather_sliding.h"
#include "cc/kernels/gpu/gather_tiles.h"
#include "cc/kernels/gpu/gather_variants.h"
#include "cc/kernels/gpu/gpu_kernel.h"

namespace tf_dwgrad {
namespace {

// --- Which variant does what -------------------------------------------------

// The variants of an op, the best first. The first that applies and pays is
// chosen; the last does both for every problem.
struct GatherChoice {
  GatherVariant variant;
  const char* name;
  bool (*applies)(const GatherView& view, int64_t element_bytes);
  bool (*pays)(const GatherView& view, int64_t element_bytes);
};

// Taps of a phase, at most.
int64_t MostTaps(const GatherPlan& plan) {
  const int64_t step = plan.tap_step < 0 ? -plan.tap_step : plan.tap_step;
  return CeilDiv(plan.filter_size, step);
}

constexpr GatherChoice kGatherChoices[] = {
    {GatherVariant::kPlanes, "planes", PlanesApply,
     [](const GatherView&, int64_t) { return true; }},
    {GatherVariant::kRolling, "rolling",
     [](const GatherView& view, int64_t) { return RollingApplies(view); },
     [](const GatherView& view, int64_t element_bytes) {
       // It takes the channels of a depth multiplier one by one.
       return view.shared_by == 1 || !DirectApplies(view, element_bytes);
     }},
    {GatherVariant::kSliding, "sliding",
     [](const GatherView& view, int64_t) { return SlidingApplies(view); },
     [](const GatherView& view, int64_t) {
       // A warp has 64 channels; and with few taps, staging takes longer than
       // the products.
       return view.dst_depth >= 32 &&
              MostTaps(view.rows) * MostTaps(view.cols) >= 32;
     }},
    {GatherVariant::kDirect, "direct", DirectApplies,
     [](const GatherView&, int64_t) { return true; }},
    {GatherVariant::kTiles, "tiles", TilesApply,
     [](const GatherView&, int64_t) { return true; }},
    {GatherVariant::kStaged, "staged",
     [](const GatherView& view, int64_t) { return ImagesFit32Bits(view); },
     [](const GatherView& view, int64_t) {
       // A warp's lanes are channels, and barriers cost the more the fewer
       // products lie between them.
       return view.dst_depth >= 16 &&
              view.passes * MostTaps(view.rows) * MostTaps(view.cols) >= 16;
     }},
    {GatherVariant::kGeneral, "general",
     [](const GatherView&, int64_t) { return true; },
     [](const GatherView&, int64_t) { return true; }},
};

struct FilterGradientChoice {
  FilterGradientVariant variant;
  const char* name;
  bool (*applies)(const FilterGradientView& view, int64_t element_bytes);
  bool (*pays)(const FilterGradientView& view, int64_t element_bytes);
  // Cuts into chunks; returns for how many partial sums there has to be room.
  int64_t (*split)(int64_t element_bytes, FilterGradientView* view);
};

constexpr FilterGradientChoice kFilterGradientChoices[] = {
    {FilterGradientVariant::kRolling, "rolling",
     [](const FilterGradientView& view, int64_t) { return MarchesApply(view); },
     [](const FilterGradientView& view, int64_t) { return MarchesPay(view); },
     [](int64_t element_bytes, FilterGradientView* view) {
       view->num_chunks = MarchChunks(*view, element_bytes);
       return view->num_chunks > 1 ? view->num_chunks : 0;
     }},
    {FilterGradientVariant::kStrips, "strips",
     [](const FilterGradientView& view, int64_t) { return StripsApply(view); },
     [](const FilterGradientView&, int64_t) { return true; },
     [](int64_t, FilterGradientView* view) {
       SplitIntoChunks(StripChunks(*view), view);
       return view->num_chunks;
     }},
    {FilterGradientVariant::kGeneral, "general",
     [](const FilterGradientView&, int64_t) { return true; },
     [](const FilterGradientView&, int64_t) { return true; },
     [](int64_t, FilterGradientView* view) {
       SplitIntoChunks(GeneralChunks(*view), view);
       return view->num_chunks;
     }},
};

// The choice of that number, or the best; null if there is none.
template <typename Choice, int kCount, typename View>
const Choice* Choose(const Choice (&choices)[kCount], const View& view,
                     ElementType type, int variant) {
  const int64_t bytes = SizeOf(type);
  if (variant != kGpuChooseVariant) {
    if (variant < 0 || variant >= kCount) return nullptr;
    const Choice& choice = choices[variant];
    return choice.applies(view, bytes) ? &choice : nullptr;
  }
  for (const Choice& choice : choices) {
    if (choice.applies(view, bytes) && choice.pays(view, bytes)) return &choice;
  }
  return nullptr;
}

// --- Problems without a product ----------------------------------------------

int64_t InputSize(const GpuConvProblem& problem) {
  return problem.batch * problem.rows.in * problem.cols.in * problem.in_depth;
}
int64_t FilterSize(const GpuConvProblem& problem) {
  return problem.rows.filter * problem.cols.filter * problem.in_depth *
         problem.depth_multiplier;
}
int64_t OutputSize(const GpuConvProblem& problem) {
  return problem.batch * problem.rows.out * problem.cols.out *
         problem.in_depth * problem.depth_multiplier;
}

bool HasProducts(const GpuConvProblem& problem) {
  return InputSize(problem) > 0 && FilterSize(problem) > 0 &&
         OutputSize(problem) > 0;
}

cudaError_t FillWithZeros(void* result, int64_t elements, ElementType type,
                          cudaStream_t stream) {
  if (elements == 0) return cudaSuccess;
  return cudaMemsetAsync(result, 0,
                         static_cast<size_t>(elements * SizeOf(type)), stream);
}

// --- From run-time to compile-time types -------------------------------------

bool IsElementType(int type) { return type >= 0 && type < kNumElementTypes; }

// Calls call(T()) with the type's T.
template <typename Call>
auto WithType(ElementType type, Call call) {
  switch (type) {
    case ElementType::kHalf:
      return call(Half());
    case ElementType::kBFloat16:
      return call(BFloat16());
    case ElementType::kFloat32:
      return call(float());
    default:
      return call(double());
  }
}

cudaError_t Gather(const GpuConvProblem& problem, bool backward,
                   int element_type, int variant, const void* src,
                   const void* filter, void* dst, void* stream_handle) {
  if (!IsElementType(element_type)) return cudaErrorInvalidValue;
  const ElementType type = static_cast<ElementType>(element_type);
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  if (!HasProducts(problem)) {
    return FillWithZeros(
        dst, backward ? InputSize(problem) : OutputSize(problem), type, stream);
  }
  const GatherView view = MakeGatherView(problem, backward);
  const GatherChoice* choice = Choose(kGatherChoices, view, type, variant);
  if (choice == nullptr) return cudaErrorInvalidValue;
  return WithType(type, [&](auto element) {
    return LaunchGather<decltype(element)>(choice->variant, view, src, filter,
                                           dst, stream);
  });
}

struct FilterGradientPlan {
  const FilterGradientChoice* choice;
  FilterGradientView view;
  int64_t workspace_bytes;
};

FilterGradientPlan PlanFilterGradient(const GpuConvProblem& problem,
                                      ElementType type, int variant) {
  FilterGradientPlan plan;
  plan.view = MakeFilterGradientView(problem);
  plan.workspace_bytes = 0;
  plan.choice = Choose(kFilterGradientChoices, plan.view, type, variant);
  if (plan.choice == nullptr) return plan;
  const int64_t partial_sums = plan.choice->split(SizeOf(type), &plan.view);
  plan.workspace_bytes = partial_sums * plan.view.filter_size *
                         (type == ElementType::kFloat64 ? 8 : 4);
  return plan;
}

bool IsFilterGradient(int op) {
  return op == static_cast<int>(ConvOp::kBackpropFilter);
}

// The variant's number; negative if it does not apply.
int FindVariant(int op, const GpuConvProblem& problem, int element_type,
                int variant) {
  if (!IsElementType(element_type)) return -1;
  const ElementType type = static_cast<ElementType>(element_type);
  if (IsFilterGradient(op)) {
    const FilterGradientChoice* choice = Choose(
        kFilterGradientChoices, MakeFilterGradientView(problem), type, variant);
    return choice == nullptr
               ? -1
               : static_cast<int>(choice - kFilterGradientChoices);
  }
  const bool backward = op == static_cast<int>(ConvOp::kBackpropInput);
  const GatherChoice* choice =
      Choose(kGatherChoices, MakeGatherView(problem, backward), type, variant);
  return choice == nullptr ? -1 : static_cast<int>(choice - kGatherChoices);
}

}  // namespace
}  // namespace tf_dwgrad

using namespace tf_dwgrad;

int TfDwgradGpuForward(const GpuConvProblem* problem, int element_type,
                       int variant, const void* input, const void* filter,
                       void* output, void* stream) {
  return Gather(*problem, false, element_type, variant, input, filter, output,
                stream);
}

int TfDwgradGpuBackpropInput(const GpuConvProblem* problem, int element_type,
                             int variant, const void* filter,
                             const void* out_backprop, void* in_backprop,
                             void* stream) {
  return Gather(*problem, true, element_type, variant, out_backprop, filter,
                in_backprop, stream);
}

int TfDwgradGpuBackpropFilter(const GpuConvProblem* problem, int element_type,
                              int variant, const void* input,
                              const void* out_backprop, void* filter_backprop,
                              void* workspace, int64_t workspace_bytes,
                              void* stream_handle) {
  if (!IsElementType(element_type)) return cudaErrorInvalidValue;
  const ElementType type = static_cast<ElementType>(element_type);
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  if (!HasProducts(*problem)) {
    return FillWithZeros(filter_backprop, FilterSize(*problem), type, stream);
  }
  const FilterGradientPlan plan = PlanFilterGradient(*problem, type, variant);
  if (plan.choice == nullptr || workspace_bytes < plan.workspace_bytes) {
    return cudaErrorInvalidValue;
  }
  return WithType(type, [&](auto element) {
    return LaunchFilterGradient<decltype(element)>(
        plan.choice->variant, plan.view, input, out_backprop, filter_backprop,
        workspace, stream);
  });
}

int64_t TfDwgradGpuBackpropFilterWorkspace(const GpuConvProblem* problem,
                                           int element_type, int variant) {
  if (!IsElementType(element_type) || !HasProducts(*problem)) return 0;
  return PlanFilterGradient(*problem, static_cast<ElementType>(element_type),
                            variant)
      .workspace_bytes;
}

int TfDwgradGpuVariantCount(int op) {
  return IsFilterGradient(op)
             ? sizeof(kFilterGradientChoices) /
                   sizeof(kFilterGradientChoices[0])
             : sizeof(kGatherChoices) / sizeof(kGatherChoices[0]);
}

const char* TfDwgradGpuVariantName(int op, int variant) {
  if (variant < 0 || variant >= TfDwgradGpuVariantCount(op)) return "";
  return IsFilterGradient(op) ? kFilterGradientChoices[variant].name
                              : kGatherChoices[variant].name;
}

int TfDwgradGpuVariantApplies(int op, const GpuConvProblem* problem,
                              int element_type, int variant) {
  return variant >= 0 && FindVariant(op, *problem, element_type, variant) >= 0;
}

int TfDwgradGpuChooseVariant(int op, const GpuConvProblem* problem,
                             int element_type) {
  return FindVariant(op, *problem, element_type, kGpuChooseVariant);
}

const char* TfDwgradGpuErrorString(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
