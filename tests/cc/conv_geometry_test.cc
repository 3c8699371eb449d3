#include "cc/kernels/conv_geometry.h"

#include <limits>
#include <string>
#include <vector>

#include "tests/cc/check.h"

namespace tf_dwgrad {
namespace {

RawAttributes Nhwc(int64_t stride_rows, int64_t stride_cols,
                   const std::string& padding) {
  return {{1, stride_rows, stride_cols, 1}, padding, {}, "NHWC", {1, 1, 1, 1}};
}

ConvAttributes Parsed(const RawAttributes& raw) {
  ConvAttributes attributes;
  const ErrorMessage error = ParseAttributes(raw, &attributes);
  CHECK_THAT(error.empty(), error);
  return attributes;
}

bool Mentions(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    if (text.find(part) == std::string::npos) return false;
  }
  return true;
}

void TestAttributes() {
  RawAttributes raw = Nhwc(2, 3, "EXPLICIT");
  raw.explicit_paddings = {0, 0, 4, 5, 6, 7, 0, 0};
  raw.dilations = {1, 8, 9, 1};
  const ConvAttributes nhwc = Parsed(raw);
  CHECK_THAT(nhwc.rows.stride == 2 && nhwc.cols.stride == 3, "strides");
  CHECK_THAT(nhwc.rows.dilation == 8 && nhwc.cols.dilation == 9, "dilations");
  CHECK_THAT(nhwc.rows.pad_before == 4 && nhwc.rows.pad_after == 5, "rows");
  CHECK_THAT(nhwc.cols.pad_before == 6 && nhwc.cols.pad_after == 7, "cols");

  RawAttributes nchw = {
      {1, 1, 2, 3}, "EXPLICIT", {0, 0, 0, 0, 4, 5, 6, 7}, "NCHW", {1, 1, 8, 9}};
  const ConvAttributes parsed = Parsed(nchw);
  CHECK_THAT(parsed.rows.stride == 2 && parsed.cols.stride == 3, "strides");
  CHECK_THAT(parsed.rows.pad_after == 5 && parsed.cols.pad_after == 7, "pads");
}

void ExpectRefused(RawAttributes raw, const std::vector<std::string>& parts) {
  ConvAttributes attributes;
  const ErrorMessage error = ParseAttributes(raw, &attributes);
  CHECK_THAT(!error.empty(), "accepted; expected " << parts[0]);
  CHECK_THAT(Mentions(error, parts), error);
}

void TestRefusedAttributes() {
  RawAttributes raw = Nhwc(1, 1, "SAME");
  raw.strides = {1, 1, 1};
  ExpectRefused(raw, {"strides", "4", "[1,1,1]"});
  raw.strides = {1, 0, 1, 1};
  ExpectRefused(raw, {"strides[1]", "[1,0,1,1]"});
  raw.strides = {1, 1, -7, 1};
  ExpectRefused(raw, {"strides[2]", "-7"});
  raw.strides = {1, 1, int64_t{1} << 40, 1};
  ExpectRefused(raw, {"strides[2]", "1099511627776"});
  raw.strides = {2, 1, 1, 1};
  ExpectRefused(raw, {"strides", "batch and depth", "[2,1,1,1]"});
  raw = Nhwc(1, 1, "SAME");
  raw.dilations = {};
  ExpectRefused(raw, {"dilations", "[]"});
  raw.dilations = {1, 1, 1, 3};
  ExpectRefused(raw, {"dilations", "batch and depth"});
  ExpectRefused(Nhwc(1, 1, "FULL"), {"padding", "FULL"});
  raw = Nhwc(1, 1, "SAME");
  raw.explicit_paddings = {0, 0, 1, 1, 1, 1, 0, 0};
  ExpectRefused(raw, {"explicit_paddings", "SAME"});
  raw = Nhwc(1, 1, "EXPLICIT");
  ExpectRefused(raw, {"explicit_paddings", "8"});
  raw.explicit_paddings = {0, 0, 1, -1, 1, 1, 0, 0};
  ExpectRefused(raw, {"explicit_paddings[3]", "-1"});
  raw.explicit_paddings = {0, 1, 1, 1, 1, 1, 0, 0};
  ExpectRefused(raw, {"explicit_paddings", "batch and depth"});
  raw = Nhwc(1, 1, "SAME");
  raw.data_format = "NCWH";
  ExpectRefused(raw, {"data_format", "NCWH"});
}

// Sizes and paddings against figures worked out by hand.
void TestSizes() {
  struct Row {
    const char* padding;
    int64_t in, filter, stride, dilation, before, after;
    int64_t out, pad_before;
  };
  const Row rows[] = {
      {"SAME", 8, 3, 1, 1, 0, 0, 8, 1},
      {"SAME", 8, 3, 2, 1, 0, 0, 4, 0},  // total padding 1: none before
      {"SAME", 7, 3, 2, 1, 0, 0, 4, 1},
      {"SAME", 7, 3, 2, 2, 0, 0, 4, 2},  // effective filter 5, total 4
      {"SAME", 5, 31, 1, 1, 0, 0, 5, 15},
      {"SAME", 10, 1, 3, 1, 0, 0, 4, 0},
      {"SAME", 0, 3, 1, 1, 0, 0, 0, 0},
      {"VALID", 8, 3, 1, 1, 0, 0, 6, 0},
      {"VALID", 8, 3, 2, 2, 0, 0, 2, 0},
      {"VALID", 8, 8, 5, 1, 0, 0, 1, 0},
      {"VALID", 8, 9, 1, 1, 0, 0, 0, 0},
      {"VALID", 0, 3, 1, 1, 0, 0, 0, 0},
      {"EXPLICIT", 8, 3, 2, 1, 1, 1, 4, 1},
      {"EXPLICIT", 4, 7, 1, 2, 6, 5, 3, 6},
  };
  for (const Row& row : rows) {
    RawAttributes raw = Nhwc(row.stride, 1, row.padding);
    raw.dilations = {1, row.dilation, 1, 1};
    if (raw.padding == "EXPLICIT") {
      raw.explicit_paddings = {0, 0, row.before, row.after, 0, 0, 0, 0};
    }
    ConvShapes shapes;
    shapes.input = {2, row.in, 1, 3};
    shapes.filter = {row.filter, 1, 3, 2};
    ConvGeometry geometry;
    const ErrorMessage error =
        MakeGeometry(ConvOp::kForward, Parsed(raw), &shapes, &geometry);
    CHECK_THAT(error.empty(), error);
    CHECK_THAT(geometry.rows.out == row.out,
               row.padding << " " << row.in << ": " << geometry.rows.out);
    if (row.in > 0) {
      CHECK_THAT(
          geometry.rows.pad_before == row.pad_before,
          row.padding << " " << row.in << ": " << geometry.rows.pad_before);
    }
    CHECK_THAT(geometry.out_depth() == 6, "depth");
  }
}

void TestPartialShapes() {
  const ConvAttributes same = Parsed(Nhwc(2, 2, "SAME"));
  ConvShapes shapes;
  shapes.input = {kUnknown, 9, kUnknown, kUnknown};
  shapes.filter = {kUnknown, 3, 4, kUnknown};
  shapes.output = {7, kUnknown, kUnknown, 8};
  const ErrorMessage error =
      CompleteShapes(ConvOp::kBackpropInput, same, &shapes);
  CHECK_THAT(error.empty(), error);
  const Shape4 input = {7, 9, kUnknown, 4};
  const Shape4 filter = {kUnknown, 3, 4, 2};
  const Shape4 output = {7, 5, kUnknown, 8};
  CHECK_THAT(shapes.input == input, ToString(shapes.input));
  CHECK_THAT(shapes.filter == filter, ToString(shapes.filter));
  CHECK_THAT(shapes.output == output, ToString(shapes.output));
}

void ExpectMismatch(ConvOp op, const RawAttributes& raw, Shape4 input,
                    Shape4 filter, Shape4 output,
                    const std::vector<std::string>& parts) {
  ConvShapes shapes = {input, filter, output};
  ConvGeometry geometry;
  const ErrorMessage error = MakeGeometry(op, Parsed(raw), &shapes, &geometry);
  CHECK_THAT(!error.empty(), "accepted; expected " << parts[0]);
  CHECK_THAT(Mentions(error, parts), error);
}

void TestMismatches() {
  const RawAttributes same = Nhwc(1, 1, "SAME");
  const ConvOp dx = ConvOp::kBackpropInput;
  ExpectMismatch(dx, same, {2, 8, 8, 4}, {3, 3, 4, 1}, {3, 8, 8, 4},
                 {"input_sizes[0] is 2", "out_backprop[0] is 3"});
  ExpectMismatch(dx, same, {2, 8, 8, 4}, {3, 3, 5, 1}, {2, 8, 8, 5},
                 {"filter[2] is 5", "input_sizes[3] is 4"});
  ExpectMismatch(dx, same, {2, 8, 8, 4}, {3, 3, 4, 2}, {2, 8, 8, 4},
                 {"out_backprop[3] must be 8", "[2,8,8,4]"});
  ExpectMismatch(dx, same, {2, 8, 8, 4}, {3, 3, 4, 1}, {2, 7, 8, 4},
                 {"out_backprop[1] must be 8 rows", "[2,7,8,4]"});
  ExpectMismatch(dx, same, {2, 8, 8, 4}, {3, 3, 4, 1}, {2, 8, 9, 4},
                 {"out_backprop[2] must be 8 cols"});
  ExpectMismatch(ConvOp::kForward, Nhwc(1, 1, "VALID"), {1, 4, 4, 1},
                 {7, 3, 1, 1}, {kUnknown, kUnknown, kUnknown, kUnknown},
                 {"filter", "does not fit", "-2 rows"});
  const int64_t huge = std::numeric_limits<int32_t>::max();
  ExpectMismatch(dx, Nhwc(huge, huge, "SAME"), {huge, huge, huge, 4},
                 {1, 1, 4, 1}, {huge, 1, 1, 4}, {"input_sizes", "2^63"});
  ExpectMismatch(ConvOp::kBackpropFilter, same, {1, 4, 4, 2}, {3, 3, 3, 1},
                 {1, 4, 4, 3}, {"filter_sizes[2] is 3", "input[3] is 2"});
}

void TestSizesArguments() {
  Shape4 shape;
  ErrorMessage error =
      ShapeFromSizes(ConvOp::kBackpropInput, {1, 2, 3}, false, &shape);
  CHECK_THAT(Mentions(error, {"input_sizes", "4 elements", "[1,2,3]"}), error);
  error = ShapeFromSizes(ConvOp::kBackpropFilter, {1, -1, 3, 4}, false, &shape);
  CHECK_THAT(Mentions(error, {"filter_sizes[1]", "[1,-1,3,4]"}), error);
  error = ShapeFromSizes(ConvOp::kBackpropFilter, {1, -1, 3, 4}, true, &shape);
  CHECK_THAT(error.empty() && shape[1] == kUnknown, error);
}

void TestElementCounts() {
  ConvGeometry geometry;
  geometry.batch = 2;
  geometry.in_depth = 3;
  geometry.depth_multiplier = 5;
  geometry.rows = {7, 4, 3, 2, 1, 1};
  geometry.cols = {11, 6, 1, 2, 1, 0};
  CHECK_THAT(ResultElements(ConvOp::kForward, geometry) == 2 * 4 * 6 * 15, "");
  CHECK_THAT(ResultElements(ConvOp::kBackpropInput, geometry) == 2 * 77 * 3,
             "");
  CHECK_THAT(ResultElements(ConvOp::kBackpropFilter, geometry) == 3 * 15, "");
  // NCHW shapes like this are legal, and larger than 2^63 before the zero.
  const int64_t huge = std::numeric_limits<int32_t>::max();
  geometry.batch = geometry.rows.in = geometry.cols.in = huge;
  geometry.in_depth = 0;
  CHECK_THAT(ResultElements(ConvOp::kBackpropInput, geometry) == 0, "");
}

}  // namespace
}  // namespace tf_dwgrad

int main() {
  tf_dwgrad::TestAttributes();
  tf_dwgrad::TestRefusedAttributes();
  tf_dwgrad::TestSizes();
  tf_dwgrad::TestPartialShapes();
  tf_dwgrad::TestMismatches();
  tf_dwgrad::TestSizesArguments();
  tf_dwgrad::TestElementCounts();
  return tf_dwgrad::Finish();
}
