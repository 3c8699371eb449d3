"""Times the three ops under jit_compile=True against TensorFlow's under the same.

    python benchmarks/jit_ops.py --threads 2 --json results.json

Both sides are compiled, checked against each other, and called in turn, several times a
turn; the ratio is of the medians. The layers are taken from depthwise_layers.csv,
float32 and NHWC.

After some milliseconds of something else, TensorFlow takes several times as long to
start any compiled function, even an empty one: with --calls 1 that is most of a short
op's time.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_dwgrad
from tf_dwgrad._library import cpu_isa, xla_failure
from tf_dwgrad.comparison import difference_over_bound, time_in_turn
from tf_dwgrad.info import cpu_model
from tf_dwgrad.layer_table import load_layers

LAYERS = [
    ("MobileNetV2", "stage1_k3s1_c32"),
    ("MobileNetV2", "stage2_k3s2_c96"),
    ("MobileNetV2", "stage2_k3s1_c144"),
    ("MobileNetV2", "stage4_k3s1_c384"),
    ("MobileNetV2", "stage6_k3s2_c576"),
    ("MobileNetV2", "stage6_k3s1_c960"),
    ("EfficientNet-B0", "stage3_k5s2_c144"),
    ("EfficientNet-B0", "stage3_k5s1_c240"),
    ("ConvNeXt-T", "stage1"),
    ("ConvNeXt-T", "stage3"),
]


def operations(layer, batch):
    """By name: our function, TensorFlow's, operands, and products per element."""
    rng = np.random.default_rng(0)

    def draw(shape):
        return tf.constant(rng.standard_normal(shape).astype(np.float32))

    input_shape, filter_shape = layer.input_shape(batch), layer.filter_shape
    x, w, dy = map(draw, (input_shape, filter_shape, layer.output_shape(batch)))
    attributes = layer.attributes()
    forward = {**attributes, "dilations": layer.dilations}
    positions = batch * math.prod(layer.output_shape(1)[1:3])
    taps = math.prod(layer.kernel)
    return {
        "forward": (
            lambda x, w: tf_dwgrad.depthwise_conv2d(x, w, **forward),
            lambda x, w: tf.nn.depthwise_conv2d(x, w, **forward),
            (x, w),
            taps,
        ),
        "input gradient": (
            lambda w, dy: tf_dwgrad.depthwise_conv2d_backprop_input(
                input_shape, w, dy, **attributes
            ),
            lambda w, dy: tf.nn.depthwise_conv2d_backprop_input(
                input_shape, w, dy, **attributes
            ),
            (w, dy),
            layer.terms,
        ),
        "filter gradient": (
            lambda x, dy: tf_dwgrad.depthwise_conv2d_backprop_filter(
                x, filter_shape, dy, **attributes
            ),
            lambda x, dy: tf.nn.depthwise_conv2d_backprop_filter(
                x, filter_shape, dy, **attributes
            ),
            (x, dy),
            positions,
        ),
    }


def compare(ours, theirs, operands, terms, seconds, calls):
    """The medians of both sides in milliseconds, after a check."""
    ours, theirs = (tf.function(f, jit_compile=True) for f in (ours, theirs))
    products = theirs(*map(tf.abs, operands))
    error = difference_over_bound(terms, ours(*operands), theirs(*operands), products)
    if not error <= 1:
        raise SystemExit(f"the results differ by {error:g} times rounding")
    sides = [lambda: ours(*operands), lambda: theirs(*operands)]
    times = time_in_turn(sides, seconds, calls_per_turn=calls)
    return [time.median * 1e3 for time in times]


def main():
    """Prints a table and a summary, and writes both as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.5, help="per op and layer")
    parser.add_argument("--calls", type=int, default=5, help="per turn")
    parser.add_argument("--op", action="append", help="only this op (repeatable)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if xla_failure():
        raise SystemExit(xla_failure())
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    facts = {
        "cpu": cpu_model(),
        "kernels": cpu_isa(),
        "threads": arguments.threads,
        "batch": arguments.batch,
        "calls per turn": arguments.calls,
        "tensorflow": tf.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    tables = {(layer.model, layer.name): layer for layer in load_layers()}
    rows = []
    for model, name in LAYERS:
        for op, sides in operations(tables[model, name], arguments.batch).items():
            if arguments.op and op not in arguments.op:
                continue
            ours, theirs = compare(*sides, arguments.seconds, arguments.calls)
            rows.append(
                {
                    "op": op,
                    "layer": f"{model} {name}",
                    "ours_ms": round(ours, 4),
                    "builtin_ms": round(theirs, 4),
                    "ratio": round(theirs / ours, 2),
                }
            )
            print(
                "{op:16}{layer:36}{ours_ms:10} ms{builtin_ms:10} ms{ratio:8}x".format(
                    **rows[-1]
                ),
                flush=True,
            )
    for op in dict.fromkeys(row["op"] for row in rows):
        ratios = [row["ratio"] for row in rows if row["op"] == op]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{op}: geometric mean {mean:.1f}x, lowest {min(ratios)}x")
    if arguments.json:
        arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
