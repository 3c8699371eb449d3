#include "cc/kernels/cpu/cpu_kernel.h"

#include <cstdlib>

#include "cc/kernels/cpu/choose_kernels.h"

namespace tf_dwgrad {
namespace {

// Results of more bytes than this are written past the caches. Ordinary stores
// read every line before they write it, which for a result that does not stay
// in cache is a third of all traffic. A reader that follows at once finds a
// smaller result in cache; the two balance at about 12 MB on a core complex
// with 32 MB of L3. What the system says of its caches is no guide: a virtual
// machine of two cores may report all of its host's. TF_DWGRAD_STREAM_BYTES
// sets another threshold.
int64_t StreamThreshold() {
  static const int64_t threshold = [] {
    const char* setting = std::getenv("TF_DWGRAD_STREAM_BYTES");
    return setting != nullptr ? static_cast<int64_t>(std::atoll(setting))
                              : int64_t{12} << 20;
  }();
  return threshold;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

GatherPlan PlanAxis(const AxisGeometry& axis, bool backward) {
  return backward ? MakeInputGradientPlan(axis.in, axis.out, axis.filter,
                                          axis.stride, axis.dilation,
                                          axis.pad_before)
                  : MakeForwardPlan(axis.in, axis.out, axis.filter, axis.stride,
                                    axis.dilation, axis.pad_before);
}

FilterGradientAxis PlanAxis(const AxisGeometry& axis) {
  return {axis.in,     axis.out,      axis.filter,
          axis.stride, axis.dilation, axis.pad_before};
}

// A vector every second cycle is what small problems reach.
double ProductsPerCycle(ElementType type) {
  return ChosenKernels().kernels->vector_bytes /
         (type == ElementType::kFloat64 ? 16.0 : 8.0);
}

// Taps that a dst position meets on average, ignoring the borders.
double TapsPerPosition(const GatherPlan& plan) {
  const double taps = static_cast<double>(plan.filter_size);
  return plan.backward ? taps / static_cast<double>(-plan.tap_step) : taps;
}

}  // namespace

CpuKernel::CpuKernel(ConvOp op, ElementType type, const ConvGeometry& geometry)
    : op_(op) {
  const AxisGeometry& rows = geometry.rows;
  const AxisGeometry& cols = geometry.cols;
  for (const int64_t size :
       {geometry.batch, geometry.in_depth, geometry.depth_multiplier, rows.in,
        rows.out, rows.filter, cols.in, cols.out, cols.filter}) {
    if (size == 0) return;
  }
  // With a single channel the two layouts are the same bytes, and planes give
  // the vectors something to hold.
  const bool planes =
      geometry.data_format == DataFormat::kNCHW || geometry.out_depth() == 1;
  const int type_index = static_cast<int>(type);
  const KernelTable& kernels = *ChosenKernels().kernels;
  if (op == ConvOp::kBackpropFilter) {
    filter_gradient_kernel_ =
        planes ? kernels.filter_gradient_planes[type_index]
               : kernels.filter_gradient_channels_last[type_index];
    PlanFilterGradient(geometry, planes, type);
  } else {
    gather_kernel_ = planes ? kernels.gather_planes[type_index]
                            : kernels.gather_channels_last[type_index];
    PlanGather(geometry, planes, type);
  }
}

void CpuKernel::PlanGather(const ConvGeometry& geometry, bool planes,
                           ElementType type) {
  GatherProblem& problem = gather_;
  problem.backward = op_ == ConvOp::kBackpropInput;
  problem.rows = PlanAxis(geometry.rows, problem.backward);
  problem.cols = PlanAxis(geometry.cols, problem.backward);
  problem.batch = geometry.batch;
  problem.in_depth = geometry.in_depth;
  problem.depth_multiplier = geometry.depth_multiplier;
  const int64_t dst_depth = DstDepth(problem);
  const double taps =
      TapsPerPosition(problem.rows) * TapsPerPosition(problem.cols);
  if (planes) {
    problem.channel_block = 1;
  } else {
    // Small filters stream whole pixels; larger ones come back to the same
    // source rows so often that a narrow block, which stays in cache, pays.
    // Blocks are of equal size and hold whole vectors.
    const int64_t limit = taps < 16 ? kMaxChannelBlock : 64;
    const int64_t blocks = CeilDiv(dst_depth, limit);
    problem.channel_block = CeilDiv(CeilDiv(dst_depth, blocks), 16) * 16;
  }
  problem.num_blocks = CeilDiv(dst_depth, problem.channel_block);
  num_units_ = problem.batch * problem.num_blocks * problem.rows.dst_size;
  problem.stream_dst = problem.batch * dst_depth * problem.rows.dst_size *
                           problem.cols.dst_size * SizeOf(type) >
                       StreamThreshold();

  const double depth_ratio =
      problem.backward ? static_cast<double>(geometry.depth_multiplier) : 1.0;
  unit_cycles_ =
      static_cast<double>(problem.cols.dst_size * problem.channel_block) *
      (0.5 + depth_ratio * taps / ProductsPerCycle(type));
}

void CpuKernel::PlanFilterGradient(const ConvGeometry& geometry, bool planes,
                                   ElementType type) {
  FilterGradientProblem& problem = filter_gradient_;
  problem.rows = PlanAxis(geometry.rows);
  problem.cols = PlanAxis(geometry.cols);
  problem.batch = geometry.batch;
  problem.in_depth = geometry.in_depth;
  problem.depth_multiplier = geometry.depth_multiplier;
  const int64_t block = planes ? 1 : kFilterGradientBlock;
  num_units_ = CeilDiv(geometry.out_depth(), block) * geometry.rows.filter;

  unit_cycles_ =
      static_cast<double>(geometry.batch * geometry.rows.out *
                          geometry.cols.out * block * geometry.cols.filter) /
      ProductsPerCycle(type);
}

void CpuKernel::Run(const void* first, const void* second, void* result,
                    int64_t begin, int64_t end) const {
  switch (op_) {
    case ConvOp::kForward:
      gather_kernel_(gather_, first, second, result, begin, end);
      break;
    case ConvOp::kBackpropInput:
      gather_kernel_(gather_, second, first, result, begin, end);
      break;
    case ConvOp::kBackpropFilter:
      filter_gradient_kernel_(filter_gradient_, first, second, result, begin,
                              end);
      break;
  }
}

}  // namespace tf_dwgrad
