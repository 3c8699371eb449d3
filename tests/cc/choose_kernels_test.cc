#include "cc/kernels/cpu/choose_kernels.h"

#include <string>
#include <vector>

#include "tests/cc/check.h"

namespace tf_dwgrad {
namespace {

KernelTable Named(const char* name) {
  KernelTable table = {};
  table.isa = name;
  return table;
}

const KernelTable kBest = Named("best");
const KernelTable kGood = Named("good");
const KernelTable kAny = Named("any");

void Expect(const std::vector<KernelOption>& options, const char* limit,
            const KernelTable& kernels, const std::string& reason) {
  const KernelChoice choice = ChooseKernels(options, limit);
  CHECK_THAT(choice.kernels == &kernels, choice.kernels->isa);
  CHECK_THAT(choice.reason == reason, choice.reason);
}

void TestChoices() {
  const std::vector<KernelOption> all = {
      {&kBest, {}}, {&kGood, {}}, {&kAny, {}}};
  const std::string best = "the best of best, good, any";
  Expect(all, nullptr, kBest, best);
  Expect(all, "", kBest, best);
  Expect(all, "best", kBest,
         best + "; TF_DWGRAD_MAX_ISA=best takes nothing away");
  Expect(all, "good", kGood,
         "TF_DWGRAD_MAX_ISA=good caps it; this CPU could run best");
  Expect(all, "any", kAny,
         "TF_DWGRAD_MAX_ISA=any caps it; this CPU could run best");
  Expect(all, "Good", kBest,
         best + "; TF_DWGRAD_MAX_ISA=Good is unknown here and ignored");
}

void TestMissingFeatures() {
  const std::vector<KernelOption> old = {
      {&kBest, {"x", "y"}}, {&kGood, {}}, {&kAny, {}}};
  const std::string lacks = "; best needs x, y, which this CPU lacks";
  const std::string best = "the best of best, good, any that this CPU can run";
  Expect(old, nullptr, kGood, best + lacks);
  // The best within the limit, not no limit at all.
  Expect(old, "best", kGood,
         best + lacks + "; TF_DWGRAD_MAX_ISA=best takes nothing away");
  Expect(old, "good", kGood,
         best + lacks + "; TF_DWGRAD_MAX_ISA=good takes nothing away");
  Expect(old, "any", kAny,
         "TF_DWGRAD_MAX_ISA=any caps it; this CPU could run good" + lacks);
  Expect(
      old, "other", kGood,
      best + lacks + "; TF_DWGRAD_MAX_ISA=other is unknown here and ignored");
}

void TestUsable() {
  const std::vector<KernelOption> options = {
      {&kBest, {"x"}}, {&kGood, {}}, {&kAny, {}}};
  const std::string usable = ChooseKernels(options, "any").usable;
  CHECK_THAT(usable == "good,any", usable);
}

void TestThisMachine() {
  const KernelChoice& choice = ChosenKernels();
  CHECK_THAT(choice.kernels != nullptr && !choice.reason.empty(), "no choice");
  CHECK_THAT(&choice == &ChosenKernels(), "the choice is made once");
}

}  // namespace
}  // namespace tf_dwgrad

int main() {
  tf_dwgrad::TestChoices();
  tf_dwgrad::TestMissingFeatures();
  tf_dwgrad::TestUsable();
  tf_dwgrad::TestThisMachine();
  return tf_dwgrad::Finish();
}
