// The CPU kernels on random small problems against a direct evaluation of the
// definition, exactly, with the units of work in random pieces and order.

#include "cc/kernels/cpu/cpu_kernel.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <utility>
#include <vector>

#include "cc/kernels/cpu/choose_kernels.h"
#include "cc/kernels/cpu/run_cpu_kernel.h"
#include "tests/cc/check.h"
#include "tests/cc/random_problems.h"

namespace tf_dwgrad {
namespace {

// The result begins so many bytes behind a line of memory.
void TestOp(Random& random, const Problem& problem, ConvOp op, ElementType type,
            int64_t offset = 0) {
  const CpuKernel kernel(op, type, problem.geometry);
  GuardedMemory workspace(static_cast<int64_t>(kernel.workspace_bytes()));
  const auto run = [&](const void* first, const void* second, void* result) {
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
  };
  CheckOp(random, problem, op, type, "cpu", false,
          [&](const void* first, const void* second, void* result) {
            if (offset == 0) {
              run(first, second, result);
              return;
            }
            const int64_t bytes =
                ResultElements(op, problem.geometry) * SizeOf(type);
            GuardedMemory moved(bytes + offset);
            run(first, second, moved.data() + offset);
            std::memcpy(result, moved.data() + offset, bytes);
            CHECK_THAT(moved.guards_are_intact(),
                       "writes outside its result: " << problem.text);
          });
  CHECK_THAT(workspace.guards_are_intact(),
             "writes outside its workspace: " << problem.text);
}

Problem ChannelsLast(int64_t batch, const AxisGeometry& rows,
                     const AxisGeometry& cols, int64_t depth) {
  Problem problem;
  ConvGeometry& g = problem.geometry;
  g.data_format = DataFormat::kNHWC;
  g.batch = batch;
  g.rows = rows;
  g.cols = cols;
  g.in_depth = depth;
  g.depth_multiplier = 1;
  problem.text = TextOf(g);
  return problem;
}

void TestOps(Random& random, const Problem& problem,
             std::initializer_list<ConvOp> ops) {
  for (int type = 0; type < kNumElementTypes; ++type) {
    for (ConvOp op : ops) {
      TestOp(random, problem, op, static_cast<ElementType>(type));
    }
  }
}

// Large pixels that end in the middle of a line of memory, in one block of
// channels and in several.
void TestHalfLines(Random& random) {
  for (int64_t depth : {516, 520, 528, 1096}) {
    for (const AxisGeometry& cols :
         {AxisGeometry{17, 17, 3, 1, 1, 1}, AxisGeometry{16, 16, 3, 1, 2, 2},
          AxisGeometry{23, 23, 3, 1, 3, 3}, AxisGeometry{17, 9, 3, 2, 1, 1}}) {
      TestOps(random, ChannelsLast(2, {5, 5, 3, 1, 1, 1}, cols, depth),
              {ConvOp::kForward, ConvOp::kBackpropInput});
    }
  }
}

// Lines of memory that take several vectors: pixels that begin with a line,
// that all begin in another place of it, and that begin in different places.
void TestLinesInPieces(Random& random) {
  const AxisGeometry rows = {6, 6, 3, 1, 1, 1};
  for (int64_t depth : {4, 8, 12, 20, 24, 32, 40, 44}) {
    for (const AxisGeometry& cols :
         {AxisGeometry{11, 11, 3, 1, 1, 1}, AxisGeometry{9, 5, 5, 2, 1, 2},
          AxisGeometry{9, 9, 9, 1, 1, 4}, AxisGeometry{7, 7, 3, 1, 5, 5}}) {
      TestOps(random, ChannelsLast(2, rows, cols, depth),
              {ConvOp::kForward, ConvOp::kBackpropInput});
    }
  }
}

// Two column phases that write the same lines of memory.
void TestPhasesThatShareLines(Random& random) {
  for (int64_t filter : {3, 7}) {
    for (int64_t out : {1, 4, 7, 10}) {
      const AxisGeometry cols = {2 * out - 1, out, filter, 2, 1, filter / 2};
      for (int64_t depth : {33, 40, 72, 520}) {
        TestOps(random, ChannelsLast(2, {11, 6, 3, 2, 1, 1}, cols, depth),
                {ConvOp::kBackpropInput});
      }
    }
  }
}

// Rows of pixels that are no whole lines of memory: less than a line of them, a
// piece, and several pieces, of which the last may be small.
void TestRowsOfPartsOfLines(Random& random) {
  for (const int64_t depth : {18, 27, 40, 136, 270}) {
    for (const int64_t size : {1, 6, 57}) {
      for (const int64_t dilation : {1, 2, 3}) {
        const AxisGeometry rows = {5, 5, 3, 1, 1, 1};
        const AxisGeometry cols = {size, size, 3, 1, dilation, dilation};
        TestOps(random, ChannelsLast(2, rows, cols, depth),
                {ConvOp::kForward, ConvOp::kBackpropInput});
      }
      const int64_t half = (size + 1) / 2;
      for (const int64_t filter : {3, 5, 7}) {
        const AxisGeometry rows = {5, 3, 3, 2, 1, 1};
        const AxisGeometry cols = {size, half, filter, 2, 1, filter / 2};
        TestOps(random, ChannelsLast(2, rows, cols, depth),
                {ConvOp::kForward, ConvOp::kBackpropInput});
      }
    }
  }
}

// Tiles of both column phases of stride 2: those of one pixel to those of
// several tiles, windows that begin before the source or end behind it, pixels
// that no tap reaches, and rows of any kind.
void TestSpreadTiles(Random& random) {
  for (const int64_t filter : {3, 5}) {
    for (const int64_t pad : {0, 1, 2, 3, 6}) {
      for (const int64_t in : {1, 2, 7, 13, 16, 31, 44}) {
        const int64_t out = (in + 2 * pad - filter) / 2 + 1;
        if (in + 2 * pad < filter) continue;
        const AxisGeometry cols = {in, out, filter, 2, 1, pad};
        for (const AxisGeometry& rows :
             {AxisGeometry{6, 3, 3, 2, 1, 0}, AxisGeometry{5, 3, 5, 2, 1, 2},
              AxisGeometry{4, 4, 2, 1, 1, 1}, AxisGeometry{7, 2, 3, 3, 2, 1}}) {
          for (const int64_t depth : {16, 40, 64}) {
            TestOps(random, ChannelsLast(1, rows, cols, depth),
                    {ConvOp::kBackpropInput});
          }
        }
      }
    }
  }
}

// Tap rows that are done in pairs: an even or an odd number of them, of which
// the source may lack any; with strides and dilations, and pixels that take
// part of a vector more.
void TestPairedRows(Random& random) {
  for (const int64_t filter : {1, 2, 3, 4, 5, 6, 7, 12}) {
    for (const int64_t size : {1, 2, 3, 8, 13}) {
      for (const AxisGeometry& rows :
           {AxisGeometry{size, size, filter, 1, 1, filter / 2},
            AxisGeometry{size, size, filter, 1, 2, filter},
            AxisGeometry{size, (size + 1) / 2, filter, 2, 1, filter / 2},
            AxisGeometry{size, (size + 2) / 3, filter, 3, 2, filter}}) {
        for (const AxisGeometry& cols :
             {AxisGeometry{9, 9, 3, 1, 1, 1}, AxisGeometry{8, 8, 5, 1, 4, 8},
              AxisGeometry{11, 6, 3, 2, 1, 1}}) {
          for (const int64_t depth : {64, 80}) {
            TestOp(random, ChannelsLast(1, rows, cols, depth),
                   ConvOp::kBackpropInput, ElementType::kBFloat16);
            TestOp(random, ChannelsLast(1, rows, cols, depth), ConvOp::kForward,
                   ElementType::kBFloat16);
          }
        }
      }
    }
  }
}

// Pixels that compete for one set of the first cache.
void TestPagesApart(Random& random) {
  for (int64_t size : {3, 9, 19}) {
    TestOps(random,
            ChannelsLast(1, {7, 7, 3, 1, 2, 2}, {size, size, 3, 1, 2, 2}, 1024),
            {ConvOp::kForward, ConvOp::kBackpropInput});
  }
}

// Such pixels, or small images, with so many taps that they are copied: into
// one panel, into several, in several blocks of channels.
void TestCopied(Random& random) {
  const auto same = [](int64_t size, int64_t filter) -> AxisGeometry {
    return {size, size, filter, 1, 1, filter / 2};
  };
  const AxisGeometry strided = {11, 6, 5, 2, 1, 2};
  for (const Problem& problem :
       {ChannelsLast(2, same(3, 5), same(4, 5), 1024),
        ChannelsLast(1, same(90, 5), same(12, 5), 1024),
        ChannelsLast(1, same(9, 7), same(17, 7), 512),
        ChannelsLast(2, {6, 4, 5, 1, 1, 1}, {15, 17, 5, 1, 1, 3}, 1024),
        ChannelsLast(2, same(5, 17), same(7, 9), 16),
        ChannelsLast(2, same(40, 3), same(7, 9), 144),
        ChannelsLast(1, {9, 5, 5, 1, 1, 0}, {9, 17, 9, 1, 1, 8}, 1024),
        ChannelsLast(3, strided, strided, 1024)}) {
    TestOps(
        random, problem,
        {ConvOp::kForward, ConvOp::kBackpropInput, ConvOp::kBackpropFilter});
  }
}

// Few planes, whose rows go one by one or, of NHWC, folded; strips of a row,
// and rows that end in the middle of a vector.
void TestFewPlanes(Random& random) {
  const auto same = [](int64_t size, int64_t filter, int64_t stride,
                       int64_t dilation) -> AxisGeometry {
    return {size,     (size + stride - 1) / stride, filter, stride,
            dilation, (filter - 1) * dilation / 2};
  };
  for (const int64_t depth : {1, 2, 3, 5, 7, 12}) {
    for (const DataFormat format : {DataFormat::kNHWC, DataFormat::kNCHW}) {
      for (Problem problem :
           {ChannelsLast(1, same(7, 3, 1, 1), same(40, 3, 1, 1), depth),
            ChannelsLast(1, same(3, 3, 1, 1), same(1100 / depth, 3, 1, 1),
                         depth),
            ChannelsLast(2, same(9, 5, 2, 1), same(33, 4, 2, 1), depth),
            ChannelsLast(1, same(8, 3, 1, 2), same(21, 3, 1, 3), depth),
            ChannelsLast(1, same(5, 3, 3, 1), same(20, 7, 2, 2), depth)}) {
        for (const int64_t multiplier : {1, 4}) {
          problem.geometry.data_format = format;
          problem.geometry.depth_multiplier = multiplier;
          problem.text = TextOf(problem.geometry);
          TestOps(random, problem,
                  {ConvOp::kForward, ConvOp::kBackpropInput,
                   ConvOp::kBackpropFilter});
        }
      }
    }
  }
}

// Planes that are done by vectors along their rows: narrower than a vector,
// which are summed up tap column by tap column, as wide as one, two and three,
// and in between.
void TestVectorsAlongRows(Random& random) {
  const auto same = [](int64_t size, int64_t filter,
                       int64_t dilation) -> AxisGeometry {
    return {size, size, filter, 1, dilation, filter / 2 * dilation};
  };
  const auto test = [&](const AxisGeometry& rows, const AxisGeometry& cols) {
    Problem problem = ChannelsLast(3, rows, cols, /*depth=*/11);
    problem.geometry.data_format = DataFormat::kNCHW;
    problem.text = TextOf(problem.geometry);
    TestOps(random, problem, {ConvOp::kForward, ConvOp::kBackpropInput});
  };
  for (const int64_t filter : {3, 5}) {
    for (const int64_t width :
         {3, 4, 6, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 40, 48, 49, 70}) {
      for (const int64_t height : {1, 4, 5, 11}) {
        test(same(height, filter, 1), same(width, filter, 1));
      }
      for (const int64_t dilation : {2, 3, 9}) {
        test(same(9, filter, dilation), same(width, filter, dilation));
        test(same(1, filter, 1), same(width, filter, dilation));
      }
    }
  }
  // Planes too large for the scratch memory that the first and the last take.
  Problem problem =
      ChannelsLast(1, same(500, 3, 1), same(150, 3, 1), /*depth=*/32);
  problem.geometry.data_format = DataFormat::kNCHW;
  problem.text = TextOf(problem.geometry);
  TestOp(random, problem, ConvOp::kBackpropInput, ElementType::kFloat32);
}

// Planes whose rows are summed up tap column by tap column: strides, paddings,
// few and many rows, with taps that reach nothing and positions that nothing
// reaches.
void TestTapColumns(Random& random) {
  constexpr int64_t kBatch = 3, kDepth = 11;
  const auto problem_of = [](const AxisGeometry& rows,
                             const AxisGeometry& cols) {
    Problem problem = ChannelsLast(kBatch, rows, cols, kDepth);
    problem.geometry.data_format = DataFormat::kNCHW;
    problem.text = TextOf(problem.geometry);
    return problem;
  };
  // Padded as little as nothing, as "SAME" does, or beyond what a tap reaches.
  enum Padding { kValid, kSame, kFar };
  const auto axis = [](int64_t size, int64_t filter, int64_t stride,
                       int64_t dilation, Padding padding) -> AxisGeometry {
    const int64_t reach = (filter - 1) * dilation;
    const auto padded = [&](int64_t before, int64_t after) -> AxisGeometry {
      const int64_t out = (size + before + after - reach - 1) / stride + 1;
      return {size, out, filter, stride, dilation, before};
    };
    if (padding == kFar) return padded(reach + 3, reach + 2);
    if (padding == kValid && size > reach) return padded(0, 0);
    const int64_t missing = (size - 1) / stride * stride + reach + 1 - size;
    const int64_t both = missing > 0 ? missing : 0;
    return padded(both / 2, both - both / 2);
  };
  // No other kernel makes a unit of a plane of these.
  for (const int64_t filter : {3, 5}) {
    for (const int64_t size : {8, 14, 28}) {
      const Problem problem = problem_of(axis(size, filter, 2, 1, kSame),
                                         axis(size, filter, 2, 1, kSame));
      const CpuKernel kernel(ConvOp::kBackpropInput, ElementType::kFloat32,
                             problem.geometry);
      CHECK_THAT(kernel.num_units() == kBatch * kDepth, problem.text);
    }
  }
  for (const int64_t width : {1, 5, 8, 9, 14, 16, 17, 24, 31, 32, 33, 48, 50}) {
    for (const int64_t height : {2, 3, 7, 13, 16}) {
      for (const int64_t filter : {2, 3, 5}) {
        const auto padding = static_cast<Padding>(random() % 3);
        const Problem problem = problem_of(
            axis(height, Pick(random, {1, filter, 2 * filter}),
                 Pick(random, {1, 2, 3}), Pick(random, {1, 1, 2}), padding),
            axis(width, Pick(random, {filter, 2 * filter - 1}),
                 Pick(random, {1, 2}), Pick(random, {1, 1, 3}), padding));
        TestOps(random, problem, {ConvOp::kForward, ConvOp::kBackpropInput});
      }
    }
  }
  // Planes too large for the scratch memory that the first and the last take.
  const Problem problem =
      problem_of(axis(900, 3, 2, 1, kSame), axis(620, 3, 2, 1, kSame));
  TestOp(random, problem, ConvOp::kBackpropInput, ElementType::kFloat32);
}

// Whether images are cut into so many strips, or bands, of which no other
// gather makes as many units.
bool HasStrips(int64_t strips, const Problem& problem, ConvOp op,
               ElementType type) {
  return CpuKernel(op, type, problem.geometry).num_units() == strips;
}

// Which problems are done by sums of three rows that roll down the image.
void TestWhatIsRolled() {
  const AxisGeometry rows = {28, 28, 3, 1, 1, 1};
  const AxisGeometry cols = {15, 15, 3, 1, 1, 1};
  constexpr int64_t kStrips = 4 * 3;  // of 7 rows by 5 columns
  const auto& rolling = ChosenKernels().kernels->gather_rolling;
  const bool can_roll =
      rolling[static_cast<int>(ElementType::kFloat32)] != nullptr;
  CHECK_THAT(can_roll == (ChosenKernels().kernels->vector_bytes == 64),
             "AVX-512 has registers for it");
  const bool streams = std::getenv("TF_DWGRAD_STREAM_BYTES") != nullptr;
  for (const ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
    constexpr ElementType kType = ElementType::kFloat32;
    for (const ElementType type :
         {ElementType::kHalf, ElementType::kFloat32, ElementType::kFloat64}) {
      for (const int64_t depth : {32, 96, 512}) {
        const Problem problem = ChannelsLast(1, rows, cols, depth);
        CHECK_THAT(HasStrips(kStrips, problem, op, type) == can_roll,
                   problem.text);
        CHECK_THAT(!HasStrips(kStrips, problem, op, ElementType::kBFloat16),
                   problem.text);
      }
      // Pixels that are no whole lines, which do not go past the caches.
      const Problem problem =
          ChannelsLast(1, rows, {11, 11, 3, 1, 1, 1}, /*depth=*/20);
      CHECK_THAT(HasStrips(4 * 2, problem, op, type) == (can_roll && !streams),
                 problem.text);
    }
    const AxisGeometry valid = {17, 15, 3, 1, 1, 0};
    const AxisGeometry full = {15, 17, 3, 1, 1, 2};
    const Problem as_small = ChannelsLast(
        1, rows, op == ConvOp::kForward ? valid : full, /*depth=*/64);
    CHECK_THAT(HasStrips(kStrips, as_small, op, kType) == can_roll,
               as_small.text);
    // What a strip sees of all channels is too much.
    const Problem deep = ChannelsLast(1, rows, cols, /*depth=*/2048);
    CHECK_THAT(HasStrips(2 * kStrips, deep, op, kType) == can_roll, deep.text);
    // Two phases of rows, of two bands each; five of columns, of one strip.
    const Problem dilated = ChannelsLast(1, {28, 28, 3, 1, 2, 2},
                                         {25, 25, 3, 1, 5, 5}, /*depth=*/64);
    CHECK_THAT(HasStrips(2 * 2 * 5, dilated, op, kType) == can_roll,
               dilated.text);

    for (const AxisGeometry& other :
         {AxisGeometry{15, 15, 3, 1, 5, 5}, AxisGeometry{15, 15, 5, 1, 1, 2},
          AxisGeometry{15, 15, 2, 1, 1, 1}, AxisGeometry{15, 8, 3, 2, 1, 1}}) {
      const Problem problem = ChannelsLast(1, rows, other, /*depth=*/64);
      CHECK_THAT(!HasStrips(kStrips, problem, op, kType), problem.text);
    }
    Problem problem = ChannelsLast(1, rows, cols, /*depth=*/8);
    CHECK_THAT(!HasStrips(kStrips, problem, op, kType), "less than a vector");
    problem = ChannelsLast(1, rows, cols, /*depth=*/64);
    problem.geometry.depth_multiplier = 2;
    CHECK_THAT(!HasStrips(kStrips, problem, op, kType), "a depth multiplier");
    problem.geometry.depth_multiplier = 1;
    problem.geometry.data_format = DataFormat::kNCHW;
    CHECK_THAT(!HasStrips(kStrips, problem, op, kType), "NCHW");
  }
}

// Such problems: images of one strip and one band to several, of any width and
// height, with padding that is missing, or more than the filter sees; phases of
// a dilation; and pixels whose addresses have the same lower bits, or whose
// channels are cut into blocks.
void TestRolled(Random& random) {
  const auto padded = [](int64_t in, int64_t dilation, int64_t before,
                         int64_t after) -> AxisGeometry {
    return {in, in + before + after - 2 * dilation, 3, 1, dilation, before};
  };
  const auto test = [&](const AxisGeometry& rows, const AxisGeometry& cols,
                        int64_t depth) {
    if (rows.out < 1 || cols.out < 1) return;
    const Problem problem = ChannelsLast(1 + random() % 2, rows, cols, depth);
    for (const ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
      for (const ElementType type :
           {ElementType::kHalf, ElementType::kFloat32, ElementType::kFloat64}) {
        TestOp(random, problem, op, type, Pick(random, {0, 0, 0, 16}));
      }
    }
  };
  for (int64_t height = 1; height <= 30; ++height) {
    for (int64_t width = 1; width <= 30; ++width) {
      const int64_t depth = Pick(random, {16, 32, 37, 40, 64, 80, 160});
      if (random() % 2 == 0) {
        test(padded(height, 1, 1, 1), padded(width, 1, 1, 1), depth);
      } else {
        const int64_t most = Pick(random, {1, 3, 6});
        test(padded(height, 1, random() % most, random() % most),
             padded(width, 1, random() % most, random() % most), depth);
      }
      if (random() % 8 != 0) continue;
      const int64_t dilation = 2 + random() % 3;
      test(padded(height, dilation, dilation, dilation),
           padded(width, dilation, random() % 9, random() % 9), depth);
    }
  }
  for (const int64_t depth : {512, 1024, 1440, 2304}) {
    test(padded(9, 1, 1, 1), padded(10, 1, 1, 1), depth);
    test(padded(11, 2, 2, 2), padded(17, 2, 2, 2), depth);
  }
}

// Which problems are done along the rows, whose bands are of four.
void TestWhatIsFolded() {
  const AxisGeometry rows = {30, 30, 3, 1, 1, 1};
  const AxisGeometry cols = {31, 31, 3, 1, 1, 1};
  constexpr int64_t kBands = 3 * 8;  // of three images
  const KernelTable& kernels = *ChosenKernels().kernels;
  const bool can_fold =
      kernels.gather_folded_rows[static_cast<int>(ElementType::kFloat32)] !=
      nullptr;
  CHECK_THAT(can_fold == (kernels.vector_bytes >= 32),
             "AVX2 loads any lanes of a vector");
  const bool rolls =
      kernels.gather_rolling[static_cast<int>(ElementType::kFloat32)] !=
      nullptr;
  const auto is_folded = [&](const AxisGeometry& down,
                             const AxisGeometry& across, int64_t depth,
                             ConvOp op, ElementType type) {
    return HasStrips(kBands, ChannelsLast(3, down, across, depth), op, type);
  };
  for (const ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
    for (const ElementType type :
         {ElementType::kFloat32, ElementType::kFloat64}) {
      for (const int64_t depth : {16, 17, 20, 24, 48, 116, 128}) {
        const bool whole_lines = depth * SizeOf(type) % kLineBytes == 0;
        CHECK_THAT(
            is_folded(rows, cols, depth, op, type) ==
                (can_fold && (!whole_lines || kernels.joins_lines || !rolls)),
            "depth " << depth);
      }
      // More taps, and larger pixels, than stay close by.
      CHECK_THAT(!is_folded(rows, cols, 531, op, type), "531 channels");
      CHECK_THAT(!is_folded(rows, cols, 1040, op, type), "1040 channels");
    }
    constexpr ElementType kType = ElementType::kFloat32;
    for (const AxisGeometry& other :
         {AxisGeometry{7, 7, 3, 1, 1, 1}, AxisGeometry{31, 31, 3, 1, 2, 2},
          AxisGeometry{31, 31, 5, 1, 1, 2}, AxisGeometry{31, 16, 3, 2, 1, 1}}) {
      CHECK_THAT(!is_folded(rows, other, 24, op, kType), "other columns");
    }
    CHECK_THAT(!is_folded({30, 30, 3, 1, 2, 2}, cols, 24, op, kType),
               "dilated rows");
    for (const ElementType type :
         {ElementType::kHalf, ElementType::kBFloat16}) {
      CHECK_THAT(!is_folded(rows, cols, 24, op, type), "16 bits");
    }
  }
}

// Such problems: rows of whole lines, of parts of them and of parts of vectors,
// bands of any height, padding that is missing, or more than the filter sees,
// and as many images as it takes.
void TestFolded(Random& random) {
  for (int64_t height = 1; height <= 10; ++height) {
    for (const int64_t width : {12, 13, 16, 20, 31, 64, 75}) {
      const int64_t depth = Pick(random, {16, 17, 20, 24, 32, 40, 72, 80, 116});
      const bool same = random() % 2 == 0;
      const auto padded = [&](int64_t size) -> AxisGeometry {
        const int64_t before = same ? 1 : random() % 5;
        const int64_t after = same ? 1 : random() % 5;
        return {size, size + before + after - 2, 3, 1, 1, before};
      };
      const AxisGeometry rows = padded(height);
      const AxisGeometry cols = padded(width);
      if (rows.out < 1 || cols.out < 1) continue;
      // For doubles, half of it.
      int64_t batch = 1;
      const int64_t period = FoldedPeriod(depth, 16);
      while (batch * height * width * depth < 129 * 16 * period) ++batch;
      const Problem problem = ChannelsLast(batch, rows, cols, depth);
      for (const ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
        for (const ElementType type :
             {ElementType::kFloat32, ElementType::kFloat64}) {
          TestOp(random, problem, op, type, Pick(random, {0, 0, 0, 32}));
        }
      }
    }
  }
}

// Which problems are done by tiles that go down the image, in strips of seven
// columns and pieces of four lines.
void TestWhatGoesDownward() {
  const AxisGeometry rows = {14, 14, 5, 1, 1, 2};
  const AxisGeometry cols = {15, 15, 5, 1, 1, 2};
  constexpr int64_t kStrips = 2 * 3;  // of two images
  const bool streams = std::getenv("TF_DWGRAD_STREAM_BYTES") != nullptr;
  const bool can = streams && ChosenKernels().kernels->max_taps >= 5;
  const auto goes_down = [&](const AxisGeometry& down,
                             const AxisGeometry& across, int64_t depth,
                             ConvOp op, ElementType type) {
    const int64_t blocks = (depth * SizeOf(type) + 255) / 256;
    return HasStrips(kStrips * blocks, ChannelsLast(2, down, across, depth), op,
                     type);
  };
  for (const ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
    for (const ElementType type :
         {ElementType::kFloat32, ElementType::kFloat64}) {
      CHECK_THAT(goes_down(rows, cols, 160, op, type) == can, "160 channels");
      CHECK_THAT(!goes_down(rows, cols, 161, op, type), "no whole lines");
    }
    constexpr ElementType kType = ElementType::kFloat32;
    CHECK_THAT(!goes_down(rows, cols, 512, op, kType), "pages of two pixels");
    CHECK_THAT(!goes_down(rows, cols, 4000, op, kType), "too large a filter");
    CHECK_THAT(!goes_down({140, 140, 5, 1, 1, 2}, cols, 320, op, kType),
               "too large an image");
    for (const AxisGeometry& other :
         {AxisGeometry{15, 15, 5, 1, 2, 4}, AxisGeometry{15, 8, 5, 2, 1, 2},
          AxisGeometry{15, 15, 3, 1, 1, 1},
          AxisGeometry{15, 15, 11, 1, 1, 5}}) {
      CHECK_THAT(!goes_down(rows, other, 160, op, kType), "other columns");
    }
    CHECK_THAT(!goes_down(rows, cols, 160, op, ElementType::kHalf),
               "halfs are not streamed");
  }
}

// Such problems: images of any width and height, whose rows are at first too
// few for all rows of a tile's window; padding that is missing, or more than
// the filter sees; and a last piece of a pixel that is shorter.
void TestDownward(Random& random) {
  for (int64_t height = 1; height <= 20; ++height) {
    for (const int64_t width : {1, 4, 7, 8, 10, 14, 15, 23}) {
      const int64_t taps = Pick(random, {5, 7});
      const bool same = random() % 2 == 0;
      const auto padded = [&](int64_t size) -> AxisGeometry {
        const int64_t before = same ? taps / 2 : random() % (taps + 2);
        const int64_t after = same ? taps / 2 : random() % (taps + 2);
        return {size, size + before + after - taps + 1, taps, 1, 1, before};
      };
      const AxisGeometry rows = padded(height);
      const AxisGeometry cols = padded(width);
      if (rows.out < 1 || cols.out < 1) continue;
      const int64_t depth = Pick(random, {16, 32, 64, 80, 96, 160});
      const Problem problem = ChannelsLast(1 + random() % 2, rows, cols, depth);
      for (const ConvOp op : {ConvOp::kForward, ConvOp::kBackpropInput}) {
        for (int type = 0; type < kNumElementTypes; ++type) {
          TestOp(random, problem, op, static_cast<ElementType>(type),
                 Pick(random, {0, 0, 0, 16}));
        }
      }
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
  tf_dwgrad::TestLinesInPieces(random);
  tf_dwgrad::TestPhasesThatShareLines(random);
  tf_dwgrad::TestRowsOfPartsOfLines(random);
  tf_dwgrad::TestSpreadTiles(random);
  tf_dwgrad::TestPairedRows(random);
  tf_dwgrad::TestPagesApart(random);
  tf_dwgrad::TestCopied(random);
  tf_dwgrad::TestFewPlanes(random);
  tf_dwgrad::TestVectorsAlongRows(random);
  tf_dwgrad::TestTapColumns(random);
  tf_dwgrad::TestWhatIsRolled();
  tf_dwgrad::TestRolled(random);
  tf_dwgrad::TestWhatIsFolded();
  tf_dwgrad::TestFolded(random);
  tf_dwgrad::TestWhatGoesDownward();
  tf_dwgrad::TestDownward(random);
  tf_dwgrad::TestEmpty();
  tf_dwgrad::TestRunWritesZerosWithoutWork();
  return tf_dwgrad::Finish();
}
