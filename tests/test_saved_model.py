"""SavedModels with the ops: a server needs the library and nothing else of the package.

One model is exported here and then used in fresh processes.
"""

import json

import numpy as np
import pytest
import reference
import tensorflow as tf
import tf_dwgrad
from isolation import run_python

OPS = {
    "DwgradDepthwiseConv2d",
    "DwgradDepthwiseConv2dBackpropInput",
    "DwgradDepthwiseConv2dBackpropFilter",
}
# In another process: no import of tf_dwgrad, only TensorFlow and the file.
SERVER = """
import json, sys
import numpy as np
import tensorflow as tf

library, model, arrays, output = sys.argv[1:]
if library != "none":
    ops = tf.load_op_library(library)
arrays = np.load(arrays)
loaded = tf.saved_model.load(model)
x, y = tf.constant(arrays["x"]), tf.constant(arrays["y"])
results = {"inference": loaded.signatures["inference"](x=x)["output"]}
step = loaded.signatures["training"](x=x, y=y)
results |= {"loss_" + key: value for key, value in step.items()}
results["after"] = loaded.signatures["inference"](x=x)["output"]
results["raw"] = ops.dwgrad_depthwise_conv2d_backprop_input(
    input_sizes=x.shape, filter=arrays["w"], out_backprop=arrays["dy"],
    strides=[1, 2, 1, 1], padding="SAME", dilations=[1, 1, 3, 1])
assert "tf_dwgrad" not in sys.modules
np.savez(output, **{key: value.numpy() for key, value in results.items()})
"""

CASE = reference.Case(
    batch=2,
    size=(9, 8),
    channels=3,
    multiplier=2,
    kernel=(3, 2),
    strides=(2, 1),
    dilations=(1, 3),
)


class Model(tf.Module):
    """A depthwise convolution that is trained by gradient descent."""

    def __init__(self, w):
        super().__init__()
        self.w = tf.Variable(w)
        self.shift = tf.Variable(tf.zeros([1, 1, 1, CASE.channels]))

    def convolve(self, x):
        return tf_dwgrad.depthwise_conv2d(x + self.shift, self.w, **CASE.forward_attrs)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], name="x")])
    def inference(self, x):
        return {"output": self.convolve(x)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], name="x"),
            tf.TensorSpec([None, None, None, 6], name="y"),
        ]
    )
    def training(self, x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.convolve(x) - y) ** 2)
        variables = [self.w, self.shift]
        gradients = tape.gradient(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        return {"loss": loss, "dw": gradients[0], "dshift": gradients[1]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a saved model, the arrays to feed it, and what it must give."""
    folder = tmp_path_factory.mktemp("saved_model")
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (
            ("x", CASE.input_shape),
            ("w", CASE.filter_shape),
            ("y", CASE.output_shape),
            ("dy", CASE.output_shape),
        )
    }
    np.savez(folder / "arrays.npz", **arrays)
    model = Model(arrays["w"])
    tf.saved_model.save(
        model,
        folder / "model",
        signatures={"inference": model.inference, "training": model.training},
    )
    expected = {"inference": model.inference(arrays["x"])["output"]}
    step = model.training(arrays["x"], arrays["y"])
    expected |= {f"loss_{key}": value for key, value in step.items()}
    expected["after"] = model.inference(arrays["x"])["output"]
    expected["raw"] = tf_dwgrad.depthwise_conv2d_backprop_input(
        CASE.input_shape, arrays["w"], arrays["dy"], **CASE.attrs
    )
    return folder, {key: value.numpy() for key, value in expected.items()}


def graph_ops(model_folder):
    """The types of all ops in a SavedModel, those in functions included."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model_folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = list(graph.node)
    for function in graph.library.function:
        nodes.extend(function.node_def)
    return {node.op for node in nodes}


def test_the_training_signature_contains_the_gradient_ops(exported):
    folder, _ = exported
    types = graph_ops(folder / "model")
    assert types >= OPS
    assert not any(kind.startswith("DepthwiseConv2dNative") for kind in types)


def test_a_process_with_only_the_library_computes_the_same_bits(exported):
    folder, expected = exported
    run_python(
        "-c",
        SERVER,
        tf_dwgrad.op_library_path(),
        folder / "model",
        folder / "arrays.npz",
        folder / "results.npz",
        cwd=folder,
    )
    results = np.load(folder / "results.npz")
    assert set(results.files) == set(expected)
    for name, right in expected.items():
        assert results[name].tobytes() == right.tobytes(), name
    # Training changed something, or equality says nothing.
    assert not np.array_equal(expected["inference"], expected["after"])


def test_loading_without_the_library_names_the_op(exported):
    # TensorFlow's own message; the README's advice is to load the library first.
    folder, _ = exported
    completed = run_python(
        "-c",
        SERVER,
        "none",
        folder / "model",
        folder / "arrays.npz",
        folder / "none.npz",
        cwd=folder,
        check=False,
    )
    assert completed.returncode == 1
    assert "Op type not registered 'DwgradDepthwiseConv2d" in completed.stderr
    assert not (folder / "none.npz").exists()


RELOAD = """
import json, sys
import tensorflow as tf
library, model = sys.argv[1:]
tf.load_op_library(library)
loaded = tf.saved_model.load(model)
x = tf.ones([1, 6, 5, 3])
# Derivatives of what was saved need the gradients that Python registers.
before = "derived"
try:
    with tf.GradientTape() as tape:
        tape.watch(x)
        loaded.inference(x)
except LookupError as error:
    before = str(error)
import tf_dwgrad
with tf.GradientTape() as tape:
    tape.watch(x)
    loaded = tf.saved_model.load(model)
    y = loaded.inference(x)["output"]
print(json.dumps([before, str(tape.gradient(y, x).shape)]))
"""


def test_new_derivatives_of_a_loaded_model(exported):
    # Exported gradient ops run anywhere; to derive anew takes the gradient functions,
    # which are Python: TensorFlow says so until the package is imported.
    folder, _ = exported
    completed = run_python(
        "-c", RELOAD, tf_dwgrad.op_library_path(), folder / "model", cwd=folder
    )
    before, after = json.loads(completed.stdout)
    assert "No gradient defined for operation'DwgradDepthwiseConv2d'" in before
    assert after == "(1, 6, 5, 3)"
