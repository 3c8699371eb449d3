// The rules of depthwise 2-D convolution, stated once: which attributes and
// shapes are legal, and the sizes and paddings that follow from them. Shape
// functions, kernels and tests all ask this unit, so it knows nothing of
// TensorFlow.

#ifndef TF_DWGRAD_CC_KERNELS_CONV_GEOMETRY_H_
#define TF_DWGRAD_CC_KERNELS_CONV_GEOMETRY_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace tf_dwgrad {

// Empty when all is well; otherwise a sentence that names the argument, the
// value received and what was expected.
using ErrorMessage = std::string;

enum class DataFormat { kNHWC, kNCHW };
enum class Padding { kSame, kValid, kExplicit };

// The three ops differ in which of the three tensors is the result.
enum class ConvOp { kForward, kBackpropInput, kBackpropFilter };

// A 4-D shape in which kUnknown stands for a dimension not known yet.
using Shape4 = std::array<int64_t, 4>;
inline constexpr int64_t kUnknown = -1;

// The op's attributes as the graph holds them.
struct RawAttributes {
  std::vector<int64_t> strides;
  std::string padding;
  std::vector<int64_t> explicit_paddings;
  std::string data_format;
  std::vector<int64_t> dilations;
};

// One spatial dimension's share of the attributes.
struct AxisAttributes {
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_before = 0;  // only meaningful with Padding::kExplicit
  int64_t pad_after = 0;
};

struct ConvAttributes {
  DataFormat data_format = DataFormat::kNHWC;
  Padding padding = Padding::kSame;
  AxisAttributes rows;
  AxisAttributes cols;

  // Positions of the dimensions in a tensor of this data format.
  int row_dim() const { return data_format == DataFormat::kNHWC ? 1 : 2; }
  int col_dim() const { return data_format == DataFormat::kNHWC ? 2 : 3; }
  int depth_dim() const { return data_format == DataFormat::kNHWC ? 3 : 1; }
};

[[nodiscard]] ErrorMessage ParseAttributes(const RawAttributes& raw,
                                           ConvAttributes* attributes);

// One spatial dimension of a fully known problem. Sizes are those of the
// forward convolution: `in` is the size of input (and dX), `out` that of output
// (and dY).
struct AxisGeometry {
  int64_t in = 0;
  int64_t out = 0;
  int64_t filter = 0;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_before = 0;
};

struct ConvGeometry {
  DataFormat data_format = DataFormat::kNHWC;
  int64_t batch = 0;
  int64_t in_depth = 0;
  int64_t depth_multiplier = 0;
  AxisGeometry rows;
  AxisGeometry cols;

  int64_t out_depth() const { return in_depth * depth_multiplier; }
};

// How many elements the three tensors of a problem have.
struct ElementCounts {
  int64_t input;
  int64_t filter;
  int64_t output;
};

ElementCounts CountElements(const ConvGeometry& geometry);

// The same of the tensor that `op` computes.
int64_t ResultElements(ConvOp op, const ConvGeometry& geometry);

// The three shapes of a problem, in the order of data_format (filter is always
// [filter_rows, filter_cols, in_depth, depth_multiplier]).
struct ConvShapes {
  Shape4 input = {kUnknown, kUnknown, kUnknown, kUnknown};
  Shape4 filter = {kUnknown, kUnknown, kUnknown, kUnknown};
  Shape4 output = {kUnknown, kUnknown, kUnknown, kUnknown};
};

inline const Shape4& ResultShape(ConvOp op, const ConvShapes& shapes) {
  return op == ConvOp::kForward         ? shapes.output
         : op == ConvOp::kBackpropInput ? shapes.input
                                        : shapes.filter;
}

// Checks what is known of the three shapes against each other and fills in what
// follows from the rest. Messages use the argument names of `op`.
[[nodiscard]] ErrorMessage CompleteShapes(ConvOp op,
                                          const ConvAttributes& attributes,
                                          ConvShapes* shapes);

// As CompleteShapes, for shapes that leave nothing open; turns them into the
// problem that the kernels solve.
[[nodiscard]] ErrorMessage MakeGeometry(ConvOp op,
                                        const ConvAttributes& attributes,
                                        ConvShapes* shapes,
                                        ConvGeometry* geometry);

// Turns the value of `input_sizes` or `filter_sizes` into a shape.
// `allow_unknown` accepts -1, which a partially known tensor holds while a
// graph is built.
[[nodiscard]] ErrorMessage ShapeFromSizes(ConvOp op,
                                          const std::vector<int64_t>& sizes,
                                          bool allow_unknown, Shape4* shape);

// The sentence for sizes of which only the number is known, and is not 4.
ErrorMessage SizesLengthError(ConvOp op, int64_t length);

// The sentence for a tensor that is not of the rank the op expects.
ErrorMessage RankError(const char* argument, int64_t rank, int64_t expected);

// "[1,?,3,4]"
std::string ToString(const Shape4& shape);

// What the op's interface calls the tensors that stand in these places.
struct ArgumentNames {
  const char* input;
  const char* filter;
  const char* output;
};
ArgumentNames NamesFor(ConvOp op);

}  // namespace tf_dwgrad

#endif  // TF_DWGRAD_CC_KERNELS_CONV_GEOMETRY_H_
