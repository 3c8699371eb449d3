#include "cc/machine/machine_bounds.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Enough independent sums to hide the latency of two operations per cycle; with
// the factor and the summand they fit into 16 registers.
constexpr int kSums = 12;

// Between two looks at the clock.
constexpr int64_t kRounds = 4096;
constexpr int64_t kBlockBytes = 1 << 18;

// Copies are of multiples of four of the widest vectors.
constexpr int64_t kWidestVector = 64, kGranule = 4 * kWidestVector;

constexpr int64_t kPage = 4096;

// What the compiler cannot know, and what it must not leave out.
volatile double unknown_half = 0.5;
thread_local volatile double result;

typedef void (*Copy)(char* to, const char* from, int64_t bytes);

struct Loops {
  // Does so many rounds and returns the number of floating-point operations.
  double (*multiply_add_float)(int64_t rounds);
  double (*multiply_add_double)(int64_t rounds);
  Copy copy_through_caches, copy_past_caches;
};

#if defined(__x86_64__)
#define FINISH_STREAMING() _mm_sfence()

namespace avx512 {
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f")))
#define STREAM(to, v) _mm512_stream_ps(to, v)
#include "cc/machine/loops.h"
}  // namespace avx512

namespace avx2 {
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#define STREAM(to, v) _mm256_stream_ps(to, v)
#include "cc/machine/loops.h"
}  // namespace avx2

namespace any {
#define VECTOR_BYTES 16
#define TARGET
#define STREAM(to, v) _mm_stream_ps(to, v)
#include "cc/machine/loops.h"
}  // namespace any

#else
#define FINISH_STREAMING()

namespace any {
#define VECTOR_BYTES 16
#define TARGET
#define STREAM(to, v) *reinterpret_cast<Floats*>(to) = v
#include "cc/machine/loops.h"
}  // namespace any

#endif

struct Vectors {
  const char* name;
  const Loops* loops;
};

Vectors WidestVectors() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {"avx512", &avx512::kLoops};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {"avx2", &avx2::kLoops};
  }
#endif
  return {"128 bits", &any::kLoops};
}

void CopyAsLibrary(char* to, const char* from, int64_t bytes) {
  memcpy(to, from, bytes);
}

double Now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// Calls run(thread) for each of the threads, of which this is the first.
template <typename Run>
void OnThreads(int threads, const Run& run) {
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) {
    others.emplace_back(run, thread);
  }
  run(0);
  for (std::thread& other : others) other.join();
}

// Runs `prepare(thread)` and then `work(thread)`, which returns how much it
// did, again and again on each of the threads, and returns what all did per
// second from the moment when the last one was ready until the first one had
// worked for `seconds`.
template <typename Prepare, typename Work>
double Rate(int threads, double seconds, Prepare prepare, Work work) {
  std::atomic<int> waited_for{threads};
  std::atomic<bool> over{false};
  std::vector<double> rates(threads);
  const auto run = [&](int thread) {
    prepare(thread);
    --waited_for;
    while (waited_for > 0) std::this_thread::yield();
    const double start = Now();
    double done = 0, elapsed = 0;
    do {
      done += work(thread);
      elapsed = Now() - start;
    } while (elapsed < seconds && !over);
    over = true;
    rates[thread] = done / elapsed;
  };
  OnThreads(threads, run);
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum;
}

// A thread's share of what is copied.
struct Area {
  std::unique_ptr<char, void (*)(void*)> memory{nullptr, free};
  char *from = nullptr, *to = nullptr;
  int64_t bytes = 0;  // from `from`
  int64_t at = 0;     // how far the current pass has come

  bool Allocate(int64_t wanted) {
    bytes = std::max(kGranule, wanted / kGranule * kGranule);
    // Half a page of distance: loads that follow a store to the same place in
    // another page wait for it.
    const int64_t distance = (bytes + kPage - 1) / kPage * kPage + kPage / 2;
    const int64_t all = (distance + bytes + kPage - 1) / kPage * kPage;
    memory.reset(static_cast<char*>(aligned_alloc(kPage, all)));
    from = memory.get();
    to = from + distance;
    return from != nullptr;
  }

  // The next part of the pass, long enough that looking at the clock costs
  // nothing.
  double CopyBlock(Copy copy) {
    int64_t copied = 0;
    do {
      const int64_t part = std::min(kBlockBytes - copied, bytes - at);
      copy(to + at, from + at, part);
      copied += part;
      at += part;
      if (at == bytes) at = 0;
    } while (copied < kBlockBytes);
    FINISH_STREAMING();
    return 2.0 * copied;
  }
};

// What one pass reads and writes, in blocks that end together.
struct Move {
  const char* from;
  int64_t from_bytes;
  char* to;
  int64_t to_bytes;

  // Of the longer side: both parts of a block fit into the first cache, where
  // the shorter source is read again.
  static constexpr int64_t kBytes = 1 << 13;

  int64_t blocks() const {
    return (std::max(from_bytes, to_bytes) + kBytes - 1) / kBytes;
  }

  // Where a block starts on a side that has so many bytes.
  int64_t Start(int64_t block, int64_t bytes) const {
    if (block == blocks()) return bytes;
    return bytes * block / blocks() / kGranule * kGranule;
  }

  void DoBlock(int64_t block, Copy copy) const {
    const char* source = from + Start(block, from_bytes);
    char* target = to + Start(block, to_bytes);
    const int64_t read = Start(block + 1, from_bytes) - (source - from);
    const int64_t written = Start(block + 1, to_bytes) - (target - to);
    for (int64_t at = 0; read > 0 && at < written; at += read) {
      CopyPart(copy, target + at, source, std::min(read, written - at));
    }
    char unused[2 * kBytes];
    if (read > written) memcpy(unused, source + written, read - written);
    // Else the compiler leaves it out.
    asm volatile("" : : "r"(unused) : "memory");
  }

 private:
  static void CopyPart(Copy copy, char* to, const char* from, int64_t bytes) {
    const auto address = [](const char* p) {
      return reinterpret_cast<uintptr_t>(p);
    };
    if ((address(to) | address(from)) % kWidestVector == 0 &&
        bytes % kGranule == 0) {
      copy(to, from, bytes);
    } else {
      memcpy(to, from, bytes);
    }
  }
};

}  // namespace

#define TF_DWGRAD_EXPORT extern "C" __attribute__((visibility("default")))

TF_DWGRAD_EXPORT double tf_dwgrad_copy_bandwidth(int64_t bytes, int threads,
                                                 double seconds) {
  const Loops& loops = *WidestVectors().loops;
  std::vector<Area> areas(threads);
  for (Area& area : areas) {
    if (!area.Allocate(bytes / 2 / threads)) return 0;
  }
  double best = 0;
  for (Copy copy :
       {CopyAsLibrary, loops.copy_through_caches, loops.copy_past_caches}) {
    const auto touch = [&](int thread) {
      Area& area = areas[thread];
      memset(area.from, 1, area.bytes);
      area.at = 0;
      do {
        area.CopyBlock(copy);
      } while (area.at != 0);
    };
    const auto work = [&](int thread) { return areas[thread].CopyBlock(copy); };
    best = std::max(best, Rate(threads, seconds, touch, work));
  }
  return best;
}

TF_DWGRAD_EXPORT void tf_dwgrad_move(const void* from, int64_t from_bytes,
                                     void* to, int64_t to_bytes, int threads,
                                     int past_caches) {
  const Loops& loops = *WidestVectors().loops;
  const Copy copy =
      past_caches ? loops.copy_past_caches : loops.copy_through_caches;
  const Move move = {static_cast<const char*>(from), from_bytes,
                     static_cast<char*>(to), to_bytes};
  // None is started for nothing.
  threads = static_cast<int>(
      std::max<int64_t>(1, std::min<int64_t>(threads, move.blocks())));
  const auto run = [&](int64_t thread) {
    const int64_t last = move.blocks() * (thread + 1) / threads;
    for (int64_t block = move.blocks() * thread / threads; block < last;
         ++block) {
      move.DoBlock(block, copy);
    }
    FINISH_STREAMING();
  };
  OnThreads(threads, run);
}

TF_DWGRAD_EXPORT double tf_dwgrad_multiply_add_peak(int element_size,
                                                    int threads,
                                                    double seconds) {
  const Loops& loops = *WidestVectors().loops;
  const auto multiply_add =
      element_size == 8 ? loops.multiply_add_double : loops.multiply_add_float;
  const auto work = [&](int) { return multiply_add(kRounds); };
  return Rate(threads, seconds, work, work);
}

TF_DWGRAD_EXPORT const char* tf_dwgrad_widest_vectors() {
  return WidestVectors().name;
}
