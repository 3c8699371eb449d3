"""Parity with TensorFlow's own ops, wherever those are right.

TF_DWGRAD_OP_LIBRARY=<file> runs this against another build of the library; the
subprocesses inherit it.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_dwgrad
from builtin_ops import (
    builtin_op,
    differences,
    ignores_dilations,
    operands_with_bounds,
    to_nhwc,
)
from numerics import (
    OPS,
    assert_same,
    integer_operands,
    run_ops,
    shape_in_layout,
    tensors,
)
from reference import DTYPES, Case

PROGRAM = Path(__file__).with_name("builtin_ops.py")


@pytest.fixture(scope="module")
def reports():
    """The report of builtin_ops.py without and with oneDNN, which run side by side."""
    processes = {
        onednn: subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": str(int(onednn))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for onednn in (False, True)
    }
    reports = {}
    for onednn, process in processes.items():
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, f"builtin_ops.py failed:\n{errors[-4000:]}"
        reports[onednn] = json.loads(output.splitlines()[-1])
    return reports


@pytest.fixture(params=[False, True], ids=["eigen", "onednn"])
def report(request, reports):
    if request.param and not reports[True]["onednn"]:
        pytest.skip("this TensorFlow is built without oneDNN")
    return reports[request.param]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", OPS)
def test_builtin_agrees(report, name, mode):
    """Equal on integers, within both sides' rounding on reals, everywhere it works."""
    wrong = [line for line in report["errors"] if name in line]
    assert not wrong, "\n".join(wrong)
    for dtype in DTYPES:
        # 2 data sets x 3 paddings x 2 equal strides x 2 multipliers, at least.
        assert report["compared"][f"{dtype} {name} {mode}"] >= 24


def test_subprocesses_use_the_same_library(reports):
    for report in reports.values():
        assert report["library"] == tf_dwgrad.op_library_path()


def test_onednn_was_what_the_environment_says(reports):
    assert not reports[False]["onednn"]
    if reports[True]["onednn"]:
        counts = {onednn: reports[onednn]["compared"] for onednn in (False, True)}
        key = "float32 input_gradient eager"
        # NCHW and unequal strides come on top of what Eigen's kernels do.
        assert counts[True][key] > counts[False][key]


MENDED = (
    "TensorFlow's {name} now honours dilations ({where}). That is good news: this test "
    "and every claim in the documentation that it does not have to go, and dilated "
    "gradients belong into parity_cases() and builtin_claims() of builtin_ops.py."
)


def check_ignores_dilations(answer, where):
    for name, found in answer.items():
        assert not found["is right"], MENDED.format(name=name, where=where)
        assert found["is undilated"], f"{name} ({where}) is wrong in a new way: {found}"


def test_builtin_gradients_ignore_dilations(report):
    """Why this package exists: with SAME padding they are silently undilated."""
    check_ignores_dilations(report["dilated"], f"oneDNN: {report['onednn']}")


def test_documented_function_ignores_dilations():
    """The same through tf.nn, whose documentation promises dilation."""
    case = Case(1, (8, 8), 2, 1, (3, 3), dilations=(2, 2))
    _, w, dy = integer_operands(case, np.random.default_rng(0))
    arguments = case.input_shape, w, dy
    ours = tf_dwgrad.depthwise_conv2d_backprop_input(*arguments, **case.attrs)
    theirs = tf.nn.depthwise_conv2d_backprop_input(*arguments, **case.attrs)
    undilated = {**case.attrs, "dilations": [1, 1, 1, 1]}
    mended = MENDED.format(name="tf.nn.depthwise_conv2d_backprop_input", where="eager")
    assert (theirs.numpy() != ours.numpy()).any(), mended
    theirs_undilated = tf.nn.depthwise_conv2d_backprop_input(*arguments, **undilated)
    assert (theirs.numpy() == theirs_undilated.numpy()).all()
    # Without dilations the two functions are interchangeable.
    ours_undilated = tf_dwgrad.depthwise_conv2d_backprop_input(*arguments, **undilated)
    assert_same(ours_undilated.numpy(), theirs_undilated.numpy(), "undilated")


def xla_cases():
    """What only XLA's versions of the built-in ops do on the CPU: all of it."""
    rng = np.random.default_rng(3)
    combinations = itertools.product(
        ("NHWC", "NCHW"),
        ("SAME", "VALID", "EXPLICIT"),
        ((1, 1), (2, 2), (1, 2), (3, 2)),
        ((1, 1), (2, 2), (2, 3)),
    )
    dtypes = itertools.cycle(["float32", "float64", "float32", "bfloat16", "float16"])
    for data_format, padding, strides, dilations in combinations:
        yield Case(
            batch=2,
            size=tuple(int(n) for n in rng.integers(9, 13, 2)),
            channels=int(rng.choice([1, 3, 4, 8])),
            multiplier=int(rng.choice([1, 2])),
            kernel=tuple(int(k) for k in rng.integers(1, 4, 2)),
            strides=strides,
            dilations=dilations,
            padding=padding,
            pads=tuple(tuple(map(int, pair)) for pair in rng.integers(0, 4, (2, 2))),
            data_format=data_format,
            dtype=next(dtypes),
        )


@pytest.mark.parametrize("case", xla_cases(), ids=str)
def test_xla_agrees(case):
    """Dilations, unequal strides, NCHW and explicit padding, against jit_compile."""
    compiled = tf.function(
        lambda *operands: [builtin_op(name, case)(*operands) for name in OPS],
        jit_compile=True,
    )
    for (x, w, dy), bounds in operands_with_bounds(case):
        ours = run_ops(case, x, w, dy)
        for name, theirs in zip(OPS, compiled(*tensors(case, x, w, dy)), strict=True):
            theirs = to_nhwc(case, name, theirs)
            wrong = differences(case, name, ours[name], theirs, bounds[name])
            assert not wrong, wrong


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("dilations", [(2, 2), (1, 3), (4, 1)])
def test_public_function_agrees_on_dilations(dilations, padding):
    """tf.nn.depthwise_conv2d dilates by space_to_batch: right at stride 1."""
    case = Case(2, (11, 12), 5, 2, (3, 2), (1, 1), dilations, padding)
    operands = integer_operands(case, np.random.default_rng(0))
    ours = run_ops(case, *operands)
    x, w, dy = tensors(case, *operands)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], padding, dilations=dilations)
    dx, dw = tape.gradient(y, [x, w], dy)
    for name, theirs in zip(OPS, (y, dx, dw), strict=True):
        assert_same(ours[name], theirs.numpy(), f"{name} of {case}")


def test_differences_are_noticed():
    """The comparison itself can fail: one unit in the last place of one element."""
    case = Case(1, (4, 4), 3, 1, (3, 3))
    (operands, exact), (_, bounds) = operands_with_bounds(case)
    ours = run_ops(case, *operands)
    assert shape_in_layout(case) == list(case.input_shape)
    for name in OPS:
        assert not differences(case, name, ours[name], ours[name], exact[name])
        changed = ours[name].copy()
        changed[0, 1, 1, 0] = np.nextafter(changed[0, 1, 1, 0], np.float32(np.inf))
        assert differences(case, name, ours[name], changed, exact[name])
        assert not differences(case, name, ours[name], changed, bounds[name])
        changed[0, 1, 1, 0] += np.float32(1e-3)
        assert differences(case, name, ours[name], changed, bounds[name])
        changed[0, 1, 1, 0] = np.nan
        assert differences(case, name, ours[name], changed, bounds[name])
    assert ignores_dilations("NHWC")["input_gradient"]["is undilated"]
