"""TensorFlow's own depthwise ops, and what they can be compared on.

As a program, compares the package with them in this process, eagerly and in a
tf.function, and prints a JSON report. test_parity.py runs it once with oneDNN and once
without, which is decided when TensorFlow is imported.
"""

import dataclasses
import itertools
import json

import numpy as np
import tensorflow as tf
import tf_dwgrad
from numerics import (
    OPS,
    ROUNDOFF,
    integer_operands,
    most_terms,
    normal_operands,
    reference_ops,
    rounding_bounds,
    run_ops,
    shape_in_layout,
    tensors,
)
from reference import DTYPES, Case
from tensorflow.python.framework import test_util


def builtin_op(name, case):
    """TensorFlow's op as a function of the tensors (x, w, dy)."""
    attrs = case.raw_attrs
    if name == "forward":
        return lambda x, w, dy: tf.raw_ops.DepthwiseConv2dNative(
            input=x, filter=w, **attrs
        )
    if name == "input_gradient":
        return lambda x, w, dy: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=shape_in_layout(case), filter=w, out_backprop=dy, **attrs
        )
    return lambda x, w, dy: tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x, filter_sizes=list(case.filter_shape), out_backprop=dy, **attrs
    )


def to_nhwc(case, name, tensor):
    """A result as a NumPy array in the order of the reference."""
    array = tensor.numpy()
    return array if name == "filter_gradient" else case.from_layout(array)


def parity_cases():
    """Every combination that some built-in kernel gets right, with varying sizes.

    Dilated gradients are not among them: those the built-in gets wrong.
    """
    rng = np.random.default_rng(0)
    for dtype, data_format, padding, strides, multiplier in itertools.product(
        DTYPES,
        ("NHWC", "NCHW"),
        ("SAME", "VALID", "EXPLICIT"),
        ((1, 1), (2, 2), (1, 2), (3, 2)),
        (1, 3),
    ):
        yield Case(
            batch=int(rng.integers(1, 4)),
            size=tuple(int(n) for n in rng.integers(7, 13, 2)),
            channels=int(rng.choice([1, 3, 8, 17, 32])),
            multiplier=multiplier,
            kernel=tuple(int(k) for k in rng.choice([1, 2, 3, 3, 4, 5, 7], 2)),
            strides=strides,
            padding=padding,
            pads=tuple(tuple(map(int, pair)) for pair in rng.integers(0, 6, (2, 2))),
            data_format=data_format,
            dtype=dtype,
        )
    # Shapes of TensorFlow's tests and of real models.
    for dtype in ("float32", "float64", "bfloat16"):
        yield Case(4, (17, 17), 48, 4, (3, 1), dtype=dtype)
        yield Case(4, (31, 31), 7, 1, (3, 3), dtype=dtype)
        yield Case(2, (49, 49), 2, 8, (3, 3), (3, 3), padding="VALID", dtype=dtype)
        yield Case(1, (14, 14), 40, 1, (7, 7), dtype=dtype)
        yield Case(2, (28, 28), 24, 1, (5, 5), (2, 2), dtype=dtype)
        yield Case(1, (16, 16), 8, 1, (31, 31), dtype=dtype)
    # Only the forward op with oneDNN has dilations.
    for data_format, strides in itertools.product(("NHWC", "NCHW"), ((1, 1), (2, 1))):
        yield Case(2, (9, 10), 8, 2, (3, 2), strides, (2, 3), data_format=data_format)


def builtin_claims(case, name):
    """Whether the built-in op has to work on the case in this process.

    Eigen's kernels do NHWC with equal strides and no dilations. oneDNN's also do the
    rest, if the padding is not explicit; of the types, only float32 everywhere.
    """
    dilated = max(case.dilations) > 1
    equal = case.strides[0] == case.strides[1]
    if case.data_format == "NHWC" and equal and not dilated:
        return True
    onednn = test_util.IsMklEnabled() and case.padding != "EXPLICIT"
    return onednn and case.dtype == "float32" and (not dilated or name == "forward")


def differences(case, name, ours, theirs, bound):
    """What is wrong with `theirs`, compared with `ours`; '' if nothing is."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{name} of {case}: {theirs.shape} {theirs.dtype}, not {ours.shape}"
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    wrong = ~(abs(ours - theirs) <= bound)
    if not wrong.any():
        return ""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    bound = np.broadcast_to(bound, wrong.shape)[index]
    return (
        f"{name} of {case}: {np.count_nonzero(wrong)} of {wrong.size} elements differ, "
        f"the first at {index}: the package has {ours[index]}, TensorFlow "
        f"{theirs[index]}, more than {bound:.3g} apart"
    )


def operands_with_bounds(case):
    """Yields operands and how far apart, per op, rounding may bring the two results.

    Integers first, so few or small that even a kernel that adds up in the element type
    is exact: no difference at all. Then normal numbers, with the rounding bounds of
    both sides; TensorFlow's kernels may add up half and bfloat16 in their own type.
    """
    rng = np.random.default_rng(1)
    exact_up_to = 1 / ROUNDOFF[case.dtype]
    x, w, dy = integer_operands(case, rng)
    if case.dtype in ("float16", "bfloat16"):
        # Only -1 and 1, and so many zeros that a sum has half as many other terms.
        density = np.sqrt(exact_up_to / 2 / most_terms(case))
        x, w, dy = (
            (rng.choice([-1.0, 1.0], a.shape) * (rng.random(a.shape) < density)).astype(
                a.dtype
            )
            for a in (x, w, dy)
        )
    for sums in reference_ops(case, abs(x), abs(w), abs(dy)).values():
        assert sums.max() <= exact_up_to, f"sums of {case} are not exact"
    yield (x, w, dy), dict.fromkeys(OPS, 0.0)

    x, w, dy = normal_operands(case, np.random.default_rng(2))
    want = reference_ops(case, x, w, dy)
    ours = rounding_bounds(case, x, w, dy, want)
    theirs = rounding_bounds(case, x, w, dy, want, ROUNDOFF[case.dtype])
    yield (x, w, dy), {name: ours[name] + theirs[name] for name in OPS}


def compare(case, report):
    """Adds one case to the report."""
    supported = []
    for name in OPS:
        if max(case.dilations) > 1 and name != "forward":
            continue
        try:
            zeros = (case.input_shape, case.filter_shape, case.output_shape)
            zeros = (np.zeros(shape, DTYPES[case.dtype]) for shape in zeros)
            builtin_op(name, case)(*tensors(case, *zeros))
            supported.append(name)
        except (
            tf.errors.UnimplementedError,
            tf.errors.InvalidArgumentError,
            tf.errors.AbortedError,
        ) as error:
            if builtin_claims(case, name):
                report["errors"].append(f"{name} of {case}: {error}")
            else:
                report["unsupported"] += 1
    in_graph = tf.function(
        lambda *operands: [builtin_op(name, case)(*operands) for name in supported]
    )
    for (x, w, dy), bounds in operands_with_bounds(case):
        ours = run_ops(case, x, w, dy)
        operands = tensors(case, x, w, dy)
        eager = [builtin_op(name, case)(*operands) for name in supported]
        for mode, results in (("eager", eager), ("graph", in_graph(*operands))):
            for name, theirs in zip(supported, results, strict=True):
                theirs = to_nhwc(case, name, theirs)
                wrong = differences(case, name, ours[name], theirs, bounds[name])
                if wrong:
                    report["errors"].append(f"{mode}: {wrong}")
                key = f"{case.dtype} {name} {mode}"
                report["compared"][key] = report["compared"].get(key, 0) + 1


def ignores_dilations(data_format):
    """By op: whether the built-in gradient is the undilated one, or the right one."""
    case = Case(2, (9, 8), 4, 1, (3, 3), dilations=(2, 2), data_format=data_format)
    x, w, dy = integer_operands(case, np.random.default_rng(0))
    right = reference_ops(case, x, w, dy)
    undilated = reference_ops(dataclasses.replace(case, dilations=(1, 1)), x, w, dy)
    ours = run_ops(case, x, w, dy)
    answer = {}
    for name in ("input_gradient", "filter_gradient"):
        assert (ours[name] == right[name]).all()
        got = to_nhwc(case, name, builtin_op(name, case)(*tensors(case, x, w, dy)))
        answer[name] = {
            "is undilated": bool((got == undilated[name]).all()),
            "is right": bool((got == right[name]).all()),
        }
    return answer


def main():
    tf.get_logger().setLevel("ERROR")  # a function per case is meant
    report = {
        "onednn": bool(test_util.IsMklEnabled()),
        "library": tf_dwgrad.op_library_path(),
        "compared": {},
        "unsupported": 0,
        "errors": [],
    }
    for case in parity_cases():
        compare(case, report)
    report["dilated"] = ignores_dilations("NHWC")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
