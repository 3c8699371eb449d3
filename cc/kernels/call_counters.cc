#include "cc/kernels/call_counters.h"

#include <atomic>

namespace tf_dwgrad {
namespace {

// Zero before any code runs: static storage.
std::atomic<int64_t> calls[kNumConvOps][kNumElementTypes][kNumRoutes];

std::atomic<int64_t>& Counter(ConvOp op, ElementType type, Route route) {
  return calls[static_cast<int>(op)][static_cast<int>(type)]
              [static_cast<int>(route)];
}

}  // namespace

void CountCall(ConvOp op, ElementType type, Route route) {
  Counter(op, type, route).fetch_add(1, std::memory_order_relaxed);
}

int64_t Calls(ConvOp op, ElementType type, Route route) {
  return Counter(op, type, route).load(std::memory_order_relaxed);
}

void ResetCalls() {
  for (auto& of_op : calls) {
    for (auto& of_type : of_op) {
      for (auto& counter : of_type) counter.store(0, std::memory_order_relaxed);
    }
  }
}

}  // namespace tf_dwgrad
