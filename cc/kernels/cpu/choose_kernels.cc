#include "cc/kernels/cpu/choose_kernels.h"

#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tf_dwgrad {

extern const KernelTable kGenericKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512GatherKernels;
extern const KernelTable kAvx512FilterGradientKernels;
extern const KernelTable kAvx512Bf16Kernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonKernels;
#endif

namespace {

#if defined(__x86_64__)
template <typename Kernel>
void TakeMissing(Kernel (&kernels)[kNumElementTypes],
                 const Kernel (&others)[kNumElementTypes]) {
  for (int type = 0; type < kNumElementTypes; ++type) {
    if (kernels[type] == nullptr) kernels[type] = others[type];
  }
}

// `table` with what it lacks from `other`.
KernelTable Merge(const KernelTable& table, const KernelTable& other) {
  KernelTable merged = table;
  TakeMissing(merged.gather_direct, other.gather_direct);
  TakeMissing(merged.gather_rolling, other.gather_rolling);
  TakeMissing(merged.gather_folded_rows, other.gather_folded_rows);
  TakeMissing(merged.gather_multiplied, other.gather_multiplied);
  TakeMissing(merged.gather_packed, other.gather_packed);
  TakeMissing(merged.gather_along_rows, other.gather_along_rows);
  TakeMissing(merged.gather_tap_columns, other.gather_tap_columns);
  TakeMissing(merged.gather_planes, other.gather_planes);
  TakeMissing(merged.filter_gradient_direct, other.filter_gradient_direct);
  TakeMissing(merged.filter_gradient_packed, other.filter_gradient_packed);
  TakeMissing(merged.filter_gradient_planes, other.filter_gradient_planes);
  TakeMissing(merged.filter_gradient_reduction,
              other.filter_gradient_reduction);
  return merged;
}

// Some choices are a matter of speed on the CPUs of one vendor.
// TF_DWGRAD_CPU_VENDOR=amd|intel makes those of another, to test them.
bool IsVendor(const char* name, bool is_vendor) {
  const char* setting = std::getenv("TF_DWGRAD_CPU_VENDOR");
  if (setting == nullptr || *setting == '\0') return is_vendor;
  return std::string_view(setting) == name;
}

KernelTable TunedForVendor(const KernelTable& kernels) {
  KernelTable tuned = kernels;
  // AMD's CPUs add the products of pairs as fast as single ones, Intel's at
  // half the speed.
  tuned.pairs_rows =
      kernels.pairs_rows && IsVendor("amd", __builtin_cpu_is("amd") != 0);
  // Past the caches, Intel's write lines of many pixels in turn at half the
  // speed of pairs of them: 6.4 ns a line where pixels are 1 KB apart, 3.7 in
  // pairs (family 6, model 207).
  tuned.joins_lines = IsVendor("intel", __builtin_cpu_is("intel") != 0);
  return tuned;
}

// Not every compiler knows the name of this one.
bool HasF16c() {
  unsigned int eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

struct Feature {
  const char* name;
  bool present;
};

// The compiler wants the name as a literal.
#define CPU_FEATURE(name) Feature{name, __builtin_cpu_supports(name) != 0}

std::vector<std::string> Missing(const std::vector<Feature>& needed) {
  std::vector<std::string> missing;
  for (const Feature& feature : needed) {
    if (!feature.present) missing.push_back(feature.name);
  }
  return missing;
}
#endif

// All kernels in this library, the best first.
std::vector<KernelOption> Options() {
#if defined(__x86_64__)
  static const KernelTable avx512 =
      TunedForVendor(Merge(kAvx512GatherKernels, kAvx512FilterGradientKernels));
  static const KernelTable avx512_bf16 =
      TunedForVendor(Merge(kAvx512Bf16Kernels, avx512));
  const std::vector<Feature> avx2 = {CPU_FEATURE("avx2"), CPU_FEATURE("fma"),
                                     Feature{"f16c", HasF16c()}};
  std::vector<Feature> avx512_features = avx2;
  avx512_features.insert(avx512_features.end(),
                         {CPU_FEATURE("avx512f"), CPU_FEATURE("avx512bw"),
                          CPU_FEATURE("avx512dq"), CPU_FEATURE("avx512vl")});
  std::vector<Feature> bf16 = avx512_features;
  bf16.push_back(CPU_FEATURE("avx512bf16"));
#endif
  return {
#if defined(__x86_64__)
      {&avx512_bf16, Missing(bf16)},
      {&avx512, Missing(avx512_features)},
      {&kAvx2Kernels, Missing(avx2)},
#elif defined(__aarch64__)
      // Part of every ARM64.
      {&kNeonKernels, {}},
#endif
      {&kGenericKernels, {}},
  };
}

std::string Join(const std::vector<std::string>& parts, const char* separator) {
  std::string all;
  for (const std::string& part : parts) {
    if (!all.empty()) all += separator;
    all += part;
  }
  return all;
}

}  // namespace

KernelChoice ChooseKernels(const std::vector<KernelOption>& options,
                           const char* limit) {
  const bool have_limit = limit != nullptr && *limit != '\0';
  const std::string setting =
      have_limit ? std::string("TF_DWGRAD_MAX_ISA=") + limit : "";
  const KernelTable* best = nullptr;     // that this CPU can run
  const KernelTable* allowed = nullptr;  // the best within the limit
  bool within_limit = !have_limit;
  std::vector<std::string> names, usable, lacking;
  for (const KernelOption& option : options) {
    const std::string name = option.kernels->isa;
    names.push_back(name);
    if (have_limit && name == limit) within_limit = true;
    if (!option.missing.empty()) {
      lacking.push_back(name + " needs " + Join(option.missing, ", ") +
                        ", which this CPU lacks");
      continue;
    }
    usable.push_back(name);
    if (best == nullptr) best = option.kernels;
    if (within_limit && allowed == nullptr) allowed = option.kernels;
  }

  std::vector<std::string> reasons;
  if (allowed != nullptr && allowed != best) {
    reasons.push_back(setting + " caps it");
    reasons.push_back("this CPU could run " + std::string(best->isa));
  } else {
    reasons.push_back("the best of " + Join(names, ", ") +
                      (lacking.empty() ? "" : " that this CPU can run"));
  }
  reasons.insert(reasons.end(), lacking.begin(), lacking.end());
  if (!within_limit) {
    reasons.push_back(setting + " is unknown here and ignored");
  } else if (have_limit && allowed == best) {
    reasons.push_back(setting + " takes nothing away");
  }
  return {allowed != nullptr ? allowed : best, Join(reasons, "; "),
          Join(usable, ",")};
}

const KernelChoice& ChosenKernels() {
  // Never destroyed: TensorFlow's threads may still run when the process ends.
  static const KernelChoice& choice = *new KernelChoice(
      ChooseKernels(Options(), std::getenv("TF_DWGRAD_MAX_ISA")));
  return choice;
}

}  // namespace tf_dwgrad
