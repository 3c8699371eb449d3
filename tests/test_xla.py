"""The ops under XLA: the same bits as without it, wherever XLA may meet them.

That the ops without XLA are right is what the other tests show.
"""

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_dwgrad
from isolation import TESTS, IsolatedProcess, limit_memory, run_python
from numerics import (
    OPS,
    assert_same,
    assert_within,
    integer_operands,
    normal_operands,
    ops_of,
    reference_ops,
    rounding_bounds,
    run_ops,
    tensors,
)
from reference import DTYPES, Case, random_case
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.framework import kernels
from tf_dwgrad._library import xla_failure, xla_library_path

TARGET = "tf_dwgrad_depthwise_conv2d"

pytestmark = pytest.mark.skipif(
    xla_failure() is not None, reason=f"no XLA: {xla_failure()}"
)


def hlo(function, *arguments):
    """What XLA makes of a compiled function, before it optimises."""
    return function.experimental_get_compiler_ir(*arguments)(stage="hlo")


def integers(shape, seed=0, dtype=np.float32):
    return tf.constant(np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype))


def assert_same_bits(got, want, context):
    for name in OPS:
        same = got[name].tobytes() == want[name].tobytes()
        assert same, f"{name} of {context}"
        assert np.any(want[name]), f"{name} of {context} is zero"


# --- Every attribute --------------------------------------------------------------

SAMPLES = [
    Case(2, (14, 15), 16, 1, (3, 3)),
    Case(2, (14, 15), 24, 1, (3, 3), (2, 2)),
    Case(1, (15, 13), 5, 3, (5, 4), (2, 3), (2, 1)),
    Case(2, (12, 16), 17, 1, (3, 5), (1, 2), (2, 3), "VALID"),
    Case(1, (9, 11), 4, 2, (4, 3), (3, 1), (1, 2), "EXPLICIT", ((2, 0), (1, 3))),
    Case(1, (16, 15), 3, 1, (13, 11)),
    Case(2, (2, 3), 40, 1, (7, 7)),
    Case(1, (1, 1), 1, 1, (1, 1)),
    # Large enough for threads.
    Case(2, (56, 56), 48, 1, (3, 3)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", SAMPLES, ids=str)
def test_equals_the_op_without_xla(case, data_format, dtype):
    case = dataclasses.replace(case, data_format=data_format, dtype=dtype)
    operands = normal_operands(case, np.random.default_rng(1))
    assert_same_bits(run_ops(case, *operands, jit=True), run_ops(case, *operands), case)


@pytest.mark.parametrize("seed", range(60))
def test_random_case(seed):
    case = random_case(np.random.default_rng(seed))
    operands = normal_operands(case, np.random.default_rng(seed))
    want, got = run_ops(case, *operands), run_ops(case, *operands, jit=True)
    for name in OPS:
        assert got[name].tobytes() == want[name].tobytes(), f"{name} of {case}"


def test_each_op_is_one_call_of_the_kernels():
    case = SAMPLES[2]
    operands = tensors(case, *normal_operands(case, np.random.default_rng(0)))
    compiled = tf.function(ops_of(case), jit_compile=True)
    text = hlo(compiled, *operands)
    assert text.count(f'custom_call_target="{TARGET}"') == 3
    assert "convolution" not in text


def test_subnormal_results():
    # Both flush them to zero, or neither does.
    case = Case(2, (32, 32), 32, 1, (1, 1))
    x, w, dy = normal_operands(case, np.random.default_rng(0))
    operands = (x * np.float32(2.0**-127), w, dy)
    got, want = run_ops(case, *operands, jit=True), run_ops(case, *operands)
    assert got["forward"].tobytes() == want["forward"].tobytes()


# A program that was compiled by another version of the library and kept.
KEPT_MODULE = """
module {{
  func.func public @main(%x: tensor<1x4x4x2xf32>, %w: tensor<3x3x2x1xf32>)
      -> tensor<{elements}xf32> {{
    %y, %workspace = "stablehlo.custom_call"(%x, %w) {{
        call_target_name = "tf_dwgrad_depthwise_conv2d",
        api_version = 4 : i32,
        backend_config = {{problem = array<i64: {problem}>}}
      }} : (tensor<1x4x4x2xf32>, tensor<3x3x2x1xf32>)
        -> (tensor<{elements}xf32>, tensor<0xui8>)
    return %y : tensor<{elements}xf32>
  }}
}}
"""
PROBLEM = "0, 0, 1, 2, 1, 4, 4, 3, 1, 1, 1, 4, 4, 3, 1, 1, 1"


def call_kept(problem, elements, x, w):
    call = tf.function(
        lambda x, w: gen_xla_ops.xla_call_module(
            args=[x, w],
            version=9,
            module=KEPT_MODULE.format(problem=problem, elements=elements),
            Sout=[[elements]],
            Tout=[tf.float32],
            platforms=["CPU"],
        ),
        jit_compile=True,
    )
    return call(x, w)[0]


def test_a_kept_program_is_checked_before_it_runs():
    x, w = integers((1, 4, 4, 2)), integers((3, 3, 2, 1), 1)
    want = tf_dwgrad.depthwise_conv2d(x, w, strides=[1] * 4, padding="SAME")
    got = call_kept(PROBLEM, 32, x, w)
    np.testing.assert_array_equal(got, tf.reshape(want, [-1]))
    for problem, elements in (
        (PROBLEM + ", 1", 32),
        (PROBLEM.replace("0, 0, 1, 2", "0, 0, 8, 2"), 32),
        (PROBLEM.replace("2, 1, 4, 4", "2, 1, 9, 4"), 32),
        (PROBLEM, 31),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"a call of {TARGET}"):
            call_kept(problem, elements, x, w)


# --- What a GPU gets: convolutions of XLA's own ------------------------------------


@pytest.fixture
def convolutions(monkeypatch):
    monkeypatch.setenv("TF_DWGRAD_XLA_LOWERING", "convolution")


def check_convolution(case, seed=0):
    operands = integer_operands(case, np.random.default_rng(seed))
    got, want = run_ops(case, *operands, jit=True), run_ops(case, *operands)
    for name in OPS:
        assert_same(got[name], want[name], f"{name} of {case}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", SAMPLES, ids=str)
def test_convolution_is_exact_on_integers(convolutions, case, data_format, dtype):
    check_convolution(dataclasses.replace(case, data_format=data_format, dtype=dtype))


@pytest.mark.parametrize("seed", range(60))
def test_convolution_of_random_case(convolutions, seed):
    check_convolution(random_case(np.random.default_rng(seed)), seed)


def test_convolution_within_rounding(convolutions):
    for dtype in DTYPES:
        case = dataclasses.replace(SAMPLES[2], dtype=dtype)
        operands = normal_operands(case, np.random.default_rng(0))
        precision = np.longdouble if dtype == "float64" else np.float64
        want = reference_ops(case, *operands, precision)
        bounds = rounding_bounds(case, *operands, want)
        for name, got in run_ops(case, *operands, jit=True).items():
            assert_within(got.astype(precision), want[name], bounds[name], name)


def test_convolution_of_nothing(convolutions):
    for changes in ({"batch": 0}, {"multiplier": 0}, {"kernel": (0, 3)}):
        case = dataclasses.replace(SAMPLES[0], **changes)
        shapes = (case.input_shape, case.filter_shape, case.output_shape)
        operands = [np.ones(shape, np.float32) for shape in shapes]
        for name, got in run_ops(case, *operands, jit=True).items():
            assert not np.any(got), f"{name} of {case}"


def test_convolutions_are_what_is_compiled(convolutions):
    case = SAMPLES[2]
    operands = tensors(case, *normal_operands(case, np.random.default_rng(0)))
    text = hlo(tf.function(ops_of(case), jit_compile=True), *operands)
    assert TARGET not in text
    assert text.count(" convolution(") == 3


def test_gpus_get_convolutions():
    """No GPU is needed to see that XLA would find the ops there."""
    for name in ("", "BackpropInput", "BackpropFilter"):
        registered = kernels.get_registered_kernels_for_op(
            f"DwgradDepthwiseConv2d{name}"
        )
        devices = {kernel.device_type for kernel in registered.kernel}
        assert {"CPU", "XLA_CPU_JIT", "XLA_GPU_JIT"} <= devices


# --- Sizes and control flow -------------------------------------------------------

CASE = Case(2, (9, 8), 4, 3, (3, 2), (2, 1), (1, 3))


def input_gradient(sizes, w, dy):
    return tf_dwgrad.depthwise_conv2d_backprop_input(sizes, w, dy, **CASE.attrs)


def filter_gradient(x, sizes, dy):
    return tf_dwgrad.depthwise_conv2d_backprop_filter(x, sizes, dy, **CASE.attrs)


def forward(x, w):
    return tf_dwgrad.depthwise_conv2d(x, w, **CASE.forward_attrs)


SIZES = {
    "literal": lambda tensor, sizes: list(tensor.shape),
    "tf.shape": lambda tensor, sizes: tf.shape(tensor),
    "stacked": lambda tensor, sizes: tf.stack(
        [tf.shape(tensor)[0], *tensor.shape[1:3], sizes[3]]
    ),
    "argument": lambda tensor, sizes: sizes,
}


@pytest.mark.parametrize("spelling", SIZES)
def test_sizes(spelling):
    x, w = integers(CASE.input_shape), integers(CASE.filter_shape, 1)
    dy = integers(CASE.output_shape, 2)
    sizes = SIZES[spelling]

    @tf.function(jit_compile=True)
    def gradients(x, w, dy, x_sizes, w_sizes):
        return (
            input_gradient(sizes(x, x_sizes), w, dy),
            filter_gradient(x, sizes(w, w_sizes), dy),
        )

    dx, dw = gradients(x, w, dy, tf.shape(x), tf.shape(w))
    np.testing.assert_array_equal(dx, input_gradient(x.shape, w, dy))
    np.testing.assert_array_equal(dw, filter_gradient(x, w.shape, dy))


def test_sizes_that_change_from_call_to_call():
    # EXPLICIT padding: several inputs have outputs of this size.
    w, dy = integers((2, 2, 3, 1)), integers((1, 4, 4, 3), 1)

    def gradient(sizes, w, dy):
        return tf_dwgrad.depthwise_conv2d_backprop_input(
            sizes, w, dy, strides=[1, 2, 2, 1], padding="VALID"
        )

    compiled = tf.function(gradient, jit_compile=True)
    for rows, cols in [(8, 8), (9, 8), (8, 9), (9, 9), (8, 8)]:
        sizes = tf.constant([1, rows, cols, 3])
        np.testing.assert_array_equal(
            compiled(sizes, w, dy), gradient(sizes, w, dy), str(sizes)
        )


def test_dynamic_batch():
    x_spec = tf.TensorSpec([None, None, None, 4])
    w_spec = tf.TensorSpec(CASE.filter_shape)

    def value_and_gradients(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = forward(x, w)
            loss = tf.reduce_sum(y * y)
        return y, *tape.gradient(loss, [x, w])

    compiled = tf.function(
        value_and_gradients, jit_compile=True, input_signature=[x_spec, w_spec]
    )
    w = integers(CASE.filter_shape)
    for seed, shape in enumerate([(1, 9, 8), (3, 9, 8), (8, 5, 11), (3, 9, 8)]):
        x = integers((*shape, 4), seed)
        for got, want in zip(compiled(x, w), value_and_gradients(x, w), strict=True):
            np.testing.assert_array_equal(got, want)
    assert compiled.experimental_get_tracing_count() == 1


def test_while_loop():
    x, w = integers(CASE.input_shape), integers(CASE.filter_shape, 1)

    def summed(x, w, steps):
        dy = forward(x, w)
        _, dx, dw = tf.while_loop(
            lambda i, *_: i < steps,
            lambda i, dx, dw: (
                i + 1,
                dx + input_gradient(tf.shape(dx), w, dy * tf.cast(i, tf.float32)),
                dw + filter_gradient(x, tf.shape(dw), dy - tf.cast(i, tf.float32)),
            ),
            [tf.constant(0), tf.zeros_like(x), tf.zeros_like(w)],
        )
        return dx, dw

    got = tf.function(summed, jit_compile=True)(x, w, tf.constant(4))
    for one, other in zip(got, summed(x, w, tf.constant(4)), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.any(one)


def test_gradient_through_a_while_loop():
    case = Case(1, (6, 5), 2, 1, (3, 2))
    w = tf.sign(integers(case.filter_shape, 1))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, y = tf.while_loop(
                lambda i, y: i < 3,
                lambda i, y: (
                    i + 1,
                    tf_dwgrad.depthwise_conv2d(y, w, **case.forward_attrs),
                ),
                [tf.constant(0), x],
                maximum_iterations=3,
            )
        return tape.gradient(y, x)

    x = integers(case.input_shape)
    np.testing.assert_array_equal(
        tf.function(gradient, jit_compile=True)(x), tf.function(gradient)(x)
    )


@pytest.mark.parametrize("branch", [True, False])
def test_cond(branch):
    x, w = integers(CASE.input_shape), integers(CASE.filter_shape, 1)
    dy = integers(CASE.output_shape, 2)

    @tf.function(jit_compile=True)
    def chosen(x, w, dy, branch):
        return tf.cond(
            branch,
            lambda: input_gradient(tf.shape(x), w, dy),
            lambda: (
                tf.zeros_like(x) + tf.reduce_sum(filter_gradient(x, tf.shape(w), dy))
            ),
        )

    want = (
        input_gradient(x.shape, w, dy)
        if branch
        else tf.fill(x.shape, tf.reduce_sum(filter_gradient(x, w.shape, dy)))
    )
    np.testing.assert_array_equal(chosen(x, w, dy, tf.constant(branch)), want)


def test_a_compiled_function_within_others():
    x, w = integers(CASE.input_shape), integers(CASE.filter_shape, 1)
    compiled = tf.function(forward, jit_compile=True)
    mapped = tf.function(lambda xs: tf.map_fn(lambda x: compiled(x, w), xs))
    np.testing.assert_array_equal(
        mapped(tf.stack([x, 2 * x])), tf.stack([forward(x, w), forward(2 * x, w)])
    )


def test_shapes_that_only_the_run_knows_are_refused():
    @tf.function(jit_compile=True)
    def of_positive(x, w):
        return forward(tf.boolean_mask(x, tf.reduce_sum(x, [1, 2, 3]) > 0), w)

    with pytest.raises(tf.errors.UnimplementedError, match=r"input must have a shape"):
        of_positive(tf.ones(CASE.input_shape), tf.ones(CASE.filter_shape))


def attempt_too_large(size):
    """The outcome of a call for size * size elements, from operands of few bytes."""
    limit_memory(8192)
    one = tf.ones([1, 1, 1, 1])
    gradient = tf.function(
        lambda w, dy: tf_dwgrad.depthwise_conv2d_backprop_input(
            [1, size, size, 1], w, dy, strides=[1, size, size, 1], padding="SAME"
        ),
        jit_compile=True,
    )
    try:
        return "success", str(gradient(one, one).shape)
    except Exception as error:
        return type(error).__name__, str(error)


# The bytes of the second cannot be counted in 63 bits.
@pytest.mark.parametrize("size", [2**20, 2**31 - 1])
def test_result_too_large_to_allocate(size):
    process = IsolatedProcess()
    kind, message = process.call_or_fail(attempt_too_large, size)
    process.close()
    assert kind == "ResourceExhaustedError", message


# --- Derivatives ------------------------------------------------------------------

SMALL_CASES = [
    Case(1, (3, 4), 2, 1, (2, 2), dtype="float64"),
    Case(1, (5, 4), 1, 2, (2, 2), (2, 1), (1, 2), data_format="NCHW", dtype="float64"),
    Case(1, (5, 6), 2, 1, (2, 2), (1, 2), (2, 3), "VALID", dtype="float64"),
]


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_first_order_against_differences(name, case):
    operands = tensors(
        case,
        *(
            np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)
            for seed, shape in enumerate(
                (case.input_shape, case.filter_shape, case.output_shape)
            )
        ),
    )
    index = OPS.index(name)
    compiled = tf.function(lambda *args: ops_of(case)(*args)[index], jit_compile=True)
    # Linear in each operand: central differences of integers are exact.
    got, want = tf.test.compute_gradient(compiled, operands, delta=0.5)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(one) for one in got)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_second_order(data_format):
    case = dataclasses.replace(CASE, data_format=data_format)
    x, w, dy = tensors(
        case,
        integers(case.input_shape).numpy(),
        integers(case.filter_shape, 1).numpy(),
        integers(case.output_shape, 2).numpy(),
    )

    def second_order(x, w):
        with tf.GradientTape() as outer:
            outer.watch([x, w])
            with tf.GradientTape() as inner:
                inner.watch([x, w])
                y = tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs)
                loss = tf.reduce_sum(y * y * dy)
            dx, dw = inner.gradient(loss, [x, w])
            norm = tf.reduce_sum(dx) + tf.reduce_sum(dw)
        return outer.gradient(norm, [x, w])

    compiled = tf.function(second_order, jit_compile=True)
    for one, other in zip(compiled(x, w), second_order(x, w), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.any(one)


# --- Threads ----------------------------------------------------------------------


def hashes(threads, *mode):
    completed = run_python(TESTS / "hash_results.py", threads, 1, *mode)
    report = json.loads(completed.stdout.splitlines()[-1])
    assert report["threads"] == threads
    return report["hashes"]


def test_threads_do_not_change_the_result():
    want = hashes(1)
    for threads in (1, 2, 4):
        assert hashes(threads, "jit") == want, f"{threads} threads"


# Many at once, from threads of Python, on few threads of TensorFlow, whose pools they
# share with other work. Compiled functions also run beside each other in one graph.
STRESS = """
import sys, threading
import numpy as np
import tensorflow as tf
intra, inter = int(sys.argv[1]), int(sys.argv[2])
tf.config.threading.set_intra_op_parallelism_threads(intra)
tf.config.threading.set_inter_op_parallelism_threads(inter)
import tf_dwgrad

def step(x, w):
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = tf_dwgrad.depthwise_conv2d(x, w, strides=[1, 1, 1, 1], padding="SAME")
        loss = tf.reduce_sum(y * y)
    return y, *tape.gradient(loss, [x, w])

compiled = tf.function(step, jit_compile=True)

@tf.function
def side_by_side(x, w):
    matrix = tf.reshape(x, [256, -1])
    busy = [tf.linalg.matmul(matrix + i, matrix, transpose_b=True) for i in range(8)]
    return [compiled(x, w + i) for i in range(4)], tf.add_n(busy)

rng = np.random.default_rng(0)
x = tf.constant(rng.standard_normal([2, 64, 64, 32]).astype(np.float32))
w = tf.constant(rng.standard_normal([5, 5, 32, 1]).astype(np.float32))
want = [[r.numpy() for r in compiled(x, w + i)] for i in range(4)]
wrong = []

def work(number):
    for _ in range(15):
        if number % 2:
            got, _ = side_by_side(x, w)
        else:
            got = [compiled(x, w + i) for i in range(4)]
        for one, other in zip(got, want):
            for a, b in zip(one, other):
                if not np.array_equal(a, b):
                    wrong.append(number)

threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("wrong", wrong)
"""


@pytest.mark.parametrize(("intra", "inter"), [(1, 1), (2, 1), (2, 2), (5, 3)])
def test_many_at_once(intra, inter):
    # run_python gives up after five minutes: a deadlock is a failure.
    completed = run_python("-c", STRESS, intra, inter)
    assert completed.stdout.strip() == "wrong []"


def test_compiling_in_several_threads():
    cases = SAMPLES[:8]
    operands = [normal_operands(c, np.random.default_rng(3)) for c in cases]
    got = [None] * len(cases)

    def compute(i):
        got[i] = run_ops(cases[i], *operands[i], jit=True)

    threads = [threading.Thread(target=compute, args=(i,)) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for case, arrays, result in zip(cases, operands, got, strict=True):
        assert_same_bits(result, run_ops(case, *arrays), case)


# --- Loading ----------------------------------------------------------------------

LOADING = """
import sys
import numpy as np
import tensorflow as tf
order, ops_path, xla_path = sys.argv[1:]

def use_xla():
    assert tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(3))[0] == 2

def gradient(ops):
    return lambda sizes, w, dy: ops.dwgrad_depthwise_conv2d_backprop_input(
        sizes, w, dy, strides=[1, 2, 1, 1], padding="SAME", dilations=[1, 1, 2, 1])

w = tf.reshape(tf.range(18.0), [3, 3, 2, 1])
dy = tf.reshape(tf.range(80.0), [1, 4, 10, 2])
sizes = tf.constant([1, 7, 10, 2])
if order == "late":
    use_xla()
ops = tf.load_op_library(ops_path)
want = gradient(ops)(sizes, w, dy)
if order == "late":
    use_xla()
    try:
        tf.function(gradient(ops), jit_compile=True)(sizes, w, dy)
        print("compiled too early")
    except tf.errors.InvalidArgumentError as error:
        assert "DwgradDepthwiseConv2dBackpropInput" in str(error), error
tf.load_library(xla_path)
if order == "twice":
    tf.load_library(xla_path)
got = tf.function(gradient(ops), jit_compile=True)(sizes, w, dy)
print("equal" if np.array_equal(got, want) and np.any(got) else "different")
"""


@pytest.mark.parametrize("order", ["early", "late", "twice"])
def test_loading_without_the_package(order):
    completed = run_python(
        "-c", LOADING, order, tf_dwgrad.op_library_path(), xla_library_path()
    )
    assert completed.stdout.strip() == "equal"


IMPORT = """
import tensorflow as tf, tf_dwgrad, tf_dwgrad.keras
from tf_dwgrad import info
print(info.describe()["jit_compile on the CPU"])
layer = tf_dwgrad.keras.DepthwiseConv2D(3)
print(layer.supports_jit, layer(tf.ones([1, 5, 5, 2])).shape)
"""


@pytest.mark.parametrize("state", ["whole", "missing", "broken"])
def test_the_ops_do_not_depend_on_the_xla_library(state, tmp_path):
    ops = Path(tf_dwgrad.op_library_path())
    shutil.copy(ops, tmp_path / "_tf_dwgrad_ops.so")
    if state == "whole":
        shutil.copy(xla_library_path(), tmp_path)
    elif state == "broken":
        (tmp_path / "_tf_dwgrad_xla.so").write_bytes(b"garbage")
    path = str(tmp_path / "_tf_dwgrad_ops.so")
    completed = run_python("-c", IMPORT, environment={"TF_DWGRAD_OP_LIBRARY": path})
    told, layer = completed.stdout.strip().splitlines()
    assert layer == f"{state == 'whole'} (1, 3, 3, 2)"
    if state == "whole":
        assert told == "yes"
    elif state == "missing":
        assert told == f"no: there is no {tmp_path}/_tf_dwgrad_xla.so"
    else:
        assert told.startswith(f"no: {tmp_path}/_tf_dwgrad_xla.so cannot be opened")


# --- Clusters that XLA picks, Keras -----------------------------------------------

CLUSTER = """
import numpy as np
import tensorflow as tf, tf_dwgrad

def step(x, w):
    y = tf.nn.relu(tf_dwgrad.depthwise_conv2d(x, w, strides=[1] * 4, padding="SAME"))
    dy = tf.tanh(y) * 2.0 + y
    dx = tf_dwgrad.depthwise_conv2d_backprop_input(
        tf.shape(x), w, dy, strides=[1] * 4, padding="SAME")
    return tf.reduce_sum(dx * x) + tf.reduce_sum(dx + 1.0)

x, w = tf.random.normal([2, 9, 9, 4]), tf.random.normal([3, 3, 4, 1])
compiled = tf.function(step)
for _ in range(3):
    np.testing.assert_allclose(compiled(x, w), step(x, w), rtol=1e-4)
"""


def test_autoclustering(tmp_path):
    run_python(
        "-c",
        CLUSTER,
        environment={
            "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit "
            "--tf_xla_min_cluster_size=1",
            "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
        },
    )
    texts = [path.read_text() for path in tmp_path.glob("*before_optimizations.txt")]
    clusters = [text for text in texts if "cluster" in text and TARGET in text]
    # The call is not alone in its cluster.
    assert any("tanh" in text for text in clusters)


def build_model(layers, dtype):
    return keras.Sequential(
        [
            keras.Input([12, 12, 3]),
            layers.SeparableConv2D(6, 3, strides=2, padding="same", dtype=dtype),
            keras.layers.ReLU(dtype=dtype),
            layers.DepthwiseConv2D(
                3, dilation_rate=2, depth_multiplier=2, padding="same", dtype=dtype
            ),
            keras.layers.GlobalAveragePooling2D(dtype=dtype),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )


def test_keras_fit():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 12, 12, 3)), rng.standard_normal((10, 2))
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        model = build_model(tf_dwgrad.keras, "float64")
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        # The last batch is smaller.
        history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, shuffle=False)
        losses.append(history.history["loss"])
        assert model.jit_compile is jit
    assert losses[1][-1] < losses[1][0]
    # Nine steps in float64, of which XLA rounds some sums in another order.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_keras_fit_in_mixed_precision(policy):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 12, 12, 3)).astype(np.float32)
    y = rng.standard_normal((8, 2)).astype(np.float32)
    keras.utils.set_random_seed(1)
    model = build_model(tf_dwgrad.keras, policy)
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=True)
    losses = model.fit(x, y, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_keras_may_choose_to_compile_the_layers():
    for layer in (
        tf_dwgrad.keras.DepthwiseConv2D(3),
        tf_dwgrad.keras.SeparableConv2D(2, 3),
    ):
        assert layer.supports_jit


def test_saved_model_of_a_compiled_function(tmp_path):
    module = tf.Module()
    module.step = tf.function(
        forward,
        jit_compile=True,
        input_signature=[
            tf.TensorSpec([None, 9, 8, 4]),
            tf.TensorSpec(CASE.filter_shape),
        ],
    )
    tf.saved_model.save(module, str(tmp_path))
    x, w = integers(CASE.input_shape), integers(CASE.filter_shape, 1)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.step(x, w), forward(x, w))
    assert TARGET in hlo(loaded.step, x, w)


def test_two_ops_that_are_the_same_are_computed_once():
    # XLA may merge the calls only because they have no side effect.
    x, w = integers(CASE.input_shape), integers(CASE.filter_shape, 1)
    compiled = tf.function(lambda x, w: forward(x, w) + forward(x, w), jit_compile=True)
    optimised = compiled.experimental_get_compiler_ir(x, w)(stage="optimized_hlo")
    assert optimised.count(f'custom_call_target="{TARGET}"') == 1
