// The GPU kernels, run on the CPU, on random small problems against a direct
// evaluation of the definition, exactly: every variant, wherever it applies.

#include "cc/kernels/gpu/gpu_kernel.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/random_problems.h"

namespace tf_dwgrad {
namespace {

constexpr ConvOp kOps[] = {ConvOp::kForward, ConvOp::kBackpropInput,
                           ConvOp::kBackpropFilter};

// Runs an op with guards around its workspace, which starts poisoned.
int RunOp(ConvOp op, const GpuConvProblem& problem, int type, int variant,
          const void* first, const void* second, void* result) {
  if (op == ConvOp::kForward) {
    return TfDwgradGpuForward(&problem, type, variant, first, second, result,
                              nullptr);
  }
  if (op == ConvOp::kBackpropInput) {
    return TfDwgradGpuBackpropInput(&problem, type, variant, first, second,
                                    result, nullptr);
  }
  constexpr int64_t kGuard = 256;
  constexpr unsigned char kPoison = 0xff;
  const int64_t bytes =
      TfDwgradGpuBackpropFilterWorkspace(&problem, type, variant);
  std::vector<unsigned char> storage(bytes + 2 * kGuard, kPoison);
  const int error =
      TfDwgradGpuBackpropFilter(&problem, type, variant, first, second, result,
                                storage.data() + kGuard, bytes, nullptr);
  for (int64_t i = 0; i < kGuard; ++i) {
    CHECK_THAT(storage[i] == kPoison && storage[kGuard + bytes + i] == kPoison,
               "writes outside its workspace");
  }
  return error;
}

struct Counts {
  std::map<std::string, int> run;     // problems checked
  std::map<std::string, int> chosen;  // of these, chosen for
};

void TestProblem(Random& random, const Problem& problem, Counts* counts) {
  const GpuConvProblem gpu_problem = MakeGpuConvProblem(problem.geometry);
  for (ConvOp op : kOps) {
    const int op_number = static_cast<int>(op);
    for (int variant = 0; variant < TfDwgradGpuVariantCount(op_number);
         ++variant) {
      const int type = static_cast<int>(random() % kNumElementTypes);
      const int chosen =
          TfDwgradGpuChooseVariant(op_number, &gpu_problem, type);
      CHECK_THAT(
          TfDwgradGpuVariantApplies(op_number, &gpu_problem, type, chosen),
          "the chosen variant applies: " << problem.text);
      const std::string name = std::to_string(op_number) + " " +
                               TfDwgradGpuVariantName(op_number, variant);
      const bool applies =
          TfDwgradGpuVariantApplies(op_number, &gpu_problem, type, variant);
      counts->chosen[name] += chosen == variant;
      if (!applies) {
        CHECK_THAT(RunOp(op, gpu_problem, type, variant, nullptr, nullptr,
                         nullptr) != 0,
                   name << " is refused: " << problem.text);
        continue;
      }
      ++counts->run[name];
      CheckOp(random, problem, op, static_cast<ElementType>(type), name,
              [&](const void* first, const void* second, void* result) {
                const int error = RunOp(op, gpu_problem, type, variant, first,
                                        second, result);
                CHECK_THAT(error == 0, name << ": " << problem.text);
              });
    }
  }
}

// Results without products are zeros; empty ones are left alone.
void TestEmpty() {
  ConvGeometry geometry;
  geometry.batch = 1;
  geometry.in_depth = 2;
  geometry.depth_multiplier = 0;
  geometry.rows = {4, 4, 3, 1, 1, 1};
  geometry.cols = geometry.rows;
  for (ConvOp op : kOps) {
    const GpuConvProblem problem = MakeGpuConvProblem(geometry);
    std::vector<float> result(32, NAN);
    CHECK_THAT(RunOp(op, problem, static_cast<int>(ElementType::kFloat32),
                     kGpuChooseVariant, nullptr, nullptr, result.data()) == 0,
               "no products");
    const float expected = op == ConvOp::kBackpropInput ? 0.0f : NAN;
    for (float value : result) {
      CHECK_THAT(value == expected || std::isnan(value) == std::isnan(expected),
                 value);
    }
  }
  geometry.depth_multiplier = 1;
  geometry.batch = 0;
  const GpuConvProblem problem = MakeGpuConvProblem(geometry);
  std::vector<float> result(18, NAN);
  CHECK_THAT(RunOp(ConvOp::kBackpropFilter, problem,
                   static_cast<int>(ElementType::kFloat32), kGpuChooseVariant,
                   nullptr, nullptr, result.data()) == 0,
             "no images");
  for (float value : result) CHECK_THAT(value == 0, value);
}

void TestBadArguments() {
  ConvGeometry geometry;
  geometry.batch = geometry.in_depth = geometry.depth_multiplier = 1;
  geometry.rows = {4, 4, 3, 1, 1, 1};
  geometry.cols = geometry.rows;
  const GpuConvProblem problem = MakeGpuConvProblem(geometry);
  for (ConvOp op : kOps) {
    const int count = TfDwgradGpuVariantCount(static_cast<int>(op));
    CHECK_THAT(RunOp(op, problem, kNumElementTypes, kGpuChooseVariant, nullptr,
                     nullptr, nullptr) != 0,
               "no such type");
    CHECK_THAT(RunOp(op, problem, 2, count, nullptr, nullptr, nullptr) != 0,
               "no such variant");
  }
  CHECK_THAT(
      TfDwgradGpuBackpropFilter(&problem, 2, kGpuChooseVariant, nullptr,
                                nullptr, nullptr, nullptr, 0, nullptr) != 0,
      "no workspace");
}

}  // namespace
}  // namespace tf_dwgrad

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 1000;
  tf_dwgrad::Random random(54321);
  tf_dwgrad::Counts counts;
  for (int i = 0; i < problems && tf_dwgrad::Failures() < 10; ++i) {
    tf_dwgrad::TestProblem(random, tf_dwgrad::RandomProblem(random), &counts);
  }
  for (const auto& [name, run] : counts.run) {
    std::cout << name << ": " << run << " problems, chosen for "
              << counts.chosen[name] << "\n";
  }
  tf_dwgrad::TestEmpty();
  tf_dwgrad::TestBadArguments();
  return tf_dwgrad::Finish();
}
