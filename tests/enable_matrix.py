"""Every way in which a model can come to run TensorFlow's depthwise ops.

As a program, runs each of them with the package enabled and, for comparison, disabled,
and prints a JSON report of the calls that were counted and of what differed.
test_enable.py runs it once with oneDNN and once without. It imports the package last:
what is traced, loaded and run before that is part of the matrix.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import test_util

SHAPE = (2, 9, 8, 4)
FILTER = (3, 3, 4, 2)


def integers(shape, seed, dtype="float32"):
    """Integers so small that every sum below is exact, in any order."""
    values = np.random.default_rng(seed).integers(-2, 3, shape)
    return tf.constant(values, dtype)


def convolve(x, w):
    return tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")


def step(x, w, y):
    """One call of each of the three ops."""
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        out = convolve(x, w)
        loss = tf.reduce_sum(out * y)
    return [out, *tape.gradient(loss, [x, w])]


def operands(dtype="float32"):
    out_shape = (*SHAPE[:3], SHAPE[3] * FILTER[3])
    return (
        integers(SHAPE, 0, dtype),
        integers(FILTER, 1, dtype),
        integers(out_shape, 2, dtype),
    )


def in_while(x, w, y):
    """Three steps in the body of a loop."""

    def body(i, *sums):
        return [
            i + 1,
            *(total + new for total, new in zip(sums, step(x, w, y), strict=True)),
        ]

    zeros = [tf.zeros_like(t) for t in (y, x, w)]
    return tf.while_loop(lambda i, *_: i < 3, body, [0, *zeros])[1:]


def in_cond(x, w, y):
    return tf.cond(
        tf.reduce_sum(y) > -1e9, lambda: step(x, w, y), lambda: [y * 0, x * 0, w * 0]
    )


def second_order(x, w, y):
    """Gradients of a gradient: all three ops, each reached from another."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([x, w])
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            loss = tf.reduce_sum(convolve(x, w) * y)
        dx, dw = inner.gradient(loss, [x, w])
        dx_sum, dw_sum = tf.reduce_sum(dx * x), tf.reduce_sum(dw * w)
    return [outer.gradient(dx_sum, w), outer.gradient(dw_sum, x)]


def forward_over_reverse(x, w, y):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(convolve(x, w) * y)
        dw = tape.gradient(loss, w)
    return [accumulator.jvp(dw)]


def vectorized(x, w, y):
    """The map over a leading dimension that TensorFlow makes one call of."""
    stacked = tf.stack([x, 2 * x, -x])
    return [tf.vectorized_map(lambda one: convolve(one, w), stacked)]


def with_bias(x, w, y):
    """What the graph optimizer turns into one fused op where oneDNN is on."""
    out = tf.nn.bias_add(convolve(x, w), tf.range(8.0) - 4)
    return [tf.nn.relu6(out)]


def session(x, w, y):
    """A session of TensorFlow 1 with a graph of its own."""
    arrays = [t.numpy() for t in (x, w, y)]
    with tf.Graph().as_default():
        placeholders = [tf.compat.v1.placeholder(tf.float32, a.shape) for a in arrays]
        x, w, y = placeholders
        out = convolve(x, w)
        gradients = tf.gradients(tf.reduce_sum(out * y), [x, w])
        with tf.compat.v1.Session() as sess:
            feed = dict(zip(placeholders, arrays, strict=True))
            return sess.run([out, *gradients], feed)


def keras_model():
    """A model whose depthwise layers all have an input gradient and a filter's."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 1),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
            layers.SeparableConv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    return model


def fit(**arguments):
    """Two training steps; three depthwise layers, so six calls of each op."""
    model = keras_model()
    model.compile("sgd", "mse", **arguments)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 8, 8, 3)).astype("float32")
    y = rng.standard_normal((8, 2)).astype("float32")
    history = model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0)
    return [*history.history["loss"], *(w.numpy() for w in model.trainable_variables)]


class Trainable(tf.Module):
    """What SavedModels are made of here."""

    def __init__(self):
        super().__init__()
        self.w = tf.Variable(operands()[1])

    @tf.function(input_signature=[tf.TensorSpec(SHAPE)])
    def forward(self, x):
        return convolve(x, self.w)

    @tf.function(input_signature=[tf.TensorSpec(SHAPE), tf.TensorSpec([*SHAPE[:3], 8])])
    def train(self, x, y):
        out, dx, dw = step(x, tf.convert_to_tensor(self.w), y)
        return {"out": out, "dx": dx, "dw": dw}


def compiled_anew(function):
    """`function` compiled by XLA at each call, because compilations are kept."""
    return lambda *arguments: tf.function(function, jit_compile=True)(*arguments)


class Compiled(tf.Module):
    """A SavedModel whose function is compiled by XLA where it is loaded."""

    @tf.function(
        jit_compile=True,
        input_signature=[tf.TensorSpec(t.shape) for t in operands()],
    )
    def train(self, x, w, y):
        return step(x, w, y)


def signature(loaded):
    def run(x, w, y):
        results = loaded.signatures["train"](x=x, y=y)
        return [results[name] for name in ("out", "dx", "dw")]

    return run


def tape_around(loaded, as_function):
    def run(x, w, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = loaded.forward(x)
            loss = tf.reduce_sum(out * y)
        return [out, *tape.gradient(loss, [x, loaded.w])]

    return tf.function(run) if as_function else run


def main(folder):
    """Prints the report; SavedModels go into `folder`."""
    x, w, y = operands()
    traced_before = tf.function(step)
    traced_before(x, w, y)
    loop_before = tf.function(in_while)
    loop_before(x, w, y)
    model = Trainable()
    signatures = {"train": model.train}
    tf.saved_model.save(model, folder, signatures=signatures)
    loaded_and_run = tf.saved_model.load(folder)
    signature(loaded_and_run)(x, w, y)
    loaded_before = tf.saved_model.load(folder)
    tf.saved_model.save(Compiled(), folder + "/compiled")
    compiled_before = tf.function(step, jit_compile=True)
    compiled_before(x, w, y)
    # TensorFlow's own answers, while the package is not even imported.
    untouched = [t.numpy() for t in step(x, w, y)]

    import tf_dwgrad

    def loaded_after(x, w, y):
        return signature(tf.saved_model.load(folder))(x, w, y)

    each = {"once": [1, 1, 1], "thrice": [3, 3, 3], "six times": [6, 6, 6]}
    ways = {
        "eager": (step, each["once"]),
        "function traced before": (traced_before, each["once"]),
        "function traced after": (tf.function(step), each["once"]),
        "while body": (tf.function(in_while), each["thrice"]),
        "while body traced before": (loop_before, each["thrice"]),
        "eager while": (in_while, each["thrice"]),
        "cond": (tf.function(in_cond), each["once"]),
        "tf1 session": (session, each["once"]),
        "signature of a loaded model that has run": (
            signature(loaded_and_run),
            each["once"],
        ),
        "signature of a model loaded before": (signature(loaded_before), each["once"]),
        "signature of a model loaded after": (loaded_after, each["once"]),
        "tape around a loaded function": (
            tape_around(loaded_before, False),
            each["once"],
        ),
        "function with a tape around a loaded function": (
            tape_around(loaded_before, True),
            each["once"],
        ),
        "second order": (second_order, None),
        "forward over reverse": (tf.function(forward_over_reverse), None),
        "vectorized map": (vectorized, None),
        "bias and activation": (tf.function(with_bias), [1, 0, 0]),
        "keras fit": (lambda *_: fit(), each["six times"]),
        "keras fit, eager": (lambda *_: fit(run_eagerly=True), each["six times"]),
    }
    compiled_ways = {
        "compiled": (compiled_anew(step), each["once"]),
        # XLA computes but once what is the same in every turn.
        "compiled while body": (compiled_anew(in_while), each["once"]),
        "compiled cond": (compiled_anew(in_cond), each["once"]),
        "compiled second order": (compiled_anew(second_order), None),
        "compiled function of a loaded model": (
            lambda *arguments: tf.saved_model.load(folder + "/compiled").train(
                *arguments
            ),
            each["once"],
        ),
        "compiled keras fit": (lambda *_: fit(jit_compile=True), each["six times"]),
    }
    report = {
        "onednn": bool(test_util.IsMklEnabled()),
        "ways": {},
        "jit": tf_dwgrad._library.xla_failure() is None,
        # Whether the built-in kernels give the same bits before and after all this.
        "untouched": True,
    }

    def run(function, on):
        tf_dwgrad.reset_counters()
        if on:
            with tf_dwgrad.enabled():
                results = function(x, w, y)
        else:
            results = function(x, w, y)
        counted = [[*call, n] for call, n in tf_dwgrad.counters().items()]
        return [np.asarray(r) for r in results], counted

    for name, (function, expected) in {**ways, **compiled_ways}.items():
        ours, calls = run(function, on=True)
        theirs, delegated = run(function, on=False)
        report["ways"][name] = {
            "route": "jit" if name in compiled_ways else "built-in name",
            "calls": calls,
            "delegated": delegated,
            "expected": expected,
            "difference": max(
                float(np.max(np.abs(a - b))) for a, b in zip(ours, theirs, strict=True)
            ),
            "largest": max(float(np.max(np.abs(b))) for b in theirs),
        }
    report["compiled before"] = run(compiled_before, on=True)[1]
    for before, after in zip(untouched, run(step, on=False)[0], strict=True):
        report["untouched"] &= before.tobytes() == after.tobytes()
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
