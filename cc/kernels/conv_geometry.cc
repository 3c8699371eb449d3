#include "cc/kernels/conv_geometry.h"

#include <algorithm>
#include <initializer_list>
#include <limits>

namespace tf_dwgrad {
namespace {

// Attributes and spatial sizes beyond 32 bits have no use, and keeping them out
// lets everything derived from them be computed in 64 bits without a care.
constexpr int64_t kMaxSpatial = std::numeric_limits<int32_t>::max();

std::string ListToString(const std::vector<int64_t>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += ",";
    text += std::to_string(values[i]);
  }
  return text + "]";
}

std::string Indexed(const char* argument, int index) {
  return std::string(argument) + "[" + std::to_string(index) + "]";
}

// The argument that spells the shape of the result.
const char* SizesArgument(ConvOp op) {
  const ArgumentNames names = NamesFor(op);
  return op == ConvOp::kBackpropFilter ? names.filter : names.input;
}

// strides and dilations obey the same rules.
ErrorMessage CheckWindowList(const char* argument,
                             const std::vector<int64_t>& values,
                             const std::string& data_format, int row_dim,
                             int col_dim) {
  if (values.size() != 4) {
    return std::string(argument) +
           " must have 4 elements, in the order of data_format " + data_format +
           ", but got " + ListToString(values);
  }
  for (int i = 0; i < 4; ++i) {
    if (i == row_dim || i == col_dim) {
      if (values[i] < 1 || values[i] > kMaxSpatial) {
        return Indexed(argument, i) + " must be between 1 and " +
               std::to_string(kMaxSpatial) + ", but got " +
               ListToString(values);
      }
    } else if (values[i] != 1) {
      return std::string(argument) +
             " must be 1 in the batch and depth dimensions of data_format " +
             data_format + ", but got " + ListToString(values);
    }
  }
  return {};
}

ErrorMessage CheckExplicitPaddings(const std::vector<int64_t>& pads,
                                   const std::string& data_format, int row_dim,
                                   int col_dim) {
  if (pads.size() != 8) {
    return "explicit_paddings must have 8 elements when padding is EXPLICIT, "
           "but got " +
           ListToString(pads);
  }
  for (int i = 0; i < 8; ++i) {
    const int dim = i / 2;
    if (pads[i] < 0 || pads[i] > kMaxSpatial) {
      return Indexed("explicit_paddings", i) + " must be between 0 and " +
             std::to_string(kMaxSpatial) + ", but got " + ListToString(pads);
    }
    if (dim != row_dim && dim != col_dim && pads[i] != 0) {
      return "explicit_paddings must be 0 in the batch and depth dimensions of "
             "data_format " +
             data_format + ", but got " + ListToString(pads);
    }
  }
  return {};
}

int64_t FloorDiv(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && a < 0 ? 1 : 0);
}

int64_t EffectiveFilterSize(int64_t filter, int64_t dilation) {
  return filter == 0 ? 0 : (filter - 1) * dilation + 1;
}

// The size of the output along one dimension; negative if the filter does not
// fit into the padded input.
int64_t OutputSize(Padding padding, const AxisAttributes& axis, int64_t in,
                   int64_t filter) {
  const int64_t effective = EffectiveFilterSize(filter, axis.dilation);
  switch (padding) {
    case Padding::kSame:
      return (in + axis.stride - 1) / axis.stride;
    case Padding::kValid:
      return FloorDiv(in - effective, axis.stride) + 1;
    case Padding::kExplicit:
      return FloorDiv(in + axis.pad_before + axis.pad_after - effective,
                      axis.stride) +
             1;
  }
  return kUnknown;
}

int64_t PadBefore(Padding padding, const AxisAttributes& axis, int64_t in,
                  int64_t out, int64_t filter) {
  switch (padding) {
    case Padding::kValid:
      return 0;
    case Padding::kExplicit:
      return axis.pad_before;
    case Padding::kSame:
      break;
  }
  const int64_t effective = EffectiveFilterSize(filter, axis.dilation);
  const int64_t total =
      std::max<int64_t>((out - 1) * axis.stride + effective - in, 0);
  return total / 2;
}

ErrorMessage CheckDimensions(const char* argument, const Shape4& shape,
                             int row_dim, int col_dim) {
  int64_t elements = 1;
  bool overflow = false;
  for (int i = 0; i < 4; ++i) {
    if (shape[i] == kUnknown) continue;
    if (shape[i] < 0) {
      return Indexed(argument, i) + " must not be negative, but got " +
             ToString(shape);
    }
    if ((i == row_dim || i == col_dim) && shape[i] > kMaxSpatial) {
      return Indexed(argument, i) + " must be at most " +
             std::to_string(kMaxSpatial) + ", but got " + ToString(shape);
    }
    // In this order, because TensorFlow's shapes count in it: a zero helps only
    // the sizes behind it.
    overflow =
        overflow || __builtin_mul_overflow(elements, shape[i], &elements);
  }
  if (overflow) {
    return std::string(argument) +
           " must have fewer than 2^63 elements, multiplied in order, but its "
           "shape is " +
           ToString(shape);
  }
  return {};
}

// Both sides must agree; a side that is unknown takes the other's value.
ErrorMessage Unify(const std::string& left_name, const Shape4& left_shape,
                   int64_t* left, const std::string& right_name,
                   const Shape4& right_shape, int64_t* right) {
  if (*left == kUnknown) {
    *left = *right;
  } else if (*right == kUnknown) {
    *right = *left;
  } else if (*left != *right) {
    return left_name + " is " + std::to_string(*left) + " (shape " +
           ToString(left_shape) + ") but " + right_name + " is " +
           std::to_string(*right) + " (shape " + ToString(right_shape) +
           "); they must be equal";
  }
  return {};
}

ErrorMessage UnifyDepth(const ArgumentNames& names, int depth_dim,
                        ConvShapes* shapes) {
  ErrorMessage error =
      Unify(Indexed(names.filter, 2), shapes->filter, &shapes->filter[2],
            Indexed(names.input, depth_dim), shapes->input,
            &shapes->input[depth_dim]);
  if (!error.empty()) return error;

  const int64_t in_depth = shapes->filter[2];
  int64_t* multiplier = &shapes->filter[3];
  int64_t* out_depth = &shapes->output[depth_dim];
  if (in_depth == kUnknown) return {};
  if (*multiplier == kUnknown) {
    if (*out_depth != kUnknown && in_depth > 0 && *out_depth % in_depth == 0) {
      *multiplier = *out_depth / in_depth;
    } else if (*out_depth != kUnknown && in_depth > 0) {
      return Indexed(names.output, depth_dim) +
             " must be a multiple of in_channels " + std::to_string(in_depth) +
             ", but the shape is " + ToString(shapes->output);
    }
    return {};
  }
  int64_t expected;
  if (__builtin_mul_overflow(in_depth, *multiplier, &expected)) {
    return std::string(names.filter) +
           " has in_channels * depth_multiplier beyond 2^63: shape " +
           ToString(shapes->filter);
  }
  if (*out_depth == kUnknown) *out_depth = expected;
  if (*out_depth != expected) {
    return Indexed(names.output, depth_dim) + " must be " +
           std::to_string(expected) + " (in_channels * depth_multiplier of " +
           names.filter + " " + ToString(shapes->filter) +
           "), but the shape is " + ToString(shapes->output);
  }
  return {};
}

ErrorMessage UnifySpatial(const ArgumentNames& names, Padding padding,
                          const AxisAttributes& axis, int dim, int filter_dim,
                          ConvShapes* shapes) {
  const int64_t in = shapes->input[dim];
  const int64_t filter = shapes->filter[filter_dim];
  int64_t* out = &shapes->output[dim];
  // SAME does not need the filter to know the size of the output.
  if (in == kUnknown || (filter == kUnknown && padding != Padding::kSame)) {
    return {};
  }
  const char* direction = filter_dim == 0 ? "rows" : "cols";
  const int64_t computed = OutputSize(padding, axis, in, filter);
  const int64_t expected = in == 0 ? std::max<int64_t>(computed, 0) : computed;
  if (expected < 0) {
    return std::string(names.filter) + " with " + std::to_string(filter) + " " +
           direction + " and dilation " + std::to_string(axis.dilation) +
           " does not fit into the " + std::to_string(in) + " " + direction +
           " of " + names.input + " " + ToString(shapes->input) +
           " with this padding; the output would have " +
           std::to_string(expected) + " " + direction;
  }
  if (*out == kUnknown) *out = expected;
  if (*out != expected) {
    return Indexed(names.output, dim) + " must be " + std::to_string(expected) +
           " " + direction + " for " + names.input + " " +
           ToString(shapes->input) + ", " + names.filter + " " +
           ToString(shapes->filter) + ", stride " +
           std::to_string(axis.stride) + " and dilation " +
           std::to_string(axis.dilation) + ", but the shape is " +
           ToString(shapes->output);
  }
  return {};
}

AxisGeometry MakeAxis(Padding padding, const AxisAttributes& axis, int64_t in,
                      int64_t out, int64_t filter) {
  AxisGeometry geometry;
  geometry.in = in;
  geometry.out = out;
  geometry.filter = filter;
  geometry.stride = axis.stride;
  geometry.dilation = axis.dilation;
  geometry.pad_before = PadBefore(padding, axis, in, out, filter);
  return geometry;
}

// Zero wins over an overflow of the others.
int64_t Product(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (size == 0) return 0;
  }
  for (const int64_t size : sizes) product *= size;
  return product;
}

}  // namespace

ArgumentNames NamesFor(ConvOp op) {
  switch (op) {
    case ConvOp::kForward:
      return {"input", "filter", "output"};
    case ConvOp::kBackpropInput:
      return {"input_sizes", "filter", "out_backprop"};
    case ConvOp::kBackpropFilter:
      return {"input", "filter_sizes", "out_backprop"};
  }
  return {"", "", ""};
}

ElementCounts CountElements(const ConvGeometry& g) {
  return {
      Product({g.batch, g.rows.in, g.cols.in, g.in_depth}),
      Product({g.rows.filter, g.cols.filter, g.in_depth, g.depth_multiplier}),
      Product(
          {g.batch, g.rows.out, g.cols.out, g.in_depth, g.depth_multiplier})};
}

int64_t ResultElements(ConvOp op, const ConvGeometry& geometry) {
  const ElementCounts elements = CountElements(geometry);
  return op == ConvOp::kForward         ? elements.output
         : op == ConvOp::kBackpropInput ? elements.input
                                        : elements.filter;
}

std::string ToString(const Shape4& shape) {
  std::string text = "[";
  for (int i = 0; i < 4; ++i) {
    if (i > 0) text += ",";
    text += shape[i] == kUnknown ? "?" : std::to_string(shape[i]);
  }
  return text + "]";
}

ErrorMessage RankError(const char* argument, int64_t rank, int64_t expected) {
  return std::string(argument) + " must have rank " + std::to_string(expected) +
         ", but got rank " + std::to_string(rank);
}

ErrorMessage ParseAttributes(const RawAttributes& raw,
                             ConvAttributes* attributes) {
  if (raw.data_format == "NHWC") {
    attributes->data_format = DataFormat::kNHWC;
  } else if (raw.data_format == "NCHW") {
    attributes->data_format = DataFormat::kNCHW;
  } else {
    return "data_format must be NHWC or NCHW, but got \"" + raw.data_format +
           "\"";
  }
  if (raw.padding == "SAME") {
    attributes->padding = Padding::kSame;
  } else if (raw.padding == "VALID") {
    attributes->padding = Padding::kValid;
  } else if (raw.padding == "EXPLICIT") {
    attributes->padding = Padding::kExplicit;
  } else {
    return "padding must be SAME, VALID or EXPLICIT, but got \"" + raw.padding +
           "\"";
  }
  const int row_dim = attributes->row_dim();
  const int col_dim = attributes->col_dim();
  ErrorMessage error = CheckWindowList("strides", raw.strides, raw.data_format,
                                       row_dim, col_dim);
  if (!error.empty()) return error;
  error = CheckWindowList("dilations", raw.dilations, raw.data_format, row_dim,
                          col_dim);
  if (!error.empty()) return error;

  attributes->rows.stride = raw.strides[row_dim];
  attributes->cols.stride = raw.strides[col_dim];
  attributes->rows.dilation = raw.dilations[row_dim];
  attributes->cols.dilation = raw.dilations[col_dim];

  const std::vector<int64_t>& pads = raw.explicit_paddings;
  if (attributes->padding == Padding::kExplicit) {
    error = CheckExplicitPaddings(pads, raw.data_format, row_dim, col_dim);
    if (!error.empty()) return error;
    attributes->rows.pad_before = pads[2 * row_dim];
    attributes->rows.pad_after = pads[2 * row_dim + 1];
    attributes->cols.pad_before = pads[2 * col_dim];
    attributes->cols.pad_after = pads[2 * col_dim + 1];
  } else if (!pads.empty()) {
    return "explicit_paddings must be empty when padding is " + raw.padding +
           ", but got " + ListToString(pads);
  }
  return {};
}

ErrorMessage SizesLengthError(ConvOp op, int64_t length) {
  return std::string(SizesArgument(op)) + " must have 4 elements, but got " +
         std::to_string(length) + " elements";
}

ErrorMessage ShapeFromSizes(ConvOp op, const std::vector<int64_t>& sizes,
                            bool allow_unknown, Shape4* shape) {
  const char* argument = SizesArgument(op);
  if (sizes.size() != 4) {
    return std::string(argument) + " must have 4 elements, but got " +
           ListToString(sizes);
  }
  for (int i = 0; i < 4; ++i) {
    if (sizes[i] < (allow_unknown ? kUnknown : 0)) {
      return Indexed(argument, i) + " must not be negative, but got " +
             ListToString(sizes);
    }
    (*shape)[i] = sizes[i];
  }
  return {};
}

ErrorMessage CompleteShapes(ConvOp op, const ConvAttributes& attributes,
                            ConvShapes* shapes) {
  const ArgumentNames names = NamesFor(op);
  const int row_dim = attributes.row_dim();
  const int col_dim = attributes.col_dim();
  const int depth_dim = attributes.depth_dim();

  ErrorMessage error =
      CheckDimensions(names.input, shapes->input, row_dim, col_dim);
  if (error.empty()) {
    error = CheckDimensions(names.filter, shapes->filter, 0, 1);
  }
  if (error.empty()) {
    error = CheckDimensions(names.output, shapes->output, row_dim, col_dim);
  }
  if (error.empty()) {
    error = Unify(Indexed(names.input, 0), shapes->input, &shapes->input[0],
                  Indexed(names.output, 0), shapes->output, &shapes->output[0]);
  }
  if (error.empty()) error = UnifyDepth(names, depth_dim, shapes);
  if (error.empty()) {
    error = UnifySpatial(names, attributes.padding, attributes.rows, row_dim, 0,
                         shapes);
  }
  if (error.empty()) {
    error = UnifySpatial(names, attributes.padding, attributes.cols, col_dim, 1,
                         shapes);
  }
  // A derived output can be larger than what it was derived from.
  if (error.empty()) {
    error = CheckDimensions(names.output, shapes->output, row_dim, col_dim);
  }
  return error;
}

ErrorMessage MakeGeometry(ConvOp op, const ConvAttributes& attributes,
                          ConvShapes* shapes, ConvGeometry* geometry) {
  ErrorMessage error = CompleteShapes(op, attributes, shapes);
  if (!error.empty()) return error;
  const ArgumentNames names = NamesFor(op);
  for (int i = 0; i < 4; ++i) {
    if (shapes->input[i] == kUnknown || shapes->filter[i] == kUnknown ||
        shapes->output[i] == kUnknown) {
      return std::string("the shapes do not determine the problem: ") +
             names.input + " " + ToString(shapes->input) + ", " + names.filter +
             " " + ToString(shapes->filter) + ", " + names.output + " " +
             ToString(shapes->output);
    }
  }
  const int row_dim = attributes.row_dim();
  const int col_dim = attributes.col_dim();
  geometry->data_format = attributes.data_format;
  geometry->batch = shapes->input[0];
  geometry->in_depth = shapes->filter[2];
  geometry->depth_multiplier = shapes->filter[3];
  geometry->rows =
      MakeAxis(attributes.padding, attributes.rows, shapes->input[row_dim],
               shapes->output[row_dim], shapes->filter[0]);
  geometry->cols =
      MakeAxis(attributes.padding, attributes.cols, shapes->input[col_dim],
               shapes->output[col_dim], shapes->filter[1]);
  return {};
}

}  // namespace tf_dwgrad
