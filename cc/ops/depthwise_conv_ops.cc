// What the ops are: their interfaces and what can be said of their shapes while
// a graph is built. The rules themselves are in cc/kernels/conv_geometry.h.

#include <vector>

#include "absl/status/status.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/operand_shapes.h"
#include "cc/kernels/read_attributes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tf_dwgrad {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// The static shape of a 4-D operand.
absl::Status ReadShape(InferenceContext* c, int index, const char* argument,
                       Shape4* shape) {
  const ShapeHandle handle = c->input(index);
  if (!c->RankKnown(handle)) return absl::OkStatus();
  if (c->Rank(handle) != 4) {
    return ToStatus(RankError(argument, c->Rank(handle), 4));
  }
  for (int i = 0; i < 4; ++i) (*shape)[i] = c->Value(c->Dim(handle, i));
  return absl::OkStatus();
}

// The shape that `input_sizes` or `filter_sizes` spells, as far as its value is
// known.
absl::Status ReadSizes(InferenceContext* c, int index, ConvOp op,
                       const char* argument, Shape4* shape) {
  const ShapeHandle handle = c->input(index);
  if (c->RankKnown(handle) && c->Rank(handle) != 1) {
    return ToStatus(RankError(argument, c->Rank(handle), 1));
  }
  std::vector<int64_t> sizes(4, kUnknown);
  if (const tensorflow::Tensor* value = c->input_tensor(index)) {
    const auto flat = value->flat<int32_t>();
    sizes.assign(flat.data(), flat.data() + flat.size());
    return ToStatus(ShapeFromSizes(op, sizes, /*allow_unknown=*/false, shape));
  }
  if (c->RankKnown(handle)) {
    const int64_t length = c->Value(c->Dim(handle, 0));
    if (length != kUnknown && length != 4) {
      return ToStatus(SizesLengthError(op, length));
    }
  }
  ShapeHandle partial;
  TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(index, &partial));
  if (c->RankKnown(partial) && c->Rank(partial) == 4) {
    for (int i = 0; i < 4; ++i) sizes[i] = c->Value(c->Dim(partial, i));
  }
  return ToStatus(ShapeFromSizes(op, sizes, /*allow_unknown=*/true, shape));
}

void SetOutputShape(InferenceContext* c, const Shape4& shape) {
  std::vector<DimensionHandle> dims;
  for (const int64_t size : shape) {
    dims.push_back(size == kUnknown ? c->UnknownDim() : c->MakeDim(size));
  }
  c->set_output(0, c->MakeShape(dims));
}

template <ConvOp op>
absl::Status InferShape(InferenceContext* c) {
  ConvAttributes attributes;
  TF_RETURN_IF_ERROR(ReadAttributes(c, &attributes));
  ConvShapes shapes;
  TF_RETURN_IF_ERROR(ReadOperandShapes(
      op,
      [c](int index, const char* argument, Shape4* shape) {
        return ReadShape(c, index, argument, shape);
      },
      [c](int index, const char* argument, Shape4* shape) {
        return ReadSizes(c, index, op, argument, shape);
      },
      &shapes));
  TF_RETURN_IF_ERROR(ToStatus(CompleteShapes(op, attributes, &shapes)));
  SetOutputShape(c, ResultShape(op, shapes));
  return absl::OkStatus();
}

constexpr char kType[] = "T: {half, bfloat16, float, double}";
constexpr char kStrides[] = "strides: list(int)";
constexpr char kPadding[] = "padding: {'SAME', 'VALID', 'EXPLICIT'}";
constexpr char kExplicitPaddings[] = "explicit_paddings: list(int) = []";
constexpr char kDataFormat[] = "data_format: {'NHWC', 'NCHW'} = 'NHWC'";
constexpr char kDilations[] = "dilations: list(int) = [1, 1, 1, 1]";

REGISTER_OP("DwgradDepthwiseConv2d")
    .Input("input: T")
    .Input("filter: T")
    .Output("output: T")
    .Attr(kType)
    .Attr(kStrides)
    .Attr(kPadding)
    .Attr(kExplicitPaddings)
    .Attr(kDataFormat)
    .Attr(kDilations)
    .SetShapeFn(InferShape<ConvOp::kForward>);

REGISTER_OP("DwgradDepthwiseConv2dBackpropInput")
    .Input("input_sizes: int32")
    .Input("filter: T")
    .Input("out_backprop: T")
    .Output("output: T")
    .Attr(kType)
    .Attr(kStrides)
    .Attr(kPadding)
    .Attr(kExplicitPaddings)
    .Attr(kDataFormat)
    .Attr(kDilations)
    .SetShapeFn(InferShape<ConvOp::kBackpropInput>);

REGISTER_OP("DwgradDepthwiseConv2dBackpropFilter")
    .Input("input: T")
    .Input("filter_sizes: int32")
    .Input("out_backprop: T")
    .Output("output: T")
    .Attr(kType)
    .Attr(kStrides)
    .Attr(kPadding)
    .Attr(kExplicitPaddings)
    .Attr(kDataFormat)
    .Attr(kDilations)
    .SetShapeFn(InferShape<ConvOp::kBackpropFilter>);

}  // namespace
}  // namespace tf_dwgrad
