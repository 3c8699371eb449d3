"""Section 4 of the specification: what is wrong is said, and nothing aborts.

Every bad call is made in a process of its own, so that an abort is one failed test and
not the end of the run; there in six ways: as raw op and as public function, eagerly,
in a graph with static shapes, and in a graph that knows no shapes, so that the kernel
has to notice, or, where XLA compiles the graph, the compiler.
"""

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_dwgrad
from isolation import IsolatedProcess, limit_memory
from tf_dwgrad._library import xla_failure

INT_MAX = 2**31 - 1
OPS = ("forward", "backprop_input", "backprop_filter")
OPERANDS = {
    "forward": ("input", "filter"),
    "backprop_input": ("input_sizes", "filter", "out_backprop"),
    "backprop_filter": ("input", "filter_sizes", "out_backprop"),
}
SIZES = ("input_sizes", "filter_sizes")
RAW_OPS = {
    "forward": "dwgrad_depthwise_conv2d",
    "backprop_input": "dwgrad_depthwise_conv2d_backprop_input",
    "backprop_filter": "dwgrad_depthwise_conv2d_backprop_filter",
}
PUBLIC = {
    "forward": tf_dwgrad.depthwise_conv2d,
    "backprop_input": tf_dwgrad.depthwise_conv2d_backprop_input,
    "backprop_filter": tf_dwgrad.depthwise_conv2d_backprop_filter,
}
BUILTIN_OPS = {
    "forward": tf.raw_ops.DepthwiseConv2dNative,
    "backprop_input": tf.raw_ops.DepthwiseConv2dNativeBackpropInput,
    "backprop_filter": tf.raw_ops.DepthwiseConv2dNativeBackpropFilter,
}
WAYS = ("raw eager", "raw graph", "raw unknown", "public eager", "public unknown")
PUBLIC_WAYS = WAYS[3:]
if xla_failure() is None:
    WAYS = (*WAYS, "raw jit")


@dataclass(frozen=True)
class Tensor:
    """A tensor of ones, spelled in a way that can be printed and pickled."""

    shape: tuple
    dtype: str = "float32"

    def make(self):
        if self.dtype == "string":
            return tf.fill(self.shape, "text")
        return tf.ones(self.shape, tf.dtypes.as_dtype(self.dtype))


@dataclass(frozen=True)
class Row:
    """A bad call: what differs from a good one, and what the message must say."""

    name: str
    changes: dict
    # Each of these, or one of each tuple, must appear; spaces do not count.
    says: tuple
    ways: tuple = WAYS
    data_format: str = "NHWC"
    # Wrong types may also be reported as TypeError.
    errors: tuple = ("InvalidArgumentError", "ValueError")


def good_call(op, data_format):
    """Operands and raw attributes of a call that succeeds; all sizes differ."""
    case = reference.Case(
        batch=3,
        size=(8, 9),
        channels=2,
        multiplier=5,
        kernel=(3, 4),
        strides=(2, 1),
        dilations=(1, 2),
        data_format=data_format,
    )

    def in_layout(shape):
        return case.to_layout(np.empty(shape)).shape

    values = {
        "input": Tensor(in_layout(case.input_shape)),
        "input_sizes": list(in_layout(case.input_shape)),
        "filter": Tensor(case.filter_shape),
        "filter_sizes": list(case.filter_shape),
        "out_backprop": Tensor(in_layout(case.output_shape)),
    }
    return {**{name: values[name] for name in OPERANDS[op]}, **case.raw_attrs}


def public_attrs(op, attrs):
    """Raw attributes as the public function spells them, or None if it cannot."""
    attrs = dict(attrs)
    explicit = attrs.pop("explicit_paddings")
    if attrs["padding"] == "EXPLICIT" and len(explicit) % 2 == 0 and explicit:
        pairs = np.reshape(explicit, [-1, 2]).tolist()
        attrs["padding"] = pairs
    elif explicit or attrs["padding"] == "same":
        return None
    if op == "forward" and isinstance(attrs["dilations"], list):
        dilations = attrs["dilations"]
        nchw = attrs["data_format"] == "NCHW"
        outer = [0, 1] if nchw else [0, 3]
        if len(dilations) != 4 or any(dilations[i] != 1 for i in outer):
            return None
        attrs["dilations"] = dilations[2:] if nchw else dilations[1:3]
    return attrs


def attempt(op, arguments, way):
    """Makes the call; returns the error's type and message, or "success"."""
    operands = {name: arguments[name] for name in OPERANDS[op]}
    attrs = {k: v for k, v in arguments.items() if k not in operands}
    face, mode = way.split()
    if face == "raw":
        library = tf.load_op_library(tf_dwgrad.op_library_path())
        function = getattr(library, RAW_OPS[op])
    elif face == "built-in":
        function = BUILTIN_OPS[op]
    else:
        function = PUBLIC[op]
        if "explicit_paddings" in attrs:
            attrs = public_attrs(op, attrs)
        if attrs is None:
            return "inexpressible", ""

    def tensors():
        return {
            name: value.make() if isinstance(value, Tensor) else value
            for name, value in operands.items()
        }

    try:
        if mode == "eager":
            result = function(**tensors(), **attrs)
        elif mode == "graph":
            result = tf.function(lambda: function(**tensors(), **attrs))()
        else:
            tensors = {name: tf.convert_to_tensor(v) for name, v in tensors().items()}
            names = list(tensors)
            result = tf.function(
                lambda *args: function(**dict(zip(names, args, strict=True)), **attrs),
                input_signature=[tf.TensorSpec(None, tensors[n].dtype) for n in names],
                jit_compile=mode == "jit" or None,
            )(*tensors.values())
    except Exception as error:
        return type(error).__name__, str(error)
    return "success", str(result.shape)


@pytest.fixture(scope="module")
def isolated():
    process = IsolatedProcess()
    yield process
    process.close()


def text(values):
    """A list as the messages spell it, without spaces."""
    return str(values).replace(" ", "")


def check(isolated, op, row, ways):
    """Fails unless the call raises as it should in each of the ways."""
    arguments = {**good_call(op, row.data_format), **row.changes}
    problems = []
    for way in ways:
        kind, message = isolated.call_or_fail(attempt, op, arguments, way)
        if kind == "inexpressible":
            continue
        if kind not in row.errors:
            problems.append(f"{way}: {kind} {message[-300:]}")
        message = message.replace(" ", "")
        missing = [
            words
            for words in row.says
            if not any(w in message for w in ([words] if type(words) is str else words))
        ]
        if missing:
            problems.append(f"{way}: {missing} not in {kind} {message[-300:]}")
    assert not problems, "\n".join(problems)


def test_the_calls_that_the_bad_ones_are_made_from_are_good(isolated):
    for op in OPS:
        for data_format in ("NHWC", "NCHW"):
            for way in WAYS:
                arguments = good_call(op, data_format)
                kind, message = isolated.call_or_fail(attempt, op, arguments, way)
                assert kind == "success", (op, data_format, way, message)


def rank_rows(op):
    rows = []
    good = good_call(op, "NHWC")
    for name in OPERANDS[op]:
        if name in SIZES:
            continue
        shape = good[name].shape
        for bad in ((), shape[:1], shape[:3], (1, *shape)):
            rows.append(
                Row(
                    f"{name} of rank {len(bad)}",
                    {name: Tensor(bad)},
                    (name, f"rank{len(bad)}"),
                )
            )
    return rows


def sizes_rows(op):
    name = next((name for name in OPERANDS[op] if name in SIZES), None)
    if name is None:
        return []
    good = good_call(op, "NHWC")[name]
    rows = [
        Row("sizes scalar", {name: 5}, (name, "rank0")),
        Row("sizes a matrix", {name: [good]}, (name, "rank2")),
        # An empty list becomes float32 without a dtype to convert to.
        Row("sizes empty", {name: []}, (name, "4elements"), ways=WAYS[:2] + WAYS[3:4]),
    ]
    values = {
        "3 elements": good[:3],
        "5 elements": [*good, 1],
        "negative": [*good[:3], -2],
        "minus one": [-1, *good[1:]],
        "lowest": [good[0], -(2**31), *good[2:]],
        "overflowing": [INT_MAX] * 4,
        "overflowing when multiplied": [13, 1879048192, 1879048192, 1879048192],
    }
    for label, value in values.items():
        says = (name, text(value))
        if len(value) != 4:
            says = (name, "4elements", (text(value), f"got{len(value)}elements"))
        if min(value) < -1:
            # TensorFlow itself refuses such a constant while it builds the graph, in
            # words of its own, before the op is asked.
            ways = tuple(way for way in WAYS if way != "raw graph")
            rows.append(
                Row(
                    f"sizes {label}, raw graph",
                    {name: value},
                    (str(min(value)),),
                    ("raw graph",),
                )
            )
            rows.append(Row(f"sizes {label}", {name: value}, says, ways))
        else:
            rows.append(Row(f"sizes {label}", {name: value}, says))
    return rows


def mismatch_rows(op):
    good = good_call(op, "NHWC")
    # Which dimension of which argument is off, and who else the message must name.
    bad = {
        "forward": [("input", 3, ["filter"]), ("filter", 2, ["input"])],
        "backprop_input": [
            ("input_sizes", 0, ["out_backprop"]),
            ("input_sizes", 1, ["out_backprop"]),
            ("input_sizes", 2, ["out_backprop"]),
            ("input_sizes", 3, ["filter"]),
            ("filter", 2, ["input_sizes"]),
            ("filter", 3, ["out_backprop"]),
            ("out_backprop", 0, ["input_sizes"]),
            ("out_backprop", 1, ["input_sizes"]),
            ("out_backprop", 2, ["input_sizes"]),
            ("out_backprop", 3, ["filter"]),
        ],
        "backprop_filter": [
            ("input", 0, ["out_backprop"]),
            ("input", 1, ["out_backprop"]),
            ("input", 2, ["out_backprop"]),
            ("input", 3, ["filter_sizes"]),
            ("filter_sizes", 2, ["input"]),
            ("filter_sizes", 3, ["out_backprop"]),
            ("out_backprop", 0, ["input"]),
            ("out_backprop", 1, ["input"]),
            ("out_backprop", 2, ["input"]),
            ("out_backprop", 3, ["filter_sizes"]),
        ],
    }
    rows = []
    for name, dim, others in bad[op]:
        value = good[name]
        shape = list(value.shape if isinstance(value, Tensor) else value)
        # Two more: with a stride of 2, one more row need not change the output.
        shape[dim] += 2
        changed = Tensor(tuple(shape)) if isinstance(value, Tensor) else shape
        rows.append(
            Row(f"{name}[{dim}] off", {name: changed}, (name, *others, text(shape)))
        )
    return rows


def attribute_rows():
    rows = []
    for name in ("strides", "dilations"):
        for value in ([], [1, 2, 2], [1, 1, 1, 1, 1]):
            rows.append(
                Row(f"{name} of {len(value)}", {name: value}, (name, text(value)))
            )
        for data_format, spatial, outer in (
            ("NHWC", (1, 2), (0, 3)),
            ("NCHW", (2, 3), (0, 1)),
        ):
            wrong = [
                *itertools.product(spatial, (0, -1, -(2**63), 2**31, 2**40)),
                *itertools.product(outer, (0, 2, -1)),
            ]
            for dim, bad in wrong:
                value = [1, 1, 1, 1]
                value[dim] = bad
                rows.append(
                    Row(
                        f"{name}[{dim}]={bad} {data_format}",
                        {name: value},
                        (name, text(value)),
                        data_format=data_format,
                    )
                )
    for value in ([], [0] * 2, [1] * 7, [0] * 9, [0] * 10):
        rows.append(
            Row(
                f"{len(value)} explicit paddings",
                {"padding": "EXPLICIT", "explicit_paddings": value},
                ("padding",),
            )
        )
    for position, bad, data_format in (
        (2, -1, "NHWC"),
        (5, -(2**40), "NHWC"),
        (4, 2**40, "NHWC"),
        (0, 1, "NHWC"),
        (7, 1, "NHWC"),
        (2, 1, "NCHW"),
        (7, -1, "NCHW"),
    ):
        value = [0] * 8
        value[position] = bad
        rows.append(
            Row(
                f"explicit_paddings[{position}]={bad} {data_format}",
                {"padding": "EXPLICIT", "explicit_paddings": value},
                ("explicit_paddings", text(value)),
                data_format=data_format,
            )
        )
    for padding in ("SAME", "VALID"):
        rows.append(
            Row(
                f"explicit paddings with {padding}",
                {"padding": padding, "explicit_paddings": [0, 0, 1, 1, 1, 1, 0, 0]},
                ("explicit_paddings", padding, "[0,0,1,1,1,1,0,0]"),
            )
        )
    for name, values in (
        ("data_format", ("nhwc", "NHCW", "NCHW_VECT_C", "")),
        ("padding", ("FULL", "same", "")),
    ):
        for value in values:
            rows.append(Row(f"{name} {value!r}", {name: value}, (name, value)))
    rows.append(
        Row(
            "filter larger than the input",
            {"padding": "VALID", "dilations": [1, 8, 1, 1]},
            ("filter", "8rows"),
        )
    )
    return rows


ROWS = [
    (op, row)
    for op in OPS
    for row in (
        *rank_rows(op),
        *sizes_rows(op),
        *mismatch_rows(op),
        *attribute_rows(),
    )
]


@pytest.mark.parametrize(
    ("op", "row"), ROWS, ids=[f"{op}-{row.name}" for op, row in ROWS]
)
def test_bad_call(isolated, op, row):
    if row.name == "filter larger than the input" and op == "backprop_filter":
        row = replace(row, says=("filter_sizes", "8rows"))
    check(isolated, op, row, row.ways)


TYPE_ROWS = [
    (op, name, dtype)
    for op in OPS
    for name in OPERANDS[op]
    for dtype in (
        ("int64", "float32", "string")
        if name in SIZES
        else ("float64", "int32", "complex64", "string")
    )
]


@pytest.mark.parametrize(("op", "name", "dtype"), TYPE_ROWS)
def test_wrong_type(isolated, op, name, dtype):
    # TensorFlow itself checks types and names the argument or its position.
    shape = (4,) if name in SIZES else good_call(op, "NHWC")[name].shape
    spelled = {"float64": ("double", "float64"), "float32": ("float",)}
    spelled = spelled.get(dtype, (dtype,))
    row = Row(
        "type",
        {name: Tensor(shape, dtype)},
        (),
        errors=("InvalidArgumentError", "ValueError", "TypeError"),
    )
    arguments = {**good_call(op, "NHWC"), **row.changes}
    for way in WAYS:
        kind, message = isolated.call_or_fail(attempt, op, arguments, way)
        assert kind in row.errors, (way, kind, message)
        assert any(word in message for word in spelled), (way, kind, message)


@pytest.mark.parametrize("op", OPS)
def test_all_operands_of_an_unsupported_type(isolated, op):
    good = good_call(op, "NHWC")
    ints = {
        name: replace(good[name], dtype="int32")
        for name in OPERANDS[op]
        if name not in SIZES
    }
    for way in WAYS:
        kind, message = isolated.call_or_fail(attempt, op, {**good, **ints}, way)
        assert kind in ("InvalidArgumentError", "TypeError", "ValueError"), (way, kind)
        assert "int32" in message, way


PUBLIC_ROWS = [
    *[
        Row(f"strides {value!r}", {"strides": value}, ("strides", text(repr(value))))
        for value in (
            None,
            3,
            "1221",
            [1, 1.5, 1, 1],
            [1, True, 1, 1],
            [1, 2**80, 1, 1],
        )
    ],
    *[
        Row(f"dilations {value!r}", {"dilations": value}, ("dilations",))
        for value in ("11", [1, 2, 3], [1.5, 1], [1], [], [True, 1], 1.5)
    ],
    *[
        Row(f"padding {value!r}", {"padding": value}, ("padding", text(repr(value))))
        for value in (
            None,
            3,
            "EXPLICIT",
            [],
            [1, 1, 1, 1],
            [[0, 0]] * 3,
            [[0, 0], [1], [1, 1], [0, 0]],
            [[0, 0], [1, 1, 1], [1, 1], [0, 0]],
            [[0, 0], [1, 0.5], [1, 1], [0, 0]],
        )
    ],
]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("row", PUBLIC_ROWS, ids=lambda row: row.name)
def test_bad_argument_of_the_public_function(isolated, op, row):
    arguments = good_call(op, "NHWC")
    del arguments["explicit_paddings"]
    if op == "forward":
        arguments["dilations"] = [1, 2]
    for way in PUBLIC_WAYS:
        kind, message = isolated.call_or_fail(
            attempt, op, {**arguments, **row.changes}, way
        )
        assert kind in row.errors, (way, kind, message)
        for word in row.says:
            assert word in message.replace(" ", ""), (way, message)


@pytest.mark.parametrize("op", OPS[1:])
@pytest.mark.parametrize("kind", ["list", "numpy", "mixed"])
def test_sizes_beyond_int32_are_refused_not_wrapped(op, kind):
    # TensorFlow's conversion wraps 2^32 + 3 to 3, which here is the right batch or
    # filter height, so the call would quietly succeed.
    arguments = good_call(op, "NHWC")
    del arguments["explicit_paddings"]
    name = next(name for name in OPERANDS[op] if name in SIZES)
    sizes = [2**32 + 3, *arguments[name][1:]]
    assert arguments[name][0] == 3
    if kind == "numpy":
        sizes = np.array(sizes)
    elif kind == "mixed":
        sizes[1] = tf.constant(sizes[1])
    arguments[name] = sizes
    for operand, value in arguments.items():
        if isinstance(value, Tensor):
            arguments[operand] = value.make()
    with pytest.raises(ValueError, match=f"{name}.*4294967299"):
        PUBLIC[op](**arguments)


@pytest.mark.parametrize("op", OPS[1:])
def test_a_message_shows_no_sizes_that_were_not_given(isolated, op):
    # The number of sizes is known when the graph is built, the sizes are not.
    message = isolated.call_or_fail(build_with_three_unknown_sizes, op)
    assert "4 elements" in message
    assert "[0,0,0]" not in message


def build_with_three_unknown_sizes(op):
    arguments = good_call(op, "NHWC")
    name = next(name for name in OPERANDS[op] if name in SIZES)
    tensors = {k: v.make() for k, v in arguments.items() if isinstance(v, Tensor)}
    library = tf.load_op_library(tf_dwgrad.op_library_path())
    function = tf.function(
        lambda sizes: getattr(library, RAW_OPS[op])(
            **{**arguments, **tensors, name: sizes}
        )
    )
    try:
        function.get_concrete_function(tf.TensorSpec([3], tf.int32))
    except ValueError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("op", OPS)
def test_empty_result_whose_other_sizes_overflow(isolated, op):
    # TensorFlow cannot represent this shape although it holds nothing.
    huge = {
        "forward": {
            "input": Tensor((INT_MAX, 1, 1, 0)),
            "filter": Tensor((1, 1, 0, 1)),
            "padding": "EXPLICIT",
            "explicit_paddings": [0, 0, INT_MAX - 1, 0, INT_MAX - 1, 0, 0, 0],
            "strides": [1, 1, 1, 1],
        },
        "backprop_input": {
            "input_sizes": [INT_MAX, INT_MAX, INT_MAX, 0],
            "filter": Tensor((1, 1, 0, 1)),
            "out_backprop": Tensor((INT_MAX, 1, 1, 0)),
            "strides": [1, INT_MAX, INT_MAX, 1],
        },
        "backprop_filter": {
            "input": Tensor((0, 1, 1, INT_MAX)),
            "filter_sizes": [INT_MAX, INT_MAX, INT_MAX, 0],
            "out_backprop": Tensor((0, 1, 1, 0)),
            "strides": [1, 1, 1, 1],
        },
    }[op]
    named = {"forward": "output"}.get(op) or next(n for n in huge if n in SIZES)
    row = Row(
        "overflow", {"padding": "SAME", "dilations": [1, 1, 1, 1], **huge}, (named,)
    )
    check(isolated, op, row, ("raw eager", "raw unknown"))


# --- Results too large to allocate ------------------------------------------------

# About 4 TB each, from operands of a few bytes.
TOO_LARGE = {
    "forward": {
        "input": Tensor((1, 1, 1, 1)),
        "filter": Tensor((1, 1, 1, 1)),
        "padding": "EXPLICIT",
        "explicit_paddings": [0, 0, 2**20 - 1, 0, 0, 2**20 - 1, 0, 0],
        "strides": [1, 1, 1, 1],
    },
    "backprop_input": {
        "input_sizes": [1, 2**20, 2**20, 1],
        "filter": Tensor((1, 1, 1, 1)),
        "out_backprop": Tensor((1, 1, 1, 1)),
        "strides": [1, 2**20, 2**20, 1],
    },
    "backprop_filter": {
        "input": Tensor((1, 1, 1, 1)),
        "filter_sizes": [2**20, 2**20, 1, 1],
        "out_backprop": Tensor((1, 1, 1, 1)),
        "strides": [1, 1, 1, 1],
    },
}


def resident_megabytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def attempt_too_large(ops):
    """The outcome of each op's call for 4 TB, the seconds and the memory they took."""
    for op in ops:  # Warm up: kernels and thread pools take memory of their own.
        attempt(op, good_call(op, "NHWC"), "raw eager")
    # A system that promises any amount of memory refuses with this, too.
    limit_memory(2048)
    before = resident_megabytes()
    start = time.monotonic()
    outcomes = {}
    for op in ops:
        good = {**good_call(op, "NHWC"), "dilations": [1, 1, 1, 1]}
        outcomes[op] = attempt(op, {**good, **TOO_LARGE[op]}, "raw eager")
    return outcomes, time.monotonic() - start, resident_megabytes() - before


@pytest.mark.parametrize(
    ("onednn", "ops", "seconds_allowed"),
    [
        ("0", OPS, 5),
        # With oneDNN TensorFlow has another allocator, which waits 10 seconds for
        # memory to become free before it gives up; one op is enough here.
        ("1", OPS[1:2], 20),
    ],
)
def test_result_too_large_to_allocate(onednn, ops, seconds_allowed):
    process = IsolatedProcess(TF_ENABLE_ONEDNN_OPTS=onednn)
    outcomes, seconds, megabytes = process.call_or_fail(attempt_too_large, ops)
    process.close()
    for op, (kind, message) in outcomes.items():
        assert kind == "ResourceExhaustedError", (op, kind, message)
        assert "1048576" in message, (op, message)
    assert seconds < seconds_allowed
    assert megabytes < 256


# --- Empty tensors ----------------------------------------------------------------

EMPTY_CASES = {
    "batch": {"batch": 0},
    "rows": {"size": (0, 9)},
    "cols": {"size": (8, 0)},
    "channels": {"channels": 0},
    "multiplier": {"multiplier": 0},
    "filter rows": {"kernel": (0, 4)},
    "filter cols": {"kernel": (3, 0)},
    "output rows": {"padding": "VALID", "kernel": (9, 4), "dilations": (1, 1)},
    "output cols": {"padding": "VALID", "kernel": (3, 10), "dilations": (1, 1)},
    "explicit output rows": {
        "padding": "EXPLICIT",
        "kernel": (11, 4),
        "dilations": (1, 1),
        "pads": ((1, 1), (2, 0)),
    },
    "all": {"batch": 0, "size": (0, 0), "channels": 0, "multiplier": 0},
}


def poison(shape, dtype):
    """Leaves NaN in memory that the allocator is likely to hand out next."""
    elements = int(np.prod(shape))
    held = [tf.fill([max(elements, 1)], tf.cast(np.nan, dtype)) for _ in range(64)]
    assert np.isnan(held[0].numpy().astype(np.float64)).all()
    del held


def check_zeros(call, expected):
    """Checks that the call gives zeros of the expected shape, whatever memory held."""
    ways = [call, tf.function(call)]
    # In one type only: XLA takes its time.
    if expected.dtype == tf.float32 and xla_failure() is None:
        ways.append(tf.function(call, jit_compile=True))
    for way in ways:
        for _ in range(3):
            poison(expected.shape, expected.dtype)
            result = way()
            assert result.shape == expected.shape
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result.numpy().astype(np.float64), 0)


@pytest.mark.parametrize("dtype", reference.DTYPES)
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("zero", EMPTY_CASES)
def test_empty_operands_give_zeros(zero, data_format, dtype):
    case = replace(
        reference.Case(
            batch=3,
            size=(8, 9),
            channels=6,
            multiplier=5,
            kernel=(3, 4),
            dilations=(1, 2),
            data_format=data_format,
            dtype=dtype,
        ),
        **EMPTY_CASES[zero],
    )
    x, y = (
        tf.ones(case.to_layout(np.empty(shape)).shape, dtype)
        for shape in (case.input_shape, case.output_shape)
    )
    w = tf.ones(case.filter_shape, dtype)
    assert 0 in (*x.shape, *w.shape, *y.shape)

    check_zeros(lambda: tf_dwgrad.depthwise_conv2d(x, w, **case.forward_attrs), y)
    check_zeros(
        lambda: tf_dwgrad.depthwise_conv2d_backprop_input(x.shape, w, y, **case.attrs),
        x,
    )
    check_zeros(
        lambda: tf_dwgrad.depthwise_conv2d_backprop_filter(x, w.shape, y, **case.attrs),
        w,
    )


def test_empty_tensors_with_huge_other_sizes(isolated):
    # Nothing may be allocated or visited in proportion to these sizes.
    huge = {
        "input_sizes": [0, INT_MAX, INT_MAX, 1],
        "filter": Tensor((1, 1, 1, 1)),
        "out_backprop": Tensor((0, 1, 1, 1)),
        "strides": [1, INT_MAX, INT_MAX, 1],
        "dilations": [1, 1, 1, 1],
    }
    arguments = {**good_call("backprop_input", "NHWC"), **huge}
    start = time.monotonic()
    outcome = isolated.call_or_fail(attempt, "backprop_input", arguments, "raw eager")
    assert outcome == ("success", f"(0, {INT_MAX}, {INT_MAX}, 1)")
    assert time.monotonic() - start < 5
