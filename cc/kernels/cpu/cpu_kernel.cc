#include "cc/kernels/cpu/cpu_kernel.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>

#include "cc/kernels/cpu/choose_kernels.h"

namespace tf_dwgrad {
namespace {

// Source and result of more bytes than this are too large for the caches: the
// result is written past them. Ordinary stores read every line before they
// write it, which is a third of all traffic, but leave a smaller result where a
// reader that follows at once finds it. Timed as in a training step, between a
// writer of the source and a reader of the result that each also read an
// activation from memory, the two balance at about 4 MB, on a core complex with
// 32 MB of L3 that others use, too. What the system says of its caches is no
// guide: a virtual machine of two cores may report all of its host's.
// TF_DWGRAD_STREAM_BYTES sets another threshold.
int64_t StreamThreshold() {
  static const int64_t threshold = [] {
    const char* setting = std::getenv("TF_DWGRAD_STREAM_BYTES");
    return setting != nullptr ? static_cast<int64_t>(std::atoll(setting))
                              : int64_t{4} << 20;
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

// A vector every cycle, about what the gathers reach.
double ProductsPerCycle(ElementType type) {
  return ChosenKernels().kernels->vector_bytes /
         (type == ElementType::kFloat64 ? 8.0 : 4.0);
}

// Taps that a dst position meets on average, ignoring the borders.
double TapsPerPosition(const GatherPlan& plan) {
  const double taps = static_cast<double>(plan.filter_size);
  return plan.backward ? taps / static_cast<double>(-plan.tap_step) : taps;
}

// The most source rows or columns that a panel needs for so many positions of
// each phase.
int64_t PanelSources(const GatherPlan& plan, const PanelSplit& split,
                     int64_t positions) {
  const int64_t phases = PhaseCount(plan);
  // An image of any size: nothing is clipped.
  GatherPlan endless = plan;
  endless.src_size = int64_t{1} << 60;
  const int64_t far = (int64_t{1} << 40) / plan.pitch;
  if (split.all_phases) {
    return SourcesOf(endless, 0, phases, far, far + positions,
                     split.skip_sources)
        .count;
  }
  int64_t most = 0;
  for (int64_t phase = 0; phase < phases; ++phase) {
    most = std::max(most, SourcesOf(endless, phase, phase + 1, far,
                                    far + positions, split.skip_sources)
                              .count);
  }
  return most;
}

// The most positions whose sources are at most `limit`, evenly spread; zero if
// there is no room for a tile.
PanelSplit SplitIntoPanels(const GatherPlan& plan, PanelSplit split,
                           int64_t tile, int64_t limit) {
  const int64_t positions = PhaseSize(plan, 0);
  split.num_panels = 1;
  split.positions = positions;
  if (std::min(plan.src_size, PanelSources(plan, split, positions)) > limit) {
    // Every further position needs as many sources as the second.
    const int64_t two = PanelSources(plan, split, 2);
    const int64_t step =
        std::max<int64_t>(1, two - PanelSources(plan, split, 1));
    const int64_t fit = limit < two ? 0 : 2 + (limit - two) / step;
    if (fit < tile) {
      split.positions = 0;
      return split;
    }
    split.num_panels = CeilDiv(positions, fit / tile * tile);
    split.positions =
        CeilDiv(CeilDiv(positions, split.num_panels), tile) * tile;
    split.num_panels = CeilDiv(positions, split.positions);
  }
  if (!split.all_phases) split.num_panels *= PhaseCount(plan);
  return split;
}

// Blocks of whole vectors, at most `limit` channels. What is less than a vector
// at the end goes to the last block.
template <typename Problem>
void SplitChannels(Problem* problem, int64_t depth, int64_t lanes,
                   int64_t limit) {
  const int64_t blocks = CeilDiv(depth, limit);
  problem->channel_block = CeilDiv(CeilDiv(depth, blocks), lanes) * lanes;
  problem->num_blocks = std::max<int64_t>(1, depth / problem->channel_block);
  if (depth - problem->num_blocks * problem->channel_block >= lanes) {
    ++problem->num_blocks;
  }
  const int64_t last =
      depth - (problem->num_blocks - 1) * problem->channel_block;
  problem->block_vectors =
      CeilDiv(std::max(problem->channel_block, last), lanes);
}

// Taps of a phase, at most.
int64_t MostTaps(const GatherPlan& plan) {
  return CeilDiv(plan.filter_size, std::abs(plan.tap_step));
}

// Scratch memory per thread is at most three times this.
constexpr int64_t kPanelBytes = 256 << 10;

// Of the filter gradient: the partial sums of all units, unless those of a
// single chunk are more; the sums of a unit, which should stay in the second
// cache; and the piece of a pixel that a unit reads at least where channels are
// many.
constexpr int64_t kWorkspaceBytes = 16 << 20;
constexpr int64_t kTotalsBytes = 128 << 10;
constexpr int64_t kMostDirectBytes = 1 << 10;
// Where a unit comes back to input rows tap row by tap row, so many bytes of
// them should stay close by: those of the filter and of the next tile.
constexpr int64_t kRowsInPlayBytes = 96 << 10;
constexpr int64_t kElementsPerFinalUnit = 1024;
// The lines of a pixel that a unit copies, at most, where it does.
constexpr int64_t kCopiedLines = 4;
constexpr int64_t kSecondCacheBytes = 1 << 20;

// From so many taps on the copy of their sources costs little, and packed ones
// are worth it.
constexpr int64_t kMostDirectTaps = 400;

// The packed filter of a vector must fit.
bool UsesDirectGather(const GatherProblem& problem, int64_t lanes,
                      int64_t vector_bytes) {
  return problem.channels_last && problem.depth_multiplier == 1 &&
         problem.in_depth >= lanes &&
         MostTaps(problem.rows) * MostTaps(problem.cols) < kMostDirectTaps &&
         problem.rows.filter_size * problem.cols.filter_size <=
             kPanelBytes / vector_bytes;
}

// How many channels a direct gather had best do at a time: the more, the longer
// the pieces in which it follows memory, as long as the packed filter and the
// source rows that tiles come back to stay in the second cache.
int64_t DirectChannels(const GatherProblem& problem, const KernelTable& kernels,
                       ElementType type, int64_t lanes) {
  constexpr int64_t kFilterBytes = 128 << 10;
  constexpr int64_t kRowBytes = 768 << 10;
  const int64_t vector_bytes = problem.rows.filter_size *
                               problem.cols.filter_size * kernels.vector_bytes;
  const int64_t filter_limit = kFilterBytes / vector_bytes * lanes;
  const bool straight_to_dst =
      problem.strided || problem.spread ||
      (problem.most_taps <= kernels.max_taps && problem.rows.num_runs == 1 &&
       problem.cols.num_runs == 1);
  int64_t limit = kMaxKeptChannels;
  if (straight_to_dst && !problem.scattered) {
    const int64_t row_limit =
        kRowBytes /
        ((MostTaps(problem.rows) + 1) * problem.cols.src_size * SizeOf(type));
    // The rows of a dilation's phase are far apart anyway.
    limit = problem.rows.pitch > 1
                ? kMaxChannelBlock
                : std::clamp(row_limit, kMaxKeptChannels, kMaxChannelBlock / 2);
  }
  return std::max(lanes, std::min(limit, filter_limit));
}

// Where a phase has so few columns that its tiles would be half empty, and a
// row of the source, of which each pixel is then read once per tap, stays in
// cache.
bool UsesScatteredTiles(const GatherProblem& problem, int64_t row_bytes,
                        int64_t few_columns) {
  const GatherPlan& cols = problem.cols;
  return problem.backward && cols.stride == 1 && cols.dilation > 1 &&
         problem.depth_multiplier == 1 &&
         cols.filter_size <= kMaxScatteredTaps &&
         PhaseSize(cols, 0) <= (cols.filter_size <= 3 ? few_columns : 3) &&
         row_bytes <= 20 << 10;
}

// The forward op of the most common layers with a stride.
bool UsesStridedTiles(const GatherProblem& problem) {
  const GatherPlan& cols = problem.cols;
  return !problem.backward && problem.rows.num_phases == 1 &&
         cols.stride == 2 && cols.dilation == 1 && cols.filter_size == 3 &&
         problem.rows.filter_size <= 3;
}

// The input gradient of the most common layers with a stride.
bool UsesSpreadTiles(const GatherProblem& problem) {
  const GatherPlan& cols = problem.cols;
  return problem.backward && cols.stride == 2 && cols.dilation == 1 &&
         (cols.filter_size == 3 || cols.filter_size == 5);
}

// Of what streams from memory, tiles are narrow: the fewer pixels are followed
// through their channels, the better is the CPU at reading ahead. Where rows
// are short and some of it may still be in a cache, the wide ones cover them
// better; so they do where pixels are long enough to be followed anyway. Tiles
// that are moved on are not narrow: that takes its time for each.
bool UsesNarrowTiles(const GatherProblem& problem, int64_t lanes,
                     int64_t pixel_bytes) {
  constexpr int64_t kManyCols = 28;
  constexpr int64_t kLongPixel = 2 << 10;
  return (problem.far_beyond ||
          (problem.beyond_cache && problem.cols.dst_size >= kManyCols)) &&
         problem.most_taps <= 3 && problem.cols.pitch == 1 &&
         problem.cols.num_phases == 1 && problem.in_depth % lanes == 0 &&
         pixel_bytes <= kLongPixel;
}

// Of fewer tap rows there is nothing to pair.
constexpr int64_t kLeastPairedRows = 2;

// In narrow tiles of few taps, sums of both parts of a pair stay in registers,
// where wide ones put one part aside. That pays if no more positions are
// computed in vain.
bool PairsSuitNarrowTiles(const GatherProblem& problem) {
  constexpr int64_t kWide = 7;
  constexpr int64_t kNarrow = 4;
  const int64_t positions = PhaseSize(problem.cols, 0);
  return problem.takes_apart && problem.pairs_rows && !problem.spread &&
         problem.most_taps <= 3 &&
         CeilDiv(positions, kNarrow) * kNarrow <=
             CeilDiv(positions, kWide) * kWide;
}

// Vectors of taken-apart pixels are twice as long: not too much of the last one
// may be channels that its neighbour has done. Pairs make up for more of them.
bool IsWorthTakingApart(const GatherProblem& problem, int64_t lanes) {
  const int64_t depth = problem.in_depth;
  const double most = problem.pairs_rows && !problem.spread ? 1.34 : 1.1;
  return depth >= lanes && static_cast<double>(CeilDiv(depth, lanes) * lanes) <=
                               most * static_cast<double>(depth);
}

// Where pixels lie so far apart that the same channels of all of them compete
// for one set of the first cache, which has room for those of a narrow tile:
// sources that are read for one part of a pixel and again for the other, or
// the results of a stride's phase, if they are not written past the caches.
bool CompetesForOneSet(const GatherProblem& problem, ElementType type) {
  constexpr int64_t kSetStep = 4 << 10;
  const GatherPlan& cols = problem.cols;
  const int64_t pixel_bytes = problem.in_depth * SizeOf(type);
  if (problem.most_taps > 3) return false;
  const bool sources_compete = cols.pitch * pixel_bytes % kSetStep == 0;
  if (problem.takes_apart) return sources_compete;
  if (problem.takes_lines && cols.pitch > 1) {
    // Of a few positions, tiles of two rows find more in registers.
    constexpr int64_t kFewCols = 4;
    return sources_compete && PhaseSize(cols, 0) > kFewCols;
  }
  return cols.num_phases > 1 && !problem.beyond_cache &&
         cols.num_phases * pixel_bytes % kSetStep == 0;
}

// Whether sums of three rows roll down the image, where the CPU's kernels have
// that for the type.
bool UsesRollingGather(const GatherProblem& problem, const KernelTable& kernels,
                       ElementType type) {
  const auto suits = [](const GatherPlan& plan) {
    return plan.filter_size == kRollingTaps && plan.stride == 1;
  };
  // Strips of fewer columns take as many instructions as others.
  constexpr int64_t kLeastCols = 4;
  // What waits for the other half of a line takes its time.
  constexpr int64_t kMostHalfCols = 64;
  const GatherPlan& cols = problem.cols;
  const bool cols_suffice =
      SizeOf(type) == 2
          ? cols.num_phases == 1 && cols.dst_size <= kMostHalfCols
          : cols.num_phases == 1 || PhaseSize(cols, 0) >= kLeastCols;
  return kernels.gather_rolling[static_cast<int>(type)] != nullptr &&
         suits(problem.rows) && suits(cols) && cols_suffice &&
         (!problem.beyond_cache ||
          problem.in_depth * SizeOf(type) % kLineBytes == 0);
}

// Whether vectors run along rows: where pixels are no whole lines, and else, on
// CPUs for which there is nothing better, if the pixels that a vector sees stay
// close by.
bool UsesFoldedRows(const GatherProblem& problem, const KernelTable& kernels,
                    ElementType type, int64_t lanes) {
  const auto suits = [](const GatherPlan& plan) {
    return plan.filter_size == kFoldedTaps && plan.stride == 1 &&
           plan.dilation == 1;
  };
  const GatherPlan& cols = problem.cols;
  if (kernels.gather_folded_rows[static_cast<int>(type)] == nullptr ||
      !suits(problem.rows) || !suits(cols)) {
    return false;
  }
  // Else there is less to do than to find the taps of all vectors.
  constexpr int64_t kLeastPeriods = 128;
  const int64_t period = FoldedPeriod(problem.in_depth, lanes);
  const int64_t elements =
      problem.batch * problem.rows.dst_size * cols.dst_size * problem.in_depth;
  if (elements / lanes < kLeastPeriods * period) return false;
  // Narrow images are mostly borders.
  const int64_t pixel_bytes = problem.in_depth * SizeOf(type);
  if (pixel_bytes % kLineBytes != 0) {
    constexpr int64_t kLeastCols = 12;
    constexpr int64_t kMostVectors = 32;  // whose taps stay in the first cache
    return cols.dst_size >= kLeastCols && period <= kMostVectors;
  }
  constexpr int64_t kLeastCols = 16;
  const bool rolls = kernels.gather_rolling[static_cast<int>(type)] != nullptr;
  const int64_t most_bytes = rolls ? 1 << 10 : 4 << 10;
  return (kernels.joins_lines || !rolls) && cols.dst_size >= kLeastCols &&
         pixel_bytes <= most_bytes;
}

// So many channels of what a strip sees that it stays in the second cache, next
// to what the next one will.
int64_t RollingChannels(const GatherProblem& problem, ElementType type,
                        int64_t line) {
  const auto most_seen = [](const GatherPlan& plan, int64_t parts) {
    return CeilDiv(PhaseSize(plan, 0), parts) + kRollingTaps - 1;
  };
  const int64_t seen_bytes = most_seen(problem.rows, RollingBands(problem)) *
                             most_seen(problem.cols, RollingStrips(problem)) *
                             SizeOf(type);
  return std::max(line, kSecondCacheBytes / (3 * seen_bytes) / line * line);
}

// The sets of the first cache that a channel of pixels of so many bytes can be
// in.
int64_t CacheSets(int64_t pixel_bytes) {
  constexpr int64_t kSets = 64;
  return kSets / std::gcd(kSets, pixel_bytes / kLineBytes);
}

// Whether the pixels of a tile compete for the first cache so much that copying
// them pays: the sooner the more taps see them, and the more often a line is
// read.
bool CompetesForCache(const GatherProblem& problem, const KernelTable& kernels,
                      int64_t lanes, int64_t element_bytes) {
  const int64_t depth = problem.in_depth;
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t pixel_bytes = depth * element_bytes;
  if (rows.pitch != 1 || cols.pitch != 1 || PhaseCount(rows) != 1 ||
      PhaseCount(cols) != 1 || pixel_bytes % kLineBytes != 0) {
    return false;
  }
  const int64_t sets = CacheSets(pixel_bytes);
  // The vectors for which a line is read.
  const int64_t visits = kLineBytes / (lanes * element_bytes);
  const int64_t taps = rows.filter_size * cols.filter_size;
  if (problem.most_taps > kernels.max_taps) {
    // In several blocks, each of which comes back to the pixels.
    constexpr int64_t kSmallImage = 12;
    return sets <= 2 * visits || cols.dst_size <= kSmallImage;
  }
  return (2 * sets <= visits && taps >= 9) || (sets <= visits && taps >= 25) ||
         (sets <= 2 * visits && taps >= 49);
}

// The piece of a pixel that tiles which go down the image do at a time: the
// window of a tile and its taps stay in the first cache.
constexpr int64_t kDownwardBytes = 256;

// Whether tiles had best go down the image: where many taps come back to a
// pixel while results are written past the caches.
bool SuitsDownwardTiles(const GatherProblem& problem,
                        const KernelTable& kernels, ElementType type) {
  constexpr int64_t kLeastTaps = 25;
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const auto suits = [](const GatherPlan& plan) {
    return plan.stride == 1 && plan.dilation == 1;
  };
  // Other results of 16 bits do not go past the caches.
  const bool streams = SizeOf(type) >= 4 || problem.takes_apart;
  return problem.beyond_cache && streams && suits(rows) && suits(cols) &&
         problem.most_taps <= kernels.max_taps &&
         rows.filter_size * cols.filter_size >= kLeastTaps &&
         problem.in_depth * SizeOf(type) % kLineBytes == 0;
}

// Whether the source can be read where it is meanwhile: the addresses of the
// image's pages must stay known from one piece to the next.
bool FitsDownwardGather(const GatherProblem& problem, ElementType type,
                        int64_t filter_bytes) {
  constexpr int64_t kImageBytes = 4 << 20;
  // Else the pieces of a window compete for the first cache.
  constexpr int64_t kLeastSets = 4;
  const int64_t pixel_bytes = problem.in_depth * SizeOf(type);
  const int64_t image_bytes = (problem.rows.src_size * problem.cols.src_size +
                               problem.rows.dst_size * problem.cols.dst_size) *
                              pixel_bytes;
  return CacheSets(pixel_bytes) >= kLeastSets && image_bytes <= kImageBytes &&
         filter_bytes <= kPanelBytes;
}

// The same for the rows of both operands of the filter gradient.
bool CompetesForCache(const FilterGradientProblem& problem, int64_t lanes,
                      int64_t element_bytes) {
  const int64_t pixel_bytes = problem.in_depth * element_bytes;
  const int64_t taps = problem.rows.filter * problem.cols.filter;
  const int64_t visits = kLineBytes / (lanes * element_bytes);
  return problem.rows.dilation == 1 && pixel_bytes % kLineBytes == 0 &&
         taps >= 25 && CacheSets(pixel_bytes) <= 2 * visits;
}

// Planes whose rows are long enough for two vectors of them at a time.
bool SuitsVectorsAlongRows(const GatherProblem& problem, ElementType type,
                           int64_t planes, int64_t lanes) {
  // The first and the last one are copied.
  constexpr int64_t kLeastPlanes = 32;
  const auto is_same = [](const GatherPlan& plan) {
    return plan.stride == 1 && plan.src_size == plan.dst_size &&
           plan.pad == plan.filter_size / 2 * plan.dilation;
  };
  // 16 bits are widened once for each tap.
  const bool widens = SizeOf(type) == 2;
  const int64_t taps = problem.cols.filter_size;
  const int64_t cols = problem.cols.dst_size;
  // From here on it is the faster one; and a row must be longer than a vector.
  const int64_t least_cols =
      std::max<int64_t>(widens ? 3 * lanes : (taps == 5 ? 24 : 17), lanes + 1);
  // A row dilation leaves few rows in a tile.
  const bool suits_dilation =
      problem.rows.dilation == 1 ||
      problem.rows.dst_size / problem.rows.dilation >= 8 || cols >= 4 * lanes;
  // Only the vectors at the ends of a row are masked.
  const bool ends_suffice = problem.cols.pad <= lanes || cols <= 2 * lanes;
  return !problem.channels_last && problem.depth_multiplier == 1 &&
         problem.rows.filter_size == taps &&
         (taps == 3 || (taps == 5 && problem.cols.dilation == 1 && !widens)) &&
         cols >= least_cols && is_same(problem.rows) && is_same(problem.cols) &&
         suits_dilation && ends_suffice && planes >= kLeastPlanes;
}

// What GatherTapColumns keeps: weights, what it lists of tiles and their tap
// columns, and a plane with what vectors see before and after it.
int64_t TapColumnsBytes(const GatherProblem& problem,
                        const KernelTable& kernels, ElementType type,
                        int64_t lanes) {
  const int64_t taps = problem.rows.filter_size * problem.cols.filter_size;
  const int64_t col_tiles = CeilDiv(PositionsAlongRow(problem), lanes);
  const int64_t plane_bytes =
      problem.rows.src_size * problem.cols.src_size * SizeOf(type);
  int64_t bytes =
      taps * kernels.vector_bytes +
      problem.rows.dst_size * kTapColumnsTileBytes +
      col_tiles * (ColResidues(problem) * int64_t{sizeof(TapColumns)} +
                   problem.cols.filter_size * int64_t{sizeof(TapColumn)});
  if (plane_bytes <= kMostCopiedPlane) {
    bytes += plane_bytes + 2 * kernels.vector_bytes;
  }
  return bytes;
}

// Planes of any other size and filters of few tap rows, with strides of the
// input gradient.
bool SuitsTapColumns(const GatherProblem& problem, const KernelTable& kernels,
                     ElementType type, int64_t planes, int64_t lanes) {
  // The first and the last one are copied.
  constexpr int64_t kLeastPlanes = 8;
  // Each tap column loads all source rows again.
  constexpr double kMostTaps = 48;
  constexpr double kFewTaps16Bits = 9;
  const auto has_steps = [](const GatherPlan& plan) {
    return plan.backward || plan.stride == 1;
  };
  if (problem.channels_last || problem.depth_multiplier != 1 ||
      planes < kLeastPlanes || !has_steps(problem.rows) ||
      !has_steps(problem.cols) || ColResidues(problem) > 2 ||
      MostTaps(problem.rows) > kMostTapRows) {
    return false;
  }
  const double taps =
      TapsPerPosition(problem.rows) * TapsPerPosition(problem.cols);
  const int64_t positions = PositionsAlongRow(problem);
  const bool few_idle = positions > lanes / 2 &&
                        4 * CeilDiv(positions, lanes) * lanes <= 5 * positions;
  // A dilation leaves few rows to a tile.
  const int64_t rows = PhaseSize(problem.rows, 0);
  const bool suits_rows = rows >= 4 || (rows >= 2 && few_idle);
  // 16 bits are widened once for each tap column.
  const bool suits_type =
      SizeOf(type) > 2 || taps <= kFewTaps16Bits || few_idle;
  return taps <= kMostTaps && suits_rows && suits_type &&
         TapColumnsBytes(problem, kernels, type, lanes) <= 2 * kPanelBytes;
}

size_t RepeatedFilterBytes(const GatherProblem& problem, int64_t vector_bytes) {
  return static_cast<size_t>(problem.rows.filter_size *
                             problem.cols.filter_size * FilterDepth(problem) *
                             vector_bytes);
}

// Whether the few channels of a pixel can be folded into the row.
bool FoldsChannels(const GatherProblem& problem, int64_t vector_bytes) {
  return problem.flat && problem.channels_last &&
         (problem.backward || problem.depth_multiplier == 1) &&
         SrcDepth(problem) > 1 && SrcDepth(problem) <= kMostFoldedChannels &&
         problem.cols.pitch == 1 &&
         RepeatedFilterBytes(problem, vector_bytes) <= kPanelBytes;
}

// Whether a flat problem is better done row by row than with a plane in each
// lane, of which most would be idle, or where setting pixels apart and putting
// them together takes more time than their few taps.
bool RowsSuffice(const GatherProblem& problem, int64_t planes, int64_t lanes,
                 int64_t vector_bytes) {
  const double taps =
      TapsPerPosition(problem.rows) * TapsPerPosition(problem.cols);
  const bool few_planes = planes < lanes / 2;
  if (FoldsChannels(problem, vector_bytes)) {
    return few_planes ||
           (taps <= 9 && problem.cols.num_phases == 1 &&
            problem.depth_multiplier == 1 && lanes % problem.in_depth != 0);
  }
  const bool along_row = problem.cols.pitch == 1 &&
                         (!problem.channels_last || SrcDepth(problem) == 1);
  if (!few_planes || !along_row) return false;
  constexpr double kFewProducts = 12;
  return (planes == 1 && problem.depth_multiplier == 1) ||
         static_cast<double>(planes) * taps < kFewProducts;
}

int64_t TileRows(const GatherProblem& problem, const KernelTable& kernels) {
  if (problem.strided || problem.spread || problem.scattered) return 1;
  return problem.most_taps <= kernels.pair_max_taps ||
                 (problem.most_taps > kernels.max_taps && kernels.pair_blocks)
             ? 2
             : 1;
}

// Scratch memory that a thread keeps.
void* Scratch(size_t bytes) {
  thread_local size_t size = 0;
  thread_local std::unique_ptr<unsigned char[]> memory;
  if (bytes == 0) return nullptr;
  constexpr size_t kAlignment = 64;
  if (size < bytes + kAlignment) {
    memory.reset(new unsigned char[bytes + kAlignment]);
    size = bytes + kAlignment;
  }
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + (kAlignment - address % kAlignment) % kAlignment;
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
  if (op == ConvOp::kBackpropFilter) {
    PlanFilterGradient(geometry, type);
  } else {
    PlanGather(geometry, type);
  }
}

void CpuKernel::PlanGather(const ConvGeometry& geometry, ElementType type) {
  GatherProblem& problem = gather_;
  const bool backward = op_ == ConvOp::kBackpropInput;
  problem.backward = backward;
  problem.channels_last = geometry.data_format == DataFormat::kNHWC;
  problem.rows = PlanAxis(geometry.rows, backward);
  problem.cols = PlanAxis(geometry.cols, backward);
  problem.batch = geometry.batch;
  problem.in_depth = geometry.in_depth;
  problem.depth_multiplier = geometry.depth_multiplier;
  const int64_t dst_depth = DstDepth(problem);
  const int64_t dst_pixels = problem.rows.dst_size * problem.cols.dst_size;
  const int64_t planes = problem.batch * dst_depth;
  const int64_t dst_bytes = planes * dst_pixels * SizeOf(type);
  const int64_t src_bytes = problem.batch * SrcDepth(problem) *
                            problem.rows.src_size * problem.cols.src_size *
                            SizeOf(type);
  const int64_t bytes = src_bytes + dst_bytes;
  problem.beyond_cache = bytes > StreamThreshold();
  // So many times what is beyond the caches leaves nothing in them.
  constexpr int64_t kFarBeyond = 6;
  problem.far_beyond = bytes / kFarBeyond > StreamThreshold();
  // Found in the third cache, a source gains nothing from it and loses 1 %;
  // found in memory it gains 16 %.
  problem.prefetch = problem.beyond_cache || src_bytes > kSecondCacheBytes;

  const KernelTable& kernels = *ChosenKernels().kernels;
  const int type_index = static_cast<int>(type);
  const int64_t accumulator = type == ElementType::kFloat64 ? 8 : 4;
  const int64_t lanes = kernels.vector_bytes / accumulator;
  const double taps =
      TapsPerPosition(problem.rows) * TapsPerPosition(problem.cols);
  problem.most_taps = MostTaps(problem.cols);
  const double unit_taps =
      taps * (backward ? static_cast<double>(problem.depth_multiplier) : 1.0);
  const auto set_unit_cycles = [&](double unit_pixels, double overhead) {
    unit_cycles_ =
        unit_pixels * (overhead + unit_taps / ProductsPerCycle(type));
  };

  problem.joins_lines = kernels.joins_lines;
  problem.flat = false;
  problem.narrow = false;
  problem.strided = false;
  problem.spread = false;
  problem.folded = false;
  problem.downward = false;
  const bool whole_vectors = problem.channels_last && dst_depth >= lanes;
  if (UsesDirectGather(problem, lanes, kernels.vector_bytes)) {
    if (UsesFoldedRows(problem, kernels, type, lanes)) {
      gather_kernel_ = kernels.gather_folded_rows[type_index];
      num_units_ = problem.batch * FoldedBands(problem);
      set_unit_cycles(static_cast<double>(planes * dst_pixels) / num_units_,
                      0.1);
      // Of one vector more, the last of a row.
      scratch_bytes_ =
          static_cast<size_t>((FoldedPeriod(dst_depth, lanes) + 1) *
                              kFoldedTaps * kFoldedTaps * kernels.vector_bytes);
      return;
    }
    if (UsesRollingGather(problem, kernels, type)) {
      gather_kernel_ = kernels.gather_rolling[type_index];
      const int64_t line = kLineBytes / SizeOf(type);
      SplitChannels(&problem, dst_depth, line,
                    RollingChannels(problem, type, line));
      num_units_ = RollingUnits(problem);
      set_unit_cycles(static_cast<double>(planes * dst_pixels) / num_units_,
                      0.1);
      return;
    }
    gather_kernel_ = kernels.gather_direct[type_index];
    const int64_t filter_taps =
        problem.rows.filter_size * problem.cols.filter_size;
    problem.scattered = UsesScatteredTiles(
        problem, problem.cols.src_size * kMaxKeptChannels * accumulator, 3);
    problem.strided = UsesStridedTiles(problem);
    problem.spread = UsesSpreadTiles(problem);
    problem.narrow = UsesNarrowTiles(problem, lanes, dst_depth * SizeOf(type));
    problem.pairs_rows =
        kernels.pairs_rows && MostTaps(problem.rows) >= kLeastPairedRows;
    problem.takes_apart = kernels.takes_apart &&
                          type == ElementType::kBFloat16 &&
                          IsWorthTakingApart(problem, 2 * lanes);
    problem.takes_lines =
        type != ElementType::kBFloat16 &&
        TakesLines(kernels.vector_bytes, SizeOf(type), accumulator) &&
        dst_depth * SizeOf(type) % kLineBytes == 0 &&
        (problem.most_taps <= 3 || problem.spread);
    const int64_t parts = problem.takes_apart || problem.takes_lines ? 2 : 1;
    problem.tile_rows = problem.takes_lines && CompetesForOneSet(problem, type)
                            ? 1
                            : TileRows(problem, kernels);
    problem.downward = SuitsDownwardTiles(problem, kernels, type);
    problem.copied = CompetesForCache(problem, kernels, lanes, SizeOf(type)) &&
                     PlanCopiedGather(type);
    if (problem.copied) {
      num_units_ =
          problem.batch * problem.num_blocks * problem.row_panels.num_panels;
      set_unit_cycles(static_cast<double>(planes * dst_pixels) / num_units_,
                      0.2);
      return;
    }
    const int64_t filter_bytes = dst_depth * filter_taps * accumulator;
    problem.downward =
        problem.downward && FitsDownwardGather(problem, type, filter_bytes);
    if (problem.downward) {
      const int64_t line = kLineBytes / SizeOf(type);
      SplitChannels(&problem, dst_depth, std::max(parts * lanes, line),
                    kDownwardBytes / SizeOf(type));
      scratch_bytes_ = static_cast<size_t>(filter_bytes);
      num_units_ = problem.batch * problem.num_blocks * DownwardStrips(problem);
      set_unit_cycles(static_cast<double>(planes * dst_pixels) / num_units_,
                      0.1);
      return;
    }
    SplitChannels(&problem, dst_depth, parts * lanes,
                  DirectChannels(problem, kernels, type, lanes));
    problem.block_vectors *= parts;
    problem.narrow = problem.strided
                         ? problem.beyond_cache
                         : problem.narrow || PairsSuitNarrowTiles(problem) ||
                               CompetesForOneSet(problem, type);
    // The filter and pieces of two rows.
    scratch_bytes_ = static_cast<size_t>(
        problem.block_vectors * filter_taps * kernels.vector_bytes +
        kLineBytes +
        2 * StreamedPieceBytes(problem.block_vectors * lanes * SizeOf(type)));
    num_units_ = problem.batch * problem.num_blocks * PhaseCount(problem.rows) *
                 TilesDown(problem);
    set_unit_cycles(
        static_cast<double>(problem.tile_rows * problem.cols.dst_size *
                            problem.channel_block),
        0.1);
    return;
  }
  if (SuitsVectorsAlongRows(problem, type, planes, lanes)) {
    gather_kernel_ = kernels.gather_along_rows[type_index];
    num_units_ = planes;
    set_unit_cycles(static_cast<double>(dst_pixels), 0.3);
    // A plane, and what vectors see before and after it.
    scratch_bytes_ =
        static_cast<size_t>((dst_pixels + 2 * problem.cols.pad) * SizeOf(type) +
                            kernels.vector_bytes);
    if (scratch_bytes_ > kPanelBytes) scratch_bytes_ = 0;
    return;
  }
  if (SuitsTapColumns(problem, kernels, type, planes, lanes)) {
    gather_kernel_ = kernels.gather_tap_columns[type_index];
    num_units_ = planes;
    set_unit_cycles(static_cast<double>(dst_pixels), 0.3);
    scratch_bytes_ =
        static_cast<size_t>(TapColumnsBytes(problem, kernels, type, lanes));
    return;
  }
  if (whole_vectors && !backward && problem.depth_multiplier > 1 &&
      PlanMultipliedGather(lanes, accumulator)) {
    gather_kernel_ = kernels.gather_multiplied[type_index];
    num_units_ =
        problem.num_blocks * problem.batch * problem.row_panels.num_panels;
    set_unit_cycles(static_cast<double>(planes * dst_pixels) / num_units_, 0.2);
    return;
  }
  problem.flat = !whole_vectors;
  problem.scattered = UsesScatteredTiles(
      problem, problem.cols.src_size * kernels.vector_bytes, 5);
  problem.strided = UsesStridedTiles(problem);
  problem.tile_rows = TileRows(problem, kernels);
  if (PlanPackedGather(type, lanes, accumulator)) {
    gather_kernel_ = kernels.gather_packed[type_index];
    const int64_t images = problem.flat ? 1 : problem.batch;
    num_units_ = problem.num_blocks * images * problem.row_panels.num_panels *
                 problem.col_panels.num_panels;
    set_unit_cycles(static_cast<double>(planes * dst_pixels) / num_units_, 0.5);
    return;
  }
  gather_kernel_ = kernels.gather_planes[type_index];
  problem.folded = FoldsChannels(problem, kernels.vector_bytes);
  int64_t folded_depth = 1;
  if (problem.folded) {
    folded_depth = dst_depth;
    scratch_bytes_ = RepeatedFilterBytes(problem, kernels.vector_bytes);
  }
  num_units_ = planes / folded_depth * problem.rows.dst_size;
  set_unit_cycles(static_cast<double>(problem.cols.dst_size * folded_depth),
                  0.5);
}

// False if a unit could not hold what it copies, or would copy it for few rows
// only.
bool CpuKernel::PlanCopiedGather(ElementType type) {
  // A good part of it should stay in the first cache.
  constexpr int64_t kFilterBytes = 48 << 10;
  GatherProblem& problem = gather_;
  const GatherPlan& rows = problem.rows;
  const int64_t line = kLineBytes / SizeOf(type);
  const int64_t taps = rows.filter_size * problem.cols.filter_size;
  const KernelTable& kernels = *ChosenKernels().kernels;
  const int64_t lanes =
      kernels.vector_bytes / (type == ElementType::kFloat64 ? 8 : 4);
  // The longer the pieces of a pixel, the better.
  const int64_t most_lines = problem.downward ? kDownwardBytes / kLineBytes : 8;
  for (int64_t lines = most_lines; lines > 0; lines /= 2) {
    SplitChannels(&problem, problem.in_depth, line, lines * line);
    problem.block_vectors = problem.channel_block / lanes;
    const int64_t filter_bytes =
        problem.block_vectors * taps * kernels.vector_bytes;
    const int64_t row_bytes = problem.cols.src_size *
                              CopyStep(problem.channel_block, SizeOf(type)) *
                              SizeOf(type);
    const PanelSplit whole_rows = {/*all_phases=*/true, /*skip_sources=*/false,
                                   0, 0};
    problem.row_panels = SplitIntoPanels(rows, whole_rows, problem.tile_rows,
                                         kPanelBytes / row_bytes);
    const int64_t positions = problem.row_panels.positions;
    if (filter_bytes > kFilterBytes || positions == 0 ||
        (problem.row_panels.num_panels > 1 &&
         positions < 2 * rows.filter_size)) {
      continue;
    }
    const int64_t src_rows =
        std::min(rows.src_size, positions + rows.filter_size - 1);
    scratch_bytes_ = static_cast<size_t>(filter_bytes + src_rows * row_bytes);
    return true;
  }
  return false;
}

// False if there are too many taps, or if a unit could not hold the source rows
// of a dst row.
bool CpuKernel::PlanMultipliedGather(int64_t lanes, int64_t accumulator) {
  constexpr int64_t kFilterBytes = 32 << 10;
  GatherProblem& problem = gather_;
  const GatherPlan& rows = problem.rows;
  const int64_t tap_bytes =
      rows.filter_size * problem.cols.filter_size * lanes * accumulator;
  // So many products cost as much as packing a source pixel; the fewer, the
  // more source channels a vector meets.
  const int64_t products = problem.depth_multiplier * 4 >= lanes ? 12 : 8;
  if (rows.filter_size * problem.cols.filter_size >
          products * rows.stride * problem.cols.stride ||
      tap_bytes > kPanelBytes) {
    return false;
  }
  SplitChannels(
      &problem, DstDepth(problem), lanes,
      std::clamp(kFilterBytes / tap_bytes * lanes, lanes, kMaxKeptChannels));
  const int64_t row_bytes =
      problem.cols.src_size * problem.in_depth * accumulator;
  const int64_t limit = kPanelBytes / row_bytes;
  const int64_t reach = (rows.filter_size - 1) * rows.dilation + 1;
  PanelSplit& panels = problem.row_panels;
  panels.positions = rows.dst_size;
  panels.num_panels = 1;
  if (rows.src_size > limit) {
    if (limit < reach) return false;
    panels.num_panels =
        CeilDiv(rows.dst_size, (limit - reach) / rows.stride + 1);
    panels.positions = CeilDiv(rows.dst_size, panels.num_panels);
    panels.num_panels = CeilDiv(rows.dst_size, panels.positions);
  }
  const int64_t src_rows =
      std::min(rows.src_size, (panels.positions - 1) * rows.stride + reach);
  scratch_bytes_ =
      static_cast<size_t>(problem.block_vectors * tap_bytes +
                          src_rows * row_bytes + 2 * lanes * accumulator);
  return true;
}

// False if the problem suits the packed gather badly or not at all.
bool CpuKernel::PlanPackedGather(ElementType type, int64_t lanes,
                                 int64_t accumulator) {
  GatherProblem& problem = gather_;
  const GatherPlan& rows = problem.rows;
  const GatherPlan& cols = problem.cols;
  const int64_t planes = problem.batch * DstDepth(problem);
  if (problem.flat &&
      RowsSuffice(problem, planes, lanes, lanes * accumulator)) {
    return false;
  }

  if (problem.flat) {
    problem.num_blocks = CeilDiv(planes, lanes);
    problem.channel_block = lanes;
    problem.block_vectors = 1;
  } else {
    // A whole line of memory at least, of the source, too.
    const int64_t line = std::max<int64_t>(lanes, kLineBytes / SizeOf(type));
    const int64_t lines =
        problem.backward ? 1
                         : std::min(problem.depth_multiplier, kMostPackedLines);
    SplitChannels(&problem, DstDepth(problem), lanes, lines * line);
  }
  const int64_t pixel_bytes =
      Passes(problem) * problem.block_vectors * lanes * accumulator;
  const int64_t taps = rows.filter_size * cols.filter_size;
  if (taps > kPanelBytes / pixel_bytes) return false;

  // Whole rows, if enough of them fit, and all rows, if those fit.
  const int64_t pixels = kPanelBytes / pixel_bytes;
  // A panel of a dilation's phase leaves out the rows between, unless all fit.
  const bool all_row_phases = rows.pitch == 1 || PhaseCount(rows) == 1 ||
                              std::max(rows.src_size * cols.src_size,
                                       rows.dst_size * cols.dst_size) <= pixels;
  const PanelSplit row_split = {all_row_phases, true, 0, 0};
  const PanelSplit col_split = {true, false, 0, 0};
  const int64_t tile_rows = std::min(problem.tile_rows, PhaseSize(rows, 0));
  const int64_t least_rows =
      std::min(rows.src_size, PanelSources(rows, row_split, tile_rows));
  problem.col_panels = SplitIntoPanels(
      cols, col_split, 8, pixels / std::max<int64_t>(1, least_rows));
  if (problem.col_panels.positions == 0) return false;
  const int64_t panel_cols =
      std::min(cols.src_size,
               PanelSources(cols, col_split, problem.col_panels.positions));
  int64_t row_limit = pixels / std::max<int64_t>(1, panel_cols);
  problem.row_panels = SplitIntoPanels(rows, row_split, tile_rows, row_limit);
  if (problem.row_panels.positions == 0) return false;
  if (problem.flat) {
    // The sums must fit as well.
    const auto dst_count = [](const GatherPlan& plan, const PanelSplit& split) {
      return std::min(
          plan.dst_size,
          split.positions * (split.all_phases ? PhaseCount(plan) : 1));
    };
    const int64_t dst_cols = dst_count(cols, problem.col_panels);
    const int64_t dst_limit = kPanelBytes / (lanes * accumulator);
    while (dst_count(rows, problem.row_panels) * dst_cols > dst_limit) {
      const int64_t positions = problem.row_panels.positions;
      if (positions <= tile_rows) return false;
      problem.row_panels.positions =
          CeilDiv(positions / 2, tile_rows) * tile_rows;
      problem.row_panels.num_panels =
          CeilDiv(PhaseSize(rows, 0), problem.row_panels.positions) *
          (all_row_phases ? 1 : PhaseCount(rows));
    }
    problem.dst_panel_pixels = dst_count(rows, problem.row_panels) * dst_cols;
  } else {
    problem.dst_panel_pixels = 0;
  }
  problem.panel_pixels =
      panel_cols *
      std::min(rows.src_size,
               PanelSources(rows, row_split, problem.row_panels.positions));
  scratch_bytes_ =
      static_cast<size_t>((problem.panel_pixels + taps) * pixel_bytes +
                          problem.dst_panel_pixels * lanes * accumulator);
  return true;
}

void CpuKernel::PlanFilterGradient(const ConvGeometry& geometry,
                                   ElementType type) {
  FilterGradientProblem& problem = filter_gradient_;
  problem.rows = PlanAxis(geometry.rows);
  problem.cols = PlanAxis(geometry.cols);
  problem.batch = geometry.batch;
  problem.in_depth = geometry.in_depth;
  problem.depth_multiplier = geometry.depth_multiplier;
  problem.channels_last = geometry.data_format == DataFormat::kNHWC;
  problem.flat = false;
  problem.tap_rows = problem.rows.filter;
  const int64_t depth = FilterDepth(problem);
  const int64_t taps = problem.rows.filter * problem.cols.filter;
  const int64_t out_pixels = problem.rows.out * problem.cols.out;
  const int64_t operand_bytes =
      problem.batch * SizeOf(type) *
      (problem.rows.in * problem.cols.in * problem.in_depth +
       out_pixels * depth);
  problem.copied = false;
  // Where there are many products, prefetching hides behind them. That the
  // operands are in a cache is likely only for the second one.
  problem.prefetch = operand_bytes > StreamThreshold() ||
                     (taps > kFewTaps && operand_bytes > kSecondCacheBytes);

  const KernelTable& kernels = *ChosenKernels().kernels;
  const int type_index = static_cast<int>(type);
  filter_gradient_reduction_ = kernels.filter_gradient_reduction[type_index];
  const int64_t accumulator = type == ElementType::kFloat64 ? 8 : 4;
  const int64_t vector_bytes = kernels.vector_bytes;
  const int64_t lanes = vector_bytes / accumulator;
  const double cycles = static_cast<double>(problem.batch * out_pixels * taps) *
                        static_cast<double>(depth) / ProductsPerCycle(type);

  // How many units are wanted: enough for many threads, none too small.
  constexpr double kMostUnits = 64;
  constexpr double kUnitCycles = 20e3;
  const int64_t wanted =
      static_cast<int64_t>(std::clamp(cycles / kUnitCycles, 1.0, kMostUnits));
  // Sums to add up, for the traffic of the operands not to be far from all.
  const int64_t sum_bytes = taps * depth * accumulator;
  const int64_t most_chunks = std::max<int64_t>(
      1, std::min(kWorkspaceBytes, operand_bytes / 8) / sum_bytes);
  const auto split_into_chunks = [&](int64_t images) {
    problem.num_chunks =
        std::min({most_chunks, CeilDiv(wanted, problem.num_blocks),
                  images * problem.rows.out});
    // The same number of images in each, about.
    if (images >= problem.num_chunks) {
      problem.num_chunks = CeilDiv(images, CeilDiv(images, problem.num_chunks));
    }
  };
  const auto units = [&] {
    return problem.num_chunks * problem.num_blocks * TapBlocks(problem);
  };

  const int64_t tap_bytes = taps * vector_bytes;
  if (problem.channels_last && problem.depth_multiplier == 1 &&
      depth >= lanes && taps < kMostDirectTaps && tap_bytes <= kTotalsBytes) {
    filter_gradient_kernel_ = kernels.filter_gradient_direct[type_index];
    int64_t vectors =
        std::min(kTotalsBytes / tap_bytes, kMostDirectBytes / vector_bytes);
    const int64_t least_vectors = 128 / (lanes * SizeOf(type));
    if (taps > kFewTaps) {
      const int64_t rows =
          problem.rows.filter +
          CeilDiv(kTileCols, problem.cols.out) * problem.rows.stride;
      const int64_t fit =
          kRowsInPlayBytes / (rows * problem.cols.in * lanes * SizeOf(type));
      vectors = std::min(vectors, std::max(fit, 2 * least_vectors));
    }
    // Blocks of whole units of `unit` vectors, at most `most` vectors.
    const auto split = [&](int64_t unit, int64_t most) {
      for (;; most = CeilDiv(most, 2)) {
        SplitChannels(&problem, depth, unit * lanes, most * lanes);
        problem.block_vectors *= unit;
        split_into_chunks(problem.batch);
        if (most <= least_vectors || units() >= wanted) return;
      }
    };
    if (CompetesForCache(problem, lanes, SizeOf(type))) {
      const int64_t line =
          std::max<int64_t>(1, kLineBytes / (lanes * SizeOf(type)));
      split(line, std::min(vectors, kCopiedLines * line));
      problem.copied = PlanCopiedRows(SizeOf(type));
    }
    if (!problem.copied) split(1, vectors);
    scratch_bytes_ += static_cast<size_t>(problem.block_vectors * tap_bytes);
  } else if (PlanPackedFilterGradient(lanes, vector_bytes)) {
    filter_gradient_kernel_ = kernels.filter_gradient_packed[type_index];
    split_into_chunks(problem.flat ? CeilDiv(problem.batch * depth, lanes)
                                   : problem.batch);
    scratch_bytes_ =
        static_cast<size_t>((problem.panel_input_rows * problem.cols.in +
                             problem.panel_rows * problem.cols.out +
                             problem.tap_rows * problem.cols.filter) *
                            vector_bytes);
  } else {
    filter_gradient_kernel_ = kernels.filter_gradient_planes[type_index];
    problem.flat = false;
    problem.tap_rows = problem.rows.filter;
    problem.num_blocks = depth;
    split_into_chunks(problem.batch);
  }
  // Filters whose sums are too many for further chunks.
  if (units() < wanted) {
    const int64_t blocks =
        std::min(CeilDiv(wanted, problem.num_chunks * problem.num_blocks),
                 CeilDiv(problem.rows.filter, 3));
    problem.tap_rows =
        std::min(problem.tap_rows, CeilDiv(problem.rows.filter, blocks));
  }
  num_units_ = units();
  unit_cycles_ = cycles / static_cast<double>(num_units_);
  workspace_bytes_ = static_cast<size_t>(problem.num_chunks * sum_bytes);
  num_final_units_ = CeilDiv(taps * depth, kElementsPerFinalUnit);
}

// False if a unit could not hold the rows that it copies, or would copy them
// for few rows only.
bool CpuKernel::PlanCopiedRows(int64_t element_bytes) {
  FilterGradientProblem& problem = filter_gradient_;
  const FilterGradientAxis& rows = problem.rows;
  const int64_t pixel_bytes =
      CopyStep(problem.channel_block, element_bytes) * element_bytes;
  const int64_t pixels = kPanelBytes / pixel_bytes;
  const auto input_rows = [&](int64_t count) {
    return std::min(rows.in, (count - 1) * rows.stride + rows.filter);
  };
  problem.panel_rows = std::min(rows.out, pixels / problem.cols.out);
  while (problem.panel_rows > 0 &&
         input_rows(problem.panel_rows) * problem.cols.in > pixels) {
    --problem.panel_rows;
  }
  if (problem.panel_rows < std::min(rows.out, rows.filter)) return false;
  problem.panel_input_rows = input_rows(problem.panel_rows);
  scratch_bytes_ =
      static_cast<size_t>((problem.panel_rows * problem.cols.out +
                           problem.panel_input_rows * problem.cols.in) *
                          pixel_bytes);
  return true;
}

// False if the problem suits the packed kernel badly or not at all.
bool CpuKernel::PlanPackedFilterGradient(int64_t lanes, int64_t vector_bytes) {
  FilterGradientProblem& problem = filter_gradient_;
  const FilterGradientAxis& rows = problem.rows;
  const FilterGradientAxis& cols = problem.cols;
  const int64_t depth = FilterDepth(problem);
  problem.flat = depth < lanes;
  if (problem.flat && problem.batch * depth == 1) return false;
  problem.num_blocks = problem.flat ? 1 : CeilDiv(depth, lanes);
  // As many rows as fit, and fewer tap rows where those of dY would be few.
  const int64_t pixels = kPanelBytes / vector_bytes;
  const auto input_rows = [&](int64_t count) {
    return std::min(rows.in, (count - 1) * rows.stride +
                                 (problem.tap_rows - 1) * rows.dilation + 1);
  };
  const auto fits = [&](int64_t count) {
    return count * cols.out <= pixels && input_rows(count) * cols.in <= pixels;
  };
  const int64_t least_rows = std::min<int64_t>(rows.out, 4);
  while (problem.tap_rows > 1 &&
         (!fits(least_rows) ||
          problem.tap_rows * cols.filter * vector_bytes > kTotalsBytes)) {
    problem.tap_rows = CeilDiv(problem.tap_rows, 2);
  }
  if (cols.filter * vector_bytes > kTotalsBytes || !fits(1)) return false;
  problem.panel_rows = std::min(rows.out, pixels / cols.out);
  while (!fits(problem.panel_rows)) --problem.panel_rows;
  problem.panel_input_rows = input_rows(problem.panel_rows);
  return true;
}

void CpuKernel::Run(const void* first, const void* second, void* result,
                    void* workspace, int64_t begin, int64_t end) const {
  void* scratch = Scratch(scratch_bytes_);
  switch (op_) {
    case ConvOp::kForward:
      gather_kernel_(gather_, first, second, result, scratch, begin, end);
      break;
    case ConvOp::kBackpropInput:
      gather_kernel_(gather_, second, first, result, scratch, begin, end);
      break;
    case ConvOp::kBackpropFilter:
      filter_gradient_kernel_(filter_gradient_, first, second, workspace,
                              scratch, begin, end);
      break;
  }
}

double CpuKernel::final_unit_cycles() const {
  return static_cast<double>(kElementsPerFinalUnit *
                             filter_gradient_.num_chunks) /
         4;
}

void CpuKernel::Finish(const void* workspace, void* result, int64_t begin,
                       int64_t end) const {
  const int64_t size = filter_gradient_.rows.filter *
                       filter_gradient_.cols.filter *
                       FilterDepth(filter_gradient_);
  filter_gradient_reduction_(filter_gradient_, workspace, result,
                             begin * kElementsPerFinalUnit,
                             std::min(size, end * kElementsPerFinalUnit));
}

}  // namespace tf_dwgrad
