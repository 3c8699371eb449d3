"""``python -m tf_dwgrad demo``: train, check and time on real input.

Trains a small classifier of handwritten digits with Keras's depthwise layers and with
this package's, compares the input gradients and their times on the layers of
MobileNetV2, shows the dilated gradient that TensorFlow gets wrong, and serves the
trained model from a fresh process. Fails if the numbers differ by more than rounding.
"""

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf

import tf_dwgrad
import tf_dwgrad.keras
from tf_dwgrad import info
from tf_dwgrad.comparison import ROUNDOFF, difference_over_bound, median_times
from tf_dwgrad.layer_table import Layer, load_layers

SEED = 1
EPOCHS = 20
BATCH = 64
TEST_IMAGES = 450

MODEL = "MobileNetV2"
LAYER_BATCH = 8
SECONDS_PER_LAYER = 1.0

# Rounding enters a training at every step, the measured nudge only at its start; and
# the nudge is one sample of what rounding does. Wrong gradients are off by far more.
CURVE_MARGIN = 10

# What the rounding of a few hundred terms, each way, can do to a probability.
PREDICTION_TOLERANCE = 500 * ROUNDOFF

# All that a program needs to serve the model: TensorFlow and the op library.
SERVE = """
import sys
import numpy as np
import tensorflow as tf

library, saved_model, images, predictions = sys.argv[1:]
tf.load_op_library(library)
model = tf.saved_model.load(saved_model)
np.save(predictions, model.serve(np.load(images)).numpy())
"""


class DemoFailed(Exception):
    """What went wrong, as a sentence for the user."""


@dataclass(frozen=True)
class Digits:
    """Images ``[n, 8, 8, 1]`` between 0 and 1, and their digits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Training:
    """A trained model, its mean loss in each epoch and its accuracy on test images."""

    model: keras.Model
    losses: list[float]
    accuracy: float


@dataclass(frozen=True)
class LayerResult:
    """One layer: the difference over its bound, and the median times in seconds."""

    layer: Layer
    error: float
    builtin_time: float
    plugin_time: float


def _heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def _require_dependencies() -> None:
    needed = {
        "sklearn": "scikit-learn",
        "matplotlib": "matplotlib",
        "tqdm": "tqdm",
    }
    missing = [
        package
        for module, package in needed.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise DemoFailed(
            f"the demo needs {' and '.join(missing)}: run "
            f"'{sys.executable} -m pip install \"tf_dwgrad[demo]\"'"
        )


# --- Training ---------------------------------------------------------------------


def _load_digits() -> Digits:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.images))
    images = (data.images[order, :, :, np.newaxis] / 16).astype(np.float32)
    labels = data.target[order]
    return Digits(
        images[TEST_IMAGES:],
        labels[TEST_IMAGES:],
        images[:TEST_IMAGES],
        labels[:TEST_IMAGES],
    )


def _classifier(layers: ModuleType) -> keras.Model:
    """A small network with the depthwise layers that ``layers`` provides.

    tanh is smooth: at the kinks of relu rounding decides which way a gradient goes,
    and two correct trainings drift apart by as much as an incorrect one.
    """
    return keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            keras.layers.Conv2D(16, 3, padding="same", activation="tanh"),
            layers.SeparableConv2D(32, 3, padding="same", activation="tanh"),
            layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same"),
            keras.layers.Conv2D(48, 1, activation="tanh"),
            layers.SeparableConv2D(64, 3, activation="tanh"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def _nudged(weights: list[np.ndarray]) -> list[np.ndarray]:
    """The weights, each moved to the next number above or below it."""
    rng = np.random.default_rng(SEED)
    return [
        np.nextafter(array, rng.choice([-np.inf, np.inf], array.shape).astype("f"))
        for array in weights
    ]


def _train(
    name: str, layers: ModuleType, weights: list[np.ndarray], digits: Digits
) -> Training:
    """Trains from ``weights``; only ``layers`` tells one training from another."""
    from tqdm import tqdm

    keras.utils.set_random_seed(SEED)
    model = _classifier(layers)
    model.set_weights(weights)
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    rng = np.random.default_rng(SEED)
    losses = []
    # Only a terminal shows the bar.
    with tqdm(range(EPOCHS), f"training, {name}", unit="epoch", disable=None) as bar:
        for _ in bar:
            order = rng.permutation(len(digits.train_images))
            history = model.fit(
                digits.train_images[order],
                digits.train_labels[order],
                batch_size=BATCH,
                shuffle=False,
                verbose=0,
            )
            losses.append(history.history["loss"][0])
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    _, accuracy = model.evaluate(digits.test_images, digits.test_labels, verbose=0)
    return Training(model, losses, accuracy)


def _largest_difference(one: Training, other: Training) -> float:
    # max() of Python would skip a NaN.
    return float(np.max(np.abs(np.subtract(one.losses, other.losses))))


def _print_curves(builtin: Training, plugin: Training) -> None:
    print(f"{'epoch':>5}  {'loss, built-in':>14}  {'loss, plugin':>14}  difference")
    pairs = zip(builtin.losses, plugin.losses, strict=True)
    for epoch, (one, other) in enumerate(pairs, start=1):
        print(f"{epoch:>5}  {one:>14.8f}  {other:>14.8f}  {abs(one - other):>10.1e}")
    print(
        f"accuracy on {TEST_IMAGES} test images: built-in {builtin.accuracy:.2%}, "
        f"plugin {plugin.accuracy:.2%}"
    )


def _compare_trainings(digits: Digits) -> tuple[Training, Training]:
    """Trains with the built-in and the plugin's layers, and requires equal curves.

    How far rounding may move a curve is measured: the built-in is trained once more
    from weights that differ from the others by one rounding.
    """
    keras.utils.set_random_seed(SEED)
    weights = _classifier(keras.layers).get_weights()
    builtin = _train("built-in", keras.layers, weights, digits)
    plugin = _train("plugin", tf_dwgrad.keras, weights, digits)
    nudged = _train("built-in, nudged", keras.layers, _nudged(weights), digits)

    _print_curves(builtin, plugin)
    difference = _largest_difference(builtin, plugin)
    # The losses themselves are rounded, whatever the nudge does.
    rounding = max(_largest_difference(builtin, nudged), ROUNDOFF * max(builtin.losses))
    tolerance = CURVE_MARGIN * rounding
    print(
        f"largest difference of the curves: {difference:.1e}, tolerated "
        f"{tolerance:.1e}: {CURVE_MARGIN} times the {rounding:.1e} that the built-in's "
        "own curve moves by when each initial weight moves by one rounding"
    )
    if not difference <= tolerance:
        raise DemoFailed(
            f"the loss curves differ by {difference:.1e}, more than the "
            f"{tolerance:.1e} that rounding explains"
        )
    if not plugin.losses[-1] < plugin.losses[0] / 2:
        raise DemoFailed(
            f"the model does not learn: the loss goes from {plugin.losses[0]:.3f} to "
            f"{plugin.losses[-1]:.3f}"
        )
    return builtin, plugin


# --- The layers of MobileNetV2 ----------------------------------------------------


def _check_layer(layer: Layer) -> LayerResult:
    rng = np.random.default_rng(SEED)
    dy = tf.constant(rng.standard_normal(layer.output_shape(LAYER_BATCH), np.float32))
    filter = tf.constant(rng.standard_normal(layer.filter_shape, np.float32))
    input_sizes = tf.constant(layer.input_shape(LAYER_BATCH))
    attributes = layer.attributes()

    def builtin(filter=filter, dy=dy):
        return tf.nn.depthwise_conv2d_backprop_input(
            input_sizes, filter, dy, **attributes
        )

    def plugin():
        return tf_dwgrad.depthwise_conv2d_backprop_input(
            input_sizes, filter, dy, **attributes
        )

    products = builtin(tf.abs(filter), tf.abs(dy))
    error = difference_over_bound(layer.terms, plugin(), builtin(), products)
    return LayerResult(
        layer, error, *median_times([builtin, plugin], SECONDS_PER_LAYER)
    )


def _check_layers() -> list[LayerResult]:
    """Compares and times the input gradients of all depthwise layers of the model."""
    from tqdm import tqdm

    results = [
        _check_layer(layer)
        for layer in tqdm(load_layers(MODEL), "layers", leave=False, disable=None)
    ]
    print(
        f"{'layer':<18}{'input':>11}  {'error / bound':>13}  {'built-in':>10}  "
        f"{'plugin':>10}  ratio"
    )
    for result in results:
        layer = result.layer
        print(
            f"{layer.name:<18}{_size(layer):>11}  {result.error:>13.3f}  "
            f"{result.builtin_time * 1e3:>7.3f} ms  {result.plugin_time * 1e3:>7.3f} ms"
            f"  {result.builtin_time / result.plugin_time:>4.2f}x"
        )
    ratios = [result.builtin_time / result.plugin_time for result in results]
    worst = float(np.max([result.error for result in results]))
    print(
        f"geometric mean of built-in time / plugin time: "
        f"{statistics.geometric_mean(ratios):.2f}; largest error / bound: {worst:.3f}"
    )
    if not worst <= 1:
        raise DemoFailed(
            f"an input gradient differs from the built-in's by {worst:.1f} times what "
            "rounding explains"
        )
    return results


def _size(layer: Layer) -> str:
    return "x".join(map(str, [*layer.size, layer.channels]))


# --- The dilated gradient ---------------------------------------------------------


def _dilated_by_definition(
    filter: np.ndarray, dy: np.ndarray, dilation: int
) -> np.ndarray:
    """The input gradient in float64 for stride 1, SAME and an odd square filter.

    Here ``dx[y, x] = sum over r, s of dy[y + pad - r * dilation, x + pad - s *
    dilation] * filter[r, s]``.
    """
    taps, height, width = filter.shape[0], dy.shape[1], dy.shape[2]
    pad = (taps - 1) * dilation // 2
    padded = np.pad(dy.astype(np.float64), [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    dx = np.zeros(dy.shape)
    for r in range(taps):
        for s in range(taps):
            top, left = 2 * pad - r * dilation, 2 * pad - s * dilation
            patch = padded[:, top : top + height, left : left + width]
            dx += patch * filter[r, s, :, 0]
    return dx


def _show_dilated() -> None:
    """Compares both dilated gradients with the definition."""
    rng = np.random.default_rng(SEED)
    dy = rng.standard_normal([2, 14, 14, 32], np.float32)
    filter = rng.standard_normal([3, 3, 32, 1], np.float32)
    want = _dilated_by_definition(filter, dy, dilation=2)

    def error(function) -> float:
        dx = function(
            list(dy.shape), filter, dy, [1, 1, 1, 1], "SAME", dilations=[1, 2, 2, 1]
        )
        return float(np.max(np.abs(dx.numpy() - want)) / np.max(np.abs(want)))

    builtin = error(tf.nn.depthwise_conv2d_backprop_input)
    plugin = error(tf_dwgrad.depthwise_conv2d_backprop_input)
    print(
        f"dilations=[1, 2, 2, 1]: error of the built-in {builtin:.1e}, of the plugin "
        f"{plugin:.1e}, of the largest element, against NumPy in float64"
    )
    # Nine products, none much larger than the largest sum of nine.
    if not plugin <= 32 * ROUNDOFF:
        raise DemoFailed(f"the plugin's dilated input gradient is off by {plugin:.1e}")


# --- The plot ---------------------------------------------------------------------


def _save_plot(
    path: Path, builtin: Training, plugin: Training, results: list[LayerResult]
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curves, bars) = pyplot.subplots(
        1, 2, figsize=(13, 5.5), width_ratios=[2, 3], layout="constrained"
    )
    gray, blue = "#b0b0b0", "#1f5fa8"

    epochs = range(1, EPOCHS + 1)
    curves.plot(epochs, builtin.losses, color=gray, linewidth=6, label="built-in")
    curves.plot(epochs, plugin.losses, color=blue, linestyle="--", label="tf_dwgrad")
    curves.set(
        title="Training on digits: the curves coincide",
        xlabel="epoch",
        ylabel="mean loss (cross-entropy)",
        yscale="log",
        xticks=[1, *range(5, EPOCHS + 1, 5)],
    )
    curves.legend()
    curves.grid(alpha=0.3)

    positions = np.arange(len(results))
    for shift, color, label, times in (
        (-0.2, gray, "built-in", [result.builtin_time for result in results]),
        (0.2, blue, "tf_dwgrad", [result.plugin_time for result in results]),
    ):
        milliseconds = np.array(times) * 1e3
        drawn = bars.barh(positions + shift, milliseconds, 0.4, color=color)
        drawn.set_label(label)
        bars.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    names = [f"{result.layer.name}, {_size(result.layer)}" for result in results]
    bars.set_yticks(positions, names)
    bars.invert_yaxis()
    bars.margins(x=0.1)
    bars.set(
        title=f"Input gradient of {MODEL}'s depthwise layers, batch {LAYER_BATCH}",
        xlabel="median time (ms)",
    )
    bars.legend(loc="lower right")
    bars.grid(axis="x", alpha=0.3)
    bars.set_axisbelow(True)

    figure.suptitle(f"{info.cpu_model()}, TensorFlow {tf.__version__}", fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# --- The saved model --------------------------------------------------------------


def _serve_in_fresh_process(saved_model: Path, images: np.ndarray) -> np.ndarray:
    """The predictions of a process that has the op library but not this package."""
    with tempfile.TemporaryDirectory() as folder:
        images_path, predictions_path = f"{folder}/images.npy", f"{folder}/result.npy"
        np.save(images_path, images)
        operands = [tf_dwgrad.op_library_path(), saved_model]
        process = subprocess.run(
            [sys.executable, "-c", SERVE, *operands, images_path, predictions_path],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode != 0:
            print(process.stderr, file=sys.stderr)
            raise DemoFailed(
                f"a fresh process cannot run the model in {saved_model}; see above"
            )
        return np.load(predictions_path)


def _check_saved_model(model: keras.Model, path: Path, images: np.ndarray) -> None:
    """Exports the model and requires the same predictions from a fresh process."""
    model.export(path, verbose=False)
    here = model(images, training=False).numpy()
    there = _serve_in_fresh_process(path, images)
    difference = float(np.max(np.abs(here - there)))
    print(
        f"predictions for {len(images)} test images, here and in a fresh process that "
        f"loads only the op library: largest difference {difference:.1e}, tolerated "
        f"{PREDICTION_TOLERANCE:.1e}"
    )
    if not difference <= PREDICTION_TOLERANCE:
        raise DemoFailed(
            f"the saved model's predictions differ by {difference:.1e}, more than "
            "rounding explains"
        )


# --- The command ------------------------------------------------------------------


def _run(output: Path) -> None:
    start = time.perf_counter()
    _require_dependencies()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoFailed(f"cannot make the folder {output}: {error.strerror}") from None
    plot, saved_model = output / "demo.png", output / "saved_model"

    _heading("Training a depthwise-separable classifier of digits, from equal weights")
    digits = _load_digits()
    builtin, plugin = _compare_trainings(digits)

    _heading(f"Input gradients of {MODEL}'s depthwise layers, batch {LAYER_BATCH}")
    results = _check_layers()

    _heading("What the built-in gets wrong")
    _show_dilated()

    _heading("The trained plugin model as a SavedModel")
    _check_saved_model(plugin.model, saved_model, digits.test_images)

    _save_plot(plot, builtin, plugin, results)
    _heading("Summary")
    print(f"CPU          {info.cpu_model()}")
    print(f"TensorFlow   {tf.__version__}")
    print(f"plot         {plot}")
    print(f"saved model  {saved_model}")
    print(f"All checks passed in {time.perf_counter() - start:.0f} s.")


def main(output: str) -> int:
    """Runs the demo.

    Args:
        output: the folder for the plot and the saved model; made if absent.

    Returns:
        The exit status: 0, or 1 after one sentence about what went wrong.
    """
    try:
        _run(Path(output))
    except (DemoFailed, ImportError) as error:
        print(f"tf_dwgrad demo: {error}", file=sys.stderr)
        return 1
    return 0
