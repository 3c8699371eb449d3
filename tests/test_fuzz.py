"""Random malformed calls: each succeeds if it is legal and raises if it is not.

Every call starts from a good one, to which one to three random changes are made. The
calls run in a process of their own with little memory, each logged before it is made:
a crash fails the test with the call that caused it, which
``python tests/test_fuzz.py '<the call>'`` repeats.
"""

import ast
import os
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_dwgrad
from isolation import IsolatedProcess, limit_memory

OPERANDS = {
    "dwgrad_depthwise_conv2d": ("input", "filter"),
    "dwgrad_depthwise_conv2d_backprop_input": ("input_sizes", "filter", "out_backprop"),
    "dwgrad_depthwise_conv2d_backprop_filter": (
        "input",
        "filter_sizes",
        "out_backprop",
    ),
}
SIZES = ("input_sizes", "filter_sizes")
INT_MAX = 2**31 - 1
# Tensors that are really made have at most this many elements.
MAX_ELEMENTS = 2**20
ODD_INTS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, INT_MAX, 2**31, 2**40, 2**62]
TYPES = ["float16", "bfloat16", "float32", "float64", "int32", "bool", "complex64"]


def good_call(rng):
    """A legal call as plain data: the op, operands, and attributes.

    An operand is (shape, type) of a tensor of ones, or (sizes, type) of one that holds
    sizes.
    """
    while True:
        case = reference.random_case(rng)
        shapes = (case.input_shape, case.filter_shape, case.output_shape)
        if max(np.prod(shape) for shape in shapes) <= MAX_ELEMENTS:
            break

    order = [0, 1, 2, 3] if case.data_format == "NHWC" else [0, 3, 1, 2]
    x = [case.input_shape[i] for i in order]
    y = [case.output_shape[i] for i in order]
    op = str(rng.choice(list(OPERANDS)))
    values = {
        "input": (x, case.dtype),
        "input_sizes": (x, "int32"),
        "filter": (list(case.filter_shape), case.dtype),
        "filter_sizes": (list(case.filter_shape), "int32"),
        "out_backprop": (y, case.dtype),
    }
    return {
        "op": op,
        "operands": {name: values[name] for name in OPERANDS[op]},
        "attrs": case.raw_attrs,
    }


def change_list(rng, values, odd):
    """A copy with an element changed, added or removed."""
    values = list(values)
    kind = rng.integers(0, 8)
    if kind == 0 or not values:
        values.insert(int(rng.integers(0, len(values) + 1)), int(rng.choice(odd)))
    elif kind == 1:
        del values[rng.integers(0, len(values))]
    elif kind == 2:
        values[rng.integers(0, len(values))] += int(rng.choice([-2, -1, 1, 2]))
    elif kind == 3:
        rng.shuffle(values)
    else:
        values[rng.integers(0, len(values))] = int(rng.choice(odd))
    return [min(max(int(value), -(2**63)), 2**63 - 1) for value in values]


def change_operand(rng, name, operand):
    shape, dtype = operand
    if rng.integers(0, 12) == 0:
        return shape, str(rng.choice([*TYPES, "int64"]))
    if name in SIZES:
        if rng.integers(0, 12) == 0:
            # A scalar and a matrix instead of a vector.
            return [5, [shape]][rng.integers(0, 2)], dtype
        if isinstance(shape, int) or (shape and isinstance(shape[0], list)):
            return shape, dtype
        odd = [v for v in ODD_INTS if -(2**31) <= v <= INT_MAX]
        return change_list(rng, shape, [*odd, 1879048192, 2**20]), dtype
    for _ in range(10):
        changed = change_list(rng, shape, [0, 0, 1, 2, 3, 5, 64, INT_MAX, 2**40])
        if min(changed, default=0) >= 0 and representable(changed):
            return changed, dtype
    return shape, dtype


def representable(shape):
    """Whether TensorFlow can hold the shape, and this test affords it."""
    product = 1
    for size in shape:
        product *= size
        if product >= 2**63:
            return False
    return product <= MAX_ELEMENTS


def change_attribute(rng, attrs):
    name = str(rng.choice([*attrs, "strides", "dilations", "explicit_paddings"]))
    if name == "padding":
        value = str(rng.choice(["SAME", "VALID", "EXPLICIT", "same", "FULL", ""]))
    elif name == "data_format":
        value = str(rng.choice(["NHWC", "NCHW", "nhwc", "NCHW_VECT_C", ""]))
    elif name == "explicit_paddings" and rng.integers(0, 3) == 0:
        value = [0, 0, 1, 2, 2, 1, 0, 0]
    else:
        value = change_list(rng, attrs[name], ODD_INTS)
    return {**attrs, name: value}


def malformed_call(rng):
    call = good_call(rng)
    for _ in range(rng.integers(1, 4)):
        names = list(call["operands"])
        which = int(rng.integers(0, len(names) + 3))
        if which < len(names):
            name = names[which]
            changed = change_operand(rng, name, call["operands"][name])
            call["operands"][name] = changed
        else:
            call["attrs"] = change_attribute(rng, call["attrs"])
    return call


def output_size(padding, size, kernel, stride, dilation, pads):
    """The size of the output along an axis by section 1; negative if nothing fits."""
    if padding == "SAME":
        return -(-size // stride)
    effective = (kernel - 1) * dilation + 1 if kernel else 0
    if padding == "VALID":
        return -(-(size - effective + 1) // stride)
    return (size + sum(pads) - effective) // stride + 1


def judge(call):
    """What the specification says: the result's shape, "error", or "either"."""
    operands, attrs = call["operands"], call["attrs"]
    data_format, padding = attrs["data_format"], attrs["padding"]
    strides, dilations = attrs["strides"], attrs["dilations"]
    pads = attrs["explicit_paddings"]
    if data_format not in ("NHWC", "NCHW"):
        return "error"
    height, width, depth = (1, 2, 3) if data_format == "NHWC" else (2, 3, 1)
    for values in (strides, dilations):
        if len(values) != 4 or values[0] != 1 or values[depth] != 1:
            return "error"
        if not all(1 <= values[axis] <= INT_MAX for axis in (height, width)):
            return "error"
    if padding == "EXPLICIT":
        if len(pads) != 8 or not all(0 <= pad <= INT_MAX for pad in pads):
            return "error"
        if any(pads[2 * axis] or pads[2 * axis + 1] for axis in (0, depth)):
            return "error"
    elif padding not in ("SAME", "VALID") or pads:
        return "error"

    types = {dtype for name, (_, dtype) in operands.items() if name not in SIZES}
    if len(types) != 1 or not types <= set(reference.DTYPES):
        return "error"
    for name, (shape, dtype) in operands.items():
        if name in SIZES and dtype != "int32":
            return "error"
        if not isinstance(shape, list) or len(shape) != 4:
            return "error"
        if any(isinstance(size, list) or size < 0 for size in shape):
            return "error"
    values = {name.split("_sizes")[0]: shape for name, (shape, _) in operands.items()}
    x, w, y = values["input"], values["filter"], values.get("out_backprop")
    if x[depth] != w[2]:
        return "error"
    expected = [x[0]] * 4
    expected[depth] = w[2] * w[3]
    empty_axis = False
    for axis, k in ((height, w[0]), (width, w[1])):
        pair = (pads or [0] * 8)[2 * axis : 2 * axis + 2]
        size = output_size(padding, x[axis], k, strides[axis], dilations[axis], pair)
        expected[axis] = size
        empty_axis = empty_axis or x[axis] == 0 or k == 0
    if min(expected) < 0:
        # An empty input may count as one that any filter fits.
        return "either" if empty_axis else "error"
    if y is not None and y != expected:
        return "error"
    for shape in (x, w, expected):
        # Beyond what a tensor can be, and spatial sizes beyond 32 bits.
        if np.prod([max(1, size) for size in shape], dtype=object) >= 2**63:
            return "either"
        if max(shape) > INT_MAX:
            return "either"
    if call["op"].endswith("backprop_input"):
        return x
    return w if call["op"].endswith("backprop_filter") else expected


def make_operand(name, value):
    shape, dtype = value
    if name in SIZES:
        return tf.cast(tf.constant(shape, tf.int32), dtype)
    return tf.cast(tf.ones(shape), dtype)


def run_call(call):
    """Makes the call; returns what is wrong with its outcome, or ""."""
    verdict = judge(call)
    library = tf.load_op_library(tf_dwgrad.op_library_path())
    operands = {name: make_operand(name, v) for name, v in call["operands"].items()}
    try:
        result = getattr(library, call["op"])(**operands, **call["attrs"])
    except tf.errors.ResourceExhaustedError:
        # Only a legal call comes as far as the allocation.
        return "a malformed call was allocated for" if verdict == "error" else ""
    except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
        legal = isinstance(verdict, list)
        return f"a legal call was refused: {error}" if legal else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if verdict == "error":
        return f"a malformed call gave {result.shape}"
    if isinstance(verdict, list) and result.shape.as_list() != verdict:
        return f"the shape is {result.shape}, not {verdict}"
    types = {d for name, (_, d) in call["operands"].items() if name not in SIZES}
    return "" if {result.dtype.name} == types else f"the type is {result.dtype.name}"


def run_calls(seed, count, log):
    """Makes that many calls; returns the failures and how often each verdict fell."""
    rng = np.random.default_rng(seed)
    run_call(good_call(rng))
    # What a call may allocate beyond this must fail, so that nothing large is.
    limit_memory(1024)
    failures, verdicts = [], {"legal": 0, "error": 0, "either": 0}
    for _ in range(count):
        call = malformed_call(rng)
        with open(log, "w") as file:
            file.write(repr(call))
            file.flush()
            os.fsync(file.fileno())
        verdict = judge(call)
        verdicts["legal" if isinstance(verdict, list) else verdict] += 1
        start = time.monotonic()
        problem = run_call(call)
        if not problem and time.monotonic() - start > 20:
            problem = "took more than 20 seconds"
        if problem:
            failures.append((call, problem))
    return failures, verdicts


def fuzz(seed, count, log):
    # Without oneDNN TensorFlow's allocator refuses at once instead of after 10 s.
    process = IsolatedProcess(TF_ENABLE_ONEDNN_OPTS="0")
    try:
        failures, verdicts = process.call(run_calls, seed, count, log, timeout=1800)
    except BrokenProcessPool:
        pytest.fail(f"the process ended in the call {log.read_text()}")
    finally:
        process.close()
    assert not failures, "\n".join(f"{call}: {why}" for call, why in failures[:20])
    assert sum(verdicts.values()) == count
    # The changes must hit both sides of the rules.
    assert verdicts["error"] > count / 2
    assert verdicts["legal"] > count / 50


def test_malformed_calls(tmp_path):
    fuzz(1, 300, tmp_path / "last_call")


@pytest.mark.sweep
def test_many_malformed_calls(tmp_path):
    fuzz(2, 2000, tmp_path / "last_call")


def test_good_calls_are_judged_good():
    # The judge must not have strict rules of its own.
    rng = np.random.default_rng(3)
    for _ in range(200):
        assert isinstance(judge(good_call(rng)), list)


if __name__ == "__main__":
    repeated = ast.literal_eval(sys.argv[1])
    print("expected:", judge(repeated))
    print("problem:", run_call(repeated) or "none")
