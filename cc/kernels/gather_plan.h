// How one spatial dimension of the forward op or of the input gradient gathers
// its sources.
//
// Along one dimension both ops are
//
//   dst[x] = sum over taps r of src[source(x, r)] * filter[r]
//
// with source(x, r) = x * stride - pad + r * dilation            (forward)
//                   = (x + pad - r * dilation) / stride          (input
//                     gradient; the tap counts only if the division is exact).
//
// Positions x that are `num_phases` apart form a phase. Within a phase, both
// position and tap move the source by the same `pitch`, so a phase is a plain
// stride-1 correlation on a lattice:
//
//   position t of the phase  = phase + t * num_phases
//   tap m of a run           = first_tap + m * tap_step
//   its source               = first_src + (t + m) * pitch
//
// The taps of a phase fall into runs: one for the input gradient, up to
// stride / gcd(stride, dilation) for the forward op. Sources outside
// [0, src_size) belong to the padding and are skipped, never multiplied by 0.
//
// This header has no dependencies, so that code for every instruction set and
// for the GPU can include it.

#ifndef TF_DWGRAD_CC_KERNELS_GATHER_PLAN_H_
#define TF_DWGRAD_CC_KERNELS_GATHER_PLAN_H_

#include <stdint.h>

#ifdef __CUDACC__
#define TF_DWGRAD_HOST_DEVICE __host__ __device__
#else
#define TF_DWGRAD_HOST_DEVICE
#endif

namespace tf_dwgrad {

// Taps first_tap, first_tap + tap_step, ... of which tap m reads first_src +
// (t + m) * pitch.
struct TapRun {
  int64_t first_tap;
  int64_t num_taps;
  int64_t first_src;
};

// A half-open range of m.
struct TapRange {
  int64_t begin;
  int64_t end;
};

struct GatherPlan {
  int64_t dst_size;
  int64_t src_size;
  int64_t filter_size;
  int64_t num_phases;
  int64_t num_runs;
  int64_t pitch;
  int64_t tap_step;
  int64_t src_per_run;   // how far run b + 1 starts behind run b
  int64_t taps_per_run;  // in the shorter runs; the first `longer_runs` runs
  int64_t longer_runs;   // have one tap more (forward only)
  // What is needed to find the runs of a phase; see MakeInputGradientPlan.
  bool backward;
  int64_t stride;
  int64_t dilation;
  int64_t pad;
  int64_t gcd;
  int64_t inverse;
};

namespace gather_plan_internal {

TF_DWGRAD_HOST_DEVICE static inline int64_t Gcd(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// The x in [0, modulus) with a * x = 1 (mod modulus), for coprime a, modulus.
TF_DWGRAD_HOST_DEVICE static inline int64_t ModularInverse(int64_t a,
                                                           int64_t modulus) {
  int64_t r0 = modulus, r1 = a % modulus;
  int64_t x0 = 0, x1 = 1;
  while (r1 != 0) {
    const int64_t quotient = r0 / r1;
    const int64_t r2 = r0 - quotient * r1;
    const int64_t x2 = x0 - quotient * x1;
    r0 = r1;
    r1 = r2;
    x0 = x1;
    x1 = x2;
  }
  return modulus == 1 ? 0 : (x0 % modulus + modulus) % modulus;
}

}  // namespace gather_plan_internal

// dst is output, src is input.
TF_DWGRAD_HOST_DEVICE static inline GatherPlan MakeForwardPlan(
    int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t dilation,
    int64_t pad) {
  const int64_t gcd = gather_plan_internal::Gcd(stride, dilation);
  GatherPlan plan;
  plan.dst_size = out;
  plan.src_size = in;
  plan.filter_size = filter;
  plan.num_phases = dilation / gcd;
  plan.tap_step = stride / gcd;
  plan.num_runs = plan.tap_step < filter ? plan.tap_step : filter;
  plan.pitch = stride * plan.num_phases;
  plan.src_per_run = dilation;
  plan.taps_per_run = filter / plan.tap_step;
  plan.longer_runs = filter % plan.tap_step;
  plan.backward = false;
  plan.stride = stride;
  plan.dilation = dilation;
  plan.pad = pad;
  plan.gcd = gcd;
  plan.inverse = 0;
  return plan;
}

// dst is dX (size `in`), src is dY (size `out`). Taps run downwards, so that
// the source moves up with both t and m.
TF_DWGRAD_HOST_DEVICE static inline GatherPlan MakeInputGradientPlan(
    int64_t in, int64_t out, int64_t filter, int64_t stride, int64_t dilation,
    int64_t pad) {
  const int64_t gcd = gather_plan_internal::Gcd(stride, dilation);
  GatherPlan plan;
  plan.dst_size = in;
  plan.src_size = out;
  plan.filter_size = filter;
  plan.pitch = dilation / gcd;
  plan.num_phases = stride * plan.pitch;
  plan.tap_step = -(stride / gcd);
  plan.num_runs = 1;
  plan.src_per_run = 0;
  plan.taps_per_run = 0;
  plan.longer_runs = 0;
  plan.backward = true;
  plan.stride = stride;
  plan.dilation = dilation;
  plan.pad = pad;
  plan.gcd = gcd;
  plan.inverse =
      gather_plan_internal::ModularInverse(dilation / gcd, stride / gcd);
  return plan;
}

TF_DWGRAD_HOST_DEVICE static inline int64_t PhaseCount(const GatherPlan& plan) {
  return plan.num_phases < plan.dst_size ? plan.num_phases : plan.dst_size;
}

// Positions of a phase that lie inside dst.
TF_DWGRAD_HOST_DEVICE static inline int64_t PhaseSize(const GatherPlan& plan,
                                                      int64_t phase) {
  return (plan.dst_size - phase + plan.num_phases - 1) / plan.num_phases;
}

// The first run of a phase. It has no taps if no tap reaches the phase.
TF_DWGRAD_HOST_DEVICE static inline TapRun FirstRun(const GatherPlan& plan,
                                                    int64_t phase) {
  TapRun run;
  run.first_tap = 0;
  run.num_taps = 0;
  run.first_src = 0;
  if (!plan.backward) {
    run.num_taps = plan.taps_per_run + (plan.longer_runs > 0 ? 1 : 0);
    run.first_src = phase * plan.stride - plan.pad;
    return run;
  }
  const int64_t offset = phase + plan.pad;
  if (offset % plan.gcd != 0) return run;
  const int64_t modulus = -plan.tap_step;
  const int64_t lowest_tap =
      (offset / plan.gcd) % modulus * plan.inverse % modulus;
  if (lowest_tap >= plan.filter_size) return run;
  run.num_taps = (plan.filter_size - 1 - lowest_tap) / modulus + 1;
  run.first_tap = lowest_tap + (run.num_taps - 1) * modulus;
  // Exact by the choice of the tap.
  run.first_src = (offset - run.first_tap * plan.dilation) / plan.stride;
  return run;
}

// Turns run `index` - 1 of a phase into run `index`, for 0 < index < num_runs.
TF_DWGRAD_HOST_DEVICE static inline void NextRun(const GatherPlan& plan,
                                                 int64_t index, TapRun* run) {
  run->first_tap = index;
  run->num_taps = plan.taps_per_run + (index < plan.longer_runs ? 1 : 0);
  run->first_src += plan.src_per_run;
}

// The m in [0, limit) for which origin + m * step is in [0, size).
TF_DWGRAD_HOST_DEVICE static inline TapRange StepsInside(int64_t origin,
                                                         int64_t step,
                                                         int64_t size,
                                                         int64_t limit) {
  TapRange range = {0, limit};
  const int64_t last = size - 1;
  // Away from the borders nothing needs a division.
  if (origin >= 0 && origin + (limit - 1) * step <= last) return range;
  int64_t before = -origin - 1, inside = last - origin;
  if (step != 1) {
    before /= step;
    inside /= step;
  }
  if (origin < 0) range.begin = before + 1;
  const int64_t fit = last < origin ? 0 : inside + 1;
  if (fit < limit) range.end = fit;
  if (range.begin > range.end) range.begin = range.end;
  return range;
}

// The m in [0, limit) whose source base + m * pitch lies inside src.
TF_DWGRAD_HOST_DEVICE static inline TapRange ClipToSource(
    const GatherPlan& plan, int64_t base, int64_t limit) {
  return StepsInside(base, plan.pitch, plan.src_size, limit);
}

// Whether a tap reaches position `residue`, and those that lie a multiple of
// the stride behind it; and its source for the first of these, which may lie
// outside src. That of the next one is the next source. For the input gradient,
// and for the forward op without a stride.
TF_DWGRAD_HOST_DEVICE static inline bool FindSource(const GatherPlan& plan,
                                                    int64_t tap,
                                                    int64_t residue,
                                                    int64_t* src) {
  if (!plan.backward) {
    *src = residue - plan.pad + tap * plan.dilation;
    return true;
  }
  const int64_t distance = residue + plan.pad - tap * plan.dilation;
  *src = distance / plan.stride;
  return distance % plan.stride == 0;
}

// Sources first, first + pitch, ...
struct SourceRange {
  int64_t first;
  int64_t count;
  int64_t pitch;
};

// The sources inside src of the positions [begin, end) of the phases
// [first_phase, end_phase), and whatever lies between them; `skip` leaves out
// those between that are not on the lattice of a single phase.
TF_DWGRAD_HOST_DEVICE static inline SourceRange SourcesOf(
    const GatherPlan& plan, int64_t first_phase, int64_t end_phase,
    int64_t begin, int64_t end, bool skip) {
  SourceRange range = {0, 0, 1};
  if (skip && plan.num_runs == 1 && end_phase - first_phase == 1) {
    range.pitch = plan.pitch;
  }
  int64_t last = -1;
  for (int64_t phase = first_phase; phase < end_phase; ++phase) {
    TapRun run = FirstRun(plan, phase);
    for (int64_t index = 0;;) {
      if (run.num_taps > 0) {
        const int64_t base = run.first_src + begin * plan.pitch;
        const TapRange inside =
            ClipToSource(plan, base, end - begin + run.num_taps - 1);
        if (inside.begin < inside.end) {
          const int64_t lowest = base + inside.begin * plan.pitch;
          const int64_t highest = base + (inside.end - 1) * plan.pitch;
          if (last < 0 || lowest < range.first) range.first = lowest;
          if (highest > last) last = highest;
        }
      }
      if (++index >= plan.num_runs) break;
      NextRun(plan, index, &run);
    }
  }
  if (last >= 0) range.count = (last - range.first) / range.pitch + 1;
  return range;
}

}  // namespace tf_dwgrad

#undef TF_DWGRAD_HOST_DEVICE

#endif  // TF_DWGRAD_CC_KERNELS_GATHER_PLAN_H_
