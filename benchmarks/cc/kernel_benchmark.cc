// The kernels without TensorFlow, and what share of the machine they reach.
//
// Names are operation/layer/type/format. Beside the time stand the bytes that
// must be moved (operands and result, once) and the products that must be
// formed (taps inside the image) a second, and their shares of a copy of the
// same size and of the multiply-add units, both measured here and now. The
// larger share is how close the kernel comes to what bounds it; small problems
// exceed 100% of a copy of large ones.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/cc/thread_team.h"
#include "cc/kernels/conv_geometry.h"
#include "cc/kernels/cpu/choose_kernels.h"
#include "cc/kernels/cpu/cpu_kernel.h"
#include "cc/machine/machine_bounds.h"

namespace tf_dwgrad {
namespace {

struct Layer {
  const char* name;
  int64_t rows, cols, channels, multiplier;
  int64_t filter_rows, filter_cols, stride, dilation;
};

// From python/tf_dwgrad/depthwise_layers.csv, SAME padding.
constexpr Layer kLayers[] = {
    {"3x3_112x32", 112, 112, 32, 1, 3, 3, 1, 1},       // MobileNetV1, V2
    {"3x3_112x16", 112, 112, 16, 1, 3, 3, 1, 1},       // MobileNetV3
    {"3x3_150x24", 150, 150, 24, 1, 3, 3, 1, 1},       // EfficientNet-B3
    {"3x3_56x144", 56, 56, 144, 1, 3, 3, 1, 1},        // MobileNetV2
    {"3x3_28x192", 28, 28, 192, 1, 3, 3, 1, 1},        // MobileNetV2
    {"3x3_14x384", 14, 14, 384, 1, 3, 3, 1, 1},        // MobileNetV2
    {"3x3_7x960", 7, 7, 960, 1, 3, 3, 1, 1},           // MobileNetV2
    {"3x3s2_112x96", 112, 112, 96, 1, 3, 3, 2, 1},     // MobileNetV2
    {"3x3s2_56x144", 56, 56, 144, 1, 3, 3, 2, 1},      // MobileNetV2
    {"3x3s2_14x576", 14, 14, 576, 1, 3, 3, 2, 1},      // MobileNetV2
    {"5x5_28x240", 28, 28, 240, 1, 5, 5, 1, 1},        // EfficientNet-B0
    {"5x5_14x672", 14, 14, 672, 1, 5, 5, 1, 1},        // EfficientNet-B0
    {"5x5_7x1152", 7, 7, 1152, 1, 5, 5, 1, 1},         // EfficientNet-B0
    {"5x5s2_56x144", 56, 56, 144, 1, 5, 5, 2, 1},      // EfficientNet-B0
    {"7x7_56x96", 56, 56, 96, 1, 7, 7, 1, 1},          // ConvNeXt-T
    {"7x7_14x384", 14, 14, 384, 1, 7, 7, 1, 1},        // ConvNeXt-T
    {"7x7_7x768", 7, 7, 768, 1, 7, 7, 1, 1},           // ConvNeXt-T
    {"9x9_32x1536", 32, 32, 1536, 1, 9, 9, 1, 1},      // ConvMixer-1536/20
    {"13x13_14x320", 14, 14, 320, 1, 13, 13, 1, 1},    // UniRepLKNet-T
    {"31x31_56x128", 56, 56, 128, 1, 31, 31, 1, 1},    // RepLKNet-31B
    {"27x27_14x512", 14, 14, 512, 1, 27, 27, 1, 1},    // RepLKNet-31B
    {"51x5_56x124", 56, 56, 124, 1, 51, 5, 1, 1},      // SLaK-T
    {"5x51_56x124", 56, 56, 124, 1, 5, 51, 1, 1},      // SLaK-T
    {"3x3d2_65x728", 65, 65, 728, 1, 3, 3, 1, 2},      // DeepLabV3+
    {"3x3d18_33x2048", 33, 33, 2048, 1, 3, 3, 1, 18},  // DeepLabV3+
    {"3x3m2_56x64", 56, 56, 64, 2, 3, 3, 1, 1},
    {"3x3s2m8_96x1", 96, 96, 1, 8, 3, 3, 2, 1},  // person detection
};

struct Operation {
  const char* name;
  ConvOp op;
};
constexpr Operation kOperations[] = {
    {"input_gradient", ConvOp::kBackpropInput},
    {"forward", ConvOp::kForward},
    {"filter_gradient", ConvOp::kBackpropFilter},
};

struct Type {
  const char* name;
  ElementType type;
};
constexpr Type kTypes[] = {
    {"float32", ElementType::kFloat32},
    {"bfloat16", ElementType::kBFloat16},
    {"half", ElementType::kHalf},
    {"float64", ElementType::kFloat64},
};

constexpr int64_t kLine = 64;

// Memory at the start of a line, as TensorFlow's. Filled, so that its pages
// are there.
class Buffer {
 public:
  Buffer(int64_t elements, ElementType type) {
    const int64_t bytes = elements * SizeOf(type);
    size_ = (bytes + kLine - 1) / kLine * kLine;
    data_.reset(std::aligned_alloc(kLine, size_));
    // Ones.
    uint64_t pattern = 0x3ff0000000000000;
    if (type == ElementType::kFloat32) pattern = 0x3f8000003f800000;
    if (type == ElementType::kBFloat16) pattern = 0x3f803f803f803f80;
    if (type == ElementType::kHalf) pattern = 0x3c003c003c003c00;
    for (int64_t at = 0; at < size_; at += sizeof(pattern)) {
      std::memcpy(static_cast<char*>(data()) + at, &pattern, sizeof(pattern));
    }
  }

  void* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t size_ = 0;
};

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double Median(std::vector<double>* values) {
  const auto middle = values->begin() + values->size() / 2;
  std::nth_element(values->begin(), middle, values->end());
  return *middle;
}

// --- The machine -----------------------------------------------------------

// The threads that run the kernels, and what as many could do at best.
class Machine {
 public:
  Machine(int threads, int64_t elements)
      : elements_(elements), team_(threads) {}

  ThreadTeam& team() { return team_; }
  // How many elements the largest operand of a problem may have.
  int64_t elements() const { return elements_; }

  // Bytes read and written a second by copies of as much as the largest
  // operand of float32.
  double CopyRate() {
    if (copy_rate_ == 0) {
      copy_rate_ = Best([this] {
        return tf_dwgrad_copy_bandwidth(
            2 * elements_ * SizeOf(ElementType::kFloat32), team_.size(),
            kSeconds);
      });
    }
    return copy_rate_;
  }

  // Operations a second, in the type that accumulates `type`.
  double MultiplyAddRate(ElementType type) {
    const bool is_double = type == ElementType::kFloat64;
    double& rate = multiply_add_rate_[is_double];
    if (rate == 0) {
      rate = Best([&] {
        return tf_dwgrad_multiply_add_peak(is_double ? 8 : 4, team_.size(),
                                           kSeconds);
      });
    }
    return rate;
  }

 private:
  // Other programs interfere; the best try is the one they left alone.
  static constexpr int kTries = 5;
  static constexpr double kSeconds = 0.05;

  static double Best(const std::function<double()>& measure) {
    double best = 0;
    for (int i = 0; i < kTries; ++i) best = std::max(best, measure());
    return best;
  }

  const int64_t elements_;
  ThreadTeam team_;
  double copy_rate_ = 0;
  double multiply_add_rate_[2] = {};
};

// Times `run` and shows the bytes and operations of each run as rates, of the
// median: unlike the time shown beside them they know no outliers.
void Time(benchmark::State& state, double bytes, double operations,
          Machine& machine, ElementType type,
          const std::function<void()>& run) {
  run();  // code and data in place
  std::vector<double> seconds;
  for (auto _ : state) {
    const double before = Seconds();
    run();
    seconds.push_back(Seconds() - before);
  }
  const double rate = 1 / Median(&seconds);
  state.counters["GB/s"] = bytes * rate / 1e9;
  state.counters["GFLOP/s"] = operations * rate / 1e9;
  state.counters["%copy"] = 100 * bytes * rate / machine.CopyRate();
  state.counters["%flop"] =
      100 * operations * rate / machine.MultiplyAddRate(type);
}

// As lines of their own, so that a filter can ask for the machine alone.
void RegisterMachine(Machine& machine) {
  const auto add = [](const std::string& name, const char* unit,
                      const std::function<double()>& rate) {
    benchmark::RegisterBenchmark(name.c_str(), [unit,
                                                rate](benchmark::State& state) {
      const double measured = rate();
      for (auto _ : state) {
      }
      state.counters[unit] = measured / 1e9;
    })->Iterations(1);
  };
  add("machine/copy", "GB/s", [&machine] { return machine.CopyRate(); });
  for (const Type& type : {kTypes[0], kTypes[3]}) {
    add(std::string("machine/multiply_add/") + type.name, "GFLOP/s",
        [&machine, type] { return machine.MultiplyAddRate(type.type); });
  }
}

// --- The kernels -----------------------------------------------------------

// (position, tap) pairs inside the image.
double Pairs(const AxisGeometry& axis) {
  int64_t pairs = 0;
  for (int64_t i = 0; i < axis.out; ++i) {
    for (int64_t tap = 0; tap < axis.filter; ++tap) {
      const int64_t at =
          i * axis.stride - axis.pad_before + tap * axis.dilation;
      pairs += at >= 0 && at < axis.in;
    }
  }
  return static_cast<double>(pairs);
}

int64_t Elements(const Shape4& shape) {
  return shape[0] * shape[1] * shape[2] * shape[3];
}

void RunKernel(benchmark::State& state, Machine& machine, const Layer& layer,
               ConvOp op, ElementType type, DataFormat format) {
  const bool nhwc = format == DataFormat::kNHWC;
  ConvAttributes attributes;
  attributes.data_format = format;
  attributes.padding = Padding::kSame;
  attributes.rows.stride = attributes.cols.stride = layer.stride;
  attributes.rows.dilation = attributes.cols.dilation = layer.dilation;
  // As many images as the limit allows, but one at least.
  const int64_t image =
      layer.rows * layer.cols * layer.channels *
      std::max<int64_t>(1, layer.multiplier / (layer.stride * layer.stride));
  const int64_t batch = std::max<int64_t>(1, machine.elements() / image);
  ConvShapes shapes;
  shapes.input = nhwc ? Shape4{batch, layer.rows, layer.cols, layer.channels}
                      : Shape4{batch, layer.channels, layer.rows, layer.cols};
  shapes.filter = {layer.filter_rows, layer.filter_cols, layer.channels,
                   layer.multiplier};
  ConvGeometry geometry;
  std::string error = CompleteShapes(ConvOp::kForward, attributes, &shapes);
  if (error.empty()) error = MakeGeometry(op, attributes, &shapes, &geometry);
  if (!error.empty()) {
    state.SkipWithError(error.c_str());
    return;
  }

  const Buffer input(Elements(shapes.input), type);
  const Buffer filter(Elements(shapes.filter), type);
  const Buffer output(Elements(shapes.output), type);
  const Buffer* first = &input;
  const Buffer* second = &output;
  const Buffer* result = &filter;
  if (op == ConvOp::kForward) {
    second = &filter;
    result = &output;
  } else if (op == ConvOp::kBackpropInput) {
    first = &filter;
    result = &input;
  }
  const double bytes =
      static_cast<double>((Elements(shapes.input) + Elements(shapes.filter) +
                           Elements(shapes.output)) *
                          SizeOf(type));
  const double operations = 2 * Pairs(geometry.rows) * Pairs(geometry.cols) *
                            static_cast<double>(batch * geometry.out_depth());

  const CpuKernel kernel(op, type, geometry);
  std::vector<unsigned char> workspace(kernel.workspace_bytes());
  state.SetLabel("batch " + std::to_string(batch));
  Time(state, bytes, operations, machine, type, [&] {
    kernel.RunAll(first->data(), second->data(), result->data(),
                  workspace.data(),
                  [&](int64_t units, double, const auto& do_units) {
                    machine.team().Run(units, do_units);
                  });
  });
}

void RegisterKernels(Machine& machine) {
  for (const Operation& operation : kOperations) {
    for (const Layer& layer : kLayers) {
      for (const Type& type : kTypes) {
        for (const DataFormat format : {DataFormat::kNHWC, DataFormat::kNCHW}) {
          const std::string name =
              std::string(operation.name) + "/" + layer.name + "/" + type.name +
              (format == DataFormat::kNHWC ? "/NHWC" : "/NCHW");
          benchmark::RegisterBenchmark(
              name.c_str(),
              [&machine, &layer, op = operation.op, type = type.type,
               format](benchmark::State& state) {
                RunKernel(state, machine, layer, op, type, format);
              })
              ->UseRealTime()
              ->Unit(benchmark::kMillisecond);
        }
      }
    }
  }
}

// Takes `name`=N, if it is there, from the arguments.
int64_t TakeFlag(const char* name, int64_t value, int* argc, char** argv) {
  const size_t length = std::strlen(name);
  int kept = 0;
  for (int i = 0; i < *argc; ++i) {
    if (std::strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') {
      value = std::atoll(argv[i] + length + 1);
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  return value;
}

int Main(int argc, char** argv) {
  const int64_t threads = TakeFlag("--threads", 1, &argc, argv);
  // 24 MB of float32: operand and result do not stay in most caches.
  const int64_t elements =
      TakeFlag("--elements", int64_t{6} << 20, &argc, argv);
  if (threads < 1 || elements < 1) {
    std::cerr << "--threads and --elements must be positive\n";
    return 2;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    std::cerr
        << "beside Google Benchmark's flags there are --threads=N (1) and "
           "--elements=N, the size of the largest operand\n";
    return 2;
  }
  const KernelChoice& choice = ChosenKernels();
  std::cerr << choice.kernels->isa << ": " << choice.reason << "; " << threads
            << (threads == 1 ? " thread\n" : " threads\n");
  Machine machine(static_cast<int>(threads), elements);
  RegisterMachine(machine);
  RegisterKernels(machine);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace tf_dwgrad

int main(int argc, char** argv) { return tf_dwgrad::Main(argc, argv); }
