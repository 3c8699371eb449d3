// Every unit is done once, before the loop returns, whatever the pool does with
// its tasks: runs them at once, while its threads are busy, or much later.

#include "cc/kernels/xla/pool_parallel_for.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <queue>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cc/check.h"

namespace tf_dwgrad {
namespace {

using Task = std::function<void()>;

struct InlinePool {
  int64_t threads;
  int scheduled = 0;

  int64_t num_threads() const { return threads; }
  void Schedule(const Task& task) {
    ++scheduled;
    task();
  }
};

struct LatePool {
  int64_t threads;
  std::vector<Task> tasks;

  int64_t num_threads() const { return threads; }
  void Schedule(Task task) { tasks.push_back(std::move(task)); }
};

class ThreadPool {
 public:
  explicit ThreadPool(int size) {
    for (int i = 0; i < size; ++i) threads_.emplace_back([this] { Serve(); });
  }
  ~ThreadPool() {
    for (size_t i = 0; i < threads_.size(); ++i) Schedule(nullptr);
    for (std::thread& thread : threads_) thread.join();
  }

  int64_t num_threads() const { return threads_.size(); }
  void Schedule(Task task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push(std::move(task));
    new_task_.notify_one();
  }

 private:
  void Serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      new_task_.wait(lock, [this] { return !tasks_.empty(); });
      const Task task = std::move(tasks_.front());
      tasks_.pop();
      lock.unlock();
      if (!task) return;
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable new_task_;
  std::queue<Task> tasks_;
  std::vector<std::thread> threads_;
};

// Runs a loop and checks that it does what a loop does.
template <typename Pool>
void CheckLoop(Pool& pool, int64_t count, double unit_cycles,
               const std::string& context) {
  std::vector<std::atomic<int>> times(count);
  std::atomic<bool> returned{false};
  std::atomic<int> bad_pieces{0};
  PoolParallelFor(pool, count, unit_cycles, [&](int64_t begin, int64_t end) {
    if (begin < 0 || begin >= end || end > count || returned) ++bad_pieces;
    for (int64_t i = begin; i < end; ++i) ++times[i];
  });
  returned = true;
  CHECK_THAT(bad_pieces == 0, context);
  int wrong = 0;
  for (const std::atomic<int>& unit : times) wrong += unit != 1;
  CHECK_THAT(wrong == 0, context << ": " << wrong << " of " << count
                                 << " units are not done once");
}

const std::vector<std::pair<int64_t, double>>& Loops() {
  static const std::vector<std::pair<int64_t, double>> loops = {
      {1, 1.0},   {1, 1e9},    {2, 1e6},    {3, 1e5},  {7, 4e4},
      {100, 1e3}, {1000, 1e3}, {1000, 1e6}, {17, 1e7}, {100000, 10.0}};
  return loops;
}

std::string Describe(const char* pool, int64_t threads,
                     const std::pair<int64_t, double>& loop) {
  return std::string(pool) + " of " + std::to_string(threads) + ", " +
         std::to_string(loop.first) + " units of " +
         std::to_string(loop.second) + " cycles";
}

void TestInline() {
  for (const int64_t threads : {0, 1, 2, 5, 64}) {
    for (const auto& loop : Loops()) {
      const std::string context = Describe("inline pool", threads, loop);
      InlinePool pool{threads};
      CheckLoop(pool, loop.first, loop.second, context);
      CHECK_THAT(pool.scheduled < std::max<int64_t>(1, threads), context);
      CHECK_THAT(pool.scheduled < loop.first, context);
      // Little work stays on the thread that has it.
      CHECK_THAT(loop.first * loop.second > 1e5 || pool.scheduled == 0,
                 context);
    }
  }
  InlinePool pool{4};
  CheckLoop(pool, 1000, 1e6, "much work");
  CHECK_THAT(pool.scheduled == 3, "much work is for all threads");
}

void TestLate() {
  for (const int64_t threads : {2, 5}) {
    for (const auto& loop : Loops()) {
      LatePool pool{threads, {}};
      CheckLoop(pool, loop.first, loop.second,
                Describe("late pool", threads, loop));
      // The units are gone; tasks must not ask for them.
      for (const Task& task : pool.tasks) task();
    }
  }
}

void TestThreads() {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int repetition = 0; repetition < 20; ++repetition) {
      for (const auto& loop : Loops()) {
        CheckLoop(pool, loop.first, loop.second,
                  Describe("pool", threads, loop));
      }
    }
  }
}

// All threads of the pool are in loops of their own, which wait for one another
// if anything waits for a task to start.
void TestLoopsWithinThePool() {
  ThreadPool pool(3);
  std::mutex mutex;
  std::condition_variable all_done;
  int left = 50;
  for (int i = 0; i < 50; ++i) {
    pool.Schedule([&] {
      CheckLoop(pool, 64, 1e5, "a loop within the pool");
      const std::lock_guard<std::mutex> lock(mutex);
      if (--left == 0) all_done.notify_one();
    });
  }
  std::unique_lock<std::mutex> lock(mutex);
  all_done.wait(lock, [&] { return left == 0; });
}

}  // namespace
}  // namespace tf_dwgrad

int main() {
  tf_dwgrad::TestInline();
  tf_dwgrad::TestLate();
  tf_dwgrad::TestThreads();
  tf_dwgrad::TestLoopsWithinThePool();
  return tf_dwgrad::Finish();
}
