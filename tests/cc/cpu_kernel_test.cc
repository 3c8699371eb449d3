// The CPU kernels on random small problems against a direct evaluation of the
// definition, exactly, with the units of work in random pieces and order.

#include "cc/kernels/cpu/cpu_kernel.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "cc/kernels/cpu/choose_kernels.h"
#include "cc/kernels/cpu/run_cpu_kernel.h"
#include "tests/cc/check.h"
#include "tests/cc/random_problems.h"

namespace tf_dwgrad {
namespace {

void TestOp(Random& random, const Problem& problem, ConvOp op,
            ElementType type) {
  const CpuKernel kernel(op, type, problem.geometry);
  GuardedMemory workspace(static_cast<int64_t>(kernel.workspace_bytes()));
  CheckOp(random, problem, op, type, "cpu", false,
          [&](const void* first, const void* second, void* result) {
            // Both phases in random pieces and order.
            kernel.RunAll(first, second, result, workspace.data(),
                          [&](int64_t units, double, auto do_units) {
                            std::vector<std::pair<int64_t, int64_t>> pieces;
                            for (int64_t begin = 0; begin < units;) {
                              const int64_t end = std::min<int64_t>(
                                  units, begin + 1 + random() % units);
                              pieces.emplace_back(begin, end);
                              begin = end;
                            }
                            std::shuffle(pieces.begin(), pieces.end(), random);
                            for (const auto& [begin, end] : pieces)
                              do_units(begin, end);
                          });
          });
  CHECK_THAT(workspace.guards_are_intact(),
             "writes outside its workspace: " << problem.text);
}

// Large pixels that end in the middle of a line of memory.
void TestHalfLines(Random& random) {
  Problem problem;
  ConvGeometry& g = problem.geometry;
  g.data_format = DataFormat::kNHWC;
  g.batch = 2;
  g.depth_multiplier = 1;
  g.rows = {5, 5, 3, 1, 1, 1};
  g.cols = {17, 17, 3, 1, 1, 1};
  for (int64_t depth : {516, 520, 528}) {
    g.in_depth = depth;
    problem.text = TextOf(g);
    for (int type = 0; type < kNumElementTypes; ++type) {
      TestOp(random, problem, ConvOp::kForward, static_cast<ElementType>(type));
      TestOp(random, problem, ConvOp::kBackpropInput,
             static_cast<ElementType>(type));
    }
  }
}

// Two column phases that write the same lines of memory.
void TestPhasesThatShareLines(Random& random) {
  Problem problem;
  ConvGeometry& g = problem.geometry;
  g.data_format = DataFormat::kNHWC;
  g.batch = 2;
  g.depth_multiplier = 1;
  g.rows = {11, 6, 3, 2, 1, 1};
  for (int64_t out : {1, 4, 7, 10}) {
    g.cols = {2 * out - 1, out, 3, 2, 1, 1};
    for (int64_t depth : {33, 40, 72, 520}) {
      g.in_depth = depth;
      problem.text = TextOf(g);
      for (int type = 0; type < kNumElementTypes; ++type) {
        TestOp(random, problem, ConvOp::kBackpropInput,
               static_cast<ElementType>(type));
      }
    }
  }
}

// Pixels that compete for one set of the first cache.
void TestPagesApart(Random& random) {
  Problem problem;
  ConvGeometry& g = problem.geometry;
  g.data_format = DataFormat::kNHWC;
  g.batch = 1;
  g.in_depth = 1024;
  g.depth_multiplier = 1;
  g.rows = {7, 7, 3, 1, 2, 2};
  for (int64_t size : {3, 9, 19}) {
    g.cols = {size, size, 3, 1, 2, 2};
    problem.text = TextOf(g);
    for (ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
      TestOp(random, problem, op, ElementType::kBFloat16);
    }
  }
}

void TestEmpty() {
  const ConvGeometry geometry = SmallGeometry(/*depth_multiplier=*/0);
  for (ConvOp op :
       {ConvOp::kForward, ConvOp::kBackpropInput, ConvOp::kBackpropFilter}) {
    const CpuKernel kernel(op, ElementType::kFloat32, geometry);
    CHECK_THAT(!kernel.has_work(), "no channels, no work");
  }
}

void TestRunWritesZerosWithoutWork() {
  const ConvGeometry geometry = SmallGeometry(/*depth_multiplier=*/0);
  const ParallelFor never = [](int64_t, double, const Work&) {
    CHECK_THAT(false, "there is nothing to run");
  };
  std::vector<float> result(33, 1.0f);
  RunCpuKernel(ConvOp::kBackpropInput, ElementType::kFloat32, geometry, nullptr,
               nullptr, result.data(), nullptr, 0, never);
  CHECK_THAT(std::count(result.begin(), result.end(), 0.0f) == 32 &&
                 result.back() == 1.0f,
             "the result is of zeros, and nothing else");
  RunCpuKernel(ConvOp::kForward, ElementType::kFloat32, geometry, nullptr,
               nullptr, nullptr, nullptr, 0, never);
}

}  // namespace
}  // namespace tf_dwgrad

int main(int argc, char** argv) {
  using tf_dwgrad::ConvOp;
  const int problems = argc > 1 ? std::atoi(argv[1]) : 400;
  std::cout << "instruction set: " << tf_dwgrad::ChosenKernels().kernels->isa
            << "\n";
  tf_dwgrad::Random random(12345);
  for (int i = 0; i < problems && tf_dwgrad::Failures() < 10; ++i) {
    const tf_dwgrad::Problem problem = tf_dwgrad::RandomProblem(random);
    const auto type = static_cast<tf_dwgrad::ElementType>(random() % 4);
    for (ConvOp op :
         {ConvOp::kForward, ConvOp::kBackpropInput, ConvOp::kBackpropFilter}) {
      tf_dwgrad::TestOp(random, problem, op, type);
    }
  }
  tf_dwgrad::TestHalfLines(random);
  tf_dwgrad::TestPhasesThatShareLines(random);
  tf_dwgrad::TestPagesApart(random);
  tf_dwgrad::TestEmpty();
  tf_dwgrad::TestRunWritesZerosWithoutWork();
  return tf_dwgrad::Finish();
}
