// The filter gradient with the sums of a square of taps in registers.
//
// A thread owns a few output columns and neighbouring channels and marches down
// the rows, through all images. Every input row of its window is loaded once
// and multiplied with all gradient rows that it meets, which roll along in
// registers. What the next rows need is on its way meanwhile, into slots of
// shared memory that are the thread's own, so that registers do not limit how
// much that is. The threads of a block add their sums through shared memory at
// the end.
//
// Outside the image zeros take part, so that nothing but loads depends on
// borders. Zero times infinity would be wrong: a thread that ends with a NaN
// sums again pixel by pixel.
//
// Output positions follow the lattice of one phase of the dilation, so that
// their windows overlap. Larger filters are cut into squares of taps.

#ifndef TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_ROLLING_H_
#define TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_ROLLING_H_

#include "cc/kernels/gpu/add_partial_sums.h"
#include "cc/kernels/gpu/copy_async.h"
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/filter_gradient_view.h"

namespace tf_dwgrad {

// Divides by what is known at the launch, in few instructions. Small layers are
// over before a long kernel is in the instruction cache.
struct Divisor {
  int64_t factor;
  int32_t divisor;
  int32_t shift;

  // Of numbers below 2^31.
  __device__ int32_t Quotient(int32_t number) const {
    return static_cast<int32_t>(number * factor >> shift);
  }
};

inline Divisor MakeDivisor(int64_t divisor) {
  int32_t bits = 0;
  while (int64_t{1} << bits < divisor) ++bits;
  return {CeilDiv(int64_t{1} << (31 + bits), divisor),
          static_cast<int32_t>(divisor), 31 + bits};
}

// One of the two axes, in 32 bits.
struct MarchAxis {
  int32_t in;
  int32_t out;
  int32_t filter;
  Divisor phases;
  Divisor cells;  // outputs of a phase, at most
  // Of phase 0; a phase starts one further. Neighbouring taps are one step
  // apart in the input.
  int32_t in_start;
  int32_t in_step;
  int32_t out_step;
  Divisor tap_blocks;  // squares of taps
};

// Of all tiles.
inline constexpr int kMostWindow = 13;
inline constexpr int kMostColumns = 7;

struct MarchView {
  MarchAxis rows;
  MarchAxis cols;
  // Cells along rows, counted through all phases and images. A march does some
  // of the rows of a column task.
  int32_t all_rows;
  int32_t rows_per_march;
  Divisor col_tasks;
  int32_t marches;
  int32_t chunks;
  Divisor lanes;  // threads side by side along channels
  int32_t parts;  // marches of a block at a time
  int32_t channel_blocks;
  int32_t filter_depth;
  Divisor multiplier;
  int64_t filter_size;
  ImageStrides input;
  ImageStrides output;
  // In bytes.
  int64_t in_row_step;
  int64_t out_row_step;
  // Where the columns of a window are; constant memory spares registers.
  int64_t in_cols[kMostWindow];
  int64_t out_cols[kMostColumns];
};

inline constexpr int kMarchThreads = 128;

// What neighbouring threads own: vectors of neighbouring channels, single
// channels, or, where channels come first, single columns.
enum class MarchLanes { kVectors, kChannels, kColumns };

// What a thread owns, and its share of a multiprocessor.
struct MarchTile {
  int channels;
  int columns;
  // Steps at hand or on their way in shared memory; 0: the next is on its way
  // to registers.
  int stages;
  int blocks;  // that a multiprocessor holds without spills
};

// As large as the registers hold, and copies of 4 bytes at least. Shared memory
// is 48 KB at most, which needs no permission.
constexpr MarchTile TileOf(MarchLanes lanes, int size, int stride,
                           int64_t element_bytes) {
  const bool wide = element_bytes == 8;
  const int stages = element_bytes < 4 ? 0 : 3;  // of single channels
  if (lanes == MarchLanes::kColumns) {
    return {1, 1, 0, wide ? 3 : size == 3 ? 8 : size == 5 ? 5 : 3};
  }
  if (size == 7) return {1, wide ? 2 : 7, stages, wide ? 2 : 3};
  if (lanes == MarchLanes::kChannels) {
    return {1, stride == 2 ? 2 : 4, stages, wide ? 3 : size == 3 ? 5 : 4};
  }
  if (size == 5) {
    if (wide) return {1, stride == 2 ? 2 : 4, 3, 3};
    return {2, stride == 2 && element_bytes == 4 ? 2 : 4, 3, 3};
  }
  if (wide) return {2, 2, stride == 2 ? 2 : 3, 4};
  if (stride == 2) return {4, 2, element_bytes == 4 ? 2 : 3, 4};
  return {4, 4, element_bytes == 4 ? 2 : 3, 3};
}
template <typename T, MarchLanes kLanes, int kSize, int kStride>
constexpr MarchTile kMarchTile = TileOf(kLanes, kSize, kStride, sizeof(T));

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Copies to shared memory take registers.
inline constexpr int kMostMarchBlocks = 3;
#else
inline constexpr int kMostMarchBlocks = 16;
#endif
constexpr int HeldBlocks(const MarchTile& tile) {
  return tile.stages > 0 && tile.blocks > kMostMarchBlocks ? kMostMarchBlocks
                                                           : tile.blocks;
}

// The taps whose sums are added up at a time.
template <typename T, int kSize>
constexpr int kTapsAtOnce = kSize == 7 && sizeof(T) == 8 ? 25 : kSize * kSize;

template <typename T, MarchLanes kLanes, int kSize, int kStride>
__global__ void __launch_bounds__(
    kMarchThreads, HeldBlocks(kMarchTile<T, kLanes, kSize, kStride>))
    FilterGradientRolling(MarchView view, const T* __restrict__ input,
                          const T* __restrict__ gradient,
                          Accumulator<T>* __restrict__ partial,
                          T* __restrict__ filter_gradient) {
  constexpr int kChannels = kMarchTile<T, kLanes, kSize, kStride>.channels;
  constexpr int kColumns = kMarchTile<T, kLanes, kSize, kStride>.columns;
  constexpr int kStages = kMarchTile<T, kLanes, kSize, kStride>.stages;
  using Pixel = Vector<T, kChannels>;
  using Sums = Vector<Accumulator<T>, kChannels>;
  constexpr int kReach = (kSize + kStride - 1) / kStride;  // rows of gradient
  constexpr int kWindow = (kColumns - 1) * kStride + kSize;
  // Of a step: a row of the gradient and the next of the input.
  constexpr int kPixels = kColumns + kStride * kWindow;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Accumulator<T>* const shared =
      reinterpret_cast<Accumulator<T>*>(dynamic_shared);
  const MarchAxis& rows = view.rows;
  const MarchAxis& cols = view.cols;
  const int thread = static_cast<int>(threadIdx.x);

  const int32_t lanes = view.lanes.divisor;
  const int32_t part = view.lanes.Quotient(thread);
  const int32_t first_channel =
      static_cast<int32_t>(blockIdx.x) * lanes * kChannels;
  const int32_t channel = first_channel + (thread - part * lanes) * kChannels;
  const int32_t tap_block = static_cast<int32_t>(blockIdx.y);
  const int32_t tap_block_row = cols.tap_blocks.Quotient(tap_block);
  const int32_t tap_row = tap_block_row * kSize;
  const int32_t tap_col =
      (tap_block - tap_block_row * cols.tap_blocks.divisor) * kSize;
  const int32_t chunk = static_cast<int32_t>(blockIdx.z);
  const int32_t march = chunk * view.parts + part;
  const bool busy =
      part < view.parts && march < view.marches && channel < view.filter_depth;

  // The march: its columns never change.
  const int32_t cut = view.col_tasks.Quotient(march);
  const int32_t col_task = march - cut * view.col_tasks.divisor;
  const int32_t first_row = cut * view.rows_per_march;
  const int32_t col_strip = cols.phases.Quotient(col_task);
  const int32_t col_phase = col_task - col_strip * cols.phases.divisor;
  const int32_t first_cell = col_strip * kColumns;
  const int32_t first_out = col_phase + first_cell * cols.out_step;
  const int32_t first_in = cols.in_start + tap_col * cols.in_step + col_phase +
                           first_cell * kStride * cols.in_step;
  const int32_t in_start_row = rows.in_start + tap_row * rows.in_step;
  // Of its first column.
  input += view.multiplier.Quotient(channel) * view.input.channel +
           static_cast<int64_t>(first_in) * view.input.col;
  gradient += channel * view.output.channel +
              static_cast<int64_t>(first_out) * view.output.col;

  Accumulator<T> sums[kSize][kSize][kChannels] = {};
  if (busy) {
    unsigned inside_in = 0, inside_out = 0;
#pragma unroll
    for (int w = 0; w < kWindow; ++w) {
      const int32_t col = first_in + w * cols.in_step;
      if (col >= 0 && col < cols.in) inside_in |= 1u << w;
    }
#pragma unroll
    for (int u = 0; u < kColumns; ++u) {
      if (first_out + u * cols.out_step < cols.out) inside_out |= 1u << u;
    }

    int32_t rows_left = view.all_rows - first_row;
    if (rows_left > view.rows_per_march) rows_left = view.rows_per_march;
    // Rows follow the lattices of the phases of the images, one after the
    // other.
    const int32_t first_lattice = rows.cells.Quotient(first_row);
    const int32_t steps =
        rows_left +
        (rows.cells.Quotient(first_row + rows_left - 1) - first_lattice + 1) *
            (kReach - 1);
    // Where the next rows to be loaded are, and how many of the gradient are
    // left here.
    int32_t image = rows.phases.Quotient(first_lattice);
    int32_t phase = first_lattice - image * rows.phases.divisor;
    const char* source;
    const char* from;
    int32_t in_row, left, missing;
    const auto start_phase = [&](int32_t cell) {
      left = cell + rows_left < rows.cells.divisor ? rows_left
                                                   : rows.cells.divisor - cell;
      rows_left -= left;
      const int32_t out_row = phase + cell * rows.out_step;
      // Some phases are one shorter.
      missing = out_row + (left - 1) * rows.out_step >= rows.out;
      in_row = in_start_row + phase + cell * kStride * rows.in_step;
      source = reinterpret_cast<const char*>(input + image * view.input.image +
                                             in_row * view.input.row);
      from = reinterpret_cast<const char*>(
          gradient + image * view.output.image + out_row * view.output.row);
    };
    start_phase(first_row - first_lattice * rows.cells.divisor);
    const auto load = [](Pixel* to, const char* at, unsigned inside) {
      if constexpr (kStages == 0) {
        *to = Pixel();
        if (inside != 0) *to = *reinterpret_cast<const Pixel*>(at);
      } else {
        CopyAsyncOrZeros<sizeof(Pixel)>(to, at, inside);
      }
    };
    // Loads the next row of the gradient and the input rows that it is the
    // first to meet. Behind the last row of an image come rows of zeros.
    const auto load_rows = [&](Pixel* to, int pitch) {
      const unsigned columns = left > missing ? inside_out : 0;
#pragma unroll
      for (int u = 0; u < kColumns; ++u) {
        load(&to[u * pitch], from + view.out_cols[u], columns & 1u << u);
      }
      from += view.out_row_step;
#pragma unroll
      for (int q = 0; q < kStride; ++q) {
        const unsigned columns =
            in_row >= 0 && in_row < rows.in ? inside_in : 0;
#pragma unroll
        for (int w = 0; w < kWindow; ++w) {
          load(&to[(kColumns + q * kWindow + w) * pitch],
               source + view.in_cols[w], columns & 1u << w);
        }
        source += view.in_row_step;
        in_row += rows.in_step;
      }
      if (--left == 1 - kReach) {
        if (++phase == rows.phases.divisor) {
          phase = 0;
          ++image;
        }
        const bool more = rows_left > 0;
        start_phase(0);
        if (!more) in_row = rows.in;
      }
    };

    Pixel* const slots = reinterpret_cast<Pixel*>(dynamic_shared) + thread;
    constexpr int kStage = kPixels * kMarchThreads;
    Pixel* slot = slots + kStage;
    Pixel* next_slot = slots;

    Pixel coming[kPixels];
    if constexpr (kStages == 0) load_rows(coming, 1);
    Accumulator<T> values[kReach][kColumns][kChannels] = {};  // newest first
    // Rows roll by moves. Unrolled, the loop would have fewer instructions to
    // do but so many to load that it is slower, even on large layers.
#pragma unroll 1
    for (int32_t step = kStages == 0 ? 0 : 1 - kStages; step < steps; ++step) {
      Pixel at_hand[kPixels];
      if constexpr (kStages == 0) {
#pragma unroll
        for (int i = 0; i < kPixels; ++i) at_hand[i] = coming[i];
        load_rows(coming, 1);
      } else {
        WaitForCopies<kStages - 2>();
        load_rows(next_slot, kMarchThreads);
        FinishCopyGroup();
        if (step >= 0) {
#pragma unroll
          for (int i = 0; i < kPixels; ++i) {
            at_hand[i] = slot[i * kMarchThreads];
          }
        }
        next_slot = slot;
        slot += kStage;
        if (slot == slots + kStages * kStage) slot = slots;
        if (step < 0) continue;
      }
#pragma unroll
      for (int age = kReach - 1; age >= 0; --age) {
#pragma unroll
        for (int u = 0; u < kColumns; ++u) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            values[age][u][c] =
                age > 0 ? values[age - 1][u][c] : Widen(at_hand[u].elements[c]);
          }
        }
      }
#pragma unroll
      for (int q = 0; q < kStride; ++q) {
#pragma unroll
        for (int w = 0; w < kWindow; ++w) {
          Accumulator<T> pixel[kChannels];
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            pixel[c] = Widen(at_hand[kColumns + q * kWindow + w].elements[c]);
          }
#pragma unroll
          for (int age = 0; age < kReach; ++age) {
            const int r = q + kStride * age;
            if (r >= kSize) continue;
#pragma unroll
            for (int u = 0; u < kColumns; ++u) {
              const int s = w - u * kStride;
              if (s < 0 || s >= kSize) continue;
#pragma unroll
              for (int c = 0; c < kChannels; ++c) {
                sums[r][s][c] += pixel[c] * values[age][u][c];
              }
            }
          }
        }
      }
    }
    if constexpr (kStages > 0) WaitForCopies<0>();
  }

  LetSecondStageStart();
  bool again = false;
#pragma unroll
  for (int r = 0; r < kSize; ++r) {
#pragma unroll
    for (int s = 0; s < kSize; ++s) {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        again |= sums[r][s][c] != sums[r][s][c];
      }
    }
  }
  if (again) {
#pragma unroll
    for (int r = 0; r < kSize; ++r) {
#pragma unroll
      for (int s = 0; s < kSize; ++s) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sums[r][s][c] = 0;
      }
    }
#pragma unroll 1
    for (int32_t i = 0; i < view.rows_per_march * kColumns; ++i) {
      const int32_t at_row = first_row + i / kColumns;
      if (at_row >= view.all_rows) break;
      const int32_t row_cell = at_row % rows.cells.divisor;
      const int32_t lattice = at_row / rows.cells.divisor;
      const int32_t phase = lattice % rows.phases.divisor;
      const int64_t image = lattice / rows.phases.divisor;
      const int32_t u = i % kColumns;
      const int32_t out_row = phase + row_cell * rows.out_step;
      if (out_row >= rows.out || first_out + u * cols.out_step >= cols.out) {
        continue;
      }
      const Pixel value = *reinterpret_cast<const Pixel*>(
          gradient + image * view.output.image + out_row * view.output.row +
          u * cols.out_step * view.output.col);
#pragma unroll
      for (int r = 0; r < kSize; ++r) {
        const int32_t in_row =
            in_start_row + phase + (row_cell * kStride + r) * rows.in_step;
        if (in_row < 0 || in_row >= rows.in) continue;
#pragma unroll
        for (int s = 0; s < kSize; ++s) {
          const int32_t w = u * kStride + s;
          const int32_t in_col = first_in + w * cols.in_step;
          if (in_col < 0 || in_col >= cols.in) continue;
          const Pixel pixel = *reinterpret_cast<const Pixel*>(
              input + image * view.input.image + in_row * view.input.row +
              w * cols.in_step * view.input.col);
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            sums[r][s][c] +=
                Widen(pixel.elements[c]) * Widen(value.elements[c]);
          }
        }
      }
    }
  }

  // Some taps at a time, which bounds the shared memory. Several threads share
  // an element if there are few.
  constexpr int kMostTaps = kTapsAtOnce<T, kSize>;
  const int32_t width = lanes * kChannels;
  const int32_t pitch = (view.parts + 1) * width;  // of a tap; spreads banks
  Accumulator<T>* const split_sums = shared + kMostTaps * pitch;
#pragma unroll
  for (int first = 0; first < kSize * kSize; first += kMostTaps) {
    __syncthreads();  // What was in shared memory is of no more use.
    if (part < view.parts) {
#pragma unroll
      for (int t = 0; t < kMostTaps; ++t) {
        if (first + t >= kSize * kSize) continue;
        Sums tap;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          tap.elements[c] = sums[(first + t) / kSize][(first + t) % kSize][c];
        }
        *reinterpret_cast<Sums*>(&shared[t * pitch + thread * kChannels]) = tap;
      }
    }
    __syncthreads();
    const int taps =
        first + kMostTaps < kSize * kSize ? kMostTaps : kSize * kSize - first;
    const int32_t elements = taps * width;
    int32_t splits = 1;
    while (splits < 16 && 2 * splits * elements <= kMarchThreads) splits *= 2;
    const auto store = [&](int32_t tap, int32_t offset, Accumulator<T> sum) {
      const int32_t row = tap_row + (first + tap) / kSize;
      const int32_t col = tap_col + (first + tap) % kSize;
      const int32_t to = first_channel + offset;
      if (row >= rows.filter || col >= cols.filter || to >= view.filter_depth) {
        return;
      }
      const int64_t at =
          static_cast<int64_t>(row * cols.filter + col) * view.filter_depth +
          to;
      if (view.chunks == 1) {
        Narrow(sum, &filter_gradient[at]);
      } else {
        partial[chunk * view.filter_size + at] = sum;
      }
    };
#pragma unroll 1
    for (int32_t i = thread; i < elements * splits; i += kMarchThreads) {
      const int32_t split = splits == 1 ? 0 : i / elements;
      const int32_t element = i - split * elements;
      const int32_t tap = view.lanes.Quotient(element / kChannels);
      const int32_t offset = element - tap * width;
      const Accumulator<T>* at = &shared[tap * pitch + offset];
      Accumulator<T> sum = 0;
#pragma unroll 4
      for (int32_t p = split; p < view.parts; p += splits) sum += at[p * width];
      if (splits == 1) {
        store(tap, offset, sum);
      } else {
        split_sums[i] = sum;
      }
    }
    if (splits > 1) {
      __syncthreads();
      if (thread < elements) {
        Accumulator<T> sum = 0;
        for (int32_t i = 0; i < splits; ++i) {
          sum += split_sums[i * elements + thread];
        }
        const int32_t tap = view.lanes.Quotient(thread / kChannels);
        store(tap, thread - tap * width, sum);
      }
    }
  }
}

// How a problem is cut; the squares of taps are of size `size`.
struct MarchPlan {
  int size;
  MarchLanes lanes;
  MarchTile tile;
  MarchView view;
};

inline int MarchSize(const FilterGradientView& view) {
  // What loading costs, in products.
  constexpr int64_t kLoads = 20;
  int best = 0;
  int64_t least = 0;
  for (int size : {3, 5, 7}) {
    if (size == 7 && view.rows.stride > 1) continue;
    const int64_t cost = CeilDiv(view.rows.filter, size) *
                         CeilDiv(view.cols.filter, size) *
                         (size * size + kLoads);
    if (best == 0 || cost < least) {
      best = size;
      least = cost;
    }
  }
  return best;
}

// Marches of so many rows.
inline void CutIntoMarches(int64_t rows, MarchView* view) {
  view->rows_per_march = static_cast<int32_t>(rows);
  view->marches = static_cast<int32_t>(view->col_tasks.divisor *
                                       CeilDiv(view->all_rows, rows));
  view->chunks = static_cast<int32_t>(CeilDiv(view->marches, view->parts));
}

// The rows of a march that make at most so many chunks, or as few as can be.
inline int64_t RowsOfChunks(int64_t chunks, const MarchView& view) {
  const int64_t cuts = chunks * view.parts / view.col_tasks.divisor;
  return cuts > 1 ? CeilDiv(view.all_rows, cuts) : view.all_rows;
}

// `vectors`: operands are aligned to whole vectors of channels.
inline MarchPlan PlanMarches(const FilterGradientView& from,
                             int64_t element_bytes, bool vectors) {
  MarchPlan plan;
  plan.size = MarchSize(from);
  const auto use = [&](MarchLanes lanes) {
    plan.lanes = lanes;
    plan.tile = TileOf(lanes, plan.size, static_cast<int>(from.rows.stride),
                       element_bytes);
  };
  use(from.channels_last ? MarchLanes::kVectors : MarchLanes::kColumns);
  if (from.channels_last &&
      (!vectors || from.filter_depth % plan.tile.channels != 0 ||
       (plan.tile.channels > 1 && from.multiplier > 1))) {
    use(MarchLanes::kChannels);
  }
  const auto axis = [&](const GpuConvAxis& axis) {
    MarchAxis to;
    const int64_t phases = axis.stride == 1 ? axis.dilation : 1;
    to.in = static_cast<int32_t>(axis.in);
    to.out = static_cast<int32_t>(axis.out);
    to.filter = static_cast<int32_t>(axis.filter);
    to.phases = MakeDivisor(phases < axis.out ? phases : axis.out);
    to.cells = MakeDivisor(CeilDiv(axis.out, phases));
    to.in_start = static_cast<int32_t>(-axis.pad_before);
    to.in_step = static_cast<int32_t>(axis.dilation);
    to.out_step = static_cast<int32_t>(phases);
    to.tap_blocks = MakeDivisor(CeilDiv(axis.filter, plan.size));
    return to;
  };
  MarchView& view = plan.view;
  view.rows = axis(from.rows);
  view.cols = axis(from.cols);
  view.all_rows = static_cast<int32_t>(from.batch * view.rows.phases.divisor *
                                       view.rows.cells.divisor);
  view.col_tasks =
      MakeDivisor(view.cols.phases.divisor *
                  CeilDiv(view.cols.cells.divisor, plan.tile.columns));
  view.filter_depth = static_cast<int32_t>(from.filter_depth);
  view.multiplier = MakeDivisor(from.multiplier);
  view.filter_size = from.filter_size;
  view.input = from.input;
  view.output = from.output;
  view.in_row_step = view.rows.in_step * from.input.row * element_bytes;
  view.out_row_step = view.rows.out_step * from.output.row * element_bytes;
  for (int w = 0; w < kMostWindow; ++w) {
    view.in_cols[w] = w * view.cols.in_step * from.input.col * element_bytes;
  }
  for (int u = 0; u < kMostColumns; ++u) {
    view.out_cols[u] = u * view.cols.out_step * from.output.col * element_bytes;
  }
  // 128 bytes of neighbouring channels are read at full speed; with no more of
  // them, neighbouring columns share a block and its cache.
  constexpr int64_t kLineBytes = 128;
  const int64_t most_lanes =
      from.channels_last ? kLineBytes / (plan.tile.channels * element_bytes)
                         : 1;
  const int64_t groups = from.filter_depth / plan.tile.channels;
  view.channel_blocks = static_cast<int32_t>(CeilDiv(groups, most_lanes));
  view.lanes = MakeDivisor(CeilDiv(groups, view.channel_blocks));
  view.parts = kMarchThreads / view.lanes.divisor;
  return plan;
}

// Cuts into the marches that take a large GPU least time: it holds so many
// blocks at once, and each has to march down its rows, to begin and to end.
inline void ChooseMarches(MarchPlan* plan) {
  constexpr int64_t kMultiprocessors = 132;
  constexpr int64_t kMostWaves = 4;
  constexpr int64_t kFixedSteps = 6;  // what beginning and ending cost
  MarchView& view = plan->view;
  const int64_t cells = view.rows.cells.divisor;
  const int64_t blocks_per_chunk = view.channel_blocks *
                                   view.rows.tap_blocks.divisor *
                                   view.cols.tap_blocks.divisor;
  const int64_t wave = kMultiprocessors * plan->tile.blocks;
  int64_t best = view.all_rows, least = 0;
  const auto consider = [&](int64_t rows) {
    CutIntoMarches(rows, &view);
    const int64_t waves = CeilDiv(view.chunks * blocks_per_chunk, wave);
    // The lattices that such a march touches, at most; it has to leave each.
    const int64_t lattices = rows % cells == 0   ? rows / cells
                             : cells % rows == 0 ? 1
                                                 : (rows - 2) / cells + 2;
    const int64_t cost =
        waves * (rows + lattices * (plan->size - 1) + kFixedSteps);
    if (least == 0 || cost < least) {
      best = rows;
      least = cost;
    }
  };
  for (int64_t waves = 1; waves <= kMostWaves; ++waves) {
    const int64_t rows = RowsOfChunks(waves * wave / blocks_per_chunk, view);
    consider(rows);
    // The same in whole images, or whole pieces of one.
    if (rows >= cells) {
      const int64_t whole = CeilDiv(rows, cells) * cells;
      if (whole <= view.all_rows) consider(whole);
    } else {
      int64_t piece = rows;
      while (cells % piece != 0) ++piece;
      consider(piece);
    }
  }
  CutIntoMarches(best, &view);
}

// `aligned`: so are the operands, to whole vectors.
inline MarchPlan ChooseMarches(const FilterGradientView& view,
                               int64_t element_bytes, bool aligned) {
  MarchPlan plan = PlanMarches(view, element_bytes, true);
  ChooseMarches(&plan);
  if (aligned || plan.lanes != MarchLanes::kVectors) return plan;
  // As good as may be with that workspace.
  const int64_t chunks = plan.view.chunks;
  plan = PlanMarches(view, element_bytes, false);
  CutIntoMarches(RowsOfChunks(chunks, plan.view), &plan.view);
  return plan;
}

// The partial sums for which there has to be room, whatever the operands'
// alignment. A single chunk needs none.
inline int64_t MarchChunks(const FilterGradientView& view,
                           int64_t element_bytes) {
  const int64_t chunks = ChooseMarches(view, element_bytes, true).view.chunks;
  const int64_t unaligned =
      ChooseMarches(view, element_bytes, false).view.chunks;
  return chunks > unaligned ? chunks : unaligned;
}

// The same stride along both axes, either 1 with any dilation or 2 without;
// offsets within an image fit 32 bits.
inline bool MarchesApply(const FilterGradientView& view) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  constexpr int64_t kGridLimit = 1 << 16;
  const auto fits = [](const GpuConvAxis& axis, int64_t pitch) {
    constexpr int64_t kTile = 64;  // at most what a tile reaches beyond
    if (axis.dilation >= kLimit || axis.filter >= kLimit) return false;
    const int64_t size = axis.in + axis.stride * (axis.out + axis.dilation) +
                         axis.pad_before +
                         (axis.filter + kTile) * axis.dilation;
    return size < kLimit / pitch;
  };
  const int64_t row =
      view.input.row > view.output.row ? view.input.row : view.output.row;
  const int64_t col =
      view.input.col > view.output.col ? view.input.col : view.output.col;
  const int64_t stride = view.rows.stride;
  return view.cols.stride == stride &&
         (stride == 1 || (stride == 2 && view.rows.dilation == 1 &&
                          view.cols.dilation == 1)) &&
         fits(view.rows, row) && fits(view.cols, col) &&
         view.batch * (view.rows.out + view.rows.dilation) <
             kLimit / (view.cols.out + view.cols.dilation + kMostColumns) &&
         view.filter_size < kLimit &&
         // No axis of the grid is too long.
         view.rows.filter * view.cols.filter < kGridLimit &&
         view.cols.out + view.cols.dilation < kGridLimit;
}

// Where channels come first, loads are single elements, which are too many for
// the larger filters.
inline bool MarchesPay(const FilterGradientView& view) {
  const int size = MarchSize(view);
  return view.channels_last ||
         (view.rows.filter <= size && view.cols.filter <= size);
}

template <typename T, int kSize, int kStride>
cudaError_t LaunchMarches(const MarchPlan& plan, const void* input,
                          const void* gradient, void* filter_gradient,
                          void* workspace, cudaStream_t stream) {
  const MarchView& view = plan.view;
  const int64_t width = view.lanes.divisor * plan.tile.channels;
  const int64_t sums_bytes =
      (kTapsAtOnce<T, kSize> * (view.parts + 1) * width + kMarchThreads) *
      static_cast<int64_t>(sizeof(Accumulator<T>));
  const int64_t window = (plan.tile.columns - 1) * kStride + kSize;
  const int64_t slots_bytes =
      plan.tile.stages * (plan.tile.columns + kStride * window) *
      kMarchThreads * plan.tile.channels * static_cast<int64_t>(sizeof(T));
  const auto kernel =
      plan.lanes == MarchLanes::kVectors
          ? FilterGradientRolling<T, MarchLanes::kVectors, kSize, kStride>
      : plan.lanes == MarchLanes::kChannels
          ? FilterGradientRolling<T, MarchLanes::kChannels, kSize, kStride>
          : FilterGradientRolling<T, MarchLanes::kColumns, kSize, kStride>;
  return Launch(
      kernel,
      dim3(static_cast<unsigned>(view.channel_blocks),
           static_cast<unsigned>(view.rows.tap_blocks.divisor *
                                 view.cols.tap_blocks.divisor),
           static_cast<unsigned>(view.chunks)),
      kMarchThreads, slots_bytes > sums_bytes ? slots_bytes : sums_bytes,
      stream, view, static_cast<const T*>(input),
      static_cast<const T*>(gradient), static_cast<Accumulator<T>*>(workspace),
      static_cast<T*>(filter_gradient));
}

template <typename T>
cudaError_t LaunchFilterGradientRolling(const FilterGradientView& view,
                                        const void* input, const void* gradient,
                                        void* filter_gradient, void* workspace,
                                        cudaStream_t stream) {
  MarchPlan plan = ChooseMarches(view, sizeof(T), true);
  const int64_t bytes = plan.tile.channels * sizeof(T);
  if (!IsAligned(input, bytes) || !IsAligned(gradient, bytes)) {
    plan = ChooseMarches(view, sizeof(T), false);
  }
  const bool by_one = view.rows.stride == 1;
  const auto launch =
      plan.size == 3
          ? (by_one ? LaunchMarches<T, 3, 1> : LaunchMarches<T, 3, 2>)
      : plan.size == 5
          ? (by_one ? LaunchMarches<T, 5, 1> : LaunchMarches<T, 5, 2>)
          : LaunchMarches<T, 7, 1>;
  const cudaError_t error =
      launch(plan, input, gradient, filter_gradient, workspace, stream);
  if (error != cudaSuccess || plan.view.chunks == 1) return error;
  FilterGradientView chunks = view;
  chunks.num_chunks = plan.view.chunks;
  return LaunchAddPartialSums<T>(chunks, workspace, filter_gradient, stream);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_ROLLING_H_
