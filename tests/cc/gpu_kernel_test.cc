// The GPU kernels, run on the CPU, on random small problems against a direct
// evaluation of the definition, exactly: every variant, wherever it applies.

#include "cc/kernels/gpu/gpu_kernel.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cc/check.h"
#include "tests/cc/random_problems.h"

namespace tf_dwgrad {
namespace {

constexpr int kFloat = static_cast<int>(ElementType::kFloat32);
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
  const int64_t bytes =
      TfDwgradGpuBackpropFilterWorkspace(&problem, type, variant);
  GuardedMemory workspace(bytes);
  const int error =
      TfDwgradGpuBackpropFilter(&problem, type, variant, first, second, result,
                                workspace.data(), bytes, nullptr);
  CHECK_THAT(workspace.guards_are_intact(), "writes outside its workspace");
  return error;
}

// As RunOp, with operands that are aligned to their elements only.
int RunShifted(ConvOp op, const GpuConvProblem& problem, int type, int variant,
               const void* first, const void* second, void* result) {
  const int64_t element = SizeOf(static_cast<ElementType>(type));
  const int64_t depth = problem.in_depth * problem.depth_multiplier;
  const int64_t input = element * problem.batch * problem.rows.in *
                        problem.cols.in * problem.in_depth;
  const int64_t filter =
      element * problem.rows.filter * problem.cols.filter * depth;
  const int64_t output =
      element * problem.batch * problem.rows.out * problem.cols.out * depth;
  const bool forward = op == ConvOp::kForward;
  const int64_t first_size = op == ConvOp::kBackpropInput ? filter : input;
  const int64_t second_size = forward ? filter : output;
  const int64_t result_size = forward                        ? output
                              : op == ConvOp::kBackpropInput ? input
                                                             : filter;
  const auto shift = [element](const void* from, int64_t size) {
    std::vector<unsigned char> to(size + element);
    std::memcpy(to.data() + element, from, size);
    return to;
  };
  const auto shifted_first = shift(first, first_size);
  const auto shifted_second = shift(second, second_size);
  auto shifted_result = shift(result, result_size);
  const int error =
      RunOp(op, problem, type, variant, shifted_first.data() + element,
            shifted_second.data() + element, shifted_result.data() + element);
  std::memcpy(result, shifted_result.data() + element, result_size);
  return error;
}

// As layers are: square filters, equal strides, half of the time padded to
// SAME.
Problem LayerLikeProblem(Random& random) {
  for (;;) {
    Problem problem = RandomProblem(random);
    ConvGeometry& g = problem.geometry;
    AxisGeometry axis;
    axis.filter = Pick(random, {3, 3, 3, 5, 5, 7, 9, 11, 13, 31, 51});
    axis.stride = Pick(random, {1, 1, 2});
    axis.dilation = axis.stride == 1 ? Pick(random, {1, 1, 1, 2, 3, 6}) : 1;
    g.depth_multiplier = Pick(random, {1, 1, 1, 1, 2});
    const bool same = random() % 2 == 0;
    // A few are long and narrow.
    const bool narrow = random() % 8 == 0;
    for (AxisGeometry* to : {&g.rows, &g.cols}) {
      if (narrow) axis.filter = Pick(random, {1, 5, 51, 70});
      const int64_t extent = (axis.filter - 1) * axis.dilation + 1;
      axis.in = Pick(random, {5, 7, 8, 14, 15, 28, 33}) + random() % 2;
      axis.pad_before = same ? extent / 2 : random() % 4;
      const int64_t room = axis.in + axis.pad_before +
                           (same ? extent / 2 : random() % 4) - extent;
      axis.out = room < 0 ? 0 : room / axis.stride + 1;
      *to = axis;
    }
    if (g.rows.out > 0 && g.cols.out > 0) {
      problem.text = TextOf(g);
      return problem;
    }
  }
}

// Checks each variant of each op on so many problems; `chosen` counts how often
// it is the one that is chosen.
struct VariantTest {
  ConvOp op;
  int variant;
  std::string name;
  int checked = 0;
  int chosen = 0;
};

void TestVariant(Random& random, const Problem& problem, VariantTest* test) {
  const GpuConvProblem gpu_problem = MakeGpuConvProblem(problem.geometry);
  const int op = static_cast<int>(test->op);
  const int type = static_cast<int>(random() % kNumElementTypes);
  const int chosen = TfDwgradGpuChooseVariant(op, &gpu_problem, type);
  CHECK_THAT(TfDwgradGpuVariantApplies(op, &gpu_problem, type, chosen),
             "the chosen variant applies: " << problem.text);
  if (!TfDwgradGpuVariantApplies(op, &gpu_problem, type, test->variant)) {
    CHECK_THAT(RunOp(test->op, gpu_problem, type, test->variant, nullptr,
                     nullptr, nullptr) != 0,
               test->name << " is refused: " << problem.text);
    return;
  }
  ++test->checked;
  test->chosen += chosen == test->variant;
  const bool shifted = random() % 8 == 0;
  const bool infinities = random() % 4 == 0;
  CheckOp(random, problem, test->op, static_cast<ElementType>(type), test->name,
          infinities, [&](const void* first, const void* second, void* result) {
            const auto run = shifted ? RunShifted : RunOp;
            const int error = run(test->op, gpu_problem, type, test->variant,
                                  first, second, result);
            CHECK_THAT(error == 0, test->name << ": " << problem.text);
          });
}

// Products of a problem that is checked in no time.
constexpr int64_t kMostProducts = 200000;

void TestVariants(Random& random, int problems) {
  for (ConvOp op : kOps) {
    const int op_number = static_cast<int>(op);
    for (int i = 0; i < TfDwgradGpuVariantCount(op_number); ++i) {
      VariantTest test = {op, i,
                          std::to_string(op_number) + " " +
                              TfDwgradGpuVariantName(op_number, i)};
      for (int trial = 0; test.checked < problems; ++trial) {
        CHECK_THAT(trial < 100 * problems, test.name << " hardly ever applies");
        if (Failures() >= 10) return;
        const Problem problem = random() % 4 == 0 ? RandomProblem(random)
                                                  : LayerLikeProblem(random);
        const ConvGeometry& g = problem.geometry;
        if (problem.OutputSize() * g.rows.filter * g.cols.filter >
            kMostProducts) {
          continue;
        }
        TestVariant(random, problem, &test);
      }
      CHECK_THAT(test.chosen > 0, test.name << " is never chosen");
      std::cout << test.name << ": " << test.checked << " problems, chosen for "
                << test.chosen << std::endl;
    }
  }
}

// Results without products are zeros; empty ones are left alone.
void TestEmpty() {
  ConvGeometry geometry = SmallGeometry(/*depth_multiplier=*/0);
  for (ConvOp op : kOps) {
    const GpuConvProblem problem = MakeGpuConvProblem(geometry);
    std::vector<float> result(32, NAN);
    CHECK_THAT(RunOp(op, problem, kFloat, kGpuChooseVariant, nullptr, nullptr,
                     result.data()) == 0,
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
  CHECK_THAT(RunOp(ConvOp::kBackpropFilter, problem, kFloat, kGpuChooseVariant,
                   nullptr, nullptr, result.data()) == 0,
             "no images");
  for (float value : result) CHECK_THAT(value == 0, value);
}

void TestBadArguments() {
  const GpuConvProblem problem =
      MakeGpuConvProblem(SmallGeometry(/*depth_multiplier=*/1));
  for (ConvOp op : kOps) {
    const int count = TfDwgradGpuVariantCount(static_cast<int>(op));
    CHECK_THAT(RunOp(op, problem, kNumElementTypes, kGpuChooseVariant, nullptr,
                     nullptr, nullptr) != 0,
               "no such type");
    CHECK_THAT(
        RunOp(op, problem, kFloat, count, nullptr, nullptr, nullptr) != 0,
        "no such variant");
  }
  // The last variant always needs one.
  const int last =
      TfDwgradGpuVariantCount(static_cast<int>(ConvOp::kBackpropFilter)) - 1;
  CHECK_THAT(TfDwgradGpuBackpropFilter(&problem, kFloat, last, nullptr, nullptr,
                                       nullptr, nullptr, 0, nullptr) != 0,
             "no workspace");
}

}  // namespace
}  // namespace tf_dwgrad

int main(int argc, char** argv) {
  // With this seed each variant is chosen among few problems, too.
  tf_dwgrad::Random random(8);
  tf_dwgrad::TestVariants(random, argc > 1 ? std::atoi(argv[1]) : 1000);
  tf_dwgrad::TestEmpty();
  tf_dwgrad::TestBadArguments();
  return tf_dwgrad::Finish();
}
