// The filter gradient with the sums of a square of taps in registers, straight
// from global memory.
//
// A thread owns a few output columns and neighbouring channels and marches down
// the rows, through all images. Every input row of its window is loaded once
// and multiplied with all gradient rows that it meets, which roll along in
// registers; what the next row needs is loaded while this one is used. The
// threads of a block add their sums through shared memory at the end.
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
#include "cc/kernels/gpu/device.h"
#include "cc/kernels/gpu/filter_gradient_view.h"

namespace tf_dwgrad {

// One of the two axes, in 32 bits.
struct MarchAxis {
  int32_t in;
  int32_t out;
  int32_t filter;
  int32_t phases;
  int32_t cells;  // outputs of a phase, at most
  // Of phase 0; a phase starts one further. Neighbouring taps are one step
  // apart in the input.
  int32_t in_start;
  int32_t in_step;
  int32_t out_step;
  int32_t tap_blocks;  // squares of taps
};

struct MarchView {
  MarchAxis rows;
  MarchAxis cols;
  // Cells along rows, counted through all phases and images. A march does some
  // of the rows of a column task.
  int32_t all_rows;
  int32_t rows_per_march;
  int32_t col_tasks;
  int32_t marches;
  int32_t chunks;
  int32_t lanes;  // threads side by side along channels
  int32_t parts;  // marches of a block at a time
  int32_t channel_blocks;
  int32_t filter_depth;
  int32_t multiplier;
  int64_t filter_size;
  int64_t blocks;
  ImageStrides input;
  ImageStrides output;
  int64_t in_row_step;  // in elements
  int64_t out_row_step;
  int32_t in_col_step;
  int32_t out_col_step;
};

inline constexpr int kMarchThreads = 128;

// Channels and columns of a thread: as many as the registers hold.
constexpr int MarchChannels(int size, int64_t element_bytes) {
  if (element_bytes == 8) return size == 3 ? 2 : 1;
  return size == 3 ? 4 : size == 5 ? 2 : 1;
}
constexpr int MarchColumns(int size, int64_t element_bytes) {
  return size == 7 && element_bytes < 8 ? 7 : 4;
}

// Blocks that a multiprocessor holds without spills.
constexpr int MarchBlocks(int size, int columns, int64_t element_bytes) {
  if (columns > 1) return element_bytes == 8 && size == 7 ? 2 : 3;
  if (element_bytes == 8) return 3;
  return size == 3 ? 8 : size == 5 ? 6 : 4;
}

template <typename T, int kSize, int kStride, int kChannels, int kColumns>
__global__ void __launch_bounds__(kMarchThreads,
                                  MarchBlocks(kSize, kColumns, sizeof(T)))
    FilterGradientRolling(MarchView view, const T* __restrict__ input,
                          const T* __restrict__ gradient,
                          Accumulator<T>* __restrict__ partial,
                          T* __restrict__ filter_gradient) {
  using Pixel = Vector<T, kChannels>;
  using Sums = Vector<Accumulator<T>, kChannels>;
  constexpr int kReach = (kSize + kStride - 1) / kStride;  // rows of gradient
  constexpr int kWindow = (kColumns - 1) * kStride + kSize;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Accumulator<T>* const shared =
      reinterpret_cast<Accumulator<T>*>(dynamic_shared);
  const MarchAxis& rows = view.rows;
  const MarchAxis& cols = view.cols;
  const int thread = static_cast<int>(threadIdx.x);

  const int32_t first_channel =
      static_cast<int32_t>(blockIdx.x) * view.lanes * kChannels;
  const int32_t tap_row =
      static_cast<int32_t>(blockIdx.y) / cols.tap_blocks * kSize;
  const int32_t tap_col =
      static_cast<int32_t>(blockIdx.y) % cols.tap_blocks * kSize;
  const int32_t chunk = static_cast<int32_t>(blockIdx.z);
  const int32_t part = thread / view.lanes;
  const int32_t channel =
      first_channel + (thread - part * view.lanes) * kChannels;
  const int32_t march = chunk * view.parts + part;
  const bool busy = part < view.parts && march < view.marches &&
                    channel < view.filter_depth;

  // The march: its columns never change.
  const int32_t col_task = march % view.col_tasks;
  const int32_t first_row = march / view.col_tasks * view.rows_per_march;
  const int32_t first_cell = col_task / cols.phases * kColumns;
  const int32_t first_out = col_task % cols.phases + first_cell * cols.out_step;
  const int32_t first_in = cols.in_start + tap_col * cols.in_step +
                           col_task % cols.phases +
                           first_cell * kStride * cols.in_step;
  const int32_t in_start_row = rows.in_start + tap_row * rows.in_step;
  // Of its first column.
  input += channel / view.multiplier * view.input.channel +
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
    int32_t lattice = first_row / rows.cells;  // image and phase
    // Where the next rows are, and how many of the gradient are left here.
    const T* source;
    const T* from;
    int32_t in_row, left;
    const auto start_phase = [&](int32_t cell) {
      left = cell + rows_left < rows.cells ? rows_left : rows.cells - cell;
      rows_left -= left;
      const int32_t phase = lattice % rows.phases;
      const int64_t image = lattice / rows.phases;
      const int32_t out_row = phase + cell * rows.out_step;
      // Some phases are one shorter.
      if (out_row + (left - 1) * rows.out_step >= rows.out) --left;
      in_row = in_start_row + phase + cell * kStride * rows.in_step;
      source = input + image * view.input.image + in_row * view.input.row;
      from = gradient + image * view.output.image + out_row * view.output.row;
    };
    start_phase(first_row % rows.cells);

    Accumulator<T> values[kReach][kColumns][kChannels] = {};
    bool more = true;
    while (more) {
      // The newest row of the gradient takes the oldest's place. Behind the
      // last come rows of zeros.
#pragma unroll
      for (int newest = 0; newest < kReach; ++newest) {
        Pixel row[kColumns] = {};
        const T* at = from;
        const unsigned mask = left > 0 ? inside_out : 0;
#pragma unroll
        for (int u = 0; u < kColumns; ++u) {
          if (mask >> u & 1) row[u] = *reinterpret_cast<const Pixel*>(at);
          at += view.out_col_step;
        }
        from += view.out_row_step;
#pragma unroll
        for (int u = 0; u < kColumns; ++u) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            values[newest][u][c] = Widen(row[u].elements[c]);
          }
        }
#pragma unroll
        for (int q = 0; q < kStride; ++q) {
          Pixel window[kWindow] = {};
          const T* at = source;
          const unsigned mask = in_row >= 0 && in_row < rows.in ? inside_in : 0;
#pragma unroll
          for (int w = 0; w < kWindow; ++w) {
            if (mask >> w & 1) window[w] = *reinterpret_cast<const Pixel*>(at);
            at += view.in_col_step;
          }
          source += view.in_row_step;
          in_row += rows.in_step;
#pragma unroll
          for (int w = 0; w < kWindow; ++w) {
            Accumulator<T> pixel[kChannels];
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              pixel[c] = Widen(window[w].elements[c]);
            }
#pragma unroll
            for (int age = 0; age < kReach; ++age) {
              const int r = q + kStride * age;
              if (r >= kSize) continue;
              const int of_age = (newest - age + kReach) % kReach;
#pragma unroll
              for (int u = 0; u < kColumns; ++u) {
                const int s = w - u * kStride;
                if (s < 0 || s >= kSize) continue;
#pragma unroll
                for (int c = 0; c < kChannels; ++c) {
                  sums[r][s][c] += pixel[c] * values[of_age][u][c];
                }
              }
            }
          }
        }
        if (--left == 1 - kReach) {
          more = rows_left > 0;
          ++lattice;
          start_phase(0);
          if (!more) in_row = rows.in;
        }
      }
    }
  }

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
      const int32_t row_cell = at_row % rows.cells;
      const int32_t phase = at_row / rows.cells % rows.phases;
      const int64_t image = at_row / rows.cells / rows.phases;
      const int32_t u = i % kColumns;
      const int32_t out_row = phase + row_cell * rows.out_step;
      if (out_row >= rows.out || first_out + u * cols.out_step >= cols.out) {
        continue;
      }
      const Pixel value = *reinterpret_cast<const Pixel*>(
          gradient + image * view.output.image + out_row * view.output.row +
          u * view.out_col_step);
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
              w * view.in_col_step);
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            sums[r][s][c] +=
                Widen(pixel.elements[c]) * Widen(value.elements[c]);
          }
        }
      }
    }
  }

  // Tap row by tap row, which bounds the shared memory, in two buffers by turns.
  // Several threads share an element if there are few.
  const int32_t width = view.lanes * kChannels;
  const int32_t pitch = (view.parts + 1) * width;  // of a tap; spreads banks
  const int32_t elements = kSize * width;
  int32_t splits = 1;
  while (splits < 16 && 2 * splits * elements <= kMarchThreads) splits *= 2;
  Accumulator<T>* const split_sums = shared + 2 * kSize * pitch;
#pragma unroll
  for (int r = 0; r < kSize; ++r) {
    const auto store = [&](int32_t element, Accumulator<T> sum) {
      const int32_t row = tap_row + r;
      const int32_t col = tap_col + element / width;
      const int32_t to = first_channel + element % width;
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
    Accumulator<T>* const buffer = shared + r % 2 * kSize * pitch;
    if (part < view.parts) {
#pragma unroll
      for (int s = 0; s < kSize; ++s) {
        Sums tap;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) tap.elements[c] = sums[r][s][c];
        *reinterpret_cast<Sums*>(&buffer[s * pitch + thread * kChannels]) = tap;
      }
    }
    __syncthreads();
    for (int32_t i = thread; i < elements * splits; i += kMarchThreads) {
      const int32_t element = i % elements;
      const int32_t first = element / width * pitch + element % width;
      Accumulator<T> sum = 0;
#pragma unroll 4
      for (int32_t p = i / elements; p < view.parts; p += splits) {
        sum += buffer[first + p * width];
      }
      if (splits == 1) {
        store(element, sum);
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
        store(thread, sum);
      }
    }
  }
}

// How a problem is cut; the squares of taps are of size `size`.
struct MarchPlan {
  int size;
  int channels;
  int columns;
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

// Marches for so many chunks.
inline void CutIntoMarches(int64_t chunks, MarchPlan* plan) {
  MarchView& view = plan->view;
  view.chunks = static_cast<int32_t>(chunks);
  const int64_t cuts = chunks * view.parts / view.col_tasks;  // of the rows
  view.rows_per_march = static_cast<int32_t>(CeilDiv(view.all_rows, cuts));
  view.marches = static_cast<int32_t>(
      view.col_tasks * CeilDiv(view.all_rows, view.rows_per_march));
  view.blocks = chunks * view.channel_blocks * view.rows.tap_blocks *
                view.cols.tap_blocks;
}

// `vectors`: operands are aligned to whole vectors of channels.
inline MarchPlan PlanMarches(const FilterGradientView& from,
                             int64_t element_bytes, bool vectors) {
  MarchPlan plan;
  plan.size = MarchSize(from);
  plan.channels = MarchChannels(plan.size, element_bytes);
  plan.columns = MarchColumns(plan.size, element_bytes);
  if (!vectors || !from.channels_last ||
      from.filter_depth % plan.channels != 0 ||
      (plan.channels > 1 && from.multiplier > 1)) {
    plan.channels = 1;
    plan.columns = 1;
  }
  const auto axis = [&](const GpuConvAxis& axis) {
    MarchAxis to;
    const bool by_one = axis.stride == 1;
    const int64_t phases = by_one ? axis.dilation : 1;
    to.in = static_cast<int32_t>(axis.in);
    to.out = static_cast<int32_t>(axis.out);
    to.filter = static_cast<int32_t>(axis.filter);
    to.phases = static_cast<int32_t>(phases < axis.out ? phases : axis.out);
    to.cells = static_cast<int32_t>(CeilDiv(axis.out, phases));
    to.in_start = static_cast<int32_t>(-axis.pad_before);
    to.in_step = static_cast<int32_t>(axis.dilation);
    to.out_step = static_cast<int32_t>(phases);
    to.tap_blocks = static_cast<int32_t>(CeilDiv(axis.filter, plan.size));
    return to;
  };
  MarchView& view = plan.view;
  view.rows = axis(from.rows);
  view.cols = axis(from.cols);
  view.all_rows =
      static_cast<int32_t>(from.batch * view.rows.phases * view.rows.cells);
  view.col_tasks = static_cast<int32_t>(
      view.cols.phases * CeilDiv(view.cols.cells, plan.columns));
  view.filter_depth = static_cast<int32_t>(from.filter_depth);
  view.multiplier = static_cast<int32_t>(from.multiplier);
  view.filter_size = from.filter_size;
  view.input = from.input;
  view.output = from.output;
  view.in_row_step = view.rows.in_step * from.input.row;
  view.out_row_step = view.rows.out_step * from.output.row;
  view.in_col_step = static_cast<int32_t>(view.cols.in_step * from.input.col);
  view.out_col_step =
      static_cast<int32_t>(view.cols.out_step * from.output.col);
  // 128 bytes of neighbouring channels are read at full speed; with no more of
  // them, neighbouring columns share a block and its cache.
  constexpr int64_t kLineBytes = 128;
  const int64_t most_lanes =
      from.channels_last ? kLineBytes / (plan.channels * element_bytes) : 1;
  const int64_t groups = from.filter_depth / plan.channels;
  view.channel_blocks = static_cast<int32_t>(CeilDiv(groups, most_lanes));
  view.lanes = static_cast<int32_t>(CeilDiv(groups, view.channel_blocks));
  view.parts = kMarchThreads / view.lanes;
  return plan;
}

#ifndef WAVES
#define WAVES 4
#endif
#ifndef FIXED
#define FIXED 4
#endif

// The chunks that take a large GPU least time: it holds so many blocks at once,
// and each has to march down its rows, to begin and to end.
inline int64_t MarchChunks(const FilterGradientView& view,
                           int64_t element_bytes) {
  constexpr int64_t kMultiprocessors = 132;
  constexpr int64_t kMostWaves = WAVES;
  constexpr int64_t kFixedRows = FIXED;  // what beginning and ending cost
  MarchPlan plan = PlanMarches(view, element_bytes, true);
  const int64_t wave =
      kMultiprocessors * MarchBlocks(plan.size, plan.columns, element_bytes);
  const int64_t fewest = CeilDiv(plan.view.col_tasks, plan.view.parts);
  int64_t best = fewest, least = 0;
  for (int64_t chunks = fewest;; ++chunks) {
    CutIntoMarches(chunks, &plan);
    const int64_t waves = CeilDiv(plan.view.blocks, wave);
    if (chunks > fewest &&
        (waves > kMostWaves || chunks * plan.view.parts >
                                   int64_t{plan.view.col_tasks} *
                                       plan.view.all_rows)) {
      break;
    }
    const int64_t cost =
        waves * (plan.view.rows_per_march + plan.size + kFixedRows);
    if (chunks == fewest || cost < least) {
      best = chunks;
      least = cost;
    }
  }
  return best;
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
             kLimit / (view.cols.out + view.cols.dilation) &&
         view.filter_size < kLimit &&
         // No axis of the grid is too long.
         view.rows.filter * view.cols.filter < kGridLimit &&
         view.cols.out + view.cols.dilation < kGridLimit;
}

template <typename T, int kSize, int kStride>
cudaError_t LaunchMarches(const MarchPlan& plan, const void* input,
                          const void* gradient, void* filter_gradient,
                          void* workspace, cudaStream_t stream) {
  constexpr int kChannels = MarchChannels(kSize, sizeof(T));
  constexpr int kColumns = MarchColumns(kSize, sizeof(T));
  const MarchView& view = plan.view;
  const int64_t width = view.lanes * plan.channels;
  const int64_t shared_elements =
      2 * kSize * (view.parts + 1) * width + kMarchThreads;
  return Launch(plan.columns == 1
                    ? FilterGradientRolling<T, kSize, kStride, 1, 1>
                    : FilterGradientRolling<T, kSize, kStride, kChannels,
                                            kColumns>,
                dim3(static_cast<unsigned>(view.channel_blocks),
                     static_cast<unsigned>(view.rows.tap_blocks *
                                           view.cols.tap_blocks),
                     static_cast<unsigned>(view.chunks)),
                kMarchThreads,
                shared_elements * static_cast<int64_t>(sizeof(Accumulator<T>)),
                stream, view, static_cast<const T*>(input),
                static_cast<const T*>(gradient),
                static_cast<Accumulator<T>*>(workspace),
                static_cast<T*>(filter_gradient));
}

template <typename T>
cudaError_t LaunchFilterGradientRolling(const FilterGradientView& view,
                                        const void* input, const void* gradient,
                                        void* filter_gradient, void* workspace,
                                        cudaStream_t stream) {
  MarchPlan plan = PlanMarches(view, sizeof(T), true);
  const int64_t bytes = plan.channels * sizeof(T);
  if (!IsAligned(input, bytes) || !IsAligned(gradient, bytes)) {
    plan = PlanMarches(view, sizeof(T), false);
  }
  CutIntoMarches(view.num_chunks, &plan);
  const bool by_one = view.rows.stride == 1;
  const auto launch =
      plan.size == 3   ? (by_one ? LaunchMarches<T, 3, 1> : LaunchMarches<T, 3, 2>)
      : plan.size == 5 ? (by_one ? LaunchMarches<T, 5, 1> : LaunchMarches<T, 5, 2>)
                       : LaunchMarches<T, 7, 1>;
  const cudaError_t error =
      launch(plan, input, gradient, filter_gradient, workspace, stream);
  if (error != cudaSuccess || view.num_chunks == 1) return error;
  return LaunchAddPartialSums<T>(view, workspace, filter_gradient, stream);
}

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_GPU_FILTER_GRADIENT_ROLLING_H_
