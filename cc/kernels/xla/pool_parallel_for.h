// A loop on a pool that can do no more than run tasks some time, such as the
// one XLA hands to its custom calls.

#ifndef TF_DWGRAD_CC_KERNELS_XLA_POOL_PARALLEL_FOR_H_
#define TF_DWGRAD_CC_KERNELS_XLA_POOL_PARALLEL_FOR_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "cc/kernels/cpu/run_cpu_kernel.h"

namespace tf_dwgrad {

// The pieces of one loop. They are handed out to whoever comes, so that none
// waits for a thread that is busy elsewhere. Tasks of the pool share it with
// the caller: one that starts late finds nothing left and touches nothing else.
class SharedPieces {
 public:
  SharedPieces(int64_t count, int64_t pieces, const Work* work)
      : count_(count), pieces_(pieces), work_(work), unfinished_(pieces) {}

  void DoPieces() {
    for (;;) {
      const int64_t piece = next_.fetch_add(1, std::memory_order_relaxed);
      if (piece >= pieces_) return;
      (*work_)(Begin(piece), Begin(piece + 1));
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard<std::mutex> lock(mutex_);
        all_finished_.notify_one();
      }
    }
  }

  // Waits for pieces that other threads are at, and never for one that has yet
  // to start: the caller has called DoPieces.
  void WaitForOthers() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_finished_.wait(lock, [this] {
      return unfinished_.load(std::memory_order_acquire) == 0;
    });
  }

 private:
  // Pieces differ by at most one unit.
  int64_t Begin(int64_t piece) const {
    return count_ / pieces_ * piece + std::min(piece, count_ % pieces_);
  }

  const int64_t count_;
  const int64_t pieces_;
  const Work* const work_;  // lives until all pieces are finished
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> unfinished_;
  std::mutex mutex_;
  std::condition_variable all_finished_;
};

// Calls `work` for pieces that make up [0, count), on the calling thread and,
// where that is worth it, threads of `pool`. `Pool` has num_threads() and
// Schedule(task), which may run the task at once, later or after this call.
template <typename Pool>
void PoolParallelFor(Pool& pool, int64_t count, double unit_cycles,
                     const Work& work) {
  // To wake a thread takes some 10 us; a piece is worth fetching from 10 us on.
  constexpr double kThreadCycles = 100e3;
  constexpr double kPieceCycles = 40e3;
  // Several a thread, lest all wait for one that was held up.
  constexpr int64_t kPiecesPerThread = 4;

  const double cycles = static_cast<double>(count) * unit_cycles;
  const double most = static_cast<double>(
      std::min<int64_t>(count, std::max<int64_t>(1, pool.num_threads())));
  const int64_t threads =
      static_cast<int64_t>(std::clamp(cycles / kThreadCycles, 1.0, most));
  if (threads == 1) {
    work(0, count);
    return;
  }
  const double pieces =
      std::clamp(cycles / kPieceCycles, static_cast<double>(threads),
                 static_cast<double>(threads * kPiecesPerThread));
  const auto shared = std::make_shared<SharedPieces>(
      count, std::min(count, static_cast<int64_t>(pieces)), &work);
  for (int64_t i = 1; i < threads; ++i) {
    pool.Schedule([shared] { shared->DoPieces(); });
  }
  shared->DoPieces();
  shared->WaitForOthers();
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_XLA_POOL_PARALLEL_FOR_H_
