// Every (position, tap, source) that a plan lists, against the definition.

#include "cc/kernels/gather_plan.h"

#include <map>
#include <set>
#include <utility>

#include "tests/cc/check.h"

namespace tf_dwgrad {
namespace {

// (dst position, tap) -> source.
using Links = std::map<std::pair<int64_t, int64_t>, int64_t>;

Links LinksOfPlan(const GatherPlan& plan) {
  Links links;
  int64_t positions = 0;
  for (int64_t phase = 0; phase < PhaseCount(plan); ++phase) {
    const int64_t size = PhaseSize(plan, phase);
    for (int64_t t = 0; t < size; ++t) {
      ++positions;
      const int64_t dst = phase + t * plan.num_phases;
      TapRun run = FirstRun(plan, phase);
      for (int64_t index = 0;;) {
        const int64_t base = run.first_src + t * plan.pitch;
        const TapRange range = ClipToSource(plan, base, run.num_taps);
        for (int64_t m = range.begin; m < range.end; ++m) {
          const int64_t tap = run.first_tap + m * plan.tap_step;
          const bool added =
              links.emplace(std::make_pair(dst, tap), base + m * plan.pitch)
                  .second;
          CHECK_THAT(added,
                     "position " << dst << " meets tap " << tap << " twice");
        }
        if (++index >= plan.num_runs) break;
        NextRun(plan, index, &run);
      }
    }
  }
  CHECK_THAT(positions == plan.dst_size, "phases do not cover dst");
  return links;
}

// SourcesOf covers what the positions read, reaches no further, and leaves out
// nothing that is read when it skips.
void TestSources(const GatherPlan& plan, const Links& links,
                 int64_t first_phase, int64_t end_phase, int64_t begin,
                 int64_t end, bool skip) {
  std::set<int64_t> read;
  for (const auto& [position_and_tap, source] : links) {
    const int64_t phase = position_and_tap.first % plan.num_phases;
    const int64_t position = position_and_tap.first / plan.num_phases;
    if (phase >= first_phase && phase < end_phase && position >= begin &&
        position < end) {
      read.insert(source);
    }
  }
  const SourceRange range =
      SourcesOf(plan, first_phase, end_phase, begin, end, skip);
  // Positions beyond the end of a phase may add sources, all inside src.
  const int64_t last = range.first + (range.count - 1) * range.pitch;
  CHECK_THAT(range.count == 0 || (range.first >= 0 && last < plan.src_size),
             "sources outside the image");
  CHECK_THAT(skip || range.pitch == 1, "sources are left out");
  for (const int64_t source : read) {
    CHECK_THAT(range.count > 0 && source >= range.first && source <= last &&
                   (source - range.first) % range.pitch == 0,
               "source " << source << " is missing");
  }
  if (end <= PhaseSize(plan, end_phase - 1)) {
    CHECK_THAT(read.empty()
                   ? range.count == 0
                   : range.first == *read.begin() && last == *read.rbegin(),
               "more sources than needed");
  }
}

void TestSourcesOfPlan(const GatherPlan& plan, const Links& links) {
  const int64_t phases = PhaseCount(plan);
  for (const bool skip : {false, true}) {
    TestSources(plan, links, 0, phases, 0, PhaseSize(plan, 0), skip);
    TestSources(plan, links, 0, phases, 1, 3, skip);
    TestSources(plan, links, phases - 1, phases, 0, 1, skip);
    TestSources(plan, links, phases / 2, phases / 2 + 1, 0, 2, skip);
  }
}

// FindSource finds the same links, and sources outside src.
void TestSourcesOfResidues(const GatherPlan& plan, const Links& links) {
  const int64_t residues = plan.backward ? plan.stride : 1;
  Links found;
  for (int64_t residue = 0; residue < residues && residue < plan.dst_size;
       ++residue) {
    for (int64_t tap = 0; tap < plan.filter_size; ++tap) {
      int64_t source;
      if (!FindSource(plan, tap, residue, &source)) continue;
      for (int64_t dst = residue; dst < plan.dst_size; dst += residues) {
        if (source >= 0 && source < plan.src_size) found[{dst, tap}] = source;
        ++source;
      }
    }
  }
  CHECK_THAT(found == links, "other links by residues");
}

void TestAxis(int64_t in, int64_t filter, int64_t stride, int64_t dilation,
              int64_t pad, int64_t pad_after) {
  const int64_t room = in + pad + pad_after - ((filter - 1) * dilation + 1);
  if (room < 0) return;
  const int64_t out = room / stride + 1;
  Links forward, backward;
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t tap = 0; tap < filter; ++tap) {
      const int64_t x = i * stride - pad + tap * dilation;
      if (x < 0 || x >= in) continue;
      forward[{i, tap}] = x;
      backward[{x, tap}] = i;
    }
  }
  CHECK_THAT(LinksOfPlan(MakeForwardPlan(in, out, filter, stride, dilation,
                                         pad)) == forward,
             "forward in=" << in << " filter=" << filter << " stride=" << stride
                           << " dilation=" << dilation << " pad=" << pad);
  CHECK_THAT(
      LinksOfPlan(MakeInputGradientPlan(in, out, filter, stride, dilation,
                                        pad)) == backward,
      "input gradient in=" << in << " filter=" << filter << " stride=" << stride
                           << " dilation=" << dilation << " pad=" << pad);
  TestSourcesOfPlan(MakeForwardPlan(in, out, filter, stride, dilation, pad),
                    forward);
  TestSourcesOfPlan(
      MakeInputGradientPlan(in, out, filter, stride, dilation, pad), backward);
  TestSourcesOfResidues(
      MakeInputGradientPlan(in, out, filter, stride, dilation, pad), backward);
  if (stride == 1) {
    TestSourcesOfResidues(
        MakeForwardPlan(in, out, filter, stride, dilation, pad), forward);
  }
}

}  // namespace
}  // namespace tf_dwgrad

int main() {
  for (int64_t in : {1, 2, 5, 12}) {
    for (int64_t filter = 1; filter <= 6; ++filter) {
      for (int64_t stride = 1; stride <= 7; ++stride) {
        for (int64_t dilation = 1; dilation <= 7; ++dilation) {
          for (int64_t pad : {0, 1, 3, 20}) {
            for (int64_t pad_after : {0, 4}) {
              tf_dwgrad::TestAxis(in, filter, stride, dilation, pad, pad_after);
            }
          }
        }
      }
    }
  }
  // Strides and dilations at their limit must not overflow.
  const int64_t most = 2147483647;
  tf_dwgrad::TestAxis(3, 2, most, most, 0, most);
  tf_dwgrad::TestAxis(3, 2, most, most - 1, most, most);
  tf_dwgrad::TestAxis(3, 3, most - 1, most, most, most);
  return tf_dwgrad::Finish();
}
