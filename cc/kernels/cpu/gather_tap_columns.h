// Forward op without a stride, and input gradient, for NCHW and few tap rows:
// vectors run along the rows of a plane, which is read and written where it
// lies.
//
// A unit of work is one dst plane. A tile is a few rows of a row phase by a
// vector of columns. Tap column by tap column, each source row that the tile
// sees is loaded once, shifted, and added to all rows that it reaches. The
// stride of the input gradient sets columns apart: a tile is a vector of even
// ones and a vector of odd ones then, each with tap columns of its own.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_GATHER_TAP_COLUMNS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_GATHER_TAP_COLUMNS_H_

#include "cc/kernels/cpu/coming_lines.h"
#include "cc/kernels/cpu/gather_planes.h"
#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/pack_lanes.h"
#include "cc/kernels/cpu/packed_filter.h"
#include "cc/kernels/cpu/simd.h"
#include "cc/kernels/cpu/tile_sums.h"
#include "cc/kernels/cpu/transpose.h"

namespace tf_dwgrad {
namespace {

// What the rows of a tile see. Row r meets tap row m in source row r + m, of
// which rows [src_rows.begin, src_rows.end) exist.
template <typename T>
struct TileSources {
  typedef typename AccumulatorOf<T>::type A;
  const T* src;
  int64_t row_step;
  TapRange src_rows;
  const A* weights;  // of tap row 0
  int64_t weight_row_step;
};

// Where the sums of a tile go: `cols` columns of each row.
template <typename T>
struct TileResult {
  T* dst;
  int64_t row_step;
  int64_t cols;
  bool stream;  // past the caches
};

// Whether a tile finds the source rows that it does not ask for: those that
// neither its first nor its last rows alone see.
inline bool FindsInnerRows(const TapRange& src_rows, int64_t rows,
                           int64_t tap_rows) {
  return rows == 1 || (src_rows.begin < tap_rows && src_rows.end >= rows);
}

// The sums of kRows rows by a vector of columns.
template <int kTapRows, int N, int kRows, typename T, typename V>
inline __attribute__((always_inline)) void AddTapColumns(
    const TileSources<T>& tile, const TapColumns& columns, V (&sum)[kRows]) {
  typedef typename AccumulatorOf<T>::type A;
  constexpr int kSrcRows = kRows + kTapRows - 1;
  const int64_t begin = tile.src_rows.begin;
  const int64_t end = tile.src_rows.end;
  const TapColumn* const last = columns.first + columns.count;
  for (const TapColumn* column = columns.first; column < last; ++column) {
    const MaskedLoad<A, N> kept(column->lanes);
    V weight[kTapRows];
#pragma GCC unroll 8
    for (int m = 0; m < kTapRows; ++m) {
      weight[m] = Broadcast<A, N>(
          tile.weights[column->weight + m * tile.weight_row_step]);
    }
    const Columns<kSrcRows, const T> rows(tile.src + column->src,
                                          tile.row_step);
#pragma GCC unroll 16
    for (int i = 0; i < kSrcRows; ++i) {
      // What only the first or the last rows see may be missing.
      if ((i < kTapRows - 1 || kRows == 1) && i < begin) continue;
      if ((i >= kRows || kRows == 1) && i >= end) continue;
      V pixels = kept.Load(rows[i]);
      HoldInRegister(&pixels);
#pragma GCC unroll 8
      for (int m = 0; m < kTapRows; ++m) {
        if (i >= m && i - m < kRows) sum[i - m] += pixels * weight[m];
      }
    }
  }
}

template <int N, typename T, typename V>
inline __attribute__((always_inline)) void StoreColumns(const V& sum, T* to,
                                                        int64_t cols,
                                                        bool stream) {
  if (cols < N) {
    StoreLanes<T, N>(sum, to, cols);
  } else if (stream) {
    StoreVector<N * sizeof(T) == kLineBytes, N>(sum, to);
  } else {
    Access<T, N>::Store(sum, to);
  }
}

// A tile: a vector of columns of each residue.
template <int N, int kResidues, int kRows, int kTapRows, typename T>
void SumTapColumns(const TileSources<T>& tile, const TapColumns* columns,
                   const TileResult<T>& result) {
  typedef Vector<typename AccumulatorOf<T>::type, N> V;
  V sum[kResidues][kRows] = {};
#pragma GCC unroll 2
  for (int residue = 0; residue < kResidues; ++residue) {
    AddTapColumns<kTapRows, N, kRows>(tile, columns[residue], sum[residue]);
  }
  T* to = result.dst;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row, to += result.row_step) {
    const V& even = sum[0][row];
    if constexpr (kResidues == 1) {
      StoreColumns<N>(even, to, result.cols, result.stream);
    } else {
      const V& odd = sum[1][row];
      StoreColumns<N>(Shuffle<Interleaved<N, 1, false>, N>(even, odd), to,
                      result.cols, result.stream);
      if (result.cols > N) {
        StoreColumns<N>(Shuffle<Interleaved<N, 1, true>, N>(even, odd), to + N,
                        result.cols - N, result.stream);
      }
    }
  }
}

template <typename T>
using TapColumnsFunction = void (*)(const TileSources<T>&, const TapColumns*,
                                    const TileResult<T>&);

template <int N, int kResidues, int kRows, typename T>
TapColumnsFunction<T> FindTapColumnsSum(int64_t tap_rows) {
  static_assert(kMostTapRows == 5, "a case for each number of tap rows");
  switch (tap_rows) {
    case 5:
      return SumTapColumns<N, kResidues, kRows, 5, T>;
    case 4:
      return SumTapColumns<N, kResidues, kRows, 4, T>;
    case 3:
      return SumTapColumns<N, kResidues, kRows, 3, T>;
    case 2:
      return SumTapColumns<N, kResidues, kRows, 2, T>;
    default:
      return SumTapColumns<N, kResidues, kRows, 1, T>;
  }
}
template <int N, int kResidues, typename T>
TapColumnsFunction<T> FindTapColumnsSum(int64_t rows, int64_t tap_rows) {
  switch (rows) {
    case 7:
      return FindTapColumnsSum<N, kResidues, 7, T>(tap_rows);
    case 5:
      return FindTapColumnsSum<N, kResidues, 5, T>(tap_rows);
    case 3:
      return FindTapColumnsSum<N, kResidues, 3, T>(tap_rows);
    case 2:
      return FindTapColumnsSum<N, kResidues, 2, T>(tap_rows);
    default:
      return FindTapColumnsSum<N, kResidues, 1, T>(tap_rows);
  }
}

// The rows of the first tile of `rows`, so that these take few tiles.
inline int64_t RowsOfTapColumnsTile(int64_t rows) {
  int64_t best = 1, best_cost = 0;
  for (int64_t tile_rows = 7; tile_rows > 0;
       tile_rows -= tile_rows > 3 ? 2 : 1) {
    if (tile_rows > rows) continue;
    // What a tile has to do besides takes as long as two rows.
    const int64_t cost = (rows + tile_rows - 1) / tile_rows * (tile_rows + 2);
    if (best_cost == 0 || cost < best_cost) {
      best = tile_rows;
      best_cost = cost;
    }
  }
  return best;
}

template <typename Isa, int kLanes, int kResidues, typename T>
class TapColumnsGather {
 public:
  TapColumnsGather(const GatherProblem& problem, const T* src, const T* filter,
                   T* dst, void* scratch)
      : problem_(problem),
        rows_(problem.rows),
        cols_(problem.cols),
        src_(src),
        filter_(filter),
        dst_(dst),
        planes_(problem.batch * problem.in_depth),
        taps_(rows_.filter_size * cols_.filter_size),
        src_elements_(rows_.src_size * cols_.src_size),
        positions_(PositionsAlongRow(problem)),
        col_tiles_((positions_ + kLanes - 1) / kLanes) {
    weights_ = static_cast<A*>(scratch);
    // As TapColumnsBytes has it.
    columns_ = reinterpret_cast<TapColumns*>(weights_ + taps_ * N);
    tile_rows_ = reinterpret_cast<TileRows*>(columns_ + col_tiles_ * kResidues);
    TapColumn* const list =
        reinterpret_cast<TapColumn*>(tile_rows_ + rows_.dst_size);
    T* const copy = reinterpret_cast<T*>(list + col_tiles_ * cols_.filter_size);
    if (src_elements_ * static_cast<int64_t>(sizeof(T)) <= kMostCopiedPlane) {
      copy_ = copy + kLanes;
    }
    stream_ = StreamsRows<kLanes>(problem, dst);
    ListTapColumns(list);
    ListTileRows();
  }

  void Run(int64_t begin, int64_t end) {
    const int64_t dst_elements = rows_.dst_size * cols_.dst_size;
    int64_t first = -1;
    for (int64_t plane = begin; plane < end; ++plane) {
      if (first < 0 || plane == first + N) {
        first = plane;
        TakeWeights(first);
      }
      const T* src = src_ + plane * src_elements_;
      // Vectors see less than one of the elements beside a plane.
      const bool alone = plane * src_elements_ < kLanes ||
                         (planes_ - 1 - plane) * src_elements_ < kLanes;
      if (alone && copy_ != nullptr) {
        __builtin_memcpy(copy_, src,
                         src_elements_ * static_cast<int64_t>(sizeof(T)));
        src = copy_;
      }
      if ((alone && copy_ == nullptr) || !finite_[plane - first]) {
        GatherPlanes<Isa, T>(problem_, src_, filter_, dst_, nullptr,
                             plane * rows_.dst_size,
                             (plane + 1) * rows_.dst_size);
      } else {
        PlanPrefetch(plane, end);
        SumTiles(src, weights_ + (plane - first), dst_ + plane * dst_elements);
      }
    }
    if (stream_) FinishStreaming();
  }

 private:
  typedef typename AccumulatorOf<T>::type A;
  static constexpr int N = Isa::kVectorBytes / sizeof(A);

  struct TileRows {
    TapColumnsFunction<T> sum;
    bool has_taps;
    int64_t dst_row;
    int64_t src_row;  // whether it exists or not
    TapRange src_rows;
    int64_t weight;  // of tap row 0
  };
  static_assert(sizeof(TileRows) <= kTapColumnsTileBytes, "planned for less");

  // The last tile begins early enough to be whole, if a row is long enough.
  int64_t FirstPosition(int64_t tile) const {
    const int64_t first = tile * kLanes, last = positions_ - kLanes;
    return first < last || last < 0 ? first : last;
  }

  void ListTapColumns(TapColumn* next) {
    for (int64_t tile = 0; tile < col_tiles_; ++tile) {
      for (int64_t residue = 0; residue < kResidues; ++residue) {
        TapColumns& columns = columns_[tile * kResidues + residue];
        columns = {next, 0};
        for (int64_t tap = 0; tap < cols_.filter_size; ++tap) {
          int64_t src;
          if (!FindSource(cols_, tap, residue, &src)) continue;
          src += FirstPosition(tile);
          const TapRange lanes = StepsInside(src, 1, cols_.src_size, kLanes);
          if (lanes.begin >= lanes.end) continue;
          *next++ = {src, tap * N, (1u << lanes.end) - (1u << lanes.begin)};
          ++columns.count;
        }
      }
    }
  }

  void AddTileRows(int64_t phase, const TapRun& run, int64_t position,
                   int64_t rows, const TapRange& src_rows) {
    TileRows& tile = tile_rows_[num_tile_rows_++];
    tile.sum = FindTapColumnsSum<kLanes, kResidues, T>(rows, run.num_taps);
    tile.dst_row = phase + position * rows_.num_phases;
    tile.src_row = run.first_src + position * rows_.pitch;
    tile.src_rows = src_rows;
    tile.has_taps = src_rows.begin < src_rows.end;
    tile.weight = run.first_tap * cols_.filter_size * N;
  }

  TapRange SrcRows(const TapRun& run, int64_t position, int64_t rows) const {
    if (run.num_taps == 0) return {0, 0};
    return ClipToSource(rows_, run.first_src + position * rows_.pitch,
                        rows + run.num_taps - 1);
  }

  // The phases take turns, so that neighbouring rows are done soon after each
  // other.
  void ListTileRows() {
    const int64_t phases = PhaseCount(rows_);
    const int64_t tile_rows = RowsOfTapColumnsTile(PhaseSize(rows_, 0));
    for (int64_t first = 0; first < PhaseSize(rows_, 0); first += tile_rows) {
      for (int64_t phase = 0; phase < phases; ++phase) {
        const TapRun run = FirstRun(rows_, phase);
        int64_t end = PhaseSize(rows_, phase);
        if (first + tile_rows < end) end = first + tile_rows;
        for (int64_t position = first; position < end;) {
          int64_t rows = RowsOfTapColumnsTile(end - position);
          TapRange src_rows = SrcRows(run, position, rows);
          if (!FindsInnerRows(src_rows, rows, run.num_taps)) {
            rows = 1;
            src_rows = SrcRows(run, position, rows);
          }
          AddTileRows(phase, run, position, rows, src_rows);
          position += rows;
        }
      }
    }
  }

  // Those of the next N planes.
  void TakeWeights(int64_t first) {
    const LaneMap<N> map = MapLanes<N>(first, planes_, problem_.in_depth);
    PackFilter<N>(filter_, taps_, problem_.in_depth, map.channel, /*stride=*/1,
                  /*offset=*/0, map.contiguous, weights_);
    // What lies beyond a border is zero times a weight. Not zero if one of them
    // is not finite.
    Vector<A, N> difference = {};
    for (int64_t tap = 0; tap < taps_; ++tap) {
      const auto weight = Access<A, N>::Load(weights_ + tap * N);
      difference += weight - weight;
    }
    for (int lane = 0; lane < N; ++lane) finite_[lane] = difference[lane] == 0;
  }

  // While the tiles of a plane are summed up, a later one comes into the cache,
  // to be written.
  void PlanPrefetch(int64_t plane, int64_t end) {
    // What is written meanwhile, about. Shorter planes come in time by
    // themselves.
    constexpr int64_t kAheadBytes = 3 << 10;
    constexpr int64_t kLeastBytes = 512;
    const int64_t elements = rows_.dst_size * cols_.dst_size;
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(T));
    ahead_ = ComingLines();
    if (!problem_.beyond_cache || stream_ || bytes < kLeastBytes) return;
    const int64_t coming = plane + (kAheadBytes + bytes - 1) / bytes;
    if (coming >= end) return;
    ahead_ = ComingLines(dst_ + coming * elements, elements, num_tile_rows_);
  }

  void SumTiles(const T* src, const A* weights, T* dst) {
    static constexpr TapColumns kNone[kResidues] = {};
    const int64_t src_cols = cols_.src_size, dst_cols = cols_.dst_size;
    TileSources<T> sources;
    sources.row_step = rows_.pitch * src_cols;
    sources.weight_row_step = rows_.tap_step * cols_.filter_size * N;
    TileResult<T> result;
    result.row_step = rows_.num_phases * dst_cols;
    result.stream = stream_;
    for (int64_t index = 0; index < num_tile_rows_; ++index) {
      const TileRows& tile = tile_rows_[index];
      ahead_.template Prefetch<true>();
      sources.src = src + tile.src_row * src_cols;
      sources.src_rows = tile.src_rows;
      sources.weights = weights + tile.weight;
      for (int64_t col_tile = 0; col_tile < col_tiles_; ++col_tile) {
        const int64_t col = FirstPosition(col_tile) * kResidues;
        result.dst = dst + tile.dst_row * dst_cols + col;
        result.cols = dst_cols - col;
        tile.sum(sources,
                 tile.has_taps ? columns_ + col_tile * kResidues : kNone,
                 result);
      }
    }
  }

  const GatherProblem& problem_;
  const GatherPlan& rows_;
  const GatherPlan& cols_;
  const T* const src_;
  const T* const filter_;
  T* const dst_;
  const int64_t planes_;
  const int64_t taps_;
  const int64_t src_elements_;
  const int64_t positions_;
  const int64_t col_tiles_;
  A* weights_;           // of each tap, those of N planes
  TapColumns* columns_;  // of each tile of a row, those of each residue
  TileRows* tile_rows_;
  int64_t num_tile_rows_ = 0;
  T* copy_ = nullptr;
  bool stream_;
  ComingLines ahead_;
  bool finite_[N];
};

template <typename Isa, typename T>
void GatherTapColumns(const GatherProblem& problem, const void* src,
                      const void* filter, void* dst, void* scratch,
                      int64_t begin, int64_t end) {
  constexpr int N = Isa::kVectorBytes / sizeof(typename AccumulatorOf<T>::type);
  const auto run = [&](auto lanes, auto residues) {
    TapColumnsGather<Isa, decltype(lanes)::kValue, decltype(residues)::kValue,
                     T>(problem, static_cast<const T*>(src),
                        static_cast<const T*>(filter), static_cast<T*>(dst),
                        scratch)
        .Run(begin, end);
  };
  const auto run_lanes = [&](auto lanes) {
    if (ColResidues(problem) == 1) {
      run(lanes, Int<1>());
    } else {
      run(lanes, Int<2>());
    }
  };
  // Half a vector crosses fewer lines.
  if constexpr (N == 16) {
    if (PositionsAlongRow(problem) <= N / 2) {
      run_lanes(Int<N / 2>());
      return;
    }
  }
  run_lanes(Int<N>());
}

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_GATHER_TAP_COLUMNS_H_
