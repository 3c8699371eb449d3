// A fortified longjmp refuses to jump from one stack to another.
#undef _FORTIFY_SOURCE

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda_runtime.h"

// Jumps between stacks are far cheaper than swapcontext, which asks the kernel
// to change the signal mask, but the address sanitizer does not know them.
#if defined(__SANITIZE_ADDRESS__)
#define GPU_ON_HOST_JUMPS 0
#else
#define GPU_ON_HOST_JUMPS 1
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gpu_on_host {
namespace {

constexpr size_t kSharedGuard = 512;
constexpr unsigned char kPoison = 0xff;  // a NaN in every type

}  // namespace
}  // namespace gpu_on_host

namespace tf_dwgrad {
alignas(128) unsigned char dynamic_shared[gpu_on_host::kMaxSharedBytes +
                                          gpu_on_host::kSharedGuard];
}  // namespace tf_dwgrad

namespace gpu_on_host {
namespace {

using tf_dwgrad::dynamic_shared;

[[noreturn]] void Fail(const char* reason) {
  std::fprintf(stderr, "gpu_on_host: %s (block %u,%u,%u thread %u)\n", reason,
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
  std::abort();
}

void Require(bool condition, const char* reason) {
  if (!condition) Fail(reason);
}

// --- Fibers
// -------------------------------------------------------------------

struct Fiber {
  static constexpr size_t kStackBytes = 128 << 10;
  ucontext_t context;
  jmp_buf jump;
  std::unique_ptr<unsigned char[]> stack;
  bool started = false;
  bool finished = false;
};

const std::function<void()>* body = nullptr;
Fiber* current = nullptr;  // null outside of fibers
#if GPU_ON_HOST_JUMPS
jmp_buf scheduler;
#else
ucontext_t scheduler;
#endif

void LeaveFiber() {
  Fiber* fiber = current;
#if GPU_ON_HOST_JUMPS
  if (_setjmp(fiber->jump) == 0) _longjmp(scheduler, 1);
#else
  swapcontext(&fiber->context, &scheduler);
#endif
}

// A fiber serves one thread after the other.
void FiberMain() {
  for (;;) {
    (*body)();
    current->finished = true;
    LeaveFiber();
  }
}

void EnterFiber(Fiber* fiber) {
  current = fiber;
  const bool started = fiber->started;
  if (!started) {
    fiber->started = true;
    fiber->stack.reset(new unsigned char[Fiber::kStackBytes]);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = Fiber::kStackBytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, FiberMain, 0);
  }
#if GPU_ON_HOST_JUMPS
  if (_setjmp(scheduler) == 0) {
    if (started) _longjmp(fiber->jump, 1);
    setcontext(&fiber->context);
  }
#else
  swapcontext(&scheduler, &fiber->context);
#endif
  current = nullptr;
}

// --- Blocks
// -------------------------------------------------------------------

void RunBlock(unsigned threads) {
  static std::vector<Fiber> fibers(1024);
  // If the first thread meets no barrier then none may, and fibers are spared.
  threadIdx = dim3(0, 0, 0);
  fibers[0].finished = false;
  EnterFiber(&fibers[0]);
  if (fibers[0].finished) {
    for (unsigned i = 1; i < threads; ++i) {
      threadIdx.x = i;
      (*body)();
    }
    return;
  }
  for (unsigned i = 1; i < threads; ++i) {
    threadIdx.x = i;
    fibers[i].finished = false;
    EnterFiber(&fibers[i]);
    Require(!fibers[i].finished, "a thread ends before a barrier");
  }
  for (bool finished = false; !finished;) {
    for (unsigned i = 0; i < threads; ++i) {
      threadIdx.x = i;
      EnterFiber(&fibers[i]);
      if (i == 0) finished = fibers[0].finished;
      Require(fibers[i].finished == finished,
              "not all threads reach the same barriers");
    }
  }
}

}  // namespace

void RunGrid(const cudaLaunchConfig_t& config,
             const std::function<void()>& thread) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  Require(grid.x >= 1 && grid.x <= 0x7fffffff, "the grid's width");
  Require(grid.y >= 1 && grid.y <= 0xffff, "the grid's height");
  Require(grid.z >= 1 && grid.z <= 0xffff, "the grid's depth");
  Require(block.x >= 1 && block.x <= 1024, "the block's size");
  Require(block.y == 1 && block.z == 1, "blocks are of one dimension here");
  const size_t shared_bytes = config.dynamicSmemBytes;
  Require(shared_bytes <= kMaxSharedBytes, "too much shared memory");

  gridDim = grid;
  blockDim = block;
  body = &thread;
  unsigned char* const guard = dynamic_shared + shared_bytes;
  std::memset(guard, kPoison, kSharedGuard);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        std::memset(dynamic_shared, kPoison, shared_bytes);
        RunBlock(block.x);
        for (size_t i = 0; i < (shared_bytes > 0 ? kSharedGuard : 0); ++i) {
          Require(guard[i] == kPoison, "a write behind shared memory");
        }
      }
}

}  // namespace gpu_on_host

void __syncthreads() {
  gpu_on_host::Require(gpu_on_host::current != nullptr,
                       "a barrier that the first thread did not reach");
  gpu_on_host::LeaveFiber();
}

// --- Numbers
// ------------------------------------------------------------------

float __half2float(__half value) {
  const int exponent = (value.bits >> 10) & 31;
  const int fraction = value.bits & 1023;
  const float magnitude =
      exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
      : exponent == 0
          ? std::ldexp(static_cast<float>(fraction), -24)
          : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return value.bits & 0x8000 ? -magnitude : magnitude;
}

__half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {0x7fff};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude == 0) return {sign};
  // In units of the last place, of which a subnormal number has no fewer than
  // 2^-24; a carry moves on to the next exponent by itself.
  int exponent = std::ilogb(magnitude);
  if (exponent < -14) exponent = -14;
  const int units =
      static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + units))};
}

__nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {0x7fff};
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fff + (bits >> 16 & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}
