// What compiled programs call on the CPU: it finds the problem in the call's
// attributes and runs the op library's kernels on the pool that XLA runs on,
// which is TensorFlow's.

#include "cc/kernels/xla/custom_call.h"

#include <optional>
#include <string>
#include <tuple>

#include "cc/kernels/cpu_kernel_entry.h"
#include "cc/kernels/xla/pool_parallel_for.h"
#include "xla/ffi/api/ffi.h"

extern "C" const XLA_FFI_Api* XLA_FFI_GetApi();

namespace tf_dwgrad {
namespace {

namespace ffi = ::xla::ffi;

std::optional<ElementType> ElementTypeOf(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F16:
      return ElementType::kHalf;
    case ffi::DataType::BF16:
      return ElementType::kBFloat16;
    case ffi::DataType::F32:
      return ElementType::kFloat32;
    case ffi::DataType::F64:
      return ElementType::kFloat64;
    default:
      return std::nullopt;
  }
}

// The compiler fixed all sizes; this guards against a compiled program that was
// kept for longer than this library.
bool HasElements(const ffi::AnyBuffer& buffer, int64_t elements) {
  return static_cast<int64_t>(buffer.element_count()) == elements;
}

// `workspace` is the second result: memory that XLA lends for the call.
ffi::Error RunCustomCall(ffi::ThreadPool pool, ffi::AnyBuffer first,
                         ffi::AnyBuffer second,
                         ffi::Result<ffi::AnyBuffer> result,
                         ffi::Result<ffi::AnyBuffer> workspace,
                         ffi::Span<const int64_t> problem) {
  const std::optional<ElementType> type = ElementTypeOf(result->element_type());
  if (!type || problem.size() != std::tuple_size<EncodedProblem>::value ||
      first.element_type() != result->element_type() ||
      second.element_type() != result->element_type()) {
    return ffi::Error::InvalidArgument(
        std::string("a call of ") + kCustomCallTarget +
        " has operands or attributes of another version");
  }
  ConvOp op;
  ConvGeometry geometry;
  DecodeProblem(problem.begin(), &op, &geometry);
  const ElementCounts elements = CountElements(geometry);
  const int64_t of_first =
      op == ConvOp::kBackpropInput ? elements.filter : elements.input;
  const int64_t of_second =
      op == ConvOp::kForward ? elements.filter : elements.output;
  if (!HasElements(first, of_first) || !HasElements(second, of_second) ||
      !HasElements(*result, ResultElements(op, geometry))) {
    return ffi::Error::InvalidArgument(
        std::string("a call of ") + kCustomCallTarget +
        " has operands of other sizes than its attributes say");
  }
  const bool done = tf_dwgrad_compute_on_cpu(
      op, *type, geometry, first.untyped_data(), second.untyped_data(),
      result->untyped_data(), workspace->untyped_data(),
      workspace->size_bytes(),
      [&](int64_t count, double unit_cycles, const Work& work) {
        PoolParallelFor(pool, count, unit_cycles, work);
      });
  if (!done) {
    return ffi::Error::InvalidArgument(
        std::string("a call of ") + kCustomCallTarget +
        " was compiled for a CPU whose kernels need less memory");
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kRunCustomCall, RunCustomCall,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Attr<ffi::Span<const int64_t>>(kProblemAttribute));

XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), kCustomCallTarget, "Host",
                         kRunCustomCall);

}  // namespace
}  // namespace tf_dwgrad
