// Threads that wait between runs, so that starting them is not timed.

#ifndef TF_DWGRAD_BENCHMARKS_CC_THREAD_TEAM_H_
#define TF_DWGRAD_BENCHMARKS_CC_THREAD_TEAM_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tf_dwgrad {

class ThreadTeam {
 public:
  using Work = std::function<void(int64_t begin, int64_t end)>;

  explicit ThreadTeam(int size) {
    // The caller of Run is one of them.
    for (int i = 1; i < size; ++i) {
      others_.emplace_back([this] { Serve(); });
    }
  }
  ~ThreadTeam() {
    Announce(nullptr, 0);
    for (std::thread& thread : others_) thread.join();
  }
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(others_.size()) + 1; }

  // Calls work(begin, end) for pieces that make up [0, count).
  void Run(int64_t count, const Work& work) {
    if (others_.empty()) {
      work(0, count);
      return;
    }
    Announce(&work, count);
    DoPieces();
    std::unique_lock<std::mutex> lock(mutex_);
    all_idle_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void Announce(const Work* work, int64_t count) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = work;
      count_ = count;
      next_ = 0;
      busy_ = others_.size();
      ++run_;
    }
    new_run_.notify_all();
  }

  void Serve() {
    for (int64_t last_run = 0;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        new_run_.wait(lock, [&] { return run_ != last_run; });
        last_run = run_;
        if (work_ == nullptr) return;
      }
      DoPieces();
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) all_idle_.notify_one();
    }
  }

  void DoPieces() {
    // Several each: a thread that is held up leaves its share to the others.
    const int64_t piece = std::max<int64_t>(1, count_ / (8 * size()));
    for (;;) {
      const int64_t begin = next_.fetch_add(piece);
      if (begin >= count_) return;
      (*work_)(begin, std::min(begin + piece, count_));
    }
  }

  std::vector<std::thread> others_;
  std::mutex mutex_;
  std::condition_variable new_run_, all_idle_;
  const Work* work_ = nullptr;
  int64_t count_ = 0;
  int64_t run_ = 0;
  size_t busy_ = 0;
  std::atomic<int64_t> next_{0};
};

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_BENCHMARKS_CC_THREAD_TEAM_H_
