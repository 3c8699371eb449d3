#include "cc/kernels/xla/convolution.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "xla/hlo/builder/lib/constants.h"
#include "xla/shape_util.h"
#include "xla/xla_data.pb.h"

namespace tf_dwgrad {
namespace {

// One spatial dimension of a convolution in XLA's sense: result[i] is the sum
// over k of lhs[i * stride + k * rhs_dilation - before] * rhs[k], where lhs has
// lhs_dilation - 1 zeros between its elements, `before` in front and `after`
// behind. Either may be negative, and then cuts off.
struct Window {
  int64_t stride;
  int64_t lhs_dilation;
  int64_t rhs_dilation;
  int64_t before;
  int64_t after;
};

int64_t Dilated(int64_t size, int64_t dilation) {
  return (size - 1) * dilation + 1;
}

Window WindowOf(ConvOp op, const AxisGeometry& axis) {
  const int64_t effective = Dilated(axis.filter, axis.dilation);
  const int64_t spread_out = Dilated(axis.out, axis.stride);
  switch (op) {
    case ConvOp::kForward:
      return {axis.stride, 1, axis.dilation, axis.pad_before,
              spread_out - 1 + effective - axis.in - axis.pad_before};
    case ConvOp::kBackpropInput: {
      // The filter is reversed.
      const int64_t before = effective - 1 - axis.pad_before;
      return {1, axis.stride, axis.dilation, before,
              axis.in + effective - 1 - spread_out - before};
    }
    case ConvOp::kBackpropFilter:
      break;
  }
  // Positions of the result are taps; what slides is out_backprop.
  return {axis.dilation, 1, axis.stride, axis.pad_before,
          effective - 1 + spread_out - axis.in - axis.pad_before};
}

bool HasZero(const ConvGeometry& g) {
  for (const int64_t size :
       {g.batch, g.in_depth, g.depth_multiplier, g.rows.in, g.rows.out,
        g.rows.filter, g.cols.in, g.cols.out, g.cols.filter}) {
    if (size == 0) return true;
  }
  return false;
}

}  // namespace

xla::XlaOp LowerToConvolution(ConvOp op, const ConvGeometry& geometry,
                              xla::XlaOp first, xla::XlaOp second,
                              const xla::Shape& result_shape) {
  if (HasZero(geometry)) return xla::Zeros(first.builder(), result_shape);

  const xla::PrimitiveType type = result_shape.element_type();
  const xla::PrimitiveType accumulator = type == xla::F64 ? xla::F64 : xla::F32;
  first = xla::ConvertElementType(first, accumulator);
  second = xla::ConvertElementType(second, accumulator);

  const bool nhwc = geometry.data_format == DataFormat::kNHWC;
  const int row_dim = nhwc ? 1 : 2;
  const int col_dim = nhwc ? 2 : 3;
  const int depth_dim = nhwc ? 3 : 1;
  const int64_t filter_rows = geometry.rows.filter;
  const int64_t filter_cols = geometry.cols.filter;

  xla::ConvolutionDimensionNumbers dims;
  dims.add_input_spatial_dimensions(row_dim);
  dims.add_input_spatial_dimensions(col_dim);
  xla::XlaOp lhs, rhs;
  int64_t feature_groups = geometry.in_depth;
  int64_t batch_groups = 1;
  if (op == ConvOp::kBackpropFilter) {
    // Channels are the batches of lhs, and batches the features, over which a
    // convolution sums. A group of the batch, that is, a channel, meets its
    // own features of rhs.
    lhs = first;
    rhs = second;
    std::swap(feature_groups, batch_groups);
    dims.set_input_batch_dimension(depth_dim);
    dims.set_input_feature_dimension(0);
    dims.add_kernel_spatial_dimensions(row_dim);
    dims.add_kernel_spatial_dimensions(col_dim);
    dims.set_kernel_input_feature_dimension(0);
    dims.set_kernel_output_feature_dimension(depth_dim);
    dims.add_output_spatial_dimensions(0);
    dims.add_output_spatial_dimensions(1);
    dims.set_output_batch_dimension(2);
    dims.set_output_feature_dimension(3);
  } else {
    if (op == ConvOp::kForward) {
      lhs = first;
      rhs = xla::Reshape(second,
                         {filter_rows, filter_cols, 1, geometry.out_depth()});
      dims.set_kernel_input_feature_dimension(2);
      dims.set_kernel_output_feature_dimension(3);
    } else {
      lhs = second;
      rhs = xla::Rev(first, {0, 1});
      dims.set_kernel_input_feature_dimension(3);
      dims.set_kernel_output_feature_dimension(2);
    }
    dims.set_input_batch_dimension(0);
    dims.set_input_feature_dimension(depth_dim);
    dims.add_kernel_spatial_dimensions(0);
    dims.add_kernel_spatial_dimensions(1);
    dims.add_output_spatial_dimensions(row_dim);
    dims.add_output_spatial_dimensions(col_dim);
    dims.set_output_batch_dimension(0);
    dims.set_output_feature_dimension(depth_dim);
  }

  const Window rows = WindowOf(op, geometry.rows);
  const Window cols = WindowOf(op, geometry.cols);
  // Without this a GPU may round float32 operands to 10 bits.
  xla::PrecisionConfig precision;
  precision.add_operand_precision(xla::PrecisionConfig::HIGHEST);
  precision.add_operand_precision(xla::PrecisionConfig::HIGHEST);
  const xla::XlaOp result = xla::ConvGeneralDilated(
      lhs, rhs, {rows.stride, cols.stride},
      {{rows.before, rows.after}, {cols.before, cols.after}},
      {rows.lhs_dilation, cols.lhs_dilation},
      {rows.rhs_dilation, cols.rhs_dilation}, dims, feature_groups,
      batch_groups, &precision);
  return xla::ConvertElementType(
      xla::Reshape(result, result_shape.dimensions()), type);
}

}  // namespace tf_dwgrad
