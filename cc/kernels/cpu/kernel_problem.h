// What the CPU kernels are told: plain data, no code, so that every
// instruction-set translation unit and the dispatcher agree on it.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_KERNEL_PROBLEM_H_
#define TF_DWGRAD_CC_KERNELS_CPU_KERNEL_PROBLEM_H_

#include <stdint.h>

#include "cc/kernels/gather_plan.h"
#include "cc/kernels/number_formats.h"

namespace tf_dwgrad {

// How the positions of one dimension are cut into panels whose source pixels
// are packed together.
struct PanelSplit {
  // Phases that share sources go together; otherwise each panel is of one.
  bool all_phases;
  bool skip_sources;  // that no position needs
  int64_t positions;  // of a phase in a panel, at most
  int64_t num_panels;
};

// The forward op (dst is output, src is input) or the input gradient (dst is
// dX, src is dY). Filter channels are those of the output, in_depth *
// depth_multiplier of them.
struct GatherProblem {
  GatherPlan rows;
  GatherPlan cols;
  int64_t batch;
  int64_t in_depth;
  int64_t depth_multiplier;
  bool backward;
  bool channels_last;
  bool beyond_cache;  // src and dst together
  bool far_beyond;    // not even a good part of them stays
  bool prefetch;      // source rows before their turn, into the second cache
  // The channels of an image are cut into blocks, the last of which takes what
  // is left and may be a vector longer. If `flat`, blocks are of a vector of
  // dst planes instead, that is, of all channels of all images in turn.
  bool flat;
  int64_t channel_block;
  int64_t num_blocks;
  int64_t tile_rows;
  int64_t most_taps;  // neighbouring tap columns that reach a position
  bool takes_apart;   // see EvenOddBFloat16
  bool pairs_rows;    // as well; see PairedBFloat16
  bool takes_lines;   // see LineOf
  bool joins_lines;   // see KernelTable
  bool narrow;     // tiles have kPairNarrowCols or kNarrowCols positions a row
  bool strided;    // tiles see windows that move by stride 2, in one row
  bool spread;     // tiles are neighbours in the image, of stride 2, in one row
  bool scattered;  // tiles are neighbours in the image, not of a column phase
  bool copied;     // see CopiedGather; row_panels are of its units
  bool downward;   // tiles go down the image; see DownwardGather
  bool folded;     // planes of an image are done together; see GatherPlanes
  int64_t block_vectors;  // of accumulators, in the largest block
  PanelSplit row_panels;
  PanelSplit col_panels;
  int64_t panel_pixels;  // of the source, at most
  int64_t dst_panel_pixels;
};

static inline int64_t FilterDepth(const GatherProblem& problem) {
  return problem.in_depth * problem.depth_multiplier;
}
static inline int64_t SrcDepth(const GatherProblem& problem) {
  return problem.backward ? FilterDepth(problem) : problem.in_depth;
}
static inline int64_t DstDepth(const GatherProblem& problem) {
  return problem.backward ? problem.in_depth : FilterDepth(problem);
}

// One spatial dimension of the filter gradient.
struct FilterGradientAxis {
  int64_t in;
  int64_t out;
  int64_t filter;
  int64_t stride;
  int64_t dilation;
  int64_t pad;
};

// The rows of dY, those of one image after those of another, are cut into
// chunks. Each chunk has sums of its own, which are added up in the end.
struct FilterGradientProblem {
  FilterGradientAxis rows;
  FilterGradientAxis cols;
  int64_t batch;
  int64_t in_depth;
  int64_t depth_multiplier;
  bool channels_last;
  bool prefetch;  // rows of the tensors before their turn
  bool copied;    // first, by units that are direct otherwise
  int64_t num_chunks;
  // The filter channels are cut into blocks, as in GatherProblem. If `flat`, a
  // vector holds planes of dY instead, that is, of all channels of all images
  // in turn; then vectors of planes take the place of images.
  bool flat;
  int64_t channel_block;
  int64_t num_blocks;
  int64_t block_vectors;
  int64_t tap_rows;          // of a unit, at most
  int64_t panel_rows;        // of dY, whose pixels are packed together
  int64_t panel_input_rows;  // that they need, at most
};

static inline int64_t FilterDepth(const FilterGradientProblem& problem) {
  return problem.in_depth * problem.depth_multiplier;
}
static inline int64_t TapBlocks(const FilterGradientProblem& problem) {
  return (problem.rows.filter + problem.tap_rows - 1) / problem.tap_rows;
}

static inline int64_t Passes(const GatherProblem& problem) {
  return problem.backward ? problem.depth_multiplier : 1;
}
// Neighbouring channels.
struct ChannelRange {
  int64_t first;
  int64_t count;
};
// Those of a block of a problem that is not flat: `depth` channels are cut.
template <typename Problem>
static inline ChannelRange ChannelsOfBlock(const Problem& problem,
                                           int64_t depth, int64_t block) {
  const int64_t first = block * problem.channel_block;
  return {first, block + 1 < problem.num_blocks ? problem.channel_block
                                                : depth - first};
}

// From a tap to the one that meets the next source row for the same position.
static inline int64_t NextTapRow(const GatherProblem& problem) {
  return (problem.strided ? 1 : problem.rows.tap_step) *
         problem.cols.filter_size;
}
// Tiles, one below the other, of a row phase.
static inline int64_t TilesDown(const GatherProblem& problem) {
  return (PhaseSize(problem.rows, 0) + problem.tile_rows - 1) /
         problem.tile_rows;
}

// The columns of a strip where tiles go down the image.
inline constexpr int64_t kDownwardCols = 7;
static inline int64_t DownwardStrips(const GatherProblem& problem) {
  return (problem.cols.dst_size + kDownwardCols - 1) / kDownwardCols;
}
static inline TapRange DownwardStrip(const GatherProblem& problem,
                                     int64_t index) {
  const int64_t begin = index * kDownwardCols;
  const int64_t end = begin + kDownwardCols;
  return {begin, end < problem.cols.dst_size ? end : problem.cols.dst_size};
}

// How a rolling gather cuts the phases of an image: into bands of about so many
// rows, and those into strips of so many columns at most. Sums of three rows of
// those, nine taps and a pixel take 31 registers.
inline constexpr int64_t kRollingRows = 7;
inline constexpr int64_t kMostRollingRows = kRollingRows * 3 / 2;
inline constexpr int kRollingCols = 7;
inline constexpr int kRollingTaps = 3;
static inline int64_t RollingBands(const GatherProblem& problem) {
  const int64_t bands =
      (PhaseSize(problem.rows, 0) + kRollingRows / 2) / kRollingRows;
  return bands > 1 ? bands : 1;
}
static inline int64_t RollingStrips(const GatherProblem& problem) {
  return (PhaseSize(problem.cols, 0) + kRollingCols - 1) / kRollingCols;
}
static inline int64_t RollingUnits(const GatherProblem& problem) {
  return problem.batch * problem.num_blocks * PhaseCount(problem.rows) *
         RollingBands(problem) * PhaseCount(problem.cols) *
         RollingStrips(problem);
}

// One tap column as a vector of GatherTapColumns sees it.
struct TapColumn {
  int64_t src;     // column of the first lane's source
  int64_t weight;  // from the weight of tap column 0
  uint32_t lanes;  // a bit for each lane whose source exists
};
struct TapColumns {
  const TapColumn* first;
  int64_t count;
};
// The most tap rows that reach a position of it.
inline constexpr int64_t kMostTapRows = 5;
// What it keeps of the rows of a tile, at most.
inline constexpr int64_t kTapColumnsTileBytes = 64;
// It copies planes at the ends of a tensor, if they are not larger.
inline constexpr int64_t kMostCopiedPlane = 256 << 10;
// How many columns of dst are done apart, because the stride of the input
// gradient gives each other tap columns, ...
static inline int64_t ColResidues(const GatherProblem& problem) {
  return problem.backward ? problem.cols.stride : 1;
}
// ... and how many, at most, go together.
static inline int64_t PositionsAlongRow(const GatherProblem& problem) {
  const int64_t residues = ColResidues(problem);
  return (problem.cols.dst_size + residues - 1) / residues;
}

// The rows of a band of GatherFoldedRows. More would save loads, but be more
// places in memory to follow at a time.
inline constexpr int kFoldedRows = 4;
inline constexpr int kFoldedTaps = 3;
static inline int64_t FoldedBands(const GatherProblem& problem) {
  return (problem.rows.dst_size + kFoldedRows - 1) / kFoldedRows;
}
// After so many vectors of a row, pixels and vectors begin together again.
static inline int64_t FoldedPeriod(int64_t depth, int64_t lanes) {
  return depth / gather_plan_internal::Gcd(depth, lanes);
}

// Each kernel does the units [begin, end) of its problem. Units write disjoint
// parts of the result, and what one writes does not depend on the others.
typedef void (*GatherKernel)(const GatherProblem& problem, const void* src,
                             const void* filter, void* dst, void* scratch,
                             int64_t begin, int64_t end);
// The partial sums are [chunk, tap, filter channel] accumulators.
typedef void (*FilterGradientKernel)(const FilterGradientProblem& problem,
                                     const void* input,
                                     const void* out_backprop,
                                     void* partial_sums, void* scratch,
                                     int64_t begin, int64_t end);
// Adds up elements [begin, end) of the filter gradient over the chunks.
typedef void (*FilterGradientReduction)(const FilterGradientProblem& problem,
                                        const void* partial_sums,
                                        void* filter_backprop, int64_t begin,
                                        int64_t end);

// The kernels of one instruction set, by ElementType.
struct KernelTable {
  const char* isa;
  int vector_bytes;
  int max_taps;       // neighbouring taps that are done at a time
  int pair_max_taps;  // Tiles have two rows up to so many neighbouring taps,
  bool pair_blocks;   // and, if this holds, with more than max_taps.
  bool takes_apart;   // bfloat16; see EvenOddBFloat16
  bool pairs_rows;    // of it, too; see PairedBFloat16
  // Two lines side by side are best written together, and what is read ahead is
  // best in the second cache.
  bool joins_lines;
  GatherKernel gather_direct[kNumElementTypes];
  GatherKernel gather_rolling[kNumElementTypes];  // null where it does not pay
  GatherKernel gather_folded_rows[kNumElementTypes];  // likewise
  GatherKernel gather_multiplied[kNumElementTypes];
  GatherKernel gather_packed[kNumElementTypes];
  GatherKernel gather_along_rows[kNumElementTypes];
  GatherKernel gather_tap_columns[kNumElementTypes];
  GatherKernel gather_planes[kNumElementTypes];
  FilterGradientKernel filter_gradient_direct[kNumElementTypes];
  FilterGradientKernel filter_gradient_packed[kNumElementTypes];
  FilterGradientKernel filter_gradient_planes[kNumElementTypes];
  FilterGradientReduction filter_gradient_reduction[kNumElementTypes];
};

// Taps whose sums are so few that the filter gradient keeps them for only one
// group of dY columns, and about how many columns a tile has for more taps.
inline constexpr int kFewTaps = 9;
inline constexpr int64_t kTileCols = 56;

// Of cache and memory.
inline constexpr int64_t kLineBytes = 64;

// Whether a vector of accumulators is half a line of elements; see LineOf.
constexpr bool TakesLines(int64_t vector_bytes, int64_t element_bytes,
                          int64_t accumulator_bytes) {
  return 2 * vector_bytes * element_bytes == kLineBytes * accumulator_bytes;
}

// The largest channel_block of a direct gather whose sums are kept between
// blocks of taps, and of one whose sums go straight to dst.
inline constexpr int64_t kMaxKeptChannels = 256;
inline constexpr int64_t kMaxChannelBlock = 2048;

// Tiles of so many channels are too large to move on by way of the first cache.
inline constexpr int64_t kMaxTileChannels = 512;

// Blocks of a packed gather have at most so many lines of dst, and what is less
// than a vector.
inline constexpr int64_t kMostPackedLines = 4;

// The most tap columns of a problem with scattered tiles.
inline constexpr int64_t kMaxScatteredTaps = 16;

// The most channels of a pixel that are folded into the row.
inline constexpr int64_t kMostFoldedChannels = 256;

// The most positions of a tile.
inline constexpr int kMaxPositions = 16;

// Rows that are put together in cache (see StreamedRows) come in pieces of so
// many bytes, or of a tile if that is larger.
inline constexpr int64_t kStreamedPieceBytes = 2 << 10;
// The room for a row's part of a piece, with lines that are open at its ends.
static inline int64_t StreamedPieceBytes(int64_t pixel_bytes) {
  const int64_t tile_bytes = kMaxPositions * pixel_bytes;
  const int64_t most =
      tile_bytes > kStreamedPieceBytes ? tile_bytes : kStreamedPieceBytes;
  return (most / kLineBytes + 3) * kLineBytes;
}

// From a pixel to the next where blocks of so many channels, whole lines of
// them, are copied: an odd number of lines, so that pixels spread over the
// cache.
static inline int64_t CopyStep(int64_t channels, int64_t element_bytes) {
  const int64_t lines = channels * element_bytes / kLineBytes;
  return (lines | 1) * kLineBytes / element_bytes;
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_KERNEL_PROBLEM_H_
