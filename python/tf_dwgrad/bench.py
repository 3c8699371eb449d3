"""``python -m tf_dwgrad bench``: the input gradient against TensorFlow's, by layer.

Both sides run in one process, in turn, call by call, so that a machine whose speed
drifts slows both down; medians are compared. Each result is checked before it is timed.
"""

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import tf_dwgrad
from tf_dwgrad._library import cpu_isa
from tf_dwgrad.comparison import difference_over_bound, median_times
from tf_dwgrad.info import cpu_model
from tf_dwgrad.layer_table import Layer, load_layers

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--model", help="only the layers of this model")
    parser.add_argument("--batch", type=int, default=8, help="images (default 8)")
    parser.add_argument(
        "--max-elements",
        type=float,
        default=6e6,
        help="reduce the batch of layers whose dX would have more (default 6e6)",
    )
    parser.add_argument(
        "--threads", type=int, help="threads of TensorFlow's pool (default: all cores)"
    )
    parser.add_argument(
        "--native",
        action="store_true",
        help="compare with TensorFlow's native kernel: oneDNN off",
    )
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="time per layer (default 0.3)"
    )
    parser.add_argument("--csv", type=Path, help="write the figures to this file")


def distinct_layers(model: str | None) -> list[Layer]:
    """The table's layers without those whose shape another one has."""
    layers: dict[tuple, Layer] = {}
    for layer in load_layers(model):
        shape = (*layer.input_shape(1), *layer.filter_shape)
        layers.setdefault((shape, str(layer.attributes())), layer)
    return list(layers.values())


def _expected(layer: Layer, input_sizes, filter, out_backprop) -> tf.Tensor:
    """TensorFlow's answer, where it dilates that of its forward op's gradient."""
    if layer.dilations == (1, 1):
        return tf.nn.depthwise_conv2d_backprop_input(
            input_sizes, filter, out_backprop, **layer.attributes()
        )
    x = tf.zeros(input_sizes)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.depthwise_conv2d(
            x,
            filter,
            layer.attributes()["strides"],
            layer.padding,
            dilations=layer.dilations,
        )
    return tape.gradient(y, x, out_backprop)


def measure(layer: Layer, batch: int, seconds: float) -> dict[str, object]:
    """Checks and times one layer and returns its row of the result.

    Raises:
        RuntimeError: if the results differ by more than the rounding of both.
    """
    rng = np.random.default_rng(0)
    filter = tf.constant(rng.standard_normal(layer.filter_shape, np.float32))
    dy = tf.constant(rng.standard_normal(layer.output_shape(batch), np.float32))
    input_sizes = tf.constant(layer.input_shape(batch))
    attributes = layer.attributes()

    def ours():
        return tf_dwgrad.depthwise_conv2d_backprop_input(
            input_sizes, filter, dy, **attributes
        )

    def builtin():
        return tf.nn.depthwise_conv2d_backprop_input(
            input_sizes, filter, dy, **attributes
        )

    error = difference_over_bound(
        layer,
        ours(),
        _expected(layer, input_sizes, filter, dy),
        _expected(layer, input_sizes, tf.abs(filter), tf.abs(dy)),
    )
    if not error <= 1:
        raise RuntimeError(f"{layer}: off by {error:g} times what rounding explains")
    our_time, builtin_time = median_times([ours, builtin], seconds)
    return {
        "model": layer.model,
        "layer": layer.name,
        "batch": batch,
        "dX": "x".join(str(size) for size in layer.input_shape(batch)[1:]),
        "multiplier": layer.multiplier,
        "filter": "x".join(str(size) for size in layer.kernel),
        "stride": layer.strides[0],
        "dilation": layer.dilations[0],
        "padding": layer.padding,
        "tf_dwgrad_ms": round(our_time * 1e3, 4),
        "tensorflow_ms": round(builtin_time * 1e3, 4),
        "ratio": round(builtin_time / our_time, 3),
    }


def _print_row(row: dict[str, object]) -> None:
    print(
        f"{row['model']!s:<22.22} {row['dX']!s:>13} x{row['multiplier']:<2} "
        f"{row['filter']:>5} s{row['stride']:<2} d{row['dilation']:<2} "
        f"{row['tf_dwgrad_ms']:>10.3f} {row['tensorflow_ms']:>12.3f} "
        f"{row['ratio']:>8.2f}",
        flush=True,
    )


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes what the arguments ask for."""
    if arguments.native and os.environ.get(_ONEDNN) != "0":
        # TensorFlow reads the variable while it is loaded.
        environment = {**os.environ, _ONEDNN: "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "tf_dwgrad", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode

    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    threads = arguments.threads or os.cpu_count()
    peer = "oneDNN off" if os.environ.get(_ONEDNN) == "0" else "default"
    machine = (
        f"{cpu_model()}, {threads} threads, TensorFlow {tf.__version__} ({peer}), "
        f"tf_dwgrad {tf_dwgrad.__version__} ({cpu_isa()})"
    )
    print(machine)
    print(
        f"{'model':<22} {'dX':>13} {'M':<3} {'k':>4} {'':<7} {'tf_dwgrad ms':>12} "
        f"{'TensorFlow ms':>13} {'ratio':>6}"
    )
    rows = []
    try:
        layers = distinct_layers(arguments.model)
    except ValueError as error:
        print(error)
        return 1
    for layer in layers:
        pixels = math.prod(layer.input_shape(1))
        batch = max(1, min(arguments.batch, int(arguments.max_elements // pixels)))
        rows.append(measure(layer, batch, arguments.seconds))
        _print_row(rows[-1])

    for model in dict.fromkeys(str(row["model"]) for row in rows):
        ratios = [row["ratio"] for row in rows if row["model"] == model]
        print(f"{model:<22} geometric mean {statistics.geometric_mean(ratios):6.2f}")
    ratios = [row["ratio"] for row in rows]
    slower = sum(ratio < 1 for ratio in ratios)
    print(
        f"{len(rows)} layers: geometric mean {statistics.geometric_mean(ratios):.2f}, "
        f"worst {min(ratios):.2f}, slower than TensorFlow: {slower}"
    )
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            file.write(f"# {machine}\n")
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(f"written: {arguments.csv}")
    return 0
