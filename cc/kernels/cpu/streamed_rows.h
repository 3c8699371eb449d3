// Results that are put together in the first cache and written past the caches
// from there, because their pixels are no whole lines of memory.

#ifndef TF_DWGRAD_CC_KERNELS_CPU_STREAMED_ROWS_H_
#define TF_DWGRAD_CC_KERNELS_CPU_STREAMED_ROWS_H_

#include "cc/kernels/cpu/kernel_problem.h"
#include "cc/kernels/cpu/simd.h"

namespace tf_dwgrad {
namespace {

// Writes a line past the caches.
template <int kVectorBytes, typename T>
inline void StreamWholeLine(const T* from, T* to) {
  typedef Vector<unsigned char, kVectorBytes> V;
  constexpr int kLine = kLineBytes / sizeof(T);
  constexpr int kStep = kVectorBytes / sizeof(T);
#pragma GCC unroll 4
  for (int i = 0; i < kLine; i += kStep) Stream(LoadBits<V>(from + i), to + i);
}

// Copies less than a line, without a call.
template <typename T>
inline void CopyPartOfLine(const T* from, int64_t count, T* to) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  auto* to_bytes = reinterpret_cast<unsigned char*>(to);
  const int64_t size = count * static_cast<int64_t>(sizeof(T));
  int64_t i = 0;
#pragma GCC unroll 8
  for (int64_t step = 32; step >= static_cast<int64_t>(sizeof(T)); step /= 2) {
    if ((size & step) == 0) continue;
    __builtin_memcpy(to_bytes + i, bytes + i, step);
    i += step;
  }
}

// Writes elements past the caches, but for those at the ends that share a line
// with others.
template <int kVectorBytes, typename T>
void StreamRun(const T* from, int64_t count, T* to) {
  constexpr int64_t kLine = kLineBytes / sizeof(T);
  const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) %
                                            kLineBytes / sizeof(T));
  int64_t i = past == 0 ? 0 : kLine - past;
  if (i > count) i = count;
  CopyPartOfLine(from, i, to);
  for (; i + kLine <= count; i += kLine) {
    StreamWholeLine<kVectorBytes>(from + i, to + i);
  }
  CopyPartOfLine(from + i, count - i, to + i);
}

// One or two rows, each piece by piece. Where pixels are neighbours, a line
// that a piece leaves open waits for the next one. What shares a line with
// others goes through the caches.
template <typename Isa, typename T>
class StreamedRows {
 public:
  // There is room at `memory` for StreamedPieceBytes of each row, and to begin
  // with a line.
  StreamedRows(void* memory, int64_t most_channels)
      : memory_(reinterpret_cast<T*>(
            (reinterpret_cast<uintptr_t>(memory) + kLineBytes - 1) /
            kLineBytes * kLineBytes)),
        memory_step_(StreamedPieceBytes(most_channels * sizeof(T)) /
                     static_cast<int64_t>(sizeof(T))) {}

  // How many positions of each of `phases`, in whole tiles, a piece has if so
  // many channels come with one.
  static int64_t MostPositions(int64_t tile_cols, int64_t phases,
                               int64_t channels) {
    const int64_t tile_bytes =
        tile_cols * phases * channels * static_cast<int64_t>(sizeof(T));
    return (tile_bytes < kStreamedPieceBytes ? kStreamedPieceBytes / tile_bytes
                                             : 1) *
           tile_cols;
  }

  // From here on, rows are those at `to`, `row_step` elements apart, of pixels
  // of so many channels, `pixel_step` elements apart.
  void Begin(T* to, int64_t row_step, int rows, int64_t channels,
             int64_t pixel_step) {
    rows_ = rows;
    channels_ = channels;
    pixel_step_ = pixel_step;
    for (int row = 0; row < rows; ++row) {
      to_[row] = to + row * row_step;
      held_[row] = 0;
      if (channels == pixel_step) {
        held_[row] = reinterpret_cast<uintptr_t>(to_[row]) % kLineBytes /
                     static_cast<int64_t>(sizeof(T));
      }
      foreign_[row] = held_[row];
      to_[row] -= held_[row];
    }
  }

  // Where the next piece goes, pixel by pixel.
  T* place() const { return memory_ + kLine; }
  int64_t row_step() const { return memory_step_; }

  // That piece, of so many pixels a row, is there. It may be the rows' last.
  void Write(int64_t pixels, bool last) {
    for (int row = 0; row < rows_; ++row) {
      T* const from = place() + row * memory_step_;
      if (channels_ == pixel_step_) {
        WriteNeighbours(from - held_[row], pixels * channels_, last, &to_[row],
                        &held_[row], &foreign_[row]);
        continue;
      }
      for (int64_t i = 0; i < pixels; ++i) {
        StreamRun<Isa::kVectorBytes>(from + i * channels_, channels_,
                                     to_[row] + i * pixel_step_);
      }
      to_[row] += pixels * pixel_step_;
    }
  }

 private:
  static constexpr int kMostRows = 2;
  static constexpr int64_t kLine = kLineBytes / sizeof(T);

  static void WriteNeighbours(T* from, int64_t count, bool last, T** to_line,
                              int64_t* held_of_line, int64_t* foreign_of_line) {
    T* const to = *to_line;
    const int64_t held_before = *held_of_line;
    const int64_t held = held_before + count;
    const int64_t foreign = *foreign_of_line;
    int64_t done = 0;
    if (foreign > 0 && held >= kLine) {
      CopyPartOfLine(from + foreign, kLine - foreign, to + foreign);
      done = kLine;
      *foreign_of_line = 0;
    }
    for (; done + kLine <= held; done += kLine) {
      StreamWholeLine<Isa::kVectorBytes>(from + done, to + done);
    }
    if (last) {
      const int64_t begin = done > foreign ? done : foreign;
      CopyPartOfLine(from + begin, held - begin, to + begin);
      return;
    }
    *to_line = to + done;
    *held_of_line = held - done;
    // To the end of the line before the place of pieces.
    T* const line = from + held_before - kLine;
    if (held >= kLine) {
      __builtin_memmove(line, from + held - kLine, kLineBytes);
    } else {
      for (int64_t i = kLine - held; i < kLine; ++i) line[i] = line[i + count];
    }
  }

  T* const memory_;
  const int64_t memory_step_;
  int rows_ = 0;
  int64_t channels_ = 0;
  int64_t pixel_step_ = 0;
  T* to_[kMostRows];            // the line that is open
  int64_t held_[kMostRows];     // its elements up to the next piece
  int64_t foreign_[kMostRows];  // of which the first are not of this row
};

}  // namespace
}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CPU_STREAMED_ROWS_H_
