"""Existing models on this package's kernels: ``enable`` and ``disable``.

The kernels are registered behind the names of TensorFlow's own ops, so that graphs,
models and saved files stay as they are. Whether they compute, or hand each call to the
kernels they stand in front of, is one switch for the whole process.
"""

import collections
import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import wrapt
from tensorflow.python.eager import context

from tf_dwgrad import _keras_routes
from tf_dwgrad._library import library, xla_failure, xla_library

ENABLE = "TF_DWGRAD_ENABLE"

# In the order of the library's ConvOp, ElementType and Route.
OPS = (
    "depthwise_conv2d",
    "depthwise_conv2d_backprop_input",
    "depthwise_conv2d_backprop_filter",
)
DTYPES = ("float16", "bfloat16", "float32", "float64")
ROUTES = ("plugin op", "built-in name", "jit", "delegated")

# Everything below the lock: who asked for the kernels, and what was set up for them.
_lock = threading.RLock()
_switched_on = False
_open_blocks = 0
_registered = False


def is_enabled() -> bool:
    """Returns whether TensorFlow's depthwise ops run on this package's kernels now."""
    return _switched_on or _open_blocks > 0


def _register() -> None:
    """Puts our kernels in front of TensorFlow's, once in the life of the process."""
    global _registered
    if _registered:
        return
    error = library().tf_dwgrad_register_builtin_names()
    if not error and xla_failure() is None:
        error = xla_library().tf_dwgrad_register_builtin_names_xla()
    if error:
        error = error.decode()
        raise RuntimeError(f"tf_dwgrad cannot serve TensorFlow's own ops: {error}")
    # Kernels made before would go on being used: by eager calls, and by functions
    # that have run.
    context.context().clear_kernel_cache()
    _registered = True


def _switch() -> None:
    on = is_enabled()
    library().tf_dwgrad_serve_builtin_names(int(on))
    _keras_routes.set_routed(on)


def _on_keras_import(module) -> None:
    with _lock:
        _keras_routes.attach(module)
        _keras_routes.set_routed(is_enabled())


# Now if Keras is imported, else when it is: importing it takes seconds.
wrapt.register_post_import_hook(_on_keras_import, _keras_routes.MODULE)


def enable() -> None:
    """Lets TensorFlow's depthwise ops run on this package's kernels, on the CPU.

    From now on ``DepthwiseConv2dNative``, ``DepthwiseConv2dNativeBackpropInput`` and
    ``DepthwiseConv2dNativeBackpropFilter`` compute with this package, for half,
    bfloat16, float32 and float64: in eager code, in functions whether traced before or
    after, in loops, Keras models, SavedModels and sessions. Graphs do not change, and
    load without this package.

    While Keras 3 builds or traces a layer, a grouped convolution with one channel per
    group (ConvNeXt's) becomes ``DepthwiseConv2dNative``, and a depthwise convolution
    with strides and dilations becomes this package's op, where Keras would have used
    XLA and a convolution ``strides`` squared times as large. Functions keep what they
    were traced with.

    The switch is of the whole process; calling it again changes nothing. It may be
    called at any time, from any thread. The first call empties TensorFlow's cache of
    kernels, which restarts the sequences of random ops with a seed, as
    ``tf.random.set_seed`` does. Sessions of TensorFlow 1 that have run a graph before
    the first call keep the kernels they have.

    The environment variable ``TF_DWGRAD_ENABLE=1`` makes ``import tf_dwgrad`` call it.

    Raises:
        RuntimeError: if this TensorFlow keeps its kernels in a way that the library
            does not know; then nothing has changed.

    Example:
        >>> tf_dwgrad.enable()
        >>> keras.applications.MobileNetV2(weights=None).fit(...)  # doctest: +SKIP
        >>> tf_dwgrad.disable()
    """
    global _switched_on
    with _lock:
        _register()
        _switched_on = True
        _switch()


def disable() -> None:
    """Gives TensorFlow's ops back to TensorFlow's kernels: ends :func:`enable`.

    Results are again the same bits as before. Blocks of :func:`enabled` that are open
    in this or another thread stay in force until they end. Functions of Keras models
    keep the ops they were traced with.

    Example:
        >>> tf_dwgrad.disable()
        >>> tf_dwgrad.is_enabled()
        False
    """
    global _switched_on
    with _lock:
        _switched_on = False
        _switch()


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """As :func:`enable` for the length of a ``with`` block.

    Blocks may be nested, and open in several threads at once. As the switch is of the
    whole process, this package computes, in every thread, as long as any block is open
    or :func:`enable` is in force.

    Raises:
        RuntimeError: as :func:`enable`.

    Example:
        >>> with tf_dwgrad.enabled():
        ...     y = tf.nn.depthwise_conv2d(
        ...         tf.ones([1, 9, 9, 2]), tf.ones([3, 3, 2, 1]), [1, 1, 1, 1], "SAME")
    """
    global _open_blocks
    with _lock:
        _register()
        _open_blocks += 1
        _switch()
    try:
        yield
    finally:
        with _lock:
            _open_blocks -= 1
            _switch()


class Call(NamedTuple):
    """What :func:`counters` counts.

    Attributes:
        op: what was computed, by the name of this package's function:
            ``"depthwise_conv2d"``, ``"depthwise_conv2d_backprop_input"`` or
            ``"depthwise_conv2d_backprop_filter"``.
        dtype: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``.
        route: how the call came: ``"plugin op"`` for this package's own op,
            ``"built-in name"`` for our kernel in TensorFlow's place, ``"jit"`` for a
            call from compiled code, ``"delegated"`` for what our kernel handed to
            TensorFlow's because the package was disabled.
    """

    op: str
    dtype: str
    route: str


def counters() -> collections.Counter[Call]:
    """Returns how many calls each kernel served, on the CPU, in this process.

    They are counted from the start or from :func:`reset_counters`, in all threads.
    Kinds of calls that did not happen are absent, and count 0. Built-in kernels are
    counted where ours stand in front of them: from the first :func:`enable` on.

    Example:
        >>> tf_dwgrad.reset_counters()
        >>> with tf_dwgrad.enabled():
        ...     y = tf.nn.depthwise_conv2d(
        ...         tf.ones([1, 9, 9, 2]), tf.ones([3, 3, 2, 1]), [1, 1, 1, 1], "SAME")
        >>> tf_dwgrad.counters()["depthwise_conv2d", "float32", "built-in name"]
        1
    """
    calls = library().tf_dwgrad_calls
    return collections.Counter(
        {
            Call(op, dtype, route): count
            for o, op in enumerate(OPS)
            for d, dtype in enumerate(DTYPES)
            for r, route in enumerate(ROUTES)
            if (count := calls(o, d, r))
        }
    )


def reset_counters() -> None:
    """Sets all that :func:`counters` returns to 0."""
    library().tf_dwgrad_reset_calls()


def enable_if_asked() -> None:
    """Enables the package if the environment variable ``TF_DWGRAD_ENABLE`` is 1.

    Raises:
        ImportError: if it is neither 1 nor 0 nor empty.
    """
    value = os.environ.get(ENABLE, "")
    if value not in ("", "0", "1"):
        raise ImportError(
            f"the environment variable {ENABLE} must be 0 or 1, but is {value!r}"
        )
    if value == "1":
        enable()
