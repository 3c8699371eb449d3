// The filter gradient from packed pixels: either layout, any depth multiplier.
//
// A unit of work first copies the pixels of dY and of the input that it needs
// into scratch memory, one vector of accumulators per pixel. The copy turns
// NCHW into vectors of channels, repeats the input channels of a depth
// multiplier, and puts pixels that would compete for few places in the cache
// next to each other. If a pixel has fewer channels than a vector, the lanes
// are planes of several images; those of the same filter channel are added up
// in the end.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_PACKED_H_
#define TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_PACKED_H_

#include "cc/kernels/cpu/filter_gradient_rows.h"
#include "cc/kernels/cpu/image_steps.h"
#include "cc/kernels/cpu/pack_lanes.h"

namespace tf_dwgrad {
namespace {

template <typename Isa, typename T>
class PackedFilterGradient {
 public:
  PackedFilterGradient(const FilterGradientProblem& problem, const void* input,
                       const void* dy, void* partial_sums, void* scratch)
      : problem_(problem),
        rows_(problem.rows),
        cols_(problem.cols),
        depth_(FilterDepth(problem)),
        sums_(problem, N * sizeof(A)),
        partial_(static_cast<A*>(partial_sums)) {
    input_ = {
        static_cast<const T*>(input),
        StepsOf(problem.channels_last, problem.in_depth, rows_.in, cols_.in),
        problem.depth_multiplier,
        {}};
    dy_ = {static_cast<const T*>(dy),
           StepsOf(problem.channels_last, depth_, rows_.out, cols_.out),
           1,
           {}};
    packed_input_ = static_cast<A*>(scratch);
    packed_dy_ = packed_input_ + problem.panel_input_rows * cols_.in * N;
    totals_ = packed_dy_ + problem.panel_rows * cols_.out * N;
  }

  void Run(int64_t begin, int64_t end) {
    const int64_t images =
        problem_.flat ? (problem_.batch * depth_ + N - 1) / N : problem_.batch;
    for (int64_t index = begin; index < end; ++index) {
      const FilterGradientUnit unit = FindUnit(problem_, index);
      taps_ = (unit.end_tap_row - unit.first_tap_row) * cols_.filter;
      A* to = partial_ + (unit.chunk * rows_.filter + unit.first_tap_row) *
                             cols_.filter * depth_;
      for (int64_t i = 0; i < taps_ * N; ++i) totals_[i] = 0;
      if (problem_.flat) {
        for (int64_t i = 0; i < taps_ * depth_; ++i) to[i] = 0;
      }
      ForEachPiece(problem_, images, unit.chunk, problem_.panel_rows,
                   [&](int64_t image, int64_t first_row, int64_t end_row) {
                     FindLanes(image, unit.block);
                     AddPiece(unit, first_row, end_row);
                     if (problem_.flat) AddLanes(to);
                   });
      if (problem_.flat) continue;
      // The channels that the vector shares with its neighbour are its
      // neighbour's.
      const int64_t first_channel = FirstLane<N>(unit.block, depth_);
      for (int64_t tap = 0; tap < taps_; ++tap) {
        for (int64_t k = unit.block * N; k < first_channel + N; ++k) {
          to[tap * depth_ + k] = totals_[tap * N + k - first_channel];
        }
      }
    }
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);

  // The input or dY.
  struct Side {
    const T* data;
    ImageSteps steps;
    int64_t repeats;  // filter channels that share a channel
    LaneRuns<N> runs;
  };

  void FindLanes(int64_t image, int64_t block) {
    if (problem_.flat) {
      map_ = MapLanes<N>(image * N, problem_.batch * depth_, depth_);
      if (problem_.channels_last) {
        FindSideRuns(&input_);
        FindSideRuns(&dy_);
      }
      return;
    }
    map_.used = N;
    map_.contiguous = true;
    for (int lane = 0; lane < N; ++lane) {
      map_.image[lane] = image;
      map_.channel[lane] = FirstLane<N>(block, depth_) + lane;
    }
  }

  void FindSideRuns(Side* side) {
    const int64_t repeats = side->repeats;
    side->runs = FindRuns<N>(
        map_, side->steps.image,
        [=](int64_t channel) { return channel / repeats; },
        [=](int64_t channel) { return channel / repeats + 1; });
  }

  void AddPiece(const FilterGradientUnit& unit, int64_t first_row,
                int64_t end_row) {
    int64_t first_in = first_row * rows_.stride - rows_.pad +
                       unit.first_tap_row * rows_.dilation;
    int64_t last_in = (end_row - 1) * rows_.stride - rows_.pad +
                      (unit.end_tap_row - 1) * rows_.dilation;
    if (first_in < 0) first_in = 0;
    if (last_in >= rows_.in) last_in = rows_.in - 1;
    if (first_in > last_in) return;
    Pack(input_, first_in * input_.steps.row,
         (last_in + 1 - first_in) * cols_.in, packed_input_);
    Pack(dy_, first_row * dy_.steps.row, (end_row - first_row) * cols_.out,
         packed_dy_);
    const Pixels<A> input = {packed_input_, first_in, cols_.in * N, N, 0};
    const Pixels<A> dy = {packed_dy_, first_row, cols_.out * N, N, 0};
    // A panel is of neighbouring rows.
    const Lattice lattice = {1, 1, rows_.stride};
    sums_.Add(lattice, input, dy, first_row, end_row, unit.first_tap_row,
              unit.end_tap_row, N, totals_);
  }

  // Packs `count` neighbouring pixels, the first of which is `offset` behind
  // that of the image.
  void Pack(const Side& side, int64_t offset, int64_t count, A* to) const {
    const int64_t step = side.steps.col;
    const PackedPixels<A> packed = {to, N, 0};
    if (problem_.channels_last && !problem_.flat) {
      const int64_t first = map_.channel[0] / side.repeats;
      const T* from =
          side.data + map_.image[0] * side.steps.image + offset + first;
      if (side.repeats == 1) {
        PackNeighbours<N>(from, step, count, count, 1, packed);
        return;
      }
      LaneChoice<A, N> choice;
      for (int lane = 0; lane < N; ++lane) {
        choice.from[lane] = map_.channel[lane] / side.repeats - first;
      }
      PackChosen<N>(from, step, count,
                    PixelsWithin(count * step - first, N, step, count), choice,
                    packed);
      return;
    }
    if (step == 1 || (side.repeats == 1 && N % step == 0)) {
      const T* lanes[N];
      for (int lane = 0; lane < N; ++lane) {
        lanes[lane] = side.data + map_.image[lane] * side.steps.image +
                      map_.channel[lane] / side.repeats * side.steps.channel;
      }
      PackLanes<N>(lanes, map_.used, offset, step, step, count, to);
      return;
    }
    LaneChoice<A, N> choice;
    for (int lane = 0; lane < N; ++lane) {
      choice.from[lane] = side.runs.place[lane];
    }
    ForEachStaged<N>(
        side.runs, side.data + offset, step, count, N,
        [&](const T* staged, int64_t pixels, int64_t first_staged) {
          const PackedPixels<A> piece = packed.From(first_staged);
          if (side.repeats == 1) {
            PackNeighbours<N>(staged, N, pixels, pixels, 1, piece);
          } else {
            PackChosen<N>(staged, N, pixels, pixels, choice, piece);
          }
        });
  }

  // Adds the lanes to the sums of their filter channels, in order.
  void AddLanes(A* to) {
    for (int64_t tap = 0; tap < taps_; ++tap) {
      for (int lane = 0; lane < N; ++lane) {
        if (lane < map_.used) {
          to[tap * depth_ + map_.channel[lane]] += totals_[tap * N + lane];
        }
        totals_[tap * N + lane] = 0;
      }
    }
  }

  const FilterGradientProblem& problem_;
  const FilterGradientAxis& rows_;
  const FilterGradientAxis& cols_;
  const int64_t depth_;
  const RowSums<Isa, N, A> sums_;
  A* const partial_;
  Side input_;
  Side dy_;
  A* packed_input_;
  A* packed_dy_;
  A* totals_;
  int64_t taps_ = 0;
  LaneMap<N> map_;
};

template <typename Isa, typename T>
void FilterGradientPacked(const FilterGradientProblem& problem,
                          const void* input, const void* dy, void* partial_sums,
                          void* scratch, int64_t begin, int64_t end) {
  PackedFilterGradient<Isa, T>(problem, input, dy, partial_sums, scratch)
      .Run(begin, end);
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_FILTER_GRADIENT_PACKED_H_
